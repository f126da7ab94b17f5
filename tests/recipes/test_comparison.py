"""A recipe that compares: which explainers are trained, on what, and what a change costs."""

import json
import shutil
from dataclasses import replace

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.config import ComparisonConfig
from selfexplain.recipes import run as road
from selfexplain.recipes.comparison import Comparison
from selfexplain.recipes.recipe import Expected, Recipe, load_recipe
from selfexplain.recipes.run import run


@pytest.fixture
def calls(monkeypatch):
    """The rooms replaced by ones that write a small file; the list says which were entered."""
    calls = []

    def write(path, name):
        calls.append(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")

    def build(self, task):
        write(self.run_dir / "datasets" / task / "train.parquet", f"dataset {self.run_dir.name}")

    monkeypatch.setattr(road._Road, "_build", build)
    monkeypatch.setattr(road._Road, "_train", lambda self: write(self.run_dir / "explainer" / "config.json", "train"))
    monkeypatch.setattr(road._Road, "_evaluate", lambda self: write(self.run_dir / "results.json", "evaluate"))
    monkeypatch.setattr(
        road._Road, "_write_cards", lambda self: write(self.run_dir / "cards" / "model_card.md", "card")
    )
    monkeypatch.setattr(
        Comparison, "_train", lambda self, cell: write(self.explainer_dir(cell) / "config.json", cell.name)
    )

    def answer(self, cell):
        write(self.run_dir / "comparison" / cell.name / "answers" / "x.jsonl", f"{cell.name} answers")

    monkeypatch.setattr(Comparison, "_answer", answer)
    monkeypatch.setattr(Comparison, "_score", lambda self: write(self.run_dir / "comparison.json", "score"))
    return calls


@pytest.fixture
def recipe(target_dir, tmp_path):
    (tmp_path / "corpus.txt").write_text("One text.\n\nAnother text.\n")
    target = shutil.copytree(target_dir, tmp_path / "a")
    other = shutil.copytree(target_dir, tmp_path / "b")
    return Recipe(
        name="mine",
        description="A test.",
        expected=Expected(minutes=1, memory_gb=1, disk_gb=0),
        target=str(target),
        corpus=str(tmp_path / "corpus.txt"),
        tasks=("input_ablation",),
        comparison=ComparisonConfig(models=(str(other),), shares=(0.25,)),
    )


CELLS = [
    f"{target}/by-{explainer}/share-{share}-seed-0" for target in "ab" for explainer in "ab" for share in ("0.25", "1")
]
MAIN = "a/by-a/share-1-seed-0"


def test_every_model_explains_every_model_and_the_recipes_own_explainer_is_not_trained_twice(recipe, calls, tmp_path):
    run_dir = run(recipe, tmp_path / "run")
    assert calls[:4] == ["dataset run", "dataset b", "train", "evaluate"]
    trained = [call for call in calls if call in CELLS]
    answered = [call.removesuffix(" answers") for call in calls if call.endswith(" answers")]
    assert trained == [cell for cell in CELLS if cell != MAIN] and answered == CELLS
    assert calls[-2:] == ["score", "card"]
    assert load_recipe(run_dir / "recipe.yaml") == recipe
    calls.clear()
    run(recipe, run_dir)
    assert not calls


def test_only_what_a_change_touches_is_run_again(recipe, calls, tmp_path):
    run(recipe, tmp_path / "run")
    calls.clear()
    more = replace(recipe, comparison=replace(recipe.comparison, shares=(0.25, 0.5)))
    run(more, tmp_path / "run")
    assert len([call for call in calls if call.startswith(("a/", "b/"))]) == 2 * 4
    assert not {"dataset run", "dataset b", "train", "evaluate"} & set(calls) and "score" in calls
    calls.clear()
    run(replace(more, evaluation=replace(more.evaluation, rows_limit=5)), tmp_path / "run")
    assert all(call.endswith(" answers") or call in ("evaluate", "score", "card") for call in calls)


def test_a_cancelled_comparison_blocks_nothing_and_keeps_what_was_finished(recipe, calls, tmp_path, monkeypatch):
    def stop(self, cell):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Comparison, "_answer", stop)
        run(recipe, tmp_path / "run")
    run(replace(recipe, comparison=ComparisonConfig()), tmp_path / "run", stage="evaluate")
    stages = json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]
    assert "stopped" in {record["status"] for record in stages.values()}
    alone = run(replace(recipe, comparison=ComparisonConfig()), tmp_path / "run")
    stages = json.loads((alone / "manifest.json").read_text())["stages"]
    assert {record["status"] for record in stages.values()} == {"done"}
    assert "dataset/b/input_ablation" in stages and "evaluate" in calls
    assert (alone / "comparison" / "b" / "datasets").is_dir()


def test_a_comparison_that_is_taken_out_is_taken_out_of_the_results(recipe, calls, tmp_path):
    run(recipe, tmp_path / "run")
    calls.clear()
    alone = run(replace(recipe, comparison=ComparisonConfig()), tmp_path / "run")
    assert calls == ["evaluate", "card"] and not (alone / "comparison.json").exists()


def test_a_cell_is_a_recipe_of_its_own(recipe, tmp_path):
    recipe = replace(recipe, seed=7, comparison=replace(recipe.comparison, n_seeds=2))
    datasets = {"a": tmp_path / "of-a", "b": tmp_path / "of-b"}
    comparison = Comparison(recipe, tmp_path, datasets, corpus=lambda: None, free=lambda: None)
    found = {(c.target, c.explainer, c.share, c.seed): comparison.recipe_of(c) for c in comparison.cells()}
    assert len(found) == 2 * 2 * 2 * 2
    few = found["b", "a", 0.25, 1]
    assert few.target == recipe.comparison.models[0] and few.explainer == recipe.target and few.seed == 8
    assert few.training.share == 0.25 and few.training.epochs == 2 * recipe.training.epochs
    assert found["b", "b", 1.0, 0].explainer is None and found["b", "b", 1.0, 0].training == recipe.training


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"comparison": ComparisonConfig(models=("elsewhere/a",))}, "told apart by the last part"),
        ({"comparison": ComparisonConfig(models=("./none",))}, "model './none': no directory"),
    ],
)
def test_a_comparison_that_cannot_work_writes_nothing(recipe, calls, tmp_path, change, words):
    with pytest.raises(SelfExplainError, match=words):
        run(replace(recipe, **change), tmp_path / "run")
    assert not calls and not (tmp_path / "run").exists()


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(SelfExplainError, match="leave explainer out"):
        load_recipe("tiny_claims", ["explainer=somebody/model"])
    with pytest.raises(SelfExplainError, match=r"training\.share is 0\.1 in a recipe that compares"):
        load_recipe("tiny_claims", ["training.share=0.1"])
    for share in ("25", "-1", "0"):
        with pytest.raises(SelfExplainError, match=f"training.share is {share}, expected"):
            load_recipe("tiny", [f"training.share={share}"])
    with pytest.raises(SelfExplainError, match="shares above 0"):
        ComparisonConfig(shares=(4.0,))
    with pytest.raises(SelfExplainError, match="one each"):
        ComparisonConfig(models=("a", "b"), revisions=("main",))


@pytest.mark.parametrize(
    "override",
    [
        "input_ablation.source.kind=transluce",
        "activation_patching.source.kind=transluce",
        "feature_description.saes=somebody/saes",
        "feature_description.neuronpedia=exports/{layer}",
    ],
)
def test_what_was_recorded_of_one_model_is_no_ground_truth_about_others(override):
    task, _, key = override.partition("=")[0].partition(".")
    with pytest.raises(SelfExplainError, match=rf"{task}\.{key}.* about selfexplain/tiny alone"):
        load_recipe("tiny_claims", [override])
    alone = load_recipe("tiny_claims", [override, "comparison.models=[]", "comparison.shares=[0.5]"])
    assert alone.comparison.is_on
    others = [other for other in alone.tasks if other != task]
    assert load_recipe("tiny_claims", [override, f"tasks=[{','.join(others)}]"]).tasks == tuple(others)


def test_the_packaged_comparison_is_of_both_embedded_models():
    recipe = load_recipe("tiny_claims")
    assert recipe.comparison.models == ("selfexplain/tiny-sibling",) and recipe.comparison.is_on
    assert not load_recipe("tiny").comparison.is_on
