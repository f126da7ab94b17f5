"""Test the full pipeline on the shipped target: nothing is faked, the run is only small."""

import json
import shutil

import pytest
from datasets import load_dataset
from typer.testing import CliRunner

from little import LITTLE
from selfexplain.cli import app
from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.readers import readers_of
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.pipeline.driver import run
from selfexplain.runs.recipe import load_recipe
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.tasks import BUILT_IN

TASKS = [task.name for task in BUILT_IN]


def n_scored(run_dir, task):
    """Number of test rows that the small run scores."""
    return min(24, RunDirectory(run_dir).dataset(task).statistics().splits["test"].rows)


def test_the_run_directory_is_complete(finished):
    directory = RunDirectory(finished)
    steps = directory.read_manifest().steps
    assert list(steps) == [*(f"dataset/{task}" for task in TASKS), "train", "train/without_vectors", "evaluate", "card"]
    assert all(step.is_done for step in steps.values())
    for path in (
        directory.explainer / "README.md",
        directory.explainer / "lora" / "adapter_model.safetensors",
        directory.summary_figure,
    ):
        assert path.stat().st_size > 0
    assert not (directory.explainer / "checkpoints").exists()
    assert not directory.answer_cache.exists()


def test_one_model_is_in_memory_at_a_time(whole_run):
    """The target for ground truth, the base for both trainings; then explainer, untrained explainer, the explainer
    without vectors, and the target."""
    assert whole_run[1] == [1] * 7


def test_every_system_is_scored_on_every_task(finished):
    results = RunDirectory(finished).read_results()
    assert list(results.tasks) == TASKS
    for task in BUILT_IN:
        result = results.tasks[task.name]
        expected = {"explainer", "untrained", "nearest_neighbour", "text_only"} if task.has_vectors else set()
        expected |= {"shuffled_vector", "zero_vector"} if task.has_vectors else {"explainer", "untrained"}
        expected |= {"trained_without_vectors"} if task.has_vectors else set()
        expected |= {"lookup_rule", "majority"} if task.states_outcome else set()
        expected |= set(readers_of(task.name))
        assert not any(report.unavailable for report in result.readers.values())
        assert set(result.gains) == set(task.metrics)
        assert expected <= set(result.scores), task.name
        assert ("shuffled_vector" in result.scores) == task.has_vectors
        assert result.n_test == n_scored(finished, task.name) and result.calibration.curve[-1][0] == 1
        for scores in result.scores.values():
            for metric in scores.values():
                low, high = metric.ci95
                assert low <= metric.value <= high


def test_predictions_hold_one_line_per_test_row(finished):
    directory = RunDirectory(finished)
    for task in TASKS:
        predictions = list(directory.read_predictions(task))
        assert len(predictions) == n_scored(finished, task)
        assert all("explainer" in prediction.answers for prediction in predictions)


def test_datasets_load_and_no_group_is_in_two_splits(finished, tmp_path):
    for task in TASKS:
        dataset = load_dataset(str(finished / "datasets" / task), cache_dir=str(tmp_path))
        groups = [set(dataset[split]["group"]) for split in ("train", "validation", "test")]
        assert sum(map(len, groups)) == len(set.union(*groups))
        assert dataset["train"][0]["target_model"] == "selfexplain/tiny"


def test_the_explainer_without_vectors_was_trained_on_the_same_questions_without_their_vectors(finished):
    directory = RunDirectory(finished)
    assert not (directory.without_vectors / "datasets").exists()
    explainer = SelfExplainerForCausalLM.from_pretrained(directory.explainer_without_vectors)
    assert explainer.config.tasks == ["feature_description", "activation_patching"]
    golden = json.loads((directory.explainer_without_vectors / "injection_check.json").read_text())
    assert all("<activation>" not in row["prompt"] and not row["placeholder_offsets"] for row in golden["rows"])


def test_the_trained_explainer_loads_and_answers(finished):
    explainer = SelfExplainerForCausalLM.from_pretrained(finished / "explainer")
    vector = explainer.capture("The capital of France is", layers=[1])[0, 4]
    assert set(explainer.config.calibration) <= set(TASKS)  # which of them are kept depends on the training
    assert "countries" in explainer.config.classes
    text = explainer.explain_feature(vector, layer=1).text
    result = CliRunner().invoke(
        app, ["explain", str(finished), "The capital of France is", "--layer", "1", "--token", "4"]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-2] == text


def test_a_second_run_does_nothing_and_a_changed_key_reruns_only_its_readers(finished, tmp_path):
    copy = RunDirectory(shutil.copytree(finished, tmp_path / "copy"))
    before = {path: path.stat().st_mtime_ns for path in copy.root.rglob("*.parquet")}
    run(load_recipe("quickstart", LITTLE), copy.root)
    assert copy.read_manifest().steps == RunDirectory(finished).read_manifest().steps
    run(load_recipe("quickstart", [*LITTLE[:-2], "evaluation.rows_limit=16", LITTLE[-1]]), copy.root)
    assert {path: path.stat().st_mtime_ns for path in copy.root.rglob("*.parquet")} == before
    assert copy.read_results().tasks["input_ablation"].n_test == 16


def test_the_shipped_explainer_is_scored_without_training_and_reads_vectors(tmp_path):
    values = [*LITTLE, "explainer=selfexplain/tiny-selfexplainer", "evaluation.rows_limit=null"]
    values += ["tasks=[activation_patching, input_ablation]", "activation_patching.n_pairs=120"]
    directory = RunDirectory(run(load_recipe("quickstart", values), tmp_path / "shipped"))
    assert not directory.explainer.exists()
    results = directory.read_results()
    assert results.explainer.trained_here is False
    assert "null" not in directory.results_path.read_text()
    patching, ablation = (results.tasks[task].scores for task in ("activation_patching", "input_ablation"))
    for metric in ("exact_match", "content_match"):
        assert patching["explainer"][metric].value > 0.1 + patching["shuffled_vector"][metric].value
    for system, scores in (("lookup_rule", patching), ("majority", ablation)):
        explainer, baseline = (scores[name]["has_changed_macro_f1"].value for name in ("explainer", system))
        assert explainer > 0.1 + baseline


def test_a_trained_explainer_is_not_scored_on_its_training_rows(finished, tmp_path, caplog):
    seed = json.loads((finished / "explainer" / "config.json").read_text())["split_seed"]
    values = [*LITTLE, f"explainer={finished / 'explainer'}", f"seed={seed + 1}"]
    with pytest.raises(SelfExplainError, match=f"split with seed {seed}.*Set seed={seed}"):
        run(load_recipe("quickstart", values), tmp_path / "other")
    values = [*LITTLE, f"explainer={finished / 'explainer'}", "target=selfexplain/tiny-sibling"]
    run(load_recipe("quickstart", [*values, "tasks=[input_ablation]"]), tmp_path / "other", stage="dataset")
    assert "explains selfexplain/tiny, but the recipe asks it about selfexplain/tiny-sibling" in caplog.text


def test_a_different_run_is_not_overwritten(finished):
    with pytest.raises(SelfExplainError, match="contains a different run"):
        run(load_recipe("tiny"), finished)
