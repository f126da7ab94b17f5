"""The whole road in miniature, on the shipped target: nothing of it is faked, only little of it is run."""

import json
import shutil

import pytest
from datasets import load_dataset
from typer.testing import CliRunner

from little import LITTLE
from selfexplain.cli import app
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.pipeline.driver import run
from selfexplain.runs.recipe import load_recipe

TASKS = ("feature_description", "activation_patching", "input_ablation")


def test_the_run_directory_holds_what_it_promises(finished):
    assert json.loads((finished / "manifest.json").read_text())["stages"].keys() >= {"train", "evaluate", "card"}
    for name in ("explainer/README.md", "explainer/lora/adapter_model.safetensors", "figures/summary.png"):
        assert (finished / name).stat().st_size > 0
    assert not (finished / "explainer" / "checkpoints").exists()


def test_one_model_is_held_at_a_time(whole_run):
    """The target for ground truth, the base for training; then explainer, untrained explainer and target."""
    assert whole_run[1] == [1] * 5


def test_results_follow_the_schema(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["schema_version"] == 1 and set(results["tasks"]) == set(TASKS)
    for task, result in results["tasks"].items():
        systems = set(result["scores"])
        assert {"explainer", "untrained", "nearest_neighbour"} <= systems
        assert ("shuffled_vector" in systems) == (task != "input_ablation")
        assert ("lookup_rule" in systems) == (task != "feature_description")
        assert 0 <= result["calibration"]["ece"] <= 1 and result["calibration"]["curve"][-1][0] == 1
        for scores in result["scores"].values():
            for score in scores.values():
                low, high = score["ci95"]
                assert low <= score["value"] <= high


def test_datasets_load_as_they_are_and_hold_no_group_twice(finished, tmp_path):
    for task in TASKS:
        dataset = load_dataset(str(finished / "datasets" / task), cache_dir=str(tmp_path))
        groups = [set(dataset[split]["group"]) for split in ("train", "validation", "test")]
        assert sum(map(len, groups)) == len(set.union(*groups))
        assert dataset["train"][0]["target_model"] == "selfexplain/tiny"


def test_the_trained_explainer_loads_and_answers(finished):
    explainer = SelfExplainerForCausalLM.from_pretrained(finished / "explainer")
    vector = explainer.capture("The capital of France is", layers=[1])[0, 4]
    assert "feature_description" in explainer.config.calibration and "countries" in explainer.config.classes
    assert isinstance(explainer.explain_feature(vector, layer=1).text, str)
    shown = CliRunner().invoke(
        app, ["explain", str(finished), "The capital of France is", "--layer", "1", "--token", "4"]
    )
    assert shown.exit_code == 0, shown.output


def test_a_second_run_does_nothing_and_a_changed_key_only_what_depends_on_it(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.parquet")}
    run(load_recipe("quickstart", LITTLE), copy)
    assert (
        json.loads((copy / "manifest.json").read_text())["stages"]
        == json.loads((finished / "manifest.json").read_text())["stages"]
    )
    run(load_recipe("quickstart", [*LITTLE[:-2], "evaluation.rows_limit=16", LITTLE[-1]]), copy)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.parquet")} == before
    assert json.loads((copy / "results.json").read_text())["tasks"]["input_ablation"]["n_test"] == 16


def test_the_shipped_explainer_is_scored_without_training_and_reads_vectors(tmp_path):
    values = [*LITTLE, "explainer=selfexplain/tiny-selfexplainer", "evaluation.rows_limit=null"]
    values += ["tasks=[activation_patching, input_ablation]", "activation_patching.n_pairs=120"]
    run_dir = run(load_recipe("quickstart", values), tmp_path / "shipped")
    assert not (run_dir / "explainer").exists()
    text = (run_dir / "results.json").read_text()
    results = json.loads(text)
    assert results["explainer"]["trained_here"] is False and "null" not in text
    patching, ablation = (results["tasks"][task]["scores"] for task in ("activation_patching", "input_ablation"))
    for metric in ("exact_match", "content_match"):
        assert patching["explainer"][metric]["value"] > 0.1 + patching["shuffled_vector"][metric]["value"]
    for name, scores in (("lookup_rule", patching), ("majority", ablation)):
        better, than = (scores[system]["has_changed_macro_f1"]["value"] for system in ("explainer", name))
        assert better > 0.1 + than


def test_a_trained_explainer_is_not_scored_on_what_it_learned(finished, tmp_path, caplog):
    seed = json.loads((finished / "explainer" / "config.json").read_text())["split_seed"]
    values = [*LITTLE, f"explainer={finished / 'explainer'}", f"seed={seed + 1}"]
    with pytest.raises(SelfExplainError, match=f"split with seed {seed}.*Set seed={seed}"):
        run(load_recipe("quickstart", values), tmp_path / "other")
    values = [*LITTLE, f"explainer={finished / 'explainer'}", "target=selfexplain/tiny-sibling"]
    run(load_recipe("quickstart", [*values, "tasks=[input_ablation]"]), tmp_path / "other", stage="dataset")
    assert "explains selfexplain/tiny; it is asked about selfexplain/tiny-sibling" in caplog.text


def test_another_run_is_not_written_over(finished):
    with pytest.raises(SelfExplainError, match="holds another run"):
        run(load_recipe("tiny"), finished)
