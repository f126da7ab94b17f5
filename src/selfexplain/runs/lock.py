"""The lock of a run directory: only one process at a time changes the files of a run.

The lock itself is a file that the operating system locks for as long as the process lives (`filelock`), so a lock whose
process is gone, or whose process id belongs to a new process, is free. `lock.json` names the holder. A file system on
which locks do not reach other hosts is covered by the age of that file, which the holder renews.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal

from filelock import FileLock, Timeout

from selfexplain.errors import SelfExplainError
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.utils.io import report_full_disk
from selfexplain.utils.records import Record

logger = logging.getLogger(__name__)

RENEW_SECONDS = 20
"""Time between two signs of life of the holder."""

STALE_SECONDS = 300
"""Age after which the sign of life of a process on another host is out of date."""


class LockHolder(Record):
    """The process that works on a run.

    Attributes:
        host: name of its host.
        pid: process id.
        command: its command line.
        since: time at which it took the lock, in UTC.
    """

    remedy: ClassVar[str] = "Delete it if no process works on the run."

    schema_version: Literal[1] = 1
    host: str
    pid: int
    command: str
    since: str

    @classmethod
    def here(cls) -> "LockHolder":
        """This process."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return cls(host=socket.gethostname(), pid=os.getpid(), command=" ".join(sys.argv)[:500], since=now)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, which started at {self.since} ({self.command})"


@contextmanager
def lock_run(root: Path) -> Iterator[None]:
    """Hold the lock of a run directory, which must exist, inside the block. Leftovers of earlier processes are deleted.

    Raises:
        SelfExplainError: another process holds the lock, the files of the lock cannot be written, or the disk is full.
    """
    run = RunDirectory(root)
    lock = FileLock(run.lock_path, timeout=0, is_singleton=False)
    try:
        with report_full_disk(root):
            lock.acquire()
    except Timeout as error:
        raise SelfExplainError(_in_use(run, _holder(run))) from error
    except OSError as error:
        raise SelfExplainError(f"The lock {run.lock_path} cannot be taken: {error.strerror}.") from error
    ended = threading.Event()
    try:
        _check_previous(run)
        run.delete_leftovers()
        with report_full_disk(root):
            LockHolder.here().write(run.lock_holder_path)
        threading.Thread(target=_renew, args=(run.lock_holder_path, ended), daemon=True).start()
        yield
    finally:
        ended.set()
        holder = _holder(run)
        if holder is None or (holder.host, holder.pid) == (socket.gethostname(), os.getpid()):
            run.lock_holder_path.unlink(missing_ok=True)
        if os.name != "nt":  # there, a locked file cannot be deleted
            run.lock_path.unlink(missing_ok=True)
        lock.release()


def check_unused(root: Path) -> None:
    """Check that no process holds the lock of a run directory.

    Raises:
        SelfExplainError: a process holds it.
    """
    run = RunDirectory(root)
    if not run.lock_path.exists() or not os.access(run.lock_path, os.W_OK):
        return
    try:
        with FileLock(run.lock_path, timeout=0, is_singleton=False):
            pass
    except Timeout as error:
        raise SelfExplainError(_in_use(run, _holder(run))) from error


def _in_use(run: RunDirectory, holder: LockHolder | None) -> str:
    return (
        f"{run.root} is in use by {holder or 'another process'}. Wait until it ends or stop it, or give a different "
        "directory with output_dir=DIR."
    )


def _check_previous(run: RunDirectory) -> None:
    """Check what an earlier process left in `lock.json`; the lock is already held.

    Raises:
        SelfExplainError: a process on another host seems to be alive.
    """
    holder = _holder(run)
    if holder is None:
        return
    age = time.time() - run.lock_holder_path.stat().st_mtime
    if holder.host != socket.gethostname() and age < STALE_SECONDS:
        raise SelfExplainError(
            f"{_in_use(run, holder)} Its last sign of life was {max(age, 0):.0f} seconds ago. If it no longer runs, "
            f"delete {run.lock_holder_path}, or wait for {STALE_SECONDS} seconds."
        )
    logger.info("the previous process on this run was interrupted: %s", holder)


def _holder(run: RunDirectory) -> LockHolder | None:
    """The process that `lock.json` names; None if there is no such file or it is damaged."""
    with suppress(SelfExplainError):
        return LockHolder.read(run.lock_holder_path)
    return None


def _renew(path: Path, ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        with suppress(OSError):
            os.utime(path)
