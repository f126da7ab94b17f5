"""SHA-256 of JSON values, files and directories."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from selfexplain.errors import SelfExplainError

MAX_DIRECTORY_ENTRIES = 10_000  # files and directories below a directory that is read as a whole


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_files(path: Path) -> str:
    """SHA-256 of a file, or of all files of a directory together with their relative paths.

    Raises:
        SelfExplainError: a file cannot be read, or the directory contains too many files.
    """
    digest = hashlib.sha256()
    try:
        for file in [path] if path.is_file() else list_files(path):
            digest.update(f"{file.relative_to(path)} {file_sha256(file)}\n".encode())
    except OSError as error:
        raise SelfExplainError(f"{error.filename or path} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def list_files(directory: Path) -> list[Path]:
    """All files below a directory, sorted. Links to directories are not followed.

    Raises:
        SelfExplainError: the directory contains more than `MAX_DIRECTORY_ENTRIES` files and directories.
    """
    files, n_entries = [], 0
    for root, directories, names in os.walk(directory):
        n_entries += len(directories) + len(names)
        if n_entries > MAX_DIRECTORY_ENTRIES:
            raise SelfExplainError(
                f"{directory} contains more than {MAX_DIRECTORY_ENTRIES:,} files and directories. Give a directory "
                "that contains only what is needed."
            )
        files += [path for name in names if (path := Path(root, name)).is_file()]
    return sorted(files)
