"""Builds of any size: resumed, shared among processes, told beforehand, and the same to the byte."""

import copy
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as parquet
import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth import build as building
from selfexplain.groundtruth import shards
from selfexplain.groundtruth.build import build, is_whole
from selfexplain.groundtruth.builders import patching
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.splits import SPLITS
from selfexplain.pipeline.driver import run
from selfexplain.runs.recipe import load_recipe

TASK = "activation_patching"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setitem(building.ITEMS_PER_SHARD, TASK, 10)
    monkeypatch.setattr(shards, "POLL_SECONDS", 0.01)


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_build_that_was_stopped_or_tampered_with_ends_in_the_same_bytes(
    lively, world, pairs_config, tmp_path, monkeypatch, caplog
):
    build(TASK, pairs_config, lively, world, tmp_path / "whole", seed=0)
    calls, candidates = [], patching.candidates

    def stopped(config, target, items, seed):
        calls.append(len(items))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return candidates(config, target, items, seed)

    monkeypatch.setattr(patching, "candidates", stopped)
    with pytest.raises(KeyboardInterrupt):
        build(TASK, pairs_config, lively, world, tmp_path / "stopped", seed=0)
    assert calls == [1, 2, 10, 10, 10]  # one to warm up, two for the estimate, then shards
    tampered = tmp_path / "stopped" / ".work" / "candidates" / "shard-00001-of-00006"
    tampered.write_bytes(tampered.read_bytes()[:-1] + b"x")
    build(TASK, pairs_config, lively, world, tmp_path / "stopped", seed=0)
    assert "shard-00001-of-00006 is not what was written" in caplog.text
    assert calls[5:] == [10] * 5  # the one that was tampered with, and the four that lacked
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")

    build(TASK, pairs_config, lively, world, tmp_path / "whole", seed=0)
    assert len(calls) == 10  # a whole dataset is left as it is
    (tmp_path / "whole" / "test.parquet").write_bytes(b"")
    assert not is_whole(tmp_path / "whole")


def test_any_number_of_processes_gives_the_same_bytes(lively, world, pairs_config, tmp_path, monkeypatch):
    local = threading.local()
    monkeypatch.setattr(shards, "process_state", lambda: local.state)
    made = {}
    for world_size in (1, 2, 4):
        barrier = threading.Barrier(world_size, timeout=100)

        def process(rank, world_size=world_size, barrier=barrier):
            local.state = SimpleNamespace(process_index=rank, num_processes=world_size, wait_for_everyone=barrier.wait)
            build(TASK, pairs_config, copy.deepcopy(lively), world, tmp_path / str(world_size), seed=0)

        threads = [threading.Thread(target=process, args=(rank,)) for rank in range(world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        made[world_size] = files(tmp_path / str(world_size))
    assert set(made[1]) == {"train.parquet", "validation.parquet", "test.parquet", "statistics.json", "README.md",
                            "manifest.json"}  # fmt: skip
    assert made[1] == made[2] == made[4]


def test_two_launched_processes_make_what_one_makes(tmp_path, caplog):
    values = ["tasks=[input_ablation]", "input_ablation.n_questions=1040", "input_ablation.n_rows=200"]
    with caplog.at_level(logging.INFO, "selfexplain"):
        run(load_recipe("quickstart", values), tmp_path / "1", "dataset")
    launch = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
              "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
    launched = subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            *launch,
            "-m",
            "selfexplain",
            "run",
            "quickstart",
            *values,
            "--stage",
            "dataset",
            f"output_dir={tmp_path / '2'}",
        ],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert launched.returncode == 0, launched.stderr
    assert "in 1 process," in caplog.text and "in 2 processes," in launched.stdout
    one, two = (files(tmp_path / str(n) / "datasets" / "input_ablation") for n in (1, 2))
    assert one == two and len(one) == 6


def test_what_it_will_take_is_told_first_and_a_small_disk_refused(
    lively, world, pairs_config, tmp_path, monkeypatch, caplog
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    with (
        caplog.at_level(logging.INFO, "selfexplain"),
        pytest.raises(SelfExplainError, match=r"will need about [\d.]+ MB of disk, and 0\.0 MB are free"),
    ):
        build(TASK, pairs_config, lively, world, tmp_path / "data", seed=0)
    assert "60 items, about" in caplog.text and "tokens of text" in caplog.text and "in 1 process" in caplog.text
    assert not list((tmp_path / "data" / ".work").glob("candidates/*"))


def test_the_first_overflow_widens_all_and_what_is_not_finite_is_counted(
    lively, world, pairs_config, tmp_path, monkeypatch
):
    candidates, large, seen = patching.candidates, 1e6, []

    def wild(config, target, items, seed):
        rows, counts = candidates(config, target, items, seed)
        seen.append(len(items))
        if len(seen) == 6:  # after the estimate's two, the fourth shard
            for row in rows[::2]:
                row["activations"] = [np.full(target.d_model, large, np.float32)]
            rows[1]["activations"] = [np.full(target.d_model, np.nan, np.float32)]
        return rows, counts

    build(TASK, replace(pairs_config, n_rows=10**6), lively, world, tmp_path / "tame", seed=0)
    monkeypatch.setattr(patching, "candidates", wild)
    build(TASK, replace(pairs_config, n_rows=10**6), lively, world, tmp_path / "wild", seed=0)
    statistics = {name: json.loads((tmp_path / name / "statistics.json").read_text()) for name in ("tame", "wild")}
    assert [statistics[name]["vector_dtype"] for name in ("tame", "wild")] == ["float16", "float32"]
    assert statistics["wild"]["counted"]["activations that are not finite"] == 1
    for split in SPLITS:
        kind = parquet.read_schema(tmp_path / "wild" / f"{split}.parquet").field("activations").type
        assert str(kind.value_type.value_type) == "float"
    tame, wide = ([row for split in SPLITS for row in read_rows(tmp_path / name / f"{split}.parquet")]
                  for name in ("tame", "wild"))  # fmt: skip
    vectors = {(r["target_prompt"], r["source_prompt"], r["position"], *r["layers"]): r["activations"] for r in tame}
    values = [row["activations"] for row in wide]
    assert all(np.isfinite(value).all() for value in values) and any((value == large).all() for value in values)
    for row in wide:
        before = vectors.get((row["target_prompt"], row["source_prompt"], row["position"], *row["layers"]))
        if before is not None and not (row["activations"] == large).all():
            np.testing.assert_array_equal(row["activations"], before)


def test_one_class_is_an_error_and_too_few_rows_are_told(lively, world, pairs_config, tmp_path, monkeypatch, caplog):
    candidates = patching.candidates

    def unchanged(*arguments):
        rows, counts = candidates(*arguments)
        return [row | {"changed": False} for row in rows], counts

    build(TASK, replace(pairs_config, n_rows=10**6), lively, world, tmp_path / "few", seed=0)
    assert "balanced rows are all there are; 1000000 wanted" in caplog.text
    monkeypatch.setattr(patching, "candidates", unchanged)
    with pytest.raises(SelfExplainError, match="changed no output"):
        build(TASK, pairs_config, lively, world, tmp_path / "one", seed=0)
