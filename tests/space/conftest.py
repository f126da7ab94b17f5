"""Fixtures: the demo as a server that all tests share, and the same explainer in this process."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from serving import serving

DEMO = Path(__file__).parents[2] / "spaces" / "explainer"
sys.path.insert(0, str(DEMO))

BROWSER_OPTIONS = (
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
    """The embedded explainer, as the demo loads it."""
    import service

    return service.SHOW


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Address of a running demo of the embedded explainer."""
    with serving(DEMO, tmp_path_factory.mktemp("space") / "log", {}) as url:
        yield url


@pytest.fixture
def run(tmp_path):
    """A run directory with the files that the demo reads."""
    import showcase
    from selfexplain import bundled

    shutil.copytree(bundled.resolve(showcase.EMBEDDED), tmp_path / "explainer")
    shutil.copytree(showcase.HERE / "embedded", tmp_path, dirs_exist_ok=True)
    (tmp_path / "examples.json").unlink()
    (tmp_path / "manifest.json").write_text("{}")
    return tmp_path


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; tests that need it are skipped if it is not installed."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        for argument in (*BROWSER_OPTIONS, f"user-data-dir={profile}"):
            options.add_argument(f"--{argument}")
        started = webdriver.Chrome(options=options, service=Service(driver))
        yield started
        started.quit()
