"""Recognise Hub ids, local paths and reserved names, and check the names of files."""

import re
from pathlib import Path, PureWindowsPath
from typing import Annotated

from pydantic import AfterValidator

from selfexplain.bundled import NAMES, TINY_WORLD
from selfexplain.errors import SelfExplainError

MAX_NAME_BYTES = 255  # of a file or directory on common file systems
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_FILE_NAME = re.compile(r"\w[\w.-]{0,95}")


def is_hub_id(name: str) -> bool:
    """Whether a string has the form of a repository id on the Hub, `org/name`."""
    return _HUB_ID.fullmatch(name) is not None


def is_reserved(name: str) -> bool:
    """Whether a name belongs to a model or corpus that ships with the package."""
    return name in NAMES or name == TINY_WORLD


def looks_like_path(name: str) -> bool:
    """Whether a name is written as a path: it starts with `.`, `/` or `~`, or has more than one `/`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def check_file_name(name: str) -> str:
    """Return a name that is safe as the name of one file or directory.

    Raises:
        SelfExplainError: it has a character other than letters, digits, `_`, `-` and `.`, starts with `-` or `.`, or
            has more than 96 characters.
    """
    if not _FILE_NAME.fullmatch(name):
        raise SelfExplainError(
            f"{name!r} is not a valid name. Expected at most 96 letters, digits, '_', '-' and '.', starting with a "
            "letter, a digit or '_'."
        )
    return name


def check_relative_path(path: str) -> str:
    """Return a relative POSIX path that does not leave the directory it is relative to.

    Raises:
        SelfExplainError: it is empty or absolute, or has a component `.` or `..`, a backslash, a drive or NUL.
    """
    parts = path.split("/")
    if not all(parts) or {".", ".."} & set(parts) or {"\\", "\0"} & set(path) or PureWindowsPath(path).drive:
        raise SelfExplainError(
            f"{path!r} is not a relative path inside the run directory. Expected a path such as 'a/b.json'."
        )
    return path


FileName = Annotated[str, AfterValidator(check_file_name)]
"""A field of a record that names one file or directory."""

RelativePath = Annotated[str, AfterValidator(check_relative_path)]
"""A field of a record that names a file by its relative POSIX path."""


def local_path(name: str) -> Path:
    """The path that a name spells, with `~` replaced by the home directory.

    Raises:
        SelfExplainError: no file can have this name, because a part of it is too long or contains NUL.
    """
    if "\0" in name or any(len(part.encode(errors="replace")) > MAX_NAME_BYTES for part in name.split("/")):
        raise SelfExplainError(
            f"{name[:80]!r} (of {len(name):,} characters) cannot be the name of a file or of a repository. Give a path "
            "or a Hub id."
        )
    try:
        return Path(name).expanduser()
    except RuntimeError:  # the home directory of an unknown user
        return Path(name)
