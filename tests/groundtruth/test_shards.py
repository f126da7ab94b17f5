"""Shards are complete or missing, are verified by their hash, and do not depend on the process that writes them."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth import shards
from selfexplain.groundtruth.shards import run_shards

N = 5


def writer(written):
    def make(index, path):
        written.append(index)
        path.write_text(f"shard {index}\n" * 100)

    return make


def run(directory, written, inputs=None, make=None):
    return run_shards(directory, N, make or writer(written), inputs or {"a": 1}, "shards")


def test_a_second_call_writes_nothing_and_changed_inputs_rebuild_all_shards(tmp_path):
    written = []
    paths = run(tmp_path, written)
    assert written == list(range(N)) and [path.read_text() for path in paths] == [
        f"shard {i}\n" * 100 for i in range(N)
    ]
    assert run(tmp_path, written) == paths and written == list(range(N))
    run(tmp_path, written, {"a": 2})
    assert written == [*range(N), *range(N)]


@pytest.mark.parametrize("damage", ["changed", "truncated", "deleted", "record_damaged"])
def test_a_damaged_shard_is_rebuilt(tmp_path, damage, caplog):
    written = []
    path = run(tmp_path, written)[3]
    before = path.read_bytes()
    if damage == "changed":
        path.write_bytes(before.replace(b"3", b"4"))
    elif damage == "truncated":
        path.write_bytes(before[:-1])
    elif damage == "deleted":
        path.unlink()
    else:
        path.with_name(path.name + ".json").write_text('{"inputs": ')
    written.clear()
    run(tmp_path, written)
    assert written == [3] and path.read_bytes() == before
    assert ("SHA-256" in caplog.text) == (damage in ("changed", "truncated"))


def test_a_failed_shard_leaves_no_file_and_complete_shards_are_kept(tmp_path):
    written = []

    def make(index, path):
        writer(written)(index, path)
        if index == 2:
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        run(tmp_path, written, make=make)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".json") == [
        f"shard-0000{i}-of-0000{N}" for i in range(2)
    ]
    written.clear()
    run(tmp_path, written)
    assert written == [2, 3, 4]


def test_a_full_disk_raises_an_error_and_complete_shards_are_kept(tmp_path):
    written = []

    def make(index, path):
        path.write_text("incomplete")
        if index == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        writer(written)(index, path)

    with pytest.raises(SelfExplainError, match="No space left on the disk"):
        run(tmp_path, written, make=make)
    assert written == [0, 1, 2] and not list(tmp_path.glob("*.partial"))
    run(tmp_path, written)
    assert written == [0, 1, 2, 3, 4]


INTERRUPTED = """
import sys, time
from pathlib import Path
from selfexplain.groundtruth.shards import run_shards
def make(index, path):
    with path.open("w") as file:
        for _ in range(100):
            file.write(f"shard {index}\\n")
            if index == 2:
                file.flush(); print("writing shard 2", flush=True); time.sleep(60)
run_shards(Path(sys.argv[1]), 5, make, {"a": 1}, "shards")
"""


def test_an_interrupted_process_is_continued_to_the_same_bytes(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED), str(tmp_path / "interrupted")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "writing shard 2\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    written = []
    paths = run(tmp_path / "interrupted", written)
    assert written == [2, 3, 4]
    uninterrupted = run(tmp_path / "uninterrupted", [])
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in uninterrupted]
    assert not list((tmp_path / "interrupted").glob("*.partial"))


def test_unconnected_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SelfExplainError, match="2 processes were launched, but this process sees 1"):
        shards.process_state()


def test_each_process_writes_its_own_shards_and_waits_for_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "POLL_SECONDS", 0.0)
    waited = []

    def state(rank):
        return SimpleNamespace(process_index=rank, num_processes=2, wait_for_everyone=lambda: waited.append(rank))

    written = {0: [], 1: []}
    monkeypatch.setattr(shards, "_wait", lambda paths, *_: waited.append([path.name[10] for path in paths]))
    for rank in (1, 0):
        monkeypatch.setattr(shards, "process_state", lambda rank=rank: state(rank))
        run(tmp_path, written[rank])
    assert written == {0: [0, 2, 4], 1: [1, 3]}
    assert waited == [["0", "2", "4"], 1, ["1", "3"], 0]
    assert all(json.loads(path.read_text())["sha256"] for path in tmp_path.glob("*.json"))
