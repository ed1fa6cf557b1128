"""A headless Chromium with its driver, where both are installed (Debian: `chromium`, `chromium-driver`)."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_S = 120.0


class Browser:
    """A page, keys typed into it, and what it has asked for and complained of."""

    def __init__(self, driver: webdriver.Chrome):
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get("about:blank")
        self.driver.get(url)

    def type(self, *keys: str) -> None:
        """Each one pressed and released, wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def press_with_control(self, key: str) -> None:
        ActionChains(self.driver).key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL).perform()

    def run(self, script: str):
        """The value of an expression in the page."""
        return self.driver.execute_script(f"return {script}")

    def text(self, selector: str = "body") -> str:
        """What is shown of the first element; empty if it is hidden."""
        return self.driver.find_element("css selector", selector).text

    def wait(self, condition: Callable[[], object], what: str = "the page") -> None:
        """Until a condition holds."""
        until = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < until, f"{what}: {self.text()}"
            time.sleep(0.02)

    def requested(self) -> set[str]:
        """All addresses that the browser has asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}

    def complaints(self) -> list[str]:
        """What stands in the console since the last call: errors of scripts, breaches of the page's policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def headless(width: int = 1400, height: int = 1000) -> Iterator[Browser]:
    """A browser that resolves no name and reaches this machine alone. Skips the test where there is none."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no headless browser: install chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    arguments = [
        "--headless=new", f"--window-size={width},{height}", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ]  # fmt: skip
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(started)
    finally:
        started.quit()
