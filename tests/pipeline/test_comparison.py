"""Test a recipe with a comparison: which explainers are trained, on which rows, and what runs again after a change."""

import json
import shutil
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, List, Value
from transformers import LlamaConfig, LlamaForCausalLM

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.config import ComparisonConfig, EvaluationConfig
from selfexplain.evaluation.results import Environment, Results, ScoredModel
from selfexplain.groundtruth.formats import read_rows
from selfexplain.pipeline.comparison import Cell, ComparisonSteps
from selfexplain.pipeline.driver import run
from selfexplain.pipeline.row_guard import RowGuard
from selfexplain.pipeline.steps import RecipeSteps
from selfexplain.runs.recipe import Expected, Recipe, load_recipe
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.tasks import activation_patching, outcome
from selfexplain.training import train as training
from selfexplain.training.config import AdapterConfig, LoraConfig, TrainingConfig


@pytest.fixture
def calls(monkeypatch, write):
    def build(self, task):
        write(self.run.dataset(task).rows("train"), f"dataset {self.run.root.name}")

    def train(self, cell):
        write(self.explainer_dir(cell) / "config.json", cell.name)

    def answer(self, cell):
        write(self.answers_path(cell, "x"), f"{cell.name} answers")

    monkeypatch.setattr(RecipeSteps, "_build", build)
    monkeypatch.setattr(ComparisonSteps, "_train", train)
    monkeypatch.setattr(ComparisonSteps, "_answer", answer)
    monkeypatch.setattr(ComparisonSteps, "_score", lambda self: write(self.run.comparison_path, "score"))
    return write.calls


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


def test_every_model_explains_every_model_and_no_explainer_is_trained_twice(recipe, calls, tmp_path):
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


def test_only_steps_that_depend_on_a_change_run_again(recipe, calls, tmp_path):
    run(recipe, tmp_path / "run")
    calls.clear()
    more = replace(recipe, comparison=replace(recipe.comparison, shares=(0.25, 0.5)))
    run(more, tmp_path / "run")
    assert len([call for call in calls if call.startswith(("a/", "b/"))]) == 2 * 4
    assert not {"dataset run", "dataset b", "train", "evaluate"} & set(calls) and "score" in calls
    calls.clear()
    run(replace(more, evaluation=replace(more.evaluation, rows_limit=5)), tmp_path / "run")
    assert all(call.endswith(" answers") or call in ("evaluate", "score", "card") for call in calls)


def test_a_cancelled_comparison_can_be_removed_and_its_finished_steps_are_kept(recipe, calls, tmp_path, monkeypatch):
    def stop(self, cell):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ComparisonSteps, "_answer", stop)
        run(recipe, tmp_path / "run")
    run(replace(recipe, comparison=ComparisonConfig()), tmp_path / "run", stage="evaluate")
    stages = json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]
    assert "stopped" in {record["status"] for record in stages.values()}
    alone = run(replace(recipe, comparison=ComparisonConfig()), tmp_path / "run")
    stages = json.loads((alone / "manifest.json").read_text())["stages"]
    assert {record["status"] for record in stages.values()} == {"done"}
    assert "dataset/b/input_ablation" in stages and "evaluate" in calls
    assert (alone / "comparison" / "b" / "datasets").is_dir()


def test_removing_the_comparison_removes_it_from_the_results(recipe, calls, tmp_path):
    run(recipe, tmp_path / "run")
    calls.clear()
    alone = run(replace(recipe, comparison=ComparisonConfig()), tmp_path / "run")
    assert calls == ["evaluate", "card"] and not (alone / "comparison.json").exists()


def test_every_cell_has_a_recipe(recipe, tmp_path):
    recipe = replace(recipe, seed=7, comparison=replace(recipe.comparison, n_seeds=2))
    models = {"a": RunDirectory(tmp_path / "of-a"), "b": RunDirectory(tmp_path / "of-b")}
    comparison = ComparisonSteps(
        recipe, RunDirectory(tmp_path), models, lambda: None, lambda: None, RowGuard(RunDirectory(tmp_path))
    )
    recipes = {(c.target, c.explainer, c.share, c.seed): comparison.recipe_of(c) for c in comparison.cells()}
    assert len(recipes) == 2 * 2 * 2 * 2
    few = recipes["b", "a", 0.25, 1]
    assert few.target == recipe.comparison.models[0] and few.explainer == recipe.target and few.seed == 8
    assert few.training.share == 0.25 and few.training.epochs == 2 * recipe.training.epochs
    assert recipes["b", "b", 1.0, 0].explainer is None and recipes["b", "b", 1.0, 0].training == recipe.training


def test_rows_that_change_between_two_trainings_are_noticed(recipe, tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    rows = run.dataset("input_ablation").rows("train")
    rows.parent.mkdir(parents=True)
    rows.write_bytes(b"rows")
    monkeypatch.setattr("selfexplain.pipeline.comparison.train_explainer", lambda *arguments: None)
    comparison = ComparisonSteps(recipe, run, {"a": run}, lambda: None, lambda: None, RowGuard(run))
    few, whole = comparison.cells()
    comparison._train(few)
    rows.write_bytes(b"other rows")
    with pytest.raises(SelfExplainError, match=r"rows in .*input_ablation were changed after"):
        comparison._train(whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"comparison": ComparisonConfig(models=("elsewhere/a",))}, "have names with the same last part"),
        ({"comparison": ComparisonConfig(models=("./none",))}, r"Model '\./none': there is no directory"),
    ],
)
def test_a_comparison_that_cannot_finish_writes_nothing(recipe, calls, tmp_path, change, words):
    with pytest.raises(SelfExplainError, match=words):
        run(replace(recipe, **change), tmp_path / "run")
    assert not calls and not (tmp_path / "run").exists()


def test_contradictory_settings_are_refused():
    with pytest.raises(SelfExplainError, match="Remove explainer"):
        load_recipe("tiny_claims", ["explainer=somebody/model"])
    with pytest.raises(SelfExplainError, match=r"training\.share is 0\.1 in a recipe with a comparison"):
        load_recipe("tiny_claims", ["training.share=0.1"])
    for share in ("25", "-1", "0"):
        with pytest.raises(SelfExplainError, match=rf"training\.share is {share}\. Give a fraction"):
            load_recipe("tiny", [f"training.share={share}"])
    with pytest.raises(SelfExplainError, match="shares above 0"):
        ComparisonConfig(shares=(4.0,))
    with pytest.raises(SelfExplainError, match="one revision per model"):
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
def test_data_recorded_from_one_model_is_refused_for_several_models(override):
    task, _, key = override.partition("=")[0].partition(".")
    with pytest.raises(SelfExplainError, match=rf"{task}\.{key}.* describes selfexplain/tiny only"):
        load_recipe("tiny_claims", [override])
    alone = load_recipe("tiny_claims", [override, "comparison.models=[]", "comparison.shares=[0.5]"])
    assert alone.comparison.is_on
    others = [other for other in alone.tasks if other != task]
    assert load_recipe("tiny_claims", [override, f"tasks=[{','.join(others)}]"]).tasks == tuple(others)


def test_the_packaged_comparison_has_both_embedded_models():
    recipe = load_recipe("tiny_claims")
    assert recipe.comparison.models == ("selfexplain/tiny-sibling",) and recipe.comparison.is_on
    assert not load_recipe("tiny").comparison.is_on


@pytest.fixture
def two_targets(tokenizer, target_dir, tmp_path):
    """Targets `a` and `b` of different widths, with patching rows: 6 groups of two rows about `a`, 4 about `b`."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    shutil.copytree(target_dir, tmp_path / "a")
    LlamaForCausalLM(config).save_pretrained(tmp_path / "b")
    tokenizer.save_pretrained(tmp_path / "b")
    generator = torch.Generator().manual_seed(0)
    for name, width, n_groups in (("a", 32, 6), ("b", 48, 4)):
        rows = []
        for index in range(2 * n_groups):
            question = activation_patching.question(f"The capital of {index} is", [1, 2], 3, "of")
            rows.append(
                {
                    "prompt": question.prompt,
                    "completion": outcome.render(outcome.Outcome(index % 3 == 0, "Rome")),
                    "placeholder_offsets": list(question.placeholder_offsets),
                    "activations": [torch.randn(width, generator=generator).tolist()],
                    "activation_layers": [2],
                    "group": f"{name}{index // 2}",
                    "changed": index % 3 == 0,
                }
            )
        folder = RunDirectory(tmp_path / f"of-{name}").dataset("activation_patching").root
        folder.mkdir(parents=True)
        vectors = List(List(Value("float16"), length=width))
        table = Dataset.from_list(rows).cast_column("activations", vectors)
        table.to_parquet(folder / "train.parquet")
        table.take(n_groups - 1).to_parquet(folder / "test.parquet")
    return tmp_path


def test_each_cell_is_trained_and_scored_with_its_own_models_and_share(two_targets, monkeypatch):
    n_rows = []

    def remember(*arguments):
        rows = training_rows(*arguments)
        n_rows.append(len(rows))
        return rows

    training_rows = training.training_rows
    monkeypatch.setattr(training, "training_rows", remember)
    recipe = Recipe(
        name="mine",
        description="A test.",
        expected=Expected(minutes=1, memory_gb=1, disk_gb=0),
        target=str(two_targets / "a"),
        corpus="unused",
        tasks=("activation_patching",),
        adapter=AdapterConfig(fit_tokens=50),
        training=TrainingConfig(epochs=1, batch_size=8, lora=LoraConfig(rank=4, alpha=8)),
        evaluation=EvaluationConfig(n_resamples=20),
        comparison=ComparisonConfig(models=(str(two_targets / "b"),), shares=(0.5,)),
    )
    texts = ["The capital of France is Paris.", "Once there was a small dog near the river."] * 3
    models = {name: RunDirectory(two_targets / f"of-{name}") for name in "ab"}
    run = RunDirectory(two_targets)
    comparison = ComparisonSteps(recipe, run, models, lambda: SimpleNamespace(texts=texts), lambda: None, RowGuard(run))
    scored = ScoredModel(name="a")
    environment = Environment(versions={}, device="cpu", seed=0)
    results = Results(recipe="mine", target=scored, explainer=scored, tasks={}, environment=environment)
    results.write(run.results_path)
    comparison._train(comparison.main)
    trained = [comparison.main]
    steps = comparison.steps({"a": (), "b": ()}, {"a": None, "b": None})
    cells = {f"compare/train/{cell.name}": cell for cell in comparison.cells()}
    for step in steps:
        step.action()
        trained += [cells[step.name]] if step.name in cells else []

    def entries():
        results = run.read_results()
        assert results.recipe == "mine" and run.read_comparison().tasks == results.comparison.tasks
        scores = results.comparison.tasks["activation_patching"].scores["exact_match"]
        return {(entry.target, entry.explainer, entry.share): entry for entry in scores}

    n_train = {("a", 0.5): 6, ("a", 1.0): 12, ("b", 0.5): 4, ("b", 1.0): 8}
    assert n_rows == [n_train[cell.target, cell.share] for cell in trained] and len(n_rows) == 8
    before = entries()
    assert {key[:2] for key in before} == {*product("ab", "ab"), *product("ab", ["nearest_neighbour"])}
    assert all(entry.n_train == n_train[target, share] for (target, _, share), entry in before.items())
    # With the answers of one cell replaced by the true ones, its score changes, and no other.
    rows = {target: read_rows(model.dataset("activation_patching").rows("test")) for target, model in models.items()}
    cell = Cell("b", "a", 0.5, 0)
    answers = comparison.answers_path(cell, "activation_patching")
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(lines) == len(rows["b"]) == 3
    correct = [line | {"text": row["completion"]} for line, row in zip(lines, rows["b"], strict=True)]
    answers.write_text("".join(json.dumps(line) + "\n" for line in correct))
    comparison._score()
    after = entries()
    assert {key for key, entry in after.items() if entry.value != before[key].value} == {("b", "a", 0.5)}
    assert after["b", "a", 0.5].value == 1
