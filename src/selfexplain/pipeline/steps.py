"""The steps of a recipe that trains an explainer: ground truth, training, evaluation, comparison, cards."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.config import ComparisonConfig
from selfexplain.groundtruth.config import result_settings
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.shards import fingerprint_table
from selfexplain.pipeline.comparison import ComparisonSteps, models_of
from selfexplain.pipeline.evaluation import evaluate_explainer
from selfexplain.pipeline.explainers import free_memory, load_target_of, reads_quantized, train_explainer
from selfexplain.pipeline.fingerprints import fingerprint_corpus, fingerprint_model
from selfexplain.pipeline.row_guard import RowGuard
from selfexplain.pipeline.without_vectors import tasks_with_vectors, train_without_vectors
from selfexplain.runs.engine import Step
from selfexplain.runs.recipe import Recipe
from selfexplain.runs.revisions import NEURONPEDIA
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.target.untrusted import check_whole_model
from selfexplain.utils.names import local_path
from selfexplain.utils.processes import process_state

if TYPE_CHECKING:
    from selfexplain.groundtruth.sources import Corpus
    from selfexplain.target.load import Target

logger = logging.getLogger(__name__)

STAGES = ("dataset", "train", "evaluate", "compare", "card")


class TargetSlot:
    """Loads a recipe's target when it is needed, and frees it."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._target: Target | None = None

    def get(self) -> "Target":
        if self._target is None:
            self._target = load_target_of(self._recipe)
        return self._target

    def free(self) -> None:
        self._target = None


class RecipeSteps:
    """The steps of one recipe, and the models and texts that they share.

    Attributes:
        recipe: the recipe, with commits in place of branches.
        run: the run directory.
        target: the target model, loaded on demand.
    """

    stages = STAGES

    def __init__(self, recipe: Recipe, run_dir: Path) -> None:
        self.recipe = recipe
        self.run = RunDirectory(run_dir)
        self.target = TargetSlot(recipe)
        self.rows = RowGuard(self.run)

    @property
    def identity(self) -> dict[str, str]:
        recipe = self.recipe
        trusted = {"trust_remote_code": "true"} if recipe.trust_remote_code else {}
        return {
            "recipe": recipe.name,
            "target": recipe.target,
            "explainer": recipe.explainer or recipe.target,
            **trusted,
        }

    def check(self) -> None:
        """Load the target, and check that a trained explainer can be scored, before anything is written.

        Raises:
            SelfExplainError: the target cannot be loaded, or the explainer was trained on rows that the recipe would
                hold out.
        """
        recipe, trained = self.recipe, self._trained_config
        if trained is not None:
            seed = trained.get("split_seed")
            if seed not in (None, recipe.seed):
                raise SelfExplainError(
                    f"Explainer {recipe.explainer!r} was trained on ground truth that was split with seed {seed}, but "
                    f"the recipe's seed is {recipe.seed}. It would be scored on rows that it was trained on. Set "
                    f"seed={seed}."
                )
            explained = (trained.get("target") or {}).get("model")
            if explained not in (None, recipe.target, str(local_path(recipe.target).resolve())):
                logger.warning(
                    "%s explains %s, but the recipe asks it about %s", recipe.explainer, explained, recipe.target
                )
        self.target.get()

    def steps(self) -> list[Step]:
        """All steps in order.

        Raises:
            SelfExplainError: the corpus or a model directory of the recipe does not exist.
        """
        recipe = self.recipe
        datasets = self.dataset_steps()
        names = tuple(step.name for step in datasets)
        base_revision = recipe.explainer_revision if recipe.explainer else recipe.target_revision
        explainer = fingerprint_model(recipe.explainer or recipe.target, base_revision)
        train = [] if self.is_trained else self._train_steps(explainer, names)
        evaluate = self._evaluate_step(explainer, tuple(step.name for step in train) or names)
        about_others, comparison = self._comparison_steps(names)
        card = self._card_step(after=comparison[-1].name if comparison else "evaluate")
        return [*datasets, *about_others, *train, evaluate, *comparison, card]

    def dataset_steps(self) -> list[Step]:
        """One step per task that builds its ground truth."""
        recipe, weights = self.recipe, [self.recipe.training.dtype, self.recipe.training.quantization]
        source = {
            "target": fingerprint_model(recipe.target, recipe.target_revision),
            "dtype": weights if reads_quantized(recipe) else recipe.dtype,
            "corpus": fingerprint_corpus(recipe.corpus, recipe.corpus_options),
            "seed": recipe.seed,
        }
        return [
            Step(
                f"dataset/{task}",
                {**source, "config": result_settings(recipe.settings(task)), "source": self._source(task)},
                (self.run.relative(self.run.dataset(task).root),),
                partial(self._build, task),
                shared=True,
            )
            for task in recipe.tasks
        ]

    @cached_property
    def others(self) -> dict[str, "RecipeSteps"]:
        """The other models of the comparison, by short name; only their ground truth is built."""
        recipe = self.recipe
        if not recipe.comparison.is_on:
            return {}
        return {
            name: RecipeSteps(
                replace(recipe, target=model, target_revision=revision, comparison=ComparisonConfig()),
                self.run.other_model(name).root,
            )
            for name, (model, revision) in list(models_of(recipe).items())[1:]
        }

    @property
    def _datasets(self) -> list[DatasetDirectory]:
        return [self.run.dataset(task) for task in self.recipe.tasks]

    @property
    def is_trained(self) -> bool:
        """Whether the recipe's explainer is already trained."""
        return self._trained_config is not None

    @cached_property
    def corpus(self) -> "Corpus":
        from selfexplain.groundtruth.sources import read_corpus

        return read_corpus(self.recipe.corpus, self.recipe.seed, self.recipe.corpus_options)

    def _train_steps(self, explainer: Any, datasets: tuple[str, ...]) -> list[Step]:
        """The training of the explainer, and that of the baseline without vectors if the recipe asks for it."""
        recipe, run = self.recipe, self.run
        settings = {name: asdict(getattr(recipe, name)) for name in ("injection", "adapter", "training")}
        inputs = {"explainer": explainer, **settings, "seed": recipe.seed}
        steps = [Step("train", inputs, (run.relative(run.explainer),), self._train, after=datasets)]
        if recipe.evaluation.without_vectors and tasks_with_vectors(recipe):
            outputs = (run.relative(run.without_vectors),)
            steps.append(Step("train/without_vectors", inputs, outputs, self._train_without_vectors, after=datasets))
        return steps

    def _evaluate_step(self, explainer: Any, after: tuple[str, ...]) -> Step:
        run, recipe = self.run, self.recipe
        return Step(
            "evaluate",
            {"explainer": explainer, "evaluation": result_settings(recipe.evaluation), "seed": recipe.seed},
            tuple(run.relative(path) for path in (run.results_path, run.figures, run.predictions)),
            self._evaluate,
            after=after,
            amends=(f"{run.relative(run.explainer)}/config.json",),  # which holds the calibration
        )

    def _card_step(self, after: str) -> Step:
        run, recipe = self.run, self.recipe
        return Step(
            "card",
            {"name": recipe.name, "description": recipe.description},
            (run.relative(run.cards),),
            self._write_cards,
            after=(after,),
            amends=tuple(run.relative(run.dataset(task).card) for task in recipe.tasks),
        )

    def _comparison_steps(self, datasets: tuple[str, ...]) -> tuple[list[Step], list[Step]]:
        """Steps that build ground truth about the other models, and steps that compare; none without a comparison."""
        recipe = self.recipe
        if not recipe.comparison.is_on:
            return [], []
        models = models_of(recipe)
        main = next(iter(models))
        built, runs, steps = {main: datasets}, {main: self.run}, []
        for name, other in self.others.items():
            about_other = [self._about_other(name, other, step) for step in other.dataset_steps()]
            built[name], runs[name] = tuple(step.name for step in about_other), other.run
            steps += about_other
        weights = {name: fingerprint_model(*model) for name, model in models.items()}
        comparison = ComparisonSteps(recipe, self.run, runs, lambda: self.corpus, self._free_targets, self.rows)
        return steps, comparison.steps(built, weights)

    def _about_other(self, name: str, other: "RecipeSteps", step: Step) -> Step:
        """A dataset step of another model as a step of this run."""
        directory = self.run.relative(other.run.root)
        return replace(
            step,
            name=step.name.replace("dataset/", f"dataset/{name}/"),
            action=partial(self._build_other, other, step.action),
            outputs=tuple(f"{directory}/{output}" for output in step.outputs),
        )

    def _source(self, task: str) -> str | None:
        """SHA-256 of the local file or directory that a task's items come from."""
        return fingerprint_table(self.recipe.settings(task))

    @cached_property
    def _trained_config(self) -> dict[str, Any] | None:
        """The configuration of the recipe's explainer if it is already trained."""
        if self.recipe.explainer is None:
            return None
        from transformers import PreTrainedConfig

        try:
            name, revision = bundled.resolve(self.recipe.explainer), self.recipe.explainer_revision
            check_whole_model(self.recipe.explainer, name, {"revision": revision})
            config, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise SelfExplainError(f"Explainer {self.recipe.explainer!r} could not be loaded: {reason}") from error
        return config if config.get("model_type") == "selfexplainer" else None

    def _build(self, task: str) -> dict[str, str]:
        """Build the ground truth of a task; return the SHA-256 of every Neuronpedia export that was read."""
        from selfexplain.groundtruth.build import build

        dataset = self.run.dataset(task)
        settings = self.recipe.settings(task)
        build(task, settings, self.target.get(), self.corpus, dataset.root, self.recipe.seed)
        exports = dataset.statistics().neuronpedia if process_state().is_main_process else {}
        return {f"{NEURONPEDIA}{source}": export["sha256"] for source, export in exports.items()}

    def _build_other(self, other: "RecipeSteps", build: Callable[[], Mapping[str, str] | None]) -> None:
        """Build ground truth about another model, with only its target on the device."""
        self._free_targets(keep=other)
        build()

    def _train(self) -> dict[str, str]:
        """Train the explainer; return the SHA-256 of the rows of every dataset."""
        self._free_targets()
        run, seed = self.run, self.recipe.seed
        hashes = self.rows.start(self._datasets)
        train_explainer(self.recipe, run.datasets, run.explainer, lambda: self.corpus, seed)
        return hashes

    def _train_without_vectors(self) -> None:
        self._free_targets()
        train_without_vectors(self.recipe, self.run, lambda: self.corpus)

    def _evaluate(self) -> None:
        self._free_targets()
        if not self.is_trained:
            self.rows.expect(self.run.read_manifest().revisions)
        check = partial(self.rows.check, self._datasets)
        check()
        evaluate_explainer(self.recipe, self.run, self.target.get, self.is_trained, self._free_targets, check)

    def _write_cards(self) -> None:
        from selfexplain.publishing.cards import write_cards

        write_cards(self.run.root)

    def _free_targets(self, keep: "RecipeSteps | None" = None) -> None:
        """Free the targets; a step that needs one loads it again."""
        for steps in (self, *self.others.values()):
            if steps is not keep:
                steps.target.free()
        free_memory()
