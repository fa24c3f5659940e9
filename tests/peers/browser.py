"""The page in headless Chromium, for the checks in this folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = """
    headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update
    disable-sync autoplay-policy=no-user-gesture-required window-size=1200,900 use-fake-ui-for-media-stream
    use-fake-device-for-media-stream
"""
LIMIT_SECONDS = 60


class Page:
    def __init__(self, driver: WebDriver) -> None:
        self.driver = driver

    def text(self, element: str) -> str:
        return self.driver.find_element(By.ID, element).text

    def until(self, holds: Callable[[], object]) -> None:
        WebDriverWait(self.driver, LIMIT_SECONDS, poll_frequency=0.02).until(lambda _: holds())

    def level(self) -> float:
        return float(self.driver.execute_script("return document.getElementById('level').value"))

    def set_text(self, text: str) -> None:
        self.driver.execute_script("document.getElementById('text').value = arguments[0]", text)

    def click(self, element: str) -> None:
        self.driver.find_element(By.ID, element).click()

    def painted(self) -> int:
        """Columns of the mel picture that hold something."""
        return int(
            self.driver.execute_script(
                "const c = document.getElementById('mel'), p = c.getContext('2d')"
                ".getImageData(0, c.height - 10, c.width, 1).data;"
                "let n = 0; for (let i = 3; i < p.length; i += 4) n += p[i] > 0; return n"
            )
        )


@contextmanager
def opened(url: str) -> Iterator[Page]:
    """The page of a gateway, in a browser of its own."""
    options = webdriver.ChromeOptions()
    for flag in FLAGS.split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Named, so that selenium does not look for them on the network.
    options.binary_location = shutil.which("chromium") or "chromium"
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(f"{url}/")
        yield Page(driver)
    finally:
        driver.quit()
