"""Steps of a comparison: train an explainer a cell, let each answer the same test rows, score all of them together."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.config import ComparisonConfig
from selfexplain.pipeline.explainers import load_explainer, train_explainer
from selfexplain.pipeline.simulator import simulator
from selfexplain.runs.recipe import Recipe
from selfexplain.runs.stages import Step

if TYPE_CHECKING:
    from selfexplain.groundtruth.sources import Corpus

DIRECTORY = "comparison"


@dataclass(frozen=True)
class Cell:
    """One training of one explainer.

    Attributes:
        target, explainer: models by their short names.
        seed: of the training and of the choice of rows, added to the recipe's.
    """

    target: str
    explainer: str
    share: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.target}/by-{self.explainer}/share-{self.share:g}-seed-{self.seed}"


@dataclass(frozen=True)
class Comparison:
    """The comparison that a recipe asks for.

    Attributes:
        datasets: short name of a model -> the ground truth about it.
        corpus: the recipe's texts, on which adapters between models are fitted.
        free: drops the models that the steps before have loaded.
    """

    recipe: Recipe
    run_dir: Path
    datasets: Mapping[str, Path]
    corpus: Callable[[], "Corpus"]
    free: Callable[[], None]

    def steps(self, datasets: Mapping[str, tuple[str, ...]], models: Mapping[str, Any]) -> list[Step]:
        """Trainings, answers, scores.

        Args:
            datasets: short name of a model -> the steps that make its ground truth.
            models: short name of a model -> what its weights are told by.
        """
        settings = {"injection": asdict(self.recipe.injection), "adapter": asdict(self.recipe.adapter)}
        steps = []
        for cell in self.cells():
            recipe = self.recipe_of(cell)
            made = datasets[cell.target]
            trained = f"compare/train/{cell.name}"
            if cell == self.main:
                trained = "train"
            else:
                inputs = {
                    "target": models[cell.target],
                    "explainer": models[cell.explainer],
                    **settings,
                    "training": asdict(recipe.training),
                    "seed": recipe.seed,
                }
                outputs = (str(self.explainer_dir(cell).relative_to(self.run_dir)),)
                steps.append(Step(trained, inputs, outputs, partial(self._train, cell), after=made))
            asked = {"limit": recipe.evaluation.rows_limit, "seed": self.recipe.seed}
            outputs = (f"{DIRECTORY}/{cell.name}/answers",)
            name = f"compare/answer/{cell.name}"
            steps.append(Step(name, asked, outputs, partial(self._answer, cell), after=(*made, trained)))
        answered = tuple(step.name for step in steps if step.name.startswith("compare/answer/"))
        config = {"n_resamples": self.recipe.evaluation.n_resamples, "seed": self.recipe.seed}
        figures = ("figures/privileged_access.png", "figures/data_efficiency.png")
        score = Step(
            "compare/score",
            config,
            ("comparison.json", *figures),
            self._score,
            after=("evaluate", *answered),
            amends=("results.json",),
        )
        return [*steps, score]

    @property
    def main(self) -> Cell:
        """The explainer that the recipe trains anyway."""
        name = next(iter(self.datasets))
        return Cell(name, name, 1.0, 0)

    def cells(self) -> list[Cell]:
        """Every explainer of every target, from the smallest share to all rows."""
        config = self.recipe.comparison
        return [
            Cell(target, explainer, share, seed)
            for seed in range(config.n_seeds)
            for target in self.datasets
            for explainer in self.datasets
            for share in sorted({*config.shares, 1.0})
        ]

    def recipe_of(self, cell: Cell) -> Recipe:
        """What trains a cell, as a recipe of its own.

        Few rows are seen more often than many, `epochs / sqrt(share)` times: with equal epochs a small share would
        get hardly any updates, with equal updates it would be learned by heart.
        """
        recipe, named = self.recipe, models_of(self.recipe)
        target, explainer = named[cell.target], named[cell.explainer]
        other = None if cell.target == cell.explainer else explainer
        training = recipe.training
        return replace(
            recipe,
            target=target[0],
            target_revision=target[1],
            explainer=other and other[0],
            explainer_revision=other and other[1],
            training=replace(training, share=cell.share, epochs=training.epochs / cell.share**0.5),
            seed=recipe.seed + cell.seed,
            comparison=ComparisonConfig(),
        )

    def explainer_dir(self, cell: Cell) -> Path:
        return self.run_dir / "explainer" if cell == self.main else self.run_dir / DIRECTORY / cell.name / "explainer"

    def _train(self, cell: Cell) -> None:
        self.free()
        datasets, out_dir = self.datasets[cell.target], self.explainer_dir(cell)
        train_explainer(self.recipe_of(cell), datasets, out_dir, self.corpus, self.recipe.seed)

    def _answer(self, cell: Cell) -> None:
        from selfexplain.evaluation.evaluate import answer_all, held_out

        self.free()
        explainer = load_explainer(self.recipe, str(self.explainer_dir(cell)))
        config = self.recipe.evaluation
        for task in self.recipe.tasks:
            _, rows = held_out(self.datasets[cell.target] / task / "test.parquet", config.rows_limit, self.recipe.seed)
            cache = self.run_dir / DIRECTORY / cell.name / "answers" / f"{task}.jsonl"
            answer_all(explainer, rows, config.batch_size, f"{task}: {cell.name}", cache)

    def _score(self) -> None:
        from selfexplain.evaluation import report
        from selfexplain.evaluation.comparison import compare
        from selfexplain.evaluation.comparison_report import write_figures
        from selfexplain.evaluation.evaluate import held_out, read_classes

        recipe, path = self.recipe, self.run_dir / "results.json"
        tasks, endpoint = {}, simulator(recipe, self.run_dir)
        for task in recipe.tasks:
            rows = {
                target: held_out(directory / task / "test.parquet", recipe.evaluation.rows_limit, recipe.seed)[1]
                for target, directory in self.datasets.items()
            }
            classes = {
                target: {name: set(tokens) for name, tokens in read_classes(directory).items()}
                for target, directory in self.datasets.items()
            }
            tasks[task] = compare(
                task, rows, self._given(task, rows), classes, recipe.evaluation.n_resamples, recipe.seed, endpoint
            )
        found = {"models": list(self.datasets), "n_seeds": recipe.comparison.n_seeds, "tasks": tasks}
        write_figures(found, self.run_dir / "figures")
        report.write_results(found, self.run_dir / "comparison.json")
        report.write_results({**json.loads(path.read_text(encoding="utf-8")), "comparison": found}, path)

    def _given(self, task: str, rows: Mapping[str, Any]) -> list[Any]:
        """All answers to one task's rows: those of the explainers, and those of the nearest training rows."""
        from selfexplain.evaluation.baselines import nearest_neighbour
        from selfexplain.evaluation.comparison import NEIGHBOUR, Given
        from selfexplain.evaluation.evaluate import read_answers
        from selfexplain.groundtruth.formats import read_rows
        from selfexplain.groundtruth.splits import share_of

        train = {target: read_rows(directory / task / "train.parquet") for target, directory in self.datasets.items()}
        given = []
        for cell in self.cells():
            learned = [row["group"] for row in train[cell.target]]
            kept = share_of(learned, cell.share, self.recipe.seed + cell.seed)
            said = read_answers(self.run_dir / DIRECTORY / cell.name / "answers" / f"{task}.jsonl", rows[cell.target])
            by = {cell.explainer: [answer.text for answer in said]}
            if cell.explainer == cell.target:
                by[NEIGHBOUR] = nearest_neighbour([train[cell.target][index] for index in kept], rows[cell.target])
            for explainer, texts in by.items():
                given.append(Given(cell.target, explainer, cell.share, cell.seed, len(kept), texts))
        return given


def models_of(recipe: Recipe) -> dict[str, tuple[str, str | None]]:
    """The models that are compared, the recipe's target first: short name -> name and revision.

    Raises:
        SelfExplainError: two with one short name.
    """
    config = recipe.comparison
    models = [(recipe.target, recipe.target_revision)]
    models += zip(config.models, config.revisions or [None] * len(config.models), strict=True)
    named = {Path(name).name: (name, revision) for name, revision in models}
    if len(named) < len(models):
        raise SelfExplainError(
            f"comparison: models are told apart by the last part of their names, and these are {', '.join(named)}."
        )
    return named
