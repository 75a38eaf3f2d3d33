"""A headless Chromium: opens pages as a person would see them, and takes pictures of them.

`python -m tests.end_to_end.browser URL PICTURE.png` takes one by hand.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)
PAGE_SECONDS = 60


@contextmanager
def open_page(url: str) -> Iterator[WebDriver]:
    """A browser with an empty profile that shows `url`; closed at the end."""
    require_chromium()
    with TemporaryDirectory(prefix="chromium-") as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            driver.set_page_load_timeout(PAGE_SECONDS)
            driver.get(url)
            yield driver
        finally:
            driver.quit()


def require_chromium() -> None:
    """Skip the test, with the reason, where there is no browser; in CI that is a failure."""
    missing = [program for program in ("chromium", "chromedriver") if shutil.which(program) is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{' and '.join(missing)} not found: CI has to run the browser tests")
    if missing:
        pytest.skip(f"{' and '.join(missing)} not found: THE BROWSER TESTS DID NOT RUN; install Debian's packages")


def wait_for_text(driver: WebDriver, text: str, *, seconds: float = PAGE_SECONDS) -> None:
    """Wait until the page shows `text`; fails with what it shows instead."""
    try:
        WebDriverWait(driver, seconds).until(lambda page: text in shown(page))
    except TimeoutException as error:
        raise AssertionError(f"{text!r} is not in: {shown(driver)}") from error


def shown(driver: WebDriver) -> str:
    """The page's text as a person sees it."""
    return str(driver.execute_script("return document.body.innerText"))


def take_picture(driver: WebDriver, path: Path) -> None:
    """Write the visible part of the page as PNG, after its charts had a moment to be drawn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sleep(2)
    assert driver.save_screenshot(str(path))


if __name__ == "__main__":
    with open_page(sys.argv[1]) as page:
        take_picture(page, Path(sys.argv[2]))
