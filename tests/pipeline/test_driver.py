"""The road of a recipe: which steps, in which order, what is refused before anything is written."""

import json
import logging
import shutil
from dataclasses import replace

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.pipeline import driver as road
from selfexplain.pipeline.driver import explainer_of, run, where_to_look
from selfexplain.runs.recipe import Expected, Recipe, load_recipe


@pytest.fixture
def calls(monkeypatch, write):
    def build(self, task):
        write(self.run_dir / "datasets" / task / "train.parquet", task)

    monkeypatch.setattr(road._Road, "_build", build)
    return write.calls


@pytest.fixture
def recipe(target_dir, tmp_path):
    (tmp_path / "corpus.txt").write_text("One text.\n\nAnother text.\n")
    return Recipe(
        name="mine",
        description="A test.",
        expected=Expected(minutes=1, memory_gb=1, disk_gb=0),
        target=str(target_dir),
        corpus=str(tmp_path / "corpus.txt"),
    )


ALL = ["feature_description", "activation_patching", "input_ablation", "train", "evaluate", "card"]


def test_the_whole_road_once(recipe, calls, tmp_path):
    run_dir = run(recipe, tmp_path / "run")
    assert calls == ALL
    assert load_recipe(run_dir / "recipe.yaml") == recipe
    assert {path.name for path in where_to_look(run_dir)} >= {"results.json", "cards", "datasets", "explainer"}
    assert explainer_of(str(run_dir)) == str(run_dir / "explainer")
    run(recipe, run_dir)
    assert calls == ALL


def test_stage_is_the_last_one_run(recipe, calls, tmp_path):
    run(recipe, tmp_path / "run", stage="train")
    assert calls == ALL[:4]
    with pytest.raises(SelfExplainError, match=r"stage 'trian'.*dataset, train, evaluate, compare, card"):
        run(recipe, tmp_path / "run", stage="trian")


def test_only_what_a_change_touches_is_run_again(recipe, calls, tmp_path):
    run(recipe, tmp_path / "run")
    calls.clear()
    run(replace(recipe, evaluation=replace(recipe.evaluation, batch_size=1)), tmp_path / "run")
    assert calls == ["evaluate", "card"]
    (tmp_path / "corpus.txt").write_text("Other words.")
    calls.clear()
    run(recipe, tmp_path / "run")
    assert calls == ALL


def test_a_trained_explainer_is_only_evaluated(recipe, calls, tmp_path):
    trained = tmp_path / "trained"
    trained.mkdir()
    (trained / "config.json").write_text(json.dumps({"model_type": "selfexplainer"}))
    run_dir = run(replace(recipe, explainer=str(trained)), tmp_path / "run")
    assert calls == [name for name in ALL if name != "train"]
    with pytest.raises(SelfExplainError, match="no trained explainer"):
        explainer_of(str(run_dir))


def test_a_directory_that_is_neither_run_nor_model_is_refused(tmp_path):
    with pytest.raises(SelfExplainError, match=r"neither a run .* nor a model"):
        explainer_of(str(tmp_path))


def test_another_model_is_another_run(recipe, calls, tmp_path):
    sibling = shutil.copytree(recipe.target, tmp_path / "sibling")
    run(recipe, tmp_path / "run", stage="dataset")
    with pytest.raises(SelfExplainError, match="holds another run"):
        run(replace(recipe, explainer=str(sibling)), tmp_path / "run")


def test_what_it_does_is_said_before_it_starts(recipe, calls, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="selfexplain"):
        run(recipe, tmp_path / "run", stage="dataset")
    assert "1 minutes and 1 GB of memory" in caplog.text
    assert caplog.text.index("expected") < caplog.text.index("[1/3]")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"corpus": "none.txt"}, "corpus 'none.txt': no such file"),
        ({"target": "./none"}, "model './none': no directory"),
        ({"target": "nobody/none"}, "target 'nobody/none' could not be loaded"),
        ({"explainer": "nobody/none"}, "explainer 'nobody/none' could not be loaded"),
        ({"expected": Expected(minutes=1, memory_gb=1, disk_gb=1e9)}, "GB of disk"),
    ],
)
def test_a_run_that_cannot_work_writes_nothing(recipe, calls, tmp_path, change, words):
    with pytest.raises(SelfExplainError, match=words):
        run(replace(recipe, **change), tmp_path / "run")
    assert not calls
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_the_embedded_models_are_rebuilt_by_a_recipe_of_their_own(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr("selfexplain.tiny.train.build", lambda *arguments: built.append(arguments), raising=False)
    recipe = load_recipe("tiny_target", ["seed=5"])
    run(recipe, tmp_path / "run")
    assert built == [(recipe.tiny, tmp_path / "run" / "weights", 5)]
    with pytest.raises(SelfExplainError, match="has the stages build"):
        run(recipe, tmp_path / "run", stage="train")


def test_a_model_name_is_no_run():
    assert explainer_of("somebody/explainer") == "somebody/explainer"
