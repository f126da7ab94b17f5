"""Builds in shards: interrupted, shared among processes, and with the same bytes in every case."""

import copy
import logging
import os
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as parquet
import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth import build as build_module
from selfexplain.groundtruth import shards
from selfexplain.groundtruth.build import build
from selfexplain.groundtruth.builders import BUILDERS, forecast, items, patching
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.splits import SPLITS
from selfexplain.pipeline.driver import run
from selfexplain.runs.recipe import load_recipe

TASK = "activation_patching"


@pytest.fixture(autouse=True)
def use_rows(monkeypatch):
    """A function that replaces how rows are computed, in shards of ten items."""

    def use(rows=patching.compute_rows):
        monkeypatch.setitem(BUILDERS._values, TASK, replace(patching.BUILDER, items_per_shard=10, rows=rows))

    monkeypatch.setattr(shards, "POLL_SECONDS", 0.01)
    use()
    return use


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_an_interrupted_or_damaged_build_ends_in_the_same_bytes(
    sensitive_target, world, pairs_config, tmp_path, use_rows, caplog
):
    build(TASK, pairs_config, sensitive_target, world, tmp_path / "complete", seed=0)
    calls = []

    def interrupted(config, target, items, seed):
        calls.append(len(items))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return patching.compute_rows(config, target, items, seed)

    use_rows(interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(TASK, pairs_config, sensitive_target, world, tmp_path / "interrupted", seed=0)
    assert calls == [1, 2, 10, 10, 10]  # one item to warm up, two for the forecast, then shards
    damaged = tmp_path / "interrupted" / ".work" / "candidates" / "shard-00001-of-00006"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    build(TASK, pairs_config, sensitive_target, world, tmp_path / "interrupted", seed=0)
    assert "shard-00001-of-00006 was modified after it was written" in caplog.text
    assert calls[5:] == [10] * 5  # the damaged shard and the four missing ones
    assert files(tmp_path / "interrupted") == files(tmp_path / "complete")


def test_a_complete_dataset_is_not_built_again(sensitive_target, world, pairs_config, tmp_path, use_rows):
    directory = tmp_path / "data"
    build(TASK, pairs_config, sensitive_target, world, directory, seed=0)
    before = files(directory)

    def fail(*arguments):
        raise AssertionError("rows were computed again")

    use_rows(fail)
    build(TASK, pairs_config, sensitive_target, world, directory, seed=0)
    assert files(directory) == before
    (directory / "test.parquet").write_bytes(b"")
    assert not DatasetDirectory(directory).is_complete()
    with pytest.raises(AssertionError, match="computed again"):
        build(TASK, pairs_config, sensitive_target, world, directory, seed=0)


def test_any_number_of_processes_gives_the_same_bytes(sensitive_target, world, pairs_config, tmp_path, monkeypatch):
    local = threading.local()
    for module in (build_module, shards, items, forecast):
        monkeypatch.setattr(module, "process_state", lambda: local.state)
    written = {}
    for world_size in (1, 2, 4):
        barrier = threading.Barrier(world_size, timeout=100)

        def process(rank, world_size=world_size, barrier=barrier):
            local.state = SimpleNamespace(process_index=rank, num_processes=world_size, wait_for_everyone=barrier.wait)
            build(TASK, pairs_config, copy.deepcopy(sensitive_target), world, tmp_path / str(world_size), seed=0)

        threads = [threading.Thread(target=process, args=(rank,)) for rank in range(world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        written[world_size] = files(tmp_path / str(world_size))
    assert set(written[1]) == {"train.parquet", "validation.parquet", "test.parquet", "statistics.json", "README.md",
                               "manifest.json"}  # fmt: skip
    assert written[1] == written[2] == written[4]


def test_two_launched_processes_write_the_same_files_as_one(tmp_path, caplog):
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


def test_one_float32_shard_makes_all_vectors_float32_and_non_finite_rows_are_counted(
    sensitive_target, world, pairs_config, tmp_path, use_rows
):
    large, calls = 1e6, []

    def with_large_vectors(config, target, items, seed):
        rows, counts = patching.compute_rows(config, target, items, seed)
        calls.append(len(items))
        if len(calls) == 6:  # the fourth shard, after the two calls of the forecast
            for row in rows[::2]:
                row["activations"] = [np.full(target.d_model, large, np.float32)]
            rows[1]["activations"] = [np.full(target.d_model, np.nan, np.float32)]
        return rows, counts

    every_row = replace(pairs_config, n_rows=10**6)
    build(TASK, every_row, sensitive_target, world, tmp_path / "small", seed=0)
    use_rows(with_large_vectors)
    build(TASK, every_row, sensitive_target, world, tmp_path / "large", seed=0)
    statistics = {name: DatasetDirectory(tmp_path / name).statistics() for name in ("small", "large")}
    assert [statistics[name].vector_dtype for name in ("small", "large")] == ["float16", "float32"]
    assert statistics["large"].counts["counted"]["activations that are not finite"] == 1
    for split in SPLITS:
        column = parquet.read_schema(tmp_path / "large" / f"{split}.parquet").field("activations").type
        assert str(column.value_type.value_type) == "float"
    small, wide = ([row for split in SPLITS for row in read_rows(tmp_path / name / f"{split}.parquet")]
                   for name in ("small", "large"))  # fmt: skip
    vectors = {(r["target_prompt"], r["source_prompt"], r["position"], *r["layers"]): r["activations"] for r in small}
    values = [row["activations"] for row in wide]
    assert all(np.isfinite(value).all() for value in values) and any((value == large).all() for value in values)
    compared = 0
    for row in wide:
        before = vectors.get((row["target_prompt"], row["source_prompt"], row["position"], *row["layers"]))
        if before is not None and not (row["activations"] == large).all():
            np.testing.assert_array_equal(row["activations"], before)
            compared += 1
    assert compared > 0


def test_fewer_rows_than_requested_are_reported(sensitive_target, world, pairs_config, tmp_path, caplog):
    build(TASK, replace(pairs_config, n_rows=10**6), sensitive_target, world, tmp_path, seed=0)
    assert "rows could be drawn; 1000000 were requested" in caplog.text


def test_rows_with_a_single_label_raise_an_error(sensitive_target, world, pairs_config, tmp_path, use_rows):
    def unchanged(*arguments):
        rows, counts = patching.compute_rows(*arguments)
        return [row | {"changed": False} for row in rows], counts

    use_rows(unchanged)
    with pytest.raises(SelfExplainError, match=r"None of \d+ patches changes the output"):
        build(TASK, pairs_config, sensitive_target, world, tmp_path, seed=0)
