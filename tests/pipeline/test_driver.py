"""Test which steps of a recipe run, in which order, and what is refused before anything is written."""

import json
import logging
import shutil
from dataclasses import replace

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.pipeline.driver import run
from selfexplain.pipeline.steps import RecipeSteps
from selfexplain.runs.find_explainer import find_explainer
from selfexplain.runs.lock import lock_run
from selfexplain.runs.recipe import Expected, Recipe, load_recipe
from selfexplain.runs.run_directory import RunDirectory


@pytest.fixture
def calls(monkeypatch, write):
    def build(self, task):
        write(self.run.dataset(task).rows("train"), task)

    monkeypatch.setattr(RecipeSteps, "_build", build)
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


def test_all_steps_run_once(recipe, calls, tmp_path):
    run_dir = run(recipe, tmp_path / "run")
    assert calls == ALL
    assert load_recipe(run_dir / "recipe.yaml") == recipe
    assert {path.name for path in RunDirectory(run_dir).contents()} >= {
        "results.json",
        "cards",
        "datasets",
        "explainer",
    }
    assert find_explainer(str(run_dir)) == str(run_dir / "explainer")
    run(recipe, run_dir)
    assert calls == ALL


def test_stage_names_the_last_stage_that_runs(recipe, calls, tmp_path):
    run(recipe, tmp_path / "run", stage="train")
    assert calls == ALL[:4]
    with pytest.raises(SelfExplainError, match=r"Stage 'trian' does not.*dataset, train, evaluate, compare, card"):
        run(recipe, tmp_path / "run", stage="trian")


def test_only_steps_that_depend_on_a_change_run_again(recipe, calls, tmp_path):
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
        find_explainer(str(run_dir))


def test_a_run_with_a_different_model_needs_a_different_directory(recipe, calls, tmp_path):
    sibling = shutil.copytree(recipe.target, tmp_path / "sibling")
    run(recipe, tmp_path / "run", stage="dataset")
    with pytest.raises(SelfExplainError, match="contains a different run"):
        run(replace(recipe, explainer=str(sibling)), tmp_path / "run")


def test_the_plan_is_logged_before_the_first_step(recipe, calls, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="selfexplain"):
        run(recipe, tmp_path / "run", stage="dataset")
    assert "1 minute and 1 GB of memory" in caplog.text
    assert caplog.text.index("expected") < caplog.text.index("[1/3]")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"corpus": "none.txt"}, "Corpus 'none.txt': there is no such file"),
        ({"target": "./none"}, r"Model '\./none': there is no directory"),
        ({"target": "nobody/none"}, "'nobody/none' could not be loaded"),
        ({"explainer": "nobody/none"}, "Explainer 'nobody/none' could not be loaded"),
        ({"expected": Expected(minutes=1, memory_gb=1, disk_gb=1e9)}, "GB of disk space, but only"),
    ],
)
def test_a_run_that_cannot_finish_writes_nothing(recipe, calls, tmp_path, change, words):
    with pytest.raises(SelfExplainError, match=words):
        run(replace(recipe, **change), tmp_path / "run")
    assert not calls
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_a_second_run_on_the_same_directory_is_refused(recipe, calls, tmp_path):
    run_dir = run(recipe, tmp_path / "run")
    calls.clear()
    with lock_run(run_dir), pytest.raises(SelfExplainError, match=r"run is in use by process \d+"):
        run(replace(recipe, seed=1), run_dir)
    assert not calls and load_recipe(run_dir / "recipe.yaml").seed == 0
    assert not {".lock", "lock.json"} & {path.name for path in run_dir.iterdir()}


def test_a_start_that_was_interrupted_before_the_first_step_continues(recipe, calls, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("selfexplain.pipeline.driver.dump_recipe", interrupt)
        run(recipe, tmp_path / "run")
    (tmp_path / "run" / "recipe.yaml").write_text("name: min")
    run(recipe, tmp_path / "run")
    assert calls == ALL
    (tmp_path / "killed").mkdir()
    for name in (".lock", "lock.json", "manifest.json.tmp"):
        (tmp_path / "killed" / name).write_text("{}")
    run(recipe, tmp_path / "killed")
    assert {path.name for path in (tmp_path / "killed").glob("*lock*")} == set()


def test_scores_are_not_written_if_the_rows_have_changed_since_training(recipe, monkeypatch, tmp_path):
    """As if a second run with another seed had rebuilt the rows while the first one was training."""

    def build(self, task):
        path = self.run.dataset(task).rows("train")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"rows")
        return {}

    def train(*_):
        (tmp_path / "run" / "explainer").mkdir(exist_ok=True)

    def evaluate(recipe, run, target, is_trained, free, check):
        run.dataset("input_ablation").rows("train").write_bytes(b"rows of another seed")
        check()
        raise AssertionError

    monkeypatch.setattr(RecipeSteps, "_build", build)
    monkeypatch.setattr("selfexplain.pipeline.steps.train_explainer", train)
    monkeypatch.setattr("selfexplain.pipeline.steps.evaluate_explainer", evaluate)
    for _ in range(2):  # in the process that trained, and in a later one
        with pytest.raises(SelfExplainError, match="datasets/input_ablation were changed after the explainer"):
            run(recipe, tmp_path / "run")


def test_a_recipe_of_kind_tiny_target_trains_the_embedded_models(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr("selfexplain.tiny.train.build", lambda *arguments: built.append(arguments), raising=False)
    recipe = load_recipe("tiny_target", ["seed=5"])
    run(recipe, tmp_path / "run")
    assert built == [(recipe.tiny, tmp_path / "run" / "weights", 5)]
    with pytest.raises(SelfExplainError, match="has the stages build"):
        run(recipe, tmp_path / "run", stage="train")
