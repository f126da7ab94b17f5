"""Test fingerprints of values, files and directories."""

import hashlib

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.utils import hashing
from selfexplain.utils.hashing import file_sha256, fingerprint, fingerprint_files


def test_the_fingerprint_of_a_value_ignores_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({"a": 1}) == hashlib.sha256(b'{"a": 1}').hexdigest()


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_the_fingerprint_of_a_directory_depends_on_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = fingerprint_files(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = fingerprint_files(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, renamed, fingerprint_files(tmp_path)}) == 3


def test_the_fingerprint_of_a_file_depends_on_its_content_only(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    assert fingerprint_files(tmp_path / "a") == fingerprint_files(tmp_path / "b")


def test_a_directory_with_too_many_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "MAX_DIRECTORY_ENTRIES", 3)
    for name in "abc":
        (tmp_path / name).write_text("1")
    assert fingerprint_files(tmp_path)
    (tmp_path / "d").mkdir()
    with pytest.raises(SelfExplainError, match="contains more than 3 files and directories"):
        fingerprint_files(tmp_path)
    with pytest.raises(SelfExplainError, match="contains more than 3 files and directories"):
        fingerprint_files(type(tmp_path)("/"))


def test_a_file_that_cannot_be_read_is_reported(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("1")

    def gone(path):
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(hashing, "file_sha256", gone)
    with pytest.raises(SelfExplainError, match="/a cannot be read: No such file or directory"):
        fingerprint_files(tmp_path)
