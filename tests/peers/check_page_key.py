"""The page at a gateway that wants a key, and a browser's WebSocket: python check_page_key.py HTTP_URL KEY."""

from __future__ import annotations

import sys

from browser import Page, opened
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

SOCKET = """
const [url, protocols, done] = arguments;
const socket = new WebSocket(url, protocols);
socket.onopen = () => done(`open as ${socket.protocol}`);
socket.onmessage = ({ data }) => done(data);
socket.onclose = ({ code }) => done(`closed ${code}`);
"""


def enter(page: Page, key: str) -> None:
    field = page.driver.find_element(By.ID, "key")
    field.clear()
    field.send_keys(key, Keys.TAB)


def voices(page: Page) -> int:
    return len(page.driver.find_elements(By.CSS_SELECTOR, "#voice option"))


def socket(page: Page, url: str, key: str) -> str:
    """What a WebSocket of the page sees first."""
    address = url.replace("http", "ws", 1) + "/inference_zero_shot_bistream"
    return str(page.driver.execute_async_script(SOCKET, address, ["lighttts", f"lighttts.key.{key}"]))


def main() -> None:
    url, key = sys.argv[1:]
    with opened(url) as page:
        page.until(lambda: "API key is needed" in page.text("problem"))
        assert page.driver.find_element(By.ID, "key").is_displayed(), "the field stands open"
        enter(page, "wrong")
        page.until(lambda: "Unknown API key" in page.text("problem"))
        enter(page, key)
        page.until(lambda: voices(page) > 1 and not page.text("problem"))
        page.set_text("Good morning.")
        page.click("speak")
        page.until(lambda: "Finished" in page.text("status"))
        assert "open as lighttts" in socket(page, url, key)
        refusals = [socket(page, url, "wrong") for _ in range(3)]  # the message may come before or behind the opening
        assert all("open as" in refusal or "unknown API key" in refusal for refusal in refusals), refusals


main()
