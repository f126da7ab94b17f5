"""Test temporary directories of processes that end, that live and that were killed."""

import subprocess
import sys
import tempfile

import pytest

from selfexplain.utils.temporary import temporary_directory

HOLD = """
import sys
from selfexplain.utils.temporary import temporary_directory

with temporary_directory("selfexplain-test-") as directory:
    (directory / "file").touch()
    print(directory, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def system_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_the_directory_is_deleted_when_the_block_ends(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), temporary_directory("selfexplain-test-") as directory:
        assert list(directory.iterdir()) == []
        (directory / "file").touch()
        raise RuntimeError("mine")
    assert list(tmp_path.iterdir()) == []


def test_the_directory_of_a_killed_process_is_deleted_and_that_of_a_living_one_is_not(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    with temporary_directory("selfexplain-test-"):
        assert len(list(tmp_path.iterdir())) == 2
    (left,) = tmp_path.iterdir()
    assert (left / "content" / "file").exists()
    process.kill()
    process.communicate()
    with temporary_directory("selfexplain-other-"):
        assert left.exists()
    with temporary_directory("selfexplain-test-"):
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []
