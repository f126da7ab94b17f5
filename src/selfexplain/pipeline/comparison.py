"""Steps of a comparison: train one explainer per cell, ask all of them the same test rows, score the answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.config import ComparisonConfig
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.pipeline.explainers import load_explainer, load_target_of, train_explainer
from selfexplain.pipeline.row_guard import RowGuard
from selfexplain.pipeline.simulator import simulator
from selfexplain.runs.engine import Step
from selfexplain.runs.recipe import Recipe
from selfexplain.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from selfexplain.evaluation.comparison import AnswerSet
    from selfexplain.evaluation.results import TaskComparison
    from selfexplain.groundtruth.sources import Corpus


@dataclass(frozen=True)
class Cell:
    """One training of one explainer.

    Attributes:
        target: short name of the model that is explained.
        explainer: short name of the model that explains.
        share: fraction of the training groups that the explainer learns from.
        seed: seed of training and of the choice of groups, relative to the recipe's seed.
    """

    target: str
    explainer: str
    share: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.target}/by-{self.explainer}/share-{self.share:g}-seed-{self.seed}"


@dataclass(frozen=True)
class ComparisonSteps:
    """The comparison of a recipe.

    Attributes:
        recipe: the recipe.
        run: its run directory.
        models: short name of a model -> directory with the ground truth about it, the recipe's target first.
        corpus: function that reads the recipe's texts, on which adapters between models are fitted.
        free: function that frees the models that earlier steps have loaded.
        rows: detects that the ground truth changes between two steps.
    """

    recipe: Recipe
    run: RunDirectory
    models: Mapping[str, RunDirectory]
    corpus: Callable[[], "Corpus"]
    free: Callable[[], None]
    rows: RowGuard

    def steps(self, datasets: Mapping[str, tuple[str, ...]], weights: Mapping[str, Any]) -> list[Step]:
        """The steps that train explainers, that collect their answers, and that score the answers.

        Args:
            datasets: short name of a model -> the steps that build its ground truth.
            weights: short name of a model -> fingerprint of its weights.
        """
        cells = [step for cell in self.cells() for step in self._cell_steps(cell, datasets[cell.target], weights)]
        answers = tuple(step.name for step in cells if step.name.startswith("compare/answer/"))
        run, config = self.run, self.recipe.evaluation
        written = (run.comparison_path, run.privileged_access_figure, run.data_efficiency_figure)
        score = Step(
            "compare/score",
            {"n_resamples": config.n_resamples, "seed": self.recipe.seed},
            tuple(run.relative(path) for path in written),
            self._score,
            after=("evaluate", *answers),
            amends=(run.relative(run.results_path),),
        )
        return [*cells, score]

    def _cell_steps(self, cell: Cell, datasets: tuple[str, ...], weights: Mapping[str, Any]) -> Iterator[Step]:
        run, recipe = self.run, self.recipe_of(cell)
        trained = "train" if cell == self.main else f"compare/train/{cell.name}"
        if cell != self.main:
            inputs = {
                "target": weights[cell.target],
                "explainer": weights[cell.explainer],
                "injection": asdict(recipe.injection),
                "adapter": asdict(recipe.adapter),
                "training": asdict(recipe.training),
                "seed": recipe.seed,
            }
            outputs = (run.relative(self.explainer_dir(cell)),)
            yield Step(trained, inputs, outputs, partial(self._train, cell), after=datasets)
        yield Step(
            f"compare/answer/{cell.name}",
            {"limit": recipe.evaluation.rows_limit, "seed": self.recipe.seed},
            (run.relative(run.compared_answers(cell.name)),),
            partial(self._answer, cell),
            after=(*datasets, trained),
        )

    @property
    def main(self) -> Cell:
        """The cell of the recipe's own explainer, which is trained even without a comparison."""
        name = next(iter(self.models))
        return Cell(name, name, 1.0, 0)

    def cells(self) -> list[Cell]:
        """Every explainer of every target, from the smallest share to all rows."""
        config = self.recipe.comparison
        return [
            Cell(target, explainer, share, seed)
            for seed in range(config.n_seeds)
            for target in self.models
            for explainer in self.models
            for share in sorted({*config.shares, 1.0})
        ]

    def recipe_of(self, cell: Cell) -> Recipe:
        """The recipe that trains a cell.

        A small share is trained for more epochs than a large one, `epochs / sqrt(share)`: with the same number of
        epochs it would get very few updates, with the same number of updates it would be memorised.
        """
        recipe, models = self.recipe, models_of(self.recipe)
        target, explainer = models[cell.target], models[cell.explainer]
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
        return self.run.explainer if cell == self.main else self.run.compared_explainer(cell.name)

    def answers_path(self, cell: Cell, task: str) -> Path:
        return self.run.compared_answers(cell.name) / f"{task}.jsonl"

    def _train(self, cell: Cell) -> None:
        self.free()
        self.rows.check(self._datasets(self.models[cell.target]).values())
        datasets, out_dir = self.models[cell.target].datasets, self.explainer_dir(cell)
        train_explainer(self.recipe_of(cell), datasets, out_dir, self.corpus, self.recipe.seed)

    def _answer(self, cell: Cell) -> None:
        from selfexplain.evaluation.answers import answer_all

        self.free()
        self.rows.check(self._datasets(self.models[cell.target]).values())
        explainer = load_explainer(self.recipe, str(self.explainer_dir(cell)))
        batch_size = self.recipe.evaluation.batch_size
        for task in self.recipe.tasks:
            rows = self._test_rows(cell.target, task)
            answer_all(explainer, rows, batch_size, f"{task}: {cell.name}", self.answers_path(cell, task))

    def _score(self) -> None:
        from selfexplain.evaluation.comparison_report import write_figures
        from selfexplain.evaluation.results import Comparison, ComparisonResult

        tasks = {task: self._compare(task) for task in self.recipe.tasks}
        for run in self.models.values():
            self.rows.check(self._datasets(run).values())
        n_seeds = self.recipe.comparison.n_seeds
        result = ComparisonResult(models=list(self.models), n_seeds=n_seeds, tasks=tasks)
        write_figures(result, self.run.figures)
        Comparison(models=result.models, n_seeds=n_seeds, tasks=tasks).write(self.run.comparison_path)
        results = self.run.read_results()
        results.model_copy(update={"comparison": result}).write(self.run.results_path)

    def _compare(self, task: str) -> "TaskComparison":
        from selfexplain.evaluation.comparison import compare
        from selfexplain.evaluation.scorers import read_classes

        recipe = self.recipe
        rows = {target: self._test_rows(target, task) for target in self.models}
        return compare(
            task,
            rows,
            self._answer_sets(task, rows),
            {target: read_classes(self._datasets(run)) for target, run in self.models.items()},
            recipe.evaluation.n_resamples,
            recipe.seed,
            simulator(recipe, self.run.root),
        )

    def _datasets(self, run: RunDirectory) -> dict[str, DatasetDirectory]:
        return {task: run.dataset(task) for task in self.recipe.tasks}

    def _test_rows(self, target: str, task: str) -> list[dict]:
        """The test rows about a target that all explainers answer."""
        from selfexplain.evaluation.test_sets import held_out

        path = self.models[target].dataset(task).rows("test")
        return held_out(path, self.recipe.evaluation.rows_limit, self.recipe.seed)[1]

    def _answer_sets(self, task: str, rows: Mapping[str, Sequence[Any]]) -> "list[AnswerSet]":
        """All answers to the test rows of a task: of explainers, nearest training rows and strongest readers."""
        from selfexplain.evaluation.answers import read_answers
        from selfexplain.evaluation.baselines import nearest_neighbour
        from selfexplain.evaluation.comparison import NEIGHBOUR, READER, AnswerSet
        from selfexplain.groundtruth.formats import read_rows
        from selfexplain.groundtruth.splits import share_of

        train = {target: read_rows(run.dataset(task).rows("train")) for target, run in self.models.items()}
        sets = []
        for cell in self.cells():
            groups = [row["group"] for row in train[cell.target]]
            kept = share_of(groups, cell.share, self.recipe.seed + cell.seed)
            answers = read_answers(self.answers_path(cell, task), rows[cell.target])
            texts = {cell.explainer: [answer.text for answer in answers]}
            is_whole = cell.explainer == cell.target and cell.share == 1 and cell.seed == 0
            if is_whole and (read := self._read(task, cell, train[cell.target], rows[cell.target])):
                texts[READER] = read
            if cell.explainer == cell.target:
                texts[NEIGHBOUR] = nearest_neighbour([train[cell.target][index] for index in kept], rows[cell.target])
            sets += [
                AnswerSet(cell.target, explainer, cell.share, cell.seed, len(kept), answered)
                for explainer, answered in texts.items()
            ]
        return sets

    def _read(self, task: str, cell: Cell, train: Sequence[dict], test: Sequence[dict[str, Any]]) -> list[str] | None:
        """The answers of the strongest reader about a target; None if no reader answers in full."""
        from selfexplain.evaluation.comparison import strongest_reader
        from selfexplain.evaluation.readers import Material
        from selfexplain.evaluation.scorers import SCORERS
        from selfexplain.evaluation.test_sets import choice_rows

        dataset, recipe, seed = self.models[cell.target].dataset(task), self.recipe_of(cell), self.recipe.seed
        simulates = SCORERS[task].simulator(dataset, simulator(self.recipe, self.run.root))
        limit = self.recipe.evaluation.rows_limit
        validation = choice_rows(dataset, limit, seed, simulates.endpoint is not None)
        self.free()
        target = cache(lambda: load_target_of(recipe))
        material = Material(train, validation, simulates.classes or {}, seed, target)
        return strongest_reader(task, material, test, simulates)


def models_of(recipe: Recipe) -> dict[str, tuple[str, str | None]]:
    """The models that are compared, the recipe's target first: short name -> name and revision.

    Raises:
        SelfExplainError: two models have the same short name.
    """
    config = recipe.comparison
    models = [(recipe.target, recipe.target_revision)]
    models += zip(config.models, config.revisions or [None] * len(config.models), strict=True)
    named = {Path(name).name: (name, revision) for name, revision in models}
    if len(named) < len(models):
        raise SelfExplainError(
            f"Two of the compared models ({', '.join(name for name, _ in models)}) have names with the same last part, "
            "which identifies models in a comparison. Remove or rename one of them in comparison.models."
        )
    return named
