"""The page in headless Chromium: python check_page.py HTTP_URL PROMPT_WAV SCREENSHOT.

What is heard is measured by the page's own AnalyserNode, which its level meter shows.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from browser import Page, opened
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

AUDIBLE = 0.01
LONG_TEXT = "It is a fine day for a walk along the river. " * 12


def check_speaks(page: Page, screenshot: Path) -> None:
    page.until(lambda: len(page.driver.find_elements(By.CSS_SELECTOR, "#voice option")) > 1)
    page.click("speak")
    page.until(lambda: page.level() > AUDIBLE)
    page.until(lambda: page.driver.find_elements(By.CSS_SELECTOR, "#spoken mark"))  # the word that is played
    seen = page.painted()
    page.until(lambda: "Finished" in page.text("status"))
    assert page.painted() > seen > 0, "the picture grows"
    assert re.fullmatch(r"\d+ ms", page.text("first"))
    assert int(page.text("chunks")) > 1
    assert page.text("played") == page.text("received")
    page.driver.save_screenshot(str(screenshot))


def check_stop(page: Page) -> None:
    page.set_text(LONG_TEXT)
    page.driver.find_element(By.ID, "text").send_keys(Keys.CONTROL, Keys.ENTER)
    page.until(lambda: page.level() > AUDIBLE)
    page.driver.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
    assert page.text("status") == "Stopped."
    received = page.text("received")
    page.until(lambda: page.level() == 0)
    page.until(lambda: page.driver.execute_async_script("setTimeout(arguments[0], 500, true)"))
    assert page.text("received") == received, "nothing comes after a stop"


def check_own_voice(page: Page, prompt: Path) -> None:
    Select(page.driver.find_element(By.ID, "voice")).select_by_visible_text("Your own recording …")
    page.set_text("Good morning, Alice.")
    page.click("speak")
    page.until(lambda: "record your voice" in page.text("problem").lower())
    page.click("record")
    page.until(lambda: page.text("record") == "Stop recording")
    page.until(lambda: page.driver.execute_async_script("setTimeout(arguments[0], 1500, true)"))
    page.click("record")
    page.until(lambda: page.driver.find_element(By.ID, "preview").is_displayed())
    page.driver.find_element(By.ID, "file").send_keys(str(prompt))
    page.until(lambda: "ready" in page.text("status"))
    words = prompt.with_suffix(".txt").read_text(encoding="utf-8").strip()
    page.driver.find_element(By.ID, "transcript").send_keys(words)
    page.click("speak")
    page.until(lambda: page.level() > AUDIBLE)
    page.until(lambda: "Finished" in page.text("status"))


def check_reach(page: Page) -> None:
    """Every control has a name, is reached by Tab, and the page fits a phone."""
    controls = page.driver.find_elements(By.CSS_SELECTOR, "textarea, select, input, button")
    for control in controls:
        assert control.accessible_name or not control.is_displayed(), control.get_attribute("id")
    page.driver.set_window_size(360, 800)
    # Chromium's window has a least width of its own; what counts is that nothing is wider than the window is.
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.driver.execute_script(overflow) <= 0


def main() -> None:
    url, prompt, screenshot = sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3])
    with opened(url) as page:
        check_speaks(page, screenshot)
        check_stop(page)
        check_own_voice(page, prompt)
        check_reach(page)
        complaints = [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert not complaints, complaints
        traffic = " ".join(entry["message"] for entry in page.driver.get_log("performance"))
        fetched = re.findall(r'"url":"((?:https?|wss?)://[^"]+)"', traffic)
        assert all(re.sub("^ws", "http", address).startswith(url) for address in fetched), fetched


main()
