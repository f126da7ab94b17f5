"""Rows are run again and compared with the stored results."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth import check
from selfexplain.groundtruth.build import build
from selfexplain.groundtruth.builders import BUILDERS
from selfexplain.groundtruth.check import RowSource, check_dataset
from selfexplain.groundtruth.config import AblationConfig, FeatureConfig
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.sources import Corpus


@pytest.fixture
def patching(sensitive_target, world, pairs_config, tmp_path):
    build("activation_patching", pairs_config, sensitive_target, world, tmp_path, seed=0)
    return tmp_path


@pytest.fixture
def ablation(sensitive_target, world, tmp_path):
    build("input_ablation", AblationConfig(n_questions=200, n_rows=60), sensitive_target, world, tmp_path, seed=0)
    return tmp_path


@pytest.mark.parametrize("name", ["patching", "ablation"])
def test_all_rows_of_an_unchanged_target_are_confirmed(name, sensitive_target, monkeypatch, request):
    directory = request.getfixturevalue(name)
    loaded = []

    def load(model, revision, dtype, **options):
        loaded.append((model, revision, dtype, options))
        return sensitive_target

    monkeypatch.setattr(check, "load_target", load)
    result = check_dataset(directory, 30, trust_remote_code=True)
    assert result.passed and result.n_rows == 30 and not result.disagreements
    assert loaded == [("tiny-random", None, "float32", {"trust_remote_code": True})]


@pytest.mark.parametrize("task", ["patching", "ablation"])
def test_rows_that_a_bfloat16_target_decided_in_float32_are_confirmed(
    task, sensitive_target, world, pairs_config, tmp_path
):
    sensitive_target.model.bfloat16()
    head = sensitive_target.model.lm_head.weight.data
    head.copy_(head[:1] + (head - head[:1]) * 0.02)  # so that many outputs are near-ties
    if task == "patching":
        build("activation_patching", pairs_config, sensitive_target, world, tmp_path, seed=0)
        counted = DatasetDirectory(tmp_path).statistics().counts["counted"]
        assert counted["patches decided in float32"] > 100
    else:
        build("input_ablation", AblationConfig(n_questions=200, n_rows=60), sensitive_target, world, tmp_path, seed=0)
    assert not check_dataset(tmp_path, 60, target=sensitive_target).disagreements


def test_a_relative_target_is_found_near_the_run(tmp_path, monkeypatch):
    dataset = tmp_path / "runs" / "mine" / "datasets" / "task"
    (tmp_path / "models" / "small").mkdir(parents=True)
    (tmp_path / "elsewhere" / "models" / "small").mkdir(parents=True)
    dataset.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in ("models/small", "./models/small"):
        assert Path(check.find_near(name, dataset)) == tmp_path / "models" / "small"
    assert check.find_near("lab/model", dataset) == "lab/model"
    assert check.find_near("selfexplain/tiny", dataset) == "selfexplain/tiny"
    assert check.find_near(str(tmp_path), dataset) == str(tmp_path)


def test_rows_of_old_datasets_can_be_checked(ablation, sensitive_target):
    """Old datasets have no manifest and lack two columns."""
    directory = DatasetDirectory(ablation)
    for path in ablation.glob("*.parquet"):
        parquet.write_table(parquet.read_table(path).drop_columns(["replacement", "answered_by"]), path)
    directory.manifest_path.unlink()
    assert check_dataset(ablation, 10, target=sensitive_target).passed


def test_a_different_target_does_not_pass(patching, sensitive_target):
    torch.manual_seed(1)
    torch.nn.init.normal_(sensitive_target.model.lm_head.weight)
    result = check_dataset(patching, 30, target=sensitive_target)
    assert not result.passed and result.disagreements
    first = result.disagreements[0]
    assert first.stored != first.found and first.split in ("train", "validation", "test")


def test_a_modified_file_raises_an_error(patching, sensitive_target):
    path = patching / "test.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(SelfExplainError, match=r"modified after it was written \(its SHA-256 differs\)"):
        check_dataset(patching, 3, target=sensitive_target)


@pytest.fixture
def features(target, tmp_path):
    """A feature dataset about one SAE, and what it was built from."""
    corpus = Corpus("texts", [f"the {noun} sees a {other} number {n}" for n in range(9) for noun, other in NOUNS])
    config = FeatureConfig(
        layers=(1,), n_saes=1, n_features=96, k=4, n_tokens=3000, min_active=2, n_candidates=1, rows_per_feature=1,
        min_correlation=-1.0,
    )  # fmt: skip
    build("feature_description", config, target, corpus, tmp_path, seed=0)
    return lambda task: RowSource(config, corpus, 0)


NOUNS = list(permutations(("cat", "dog", "capital", "river", "city", "France"), 2))


def test_feature_rows_are_confirmed_on_their_target(features, target, tmp_path):
    result = check_dataset(tmp_path, 20, target=target, source=features)
    assert result.passed and result.n_rows >= 15 and not result.disagreements


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda row: row | {"activations": [-row["activations"][0]]}, "vector ["),
        (
            lambda row: row | {"exemplars": [e | {"activations": e["activations"][::-1]} for e in row["exemplars"]]},
            "act",
        ),
        (lambda row: row | {"exemplars": [{"tokens": ["no", "such"], "activations": [1, 1]}]}, "no exemplar occurs"),
        (lambda row: row | {"simulator_score": 0.12345}, "simulator score"),
    ],
)
def test_changed_values_of_feature_rows_are_found(features, target, tmp_path, monkeypatch, change, found):
    monkeypatch.setattr(check, "read_rows", lambda path: list(map(change, read_rows(path))))
    result = check_dataset(tmp_path, 8, target=target, source=features)
    assert len(result.disagreements) >= 7 and all(found in row.found for row in result.disagreements)


def test_feature_rows_of_a_different_target_do_not_pass(features, target, tmp_path):
    torch.nn.init.normal_(target.model.model.layers[0].mlp.down_proj.weight)
    assert len(check_dataset(tmp_path, 10, target=target, source=features).disagreements) >= 8


def test_feature_rows_need_their_settings_and_texts(features, target, tmp_path):
    with pytest.raises(SelfExplainError, match="can be checked only with the settings and texts of their run"):
        check_dataset(tmp_path, 3, target=target)


def test_a_task_whose_rows_cannot_be_run_again_raises_an_error(ablation, sensitive_target, monkeypatch):
    monkeypatch.setattr(check, "BUILDERS", {"input_ablation": replace(BUILDERS["input_ablation"], rerun=None)})
    with pytest.raises(SelfExplainError, match="rows of input ablation, which cannot be run again"):
        check_dataset(ablation, 3, target=sensitive_target)
