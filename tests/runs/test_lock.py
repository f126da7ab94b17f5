"""Test that one process at a time works on a run, and that locks of processes that are gone do not matter."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.runs import lock
from selfexplain.runs.lock import LockHolder, check_unused, lock_run

HOLD = """
import sys
from pathlib import Path
from selfexplain.runs.lock import lock_run

with lock_run(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of `tmp_path` until its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def files(path):
    return sorted(file.name for file in path.iterdir())


def leave(path, **changes):
    """Write the lock of a process that was killed."""
    holder = LockHolder.here().model_copy(update=changes)
    holder.write(path / "lock.json")
    (path / ".lock").touch()
    return holder


def test_the_lock_is_held_inside_the_block_and_leaves_no_file(tmp_path):
    with lock_run(tmp_path):
        holder = json.loads((tmp_path / "lock.json").read_text())
        assert (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid())
        with pytest.raises(SelfExplainError, match=f"is in use by process {os.getpid()} on"), lock_run(tmp_path):
            pass
        assert files(tmp_path) == [".lock", "lock.json"]
    assert files(tmp_path) == []
    with pytest.raises(RuntimeError, match="mine"), lock_run(tmp_path):
        raise RuntimeError("mine")
    assert files(tmp_path) == []


def test_a_second_process_is_refused_until_the_first_ends(tmp_path, other):
    with (
        pytest.raises(SelfExplainError, match=f"in use by process {other.pid} on .*output_dir=DIR"),
        lock_run(tmp_path),
    ):
        pass
    assert json.loads((tmp_path / "lock.json").read_text())["pid"] == other.pid  # unchanged
    with pytest.raises(SelfExplainError, match=f"in use by process {other.pid}"):
        check_unused(tmp_path)
    other.communicate("\n")
    check_unused(tmp_path)
    with lock_run(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path, other, caplog):
    other.send_signal(signal.SIGKILL)
    other.wait()
    check_unused(tmp_path)
    assert files(tmp_path) == [".lock", "lock.json"]
    with caplog.at_level("INFO", logger="selfexplain"), lock_run(tmp_path):
        assert f"was interrupted: process {other.pid} on" in caplog.text
    assert files(tmp_path) == []


def test_a_reused_process_id_does_not_hold_the_lock(tmp_path):
    leave(tmp_path, pid=os.getppid())  # a process that lives, but does not hold the lock
    with lock_run(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert files(tmp_path) == []


def test_a_process_on_another_host_holds_the_lock_while_it_gives_signs_of_life(tmp_path):
    leave(tmp_path, host="elsewhere", pid=1)
    words = r"process 1 on elsewhere.*delete .*lock\.json, or wait for 300 seconds"
    with pytest.raises(SelfExplainError, match=words), lock_run(tmp_path):
        pass
    old = time.time() - lock.STALE_SECONDS - 1
    os.utime(tmp_path / "lock.json", (old, old))
    with lock_run(tmp_path):
        pass
    assert files(tmp_path) == []


def test_the_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.01)
    with lock_run(tmp_path):
        os.utime(tmp_path / "lock.json", (0, 0))
        for _ in range(1000):
            if (tmp_path / "lock.json").stat().st_mtime > 0:
                break
            time.sleep(0.01)
        assert (tmp_path / "lock.json").stat().st_mtime > 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 99}'])
def test_a_damaged_file_does_not_hold_the_lock(tmp_path, text):
    (tmp_path / "lock.json").write_text(text)
    with lock_run(tmp_path):
        pass
    assert files(tmp_path) == []


def test_temporary_files_of_interrupted_processes_are_deleted(tmp_path):
    kept = tmp_path / "datasets" / "a" / "train.parquet"
    for name in ("results.json.tmp", "datasets/a/.train.parquet.partial"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    kept.touch()
    with lock_run(tmp_path):
        assert [path for path in tmp_path.rglob("*") if path.is_file() and "lock" not in path.name] == [kept]
