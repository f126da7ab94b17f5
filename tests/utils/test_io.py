"""Test atomic writes and the report of a full disk."""

import errno
import json
import os

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.utils import io
from selfexplain.utils.io import is_disk_full, report_full_disk, require_disk_space, write_atomically, write_json


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    write_atomically(path, "é")
    assert path.read_bytes() == "é".encode()

    def fail(source, destination):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="broken"):
        write_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "é"
    assert [file.name for file in tmp_path.iterdir()] == ["x.txt"]


def test_a_link_in_place_of_the_temporary_file_is_not_followed(tmp_path):
    (tmp_path / "outside.txt").write_text("outside")
    (tmp_path / "x.txt.tmp").symlink_to(tmp_path / "outside.txt")
    write_atomically(tmp_path / "x.txt", "inside")
    assert (tmp_path / "outside.txt").read_text() == "outside"
    assert (tmp_path / "x.txt").read_text() == "inside" and not (tmp_path / "x.txt").is_symlink()


def test_json_is_indented_and_ends_with_a_newline(tmp_path):
    write_json(tmp_path / "x.json", {"a": [1]})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1]}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (OSError(errno.EIO, "x"), False),
        (RuntimeError("No space left on device (os error 28)"), True),
        (RuntimeError("something else"), False),
    ],
)
def test_a_full_disk_is_recognised_and_reported(tmp_path, error, is_full):
    assert is_disk_full(error) == is_full
    expected = SelfExplainError if is_full else type(error)
    words = "No space left on the disk of" if is_full else "x|something else"
    with pytest.raises(expected, match=words), report_full_disk(tmp_path):
        raise error


def test_disk_space_counts_what_the_directory_already_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(io.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2e9}))
    require_disk_space(tmp_path / "not" / "yet", 1.9)
    with pytest.raises(SelfExplainError, match=r"needs 2\.1 GB of disk space, but only 2\.0 GB are free"):
        require_disk_space(tmp_path / "not" / "yet", 2.1)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(200_000_000)
    require_disk_space(tmp_path, 2.1)
