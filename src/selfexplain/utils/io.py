"""Write files atomically and report a full disk."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfexplain.errors import SelfExplainError

_DISK_FULL_MESSAGES = ("No space left on device", "inline_container")
"""Substrings of the errors that safetensors, Arrow and `torch.save` raise on a full disk."""


def write_atomically(path: Path, text: str) -> None:
    """Write a UTF-8 text file so that a reader sees either the old content or all of the new content."""
    partial = path.with_name(path.name + ".tmp")
    partial.unlink(missing_ok=True)  # left by an interrupted process, or a link to another file
    try:
        with partial.open("x", encoding="utf-8") as file:
            file.write(text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # it is still there if the disk is full


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value atomically, indented by two spaces."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


@contextmanager
def report_full_disk(directory: Path) -> Iterator[None]:
    """Turn the errors that libraries raise when the disk of `directory` is full into one `SelfExplainError`."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise SelfExplainError(
            f"No space left on the disk of {directory}. Free some space and run the same command again. "
            "Finished work is kept."
        ) from error


def is_disk_full(error: Exception) -> bool:
    """Whether an exception means that the disk is full."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or any(message in str(error) for message in _DISK_FULL_MESSAGES)


def require_disk_space(directory: Path, needed_gb: float) -> None:
    """Check that a directory, which need not exist yet, has room to grow to a size in GB.

    Raises:
        SelfExplainError: its disk has too little free space.
    """
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    used_gb = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) / 1e9
    if free_gb < needed_gb - used_gb:
        raise SelfExplainError(
            f"{directory} needs {needed_gb - used_gb:.3g} GB of disk space, but only {free_gb:.1f} GB are free. Free "
            "some space, or give a directory on a different disk with output_dir=DIR."
        )
