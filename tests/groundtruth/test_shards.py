"""Shards: whole or absent, checked by their hash, the same whoever makes them."""

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


def writer(made):
    def make(index, path):
        made.append(index)
        path.write_text(f"shard {index}\n" * 100)

    return make


def run(directory, made, inputs=None, make=None):
    return run_shards(directory, N, make or writer(made), inputs or {"a": 1}, "shards")


def test_a_second_call_makes_nothing_and_other_inputs_make_all(tmp_path):
    made = []
    paths = run(tmp_path, made)
    assert made == list(range(N)) and [path.read_text() for path in paths] == [f"shard {i}\n" * 100 for i in range(N)]
    assert run(tmp_path, made) == paths and made == list(range(N))
    run(tmp_path, made, {"a": 2})
    assert made == [*range(N), *range(N)]


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "unrecorded"])
def test_a_shard_that_is_not_what_was_written_is_made_anew(tmp_path, damage, caplog):
    made = []
    path = run(tmp_path, made)[3]
    before = path.read_bytes()
    if damage == "changed":
        path.write_bytes(before.replace(b"3", b"4"))
    elif damage == "cut":
        path.write_bytes(before[:-1])
    elif damage == "gone":
        path.unlink()
    else:
        path.with_name(path.name + ".json").write_text('{"inputs": ')
    made.clear()
    run(tmp_path, made)
    assert made == [3] and path.read_bytes() == before
    assert ("SHA-256" in caplog.text) == (damage in ("changed", "cut"))


def test_what_fails_leaves_no_shard_and_the_rest_stays(tmp_path):
    made = []

    def make(index, path):
        writer(made)(index, path)
        if index == 2:
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        run(tmp_path, made, make=make)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".json") == [
        f"shard-0000{i}-of-0000{N}" for i in range(2)
    ]
    made.clear()
    run(tmp_path, made)
    assert made == [2, 3, 4]


def test_a_full_disk_is_one_clear_error_and_what_is_done_is_kept(tmp_path):
    made = []

    def make(index, path):
        path.write_text("half a sha")
        if index == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        writer(made)(index, path)

    with pytest.raises(SelfExplainError, match="No space left on the disk"):
        run(tmp_path, made, make=make)
    assert made == [0, 1, 2] and not list(tmp_path.glob("*.partial"))
    run(tmp_path, made)
    assert made == [0, 1, 2, 3, 4]


KILLED = """
import sys, time
from pathlib import Path
from selfexplain.groundtruth.shards import run_shards
def make(index, path):
    with path.open("w") as file:
        for _ in range(100):
            file.write(f"shard {index}\\n")
            if index == 2:
                file.flush(); print("in flight", flush=True); time.sleep(60)
run_shards(Path(sys.argv[1]), 5, make, {"a": 1}, "shards")
"""


def test_killed_in_the_middle_of_a_shard_it_ends_in_the_same_bytes(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "in flight\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    made = []
    paths = run(tmp_path / "killed", made)
    assert made == [2, 3, 4]
    whole = run(tmp_path / "whole", [])
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in whole]
    assert not list((tmp_path / "killed").glob("*.partial"))


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SelfExplainError, match="2 processes were launched, but this process sees 1"):
        shards.process_state()


def test_each_process_makes_its_own_share_and_waits_for_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "POLL_SECONDS", 0.0)
    waited = []

    def state(rank):
        return SimpleNamespace(process_index=rank, num_processes=2, wait_for_everyone=lambda: waited.append(rank))

    made = {0: [], 1: []}
    monkeypatch.setattr(shards, "_wait", lambda paths, *_: waited.append([path.name[10] for path in paths]))
    for rank in (1, 0):
        monkeypatch.setattr(shards, "process_state", lambda rank=rank: state(rank))
        run(tmp_path, made[rank])
    assert made == {0: [0, 2, 4], 1: [1, 3]}
    assert waited == [["0", "2", "4"], 1, ["1", "3"], 0]
    assert all(json.loads(path.read_text())["sha256"] for path in tmp_path.glob("*.json"))
