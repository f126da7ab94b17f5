"""Temporary directories that a later process deletes if this one is killed."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_LOCK = ".lock"


@contextmanager
def temporary_directory(prefix: str) -> Iterator[Path]:
    """Yield an empty directory in the system's temporary directory, and delete it when the block ends.

    Directories with this prefix whose process was killed are deleted first: the process holds a lock on a file in its
    directory, which the operating system frees.

    Args:
        prefix: beginning of the directory's name; it identifies the purpose.
    """
    for other in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _delete_abandoned(other)
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    lock = FileLock(directory / _LOCK, timeout=0)
    try:
        lock.acquire()
        content = directory / "content"
        content.mkdir()
        yield content
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        lock.release()


def _delete_abandoned(directory: Path) -> None:
    # OSError: the directory belongs to a different user, or its process has just deleted it.
    with suppress(OSError, Timeout):
        if not (directory / _LOCK).exists():
            return  # just created
        with FileLock(directory / _LOCK, timeout=0):
            shutil.rmtree(directory)
