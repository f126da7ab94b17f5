"""The page as a server of its own, one for all tests, and the same explainer in this process."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from serving import serving

PAGE = Path(__file__).parents[2] / "spaces" / "explainer"
sys.path.insert(0, str(PAGE))

BROWSER = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "disable-dev-shm-usage",
    "hide-scrollbars",
    "window-size=1200,900",
)


@pytest.fixture(scope="session")
def show():
    """The embedded explainer, as the page holds it."""
    import service

    return service.SHOW


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Address of a running page about the embedded explainer."""
    with serving(PAGE, tmp_path_factory.mktemp("space") / "log", {}) as url:
        yield url


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; skips where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        for argument in (*BROWSER, f"user-data-dir={profile}"):
            options.add_argument(f"--{argument}")
        started = webdriver.Chrome(options=options, service=Service(driver))
        yield started
        started.quit()
