"""Fixtures that all tests share."""

import os
import shutil
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real survey files that may not be shipped; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("ASTRO_TRAIN_TEST_DATA", SHARED))
    if not folder.is_dir():
        pytest.skip(f"the survey files of {folder} are not on this machine (set ASTRO_TRAIN_TEST_DATA)")
    return folder


@pytest.fixture
def real_files() -> Path:
    """The few real survey files that come with the tests (tests/data/files/PROVENANCE.md)."""
    return Path(__file__).parent / "data" / "files"


@pytest.fixture
def browser(tmp_path: Path) -> list[str]:
    """The beginning of a command line of headless Chromium, with a profile of its own."""
    found = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
    if found is None:
        pytest.skip("no Chromium is installed to open the page")
    return [found, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
