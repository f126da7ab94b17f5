"""Pretrained models that `make pretrained` writes; tests that need a missing one are skipped."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIRECTORY = Path(os.environ.get("SELFEXPLAIN_PRETRAINED", ROOT / "build" / "pretrained"))


@pytest.fixture(scope="session", params=["smollm2-135m", pytest.param("gemma-3-270m", marks=pytest.mark.gemma)])
def directory(request):
    path = DIRECTORY / request.param
    if not (path / "config.json").is_file():
        pytest.skip(f"{path} does not exist: run `make pretrained MODEL={request.param}`")
    return path


@pytest.fixture(scope="session")
def pretrained(directory):
    """The model as a target, in float32. Tests do not change it."""
    from selfexplain.target.load import load_target

    return load_target(str(directory))
