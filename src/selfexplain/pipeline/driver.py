"""The road from a recipe to a run directory: ground truth, training, evaluation, cards."""

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.config import ComparisonConfig
from selfexplain.groundtruth.config import CorpusConfig, what_counts
from selfexplain.groundtruth.shards import fingerprint_table
from selfexplain.pipeline.comparison import DIRECTORY, Comparison, models_of
from selfexplain.pipeline.explainers import (
    Place,
    WhenAsked,
    let_go,
    load_explainer,
    load_target_of,
    load_untrained,
    reads_quantized,
    train_explainer,
)
from selfexplain.pipeline.simulator import REPLIES, requests_a_description, simulator
from selfexplain.runs.recipe import AnyRecipe, Recipe, dump_recipe
from selfexplain.runs.revisions import pin
from selfexplain.runs.stages import Step, execute, forget_removed, library_versions, open_run
from selfexplain.utils.hashing import fingerprint_files
from selfexplain.utils.io import write_atomically
from selfexplain.utils.processes import process_state
from selfexplain.utils.registry import Registry

if TYPE_CHECKING:
    from selfexplain.groundtruth.sources import Corpus
    from selfexplain.target.load import Target

logger = logging.getLogger(__name__)

PIPELINES: Registry[Callable[..., Any]] = Registry("pipeline")
"""Recipe kind -> `(recipe, run_dir)` -> its steps."""

STAGES = ("dataset", "train", "evaluate", "compare", "card")

_WHERE_TO_LOOK = {
    "results.json": "every score with its interval, its controls and its baselines",
    "figures/summary.png": "the same as a picture",
    "figures/privileged_access.png": "who explains whom how well",
    "figures/data_efficiency.png": "scores against the number of training rows",
    "comparison": "explainers and answers of the comparison",
    "predictions": "each test row with the answers to it",
    "cards": "the model card and the dataset cards",
    "datasets": "the ground truth; load_dataset reads each directory",
    "explainer": "the trained explainer; SelfExplainerForCausalLM.from_pretrained reads it",
    "weights": "the embedded models; copy them to src/selfexplain/tiny/weights to ship them",
    REPLIES: "what the model behind the endpoint replied on descriptions, so that nothing is asked twice",
    "recipe.yaml": "the recipe with every default filled in",
    "manifest.json": "what was run, with which seed and versions, in how many seconds",
}


def run(recipe: AnyRecipe, output_dir: Path | None = None, stage: str | None = None) -> Path:
    """Run a recipe, or what is left of it, and return its run directory.

    Args:
        output_dir: the run directory; `runs/<recipe>` by default.
        stage: the last stage to run, one of `STAGES`; None for all.

    Raises:
        SelfExplainError: no such stage, a target or a corpus that does not load, descriptions that nobody could score,
            a run directory that cannot be used, or a full disk.
    """
    run_dir = Path("runs", recipe.name) if output_dir is None else Path(output_dir)
    revisions: dict[str, str] = {}
    if isinstance(recipe, Recipe):
        recipe, revisions = pin(recipe, run_dir)
    road = _Road(recipe, run_dir, revisions) if isinstance(recipe, Recipe) else PIPELINES[recipe.kind](recipe, run_dir)
    steps = road.steps()
    if stage is not None:
        if stage not in road.stages:
            raise SelfExplainError(f"stage {stage!r}: recipe {recipe.name!r} has the stages {', '.join(road.stages)}.")
        reached = road.stages[: road.stages.index(stage) + 1]
        steps = [step for step in steps if step.name.partition("/")[0] in reached]
    endpoint = None
    if isinstance(recipe, Recipe) and any(step.name == "evaluate" for step in steps):
        endpoint = simulator(recipe, run_dir)
    _check_disk(run_dir, recipe.expected.disk_gb)
    state = process_state()
    if state.num_processes > 1 and not all(step.shared for step in steps):
        raise SelfExplainError(
            f"{state.num_processes} processes make ground truth together and nothing else: add --stage dataset, "
            "and run the rest with one."
        )
    manifest = open_run(run_dir, road.identity, recipe.seed)
    manifest.revisions = revisions
    state.wait_for_everyone()  # an empty directory has to be seen by all
    _announce(recipe, run_dir, steps)
    if endpoint and isinstance(recipe, Recipe):
        logger.info(
            "descriptions are scored by %s at %s: at most %d requests for each that is given to a test row",
            endpoint.model, endpoint.url, requests_a_description(recipe),
        )  # fmt: skip
    if not manifest.stages:
        road.check()
    if state.is_main_process:
        write_atomically(run_dir / "recipe.yaml", dump_recipe(recipe))
        if stage is None:
            forget_removed(steps, run_dir, manifest)
    execute(steps, run_dir, manifest)
    return run_dir


def where_to_look(run_dir: Path) -> dict[Path, str]:
    """What a run directory holds, with one line each."""
    return {run_dir / name: line for name, line in _WHERE_TO_LOOK.items() if (run_dir / name).exists()}


def explainer_of(run_or_model: str) -> str:
    """The explainer of a run directory; a model directory, Hub id or reserved name unchanged.

    Raises:
        SelfExplainError: the run has no trained explainer yet, or the directory holds neither run nor model, or does
            not exist.
    """
    run_dir = Path(run_or_model)
    if not run_dir.exists() and (run_or_model.startswith((".", "/", "~")) or run_or_model.count("/") > 1):
        raise SelfExplainError(
            f"{run_dir} does not exist: give a run directory, a model directory or an id on the Hub."
        )
    if not (run_dir / "manifest.json").is_file():
        if run_dir.is_dir() and not (run_dir / "config.json").is_file():
            raise SelfExplainError(
                f"{run_dir} holds neither a run (manifest.json) nor a model (config.json): give the directory of one."
            )
        return bundled.resolve(run_or_model)
    if (run_dir / "explainer" / "config.json").is_file():
        return str(run_dir / "explainer")
    raise SelfExplainError(
        f"{run_dir} has no trained explainer. Finish the run with the command that started it, "
        "or name the model that it evaluates."
    )


@dataclass(frozen=True)
class _Road:
    """The steps of one recipe, and the models and texts that they share.

    Attributes:
        revisions: those of the manifest, to which steps add what they alone find out.
    """

    recipe: Recipe
    run_dir: Path
    revisions: dict[str, str] = field(default_factory=dict)
    stages = STAGES

    @property
    def identity(self) -> dict[str, str]:
        recipe = self.recipe
        return {"recipe": recipe.name, "target": recipe.target, "explainer": recipe.explainer or recipe.target}

    def check(self) -> None:
        """What cannot be scored, and a target that does not load, is found before anything is written.

        Raises:
            SelfExplainError: the target does not load, or the explainer was trained on what the recipe would hold out.
        """
        recipe, trained = self.recipe, self._trained_config
        if trained is not None:
            seed = trained.get("split_seed")
            if seed not in (None, recipe.seed):
                raise SelfExplainError(
                    f"explainer {recipe.explainer!r} was trained on ground truth split with seed {seed}, the recipe's "
                    f"seed is {recipe.seed}: it would be scored on rows that it was trained on. Set seed={seed}."
                )
            explained = (trained.get("target") or {}).get("model")
            if explained not in (None, recipe.target, str(Path(recipe.target).expanduser().resolve())):
                logger.warning("%s explains %s; it is asked about %s", recipe.explainer, explained, recipe.target)
        _ = self.target

    def steps(self) -> list[Step]:
        """Raises SelfExplainError where the corpus or a model directory that the recipe names is missing."""
        recipe = self.recipe
        datasets = self.dataset_steps()
        names = tuple(step.name for step in datasets)
        base_revision = recipe.explainer_revision if recipe.explainer else recipe.target_revision
        explainer = _fingerprint_model(recipe.explainer or recipe.target, base_revision)
        settings = {name: asdict(getattr(recipe, name)) for name in ("injection", "adapter", "training")}
        train = Step(
            "train", {"explainer": explainer, **settings, "seed": recipe.seed}, ("explainer",), self._train, after=names
        )
        evaluate = Step(
            "evaluate",
            {"explainer": explainer, "evaluation": what_counts(recipe.evaluation), "seed": recipe.seed},
            ("results.json", "figures", "predictions"),
            self._evaluate,
            after=names if self.is_trained else ("train",),
            amends=("explainer/config.json",),  # how sure it is, calibrated
        )
        of_others, comparison = self._comparison_steps(names)
        card = Step(
            "card",
            {"name": recipe.name, "description": recipe.description},
            ("cards",),
            self._write_cards,
            after=(comparison[-1].name if comparison else "evaluate",),
            amends=tuple(f"datasets/{task}/README.md" for task in recipe.tasks),  # the card, below its configurations
        )
        train_here = [] if self.is_trained else [train]
        return [*datasets, *of_others, *train_here, evaluate, *comparison, card]

    def dataset_steps(self) -> list[Step]:
        recipe = self.recipe
        source = {
            "target": _fingerprint_model(recipe.target, recipe.target_revision),
            "dtype": recipe.dtype
            if not reads_quantized(recipe)
            else [recipe.training.dtype, recipe.training.quantization],
            "corpus": _fingerprint_corpus(recipe.corpus, recipe.corpus_options),
            "seed": recipe.seed,
        }
        return [
            Step(
                f"dataset/{task}",
                {**source, "config": what_counts(getattr(recipe, task)), "source": self._source(task)},
                (f"datasets/{task}",),
                partial(self._build, task),
                shared=True,
            )
            for task in recipe.tasks
        ]

    @cached_property
    def others(self) -> dict[str, "_Road"]:
        """The models that are compared with the target, by short name; of their roads only the ground truth is made."""
        recipe = self.recipe
        if not recipe.comparison.is_on:
            return {}
        return {
            name: _Road(
                replace(recipe, target=model, target_revision=revision, comparison=ComparisonConfig()),
                self.run_dir / DIRECTORY / name,
            )
            for name, (model, revision) in list(models_of(recipe).items())[1:]
        }

    def _comparison_steps(self, own_datasets: tuple[str, ...]) -> tuple[list[Step], list[Step]]:
        """Steps that make ground truth about the other models, and steps that compare; none where it is off."""
        recipe = self.recipe
        if not recipe.comparison.is_on:
            return [], []
        models = models_of(recipe)
        main = next(iter(models))
        made, directories, steps = {main: own_datasets}, {main: self.run_dir / "datasets"}, []
        for name, road in self.others.items():
            own = [
                replace(
                    step,
                    name=step.name.replace("dataset/", f"dataset/{name}/"),
                    action=partial(self._build_other, road, step.action),
                    outputs=tuple(f"{DIRECTORY}/{name}/{output}" for output in step.outputs),
                )
                for step in road.dataset_steps()
            ]
            made[name], directories[name] = tuple(step.name for step in own), road.run_dir / "datasets"
            steps += own
        weights = {name: _fingerprint_model(*model) for name, model in models.items()}
        comparison = Comparison(recipe, self.run_dir, directories, lambda: self.corpus, self._free)
        return steps, comparison.steps(made, weights)

    def _source(self, task: str) -> str | None:
        """Content of the local file or directory that a task's items come from."""
        return fingerprint_table(getattr(self.recipe, task))

    @property
    def is_trained(self) -> bool:
        """Whether the recipe's explainer is a self-explainer already."""
        return self._trained_config is not None

    @cached_property
    def _trained_config(self) -> dict[str, Any] | None:
        if self.recipe.explainer is None:
            return None
        from transformers import PreTrainedConfig

        try:
            name, revision = bundled.resolve(self.recipe.explainer), self.recipe.explainer_revision
            config, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise SelfExplainError(f"explainer {self.recipe.explainer!r} could not be loaded: {reason}") from error
        return config if config.get("model_type") == "selfexplainer" else None

    @cached_property
    def target(self) -> "Target":
        return load_target_of(self.recipe)

    @cached_property
    def corpus(self) -> "Corpus":
        from selfexplain.groundtruth.sources import read_corpus

        return read_corpus(self.recipe.corpus, self.recipe.seed, self.recipe.corpus_options)

    def _build(self, task: str) -> None:
        from selfexplain.groundtruth.build import build

        config = getattr(self.recipe, task)
        out_dir = self.run_dir / "datasets" / task
        build(task, config, self.target, self.corpus, out_dir, self.recipe.seed)
        if process_state().is_main_process:
            exports = json.loads((out_dir / "statistics.json").read_text(encoding="utf-8")).get("neuronpedia", {})
            self.revisions.update({f"neuronpedia {source}": told["sha256"] for source, told in exports.items()})

    def _build_other(self, road: "_Road", build: Callable[[], object]) -> None:
        """Ground truth about another model, with its target alone on the device."""
        self._free(but=road)
        build()

    def _train(self) -> None:
        self._free()
        recipe = self.recipe
        train_explainer(recipe, self.run_dir / "datasets", self.run_dir / "explainer", lambda: self.corpus, recipe.seed)

    def _free(self, but: "_Road | None" = None) -> None:
        """Drop the targets; they are loaded again where they are needed."""
        for road in (self, *self.others.values()):
            if road is not but:
                road.__dict__.pop("target", None)
        let_go()

    def _evaluate(self) -> None:
        from selfexplain.evaluation import evaluate, report, selfie
        from selfexplain.modeling.confidence import store
        from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
        from selfexplain.target.load import target_shape

        self._free()
        recipe, run_dir, started = self.recipe, self.run_dir, time.monotonic()
        trained = str(recipe.explainer if self.is_trained else run_dir / "explainer")
        revision = recipe.explainer_revision if self.is_trained else None
        config = SelfExplainerConfig.from_pretrained(bundled.resolve(trained), revision=revision)
        shape = target_shape(recipe.target, recipe.target_revision)
        place = Place()
        explainer = WhenAsked(partial(load_explainer, recipe, trained, revision), place)
        untrained = WhenAsked(partial(load_untrained, recipe, config), place)
        cache_dir = run_dir / "predictions" / "cache"
        endpoint = simulator(recipe, run_dir)

        def by_selfie(scale: float) -> WhenAsked:  # the target, once loaded, serves all scales
            return WhenAsked(lambda: selfie.selfie(self.target, scale, in_grammar=endpoint is None), place)

        if not self.is_trained:
            config.calibration = evaluate.calibrate(
                explainer, run_dir / "datasets", recipe.tasks, recipe.evaluation, recipe.seed, cache_dir, endpoint
            )
            store(
                run_dir / "explainer",
                config.calibration,
                recipe.evaluation.abstain_below,
                evaluate.read_classes(run_dir / "datasets"),
            )
        tasks = evaluate.evaluate(
            explainer,
            untrained,
            shape,
            run_dir / "datasets",
            recipe.tasks,
            recipe.evaluation,
            recipe.seed,
            cache_dir=cache_dir,
            predictions_dir=run_dir / "predictions",
            calibration=config.calibration,
            selfie=by_selfie if selfie.is_possible(shape) else None,
            endpoint=endpoint,
            share=1.0 if self.is_trained else recipe.training.share,
        )
        place.clear()
        self._free()
        stages = json.loads((run_dir / "manifest.json").read_text())["stages"]
        seconds = {name: record["seconds"] for name, record in stages.items() if record["status"] == "done"}
        results = {
            "schema_version": 1,
            "recipe": recipe.name,
            "target": {"name": shape.name, **_given(revision=shape.revision)},
            "explainer": {"name": recipe.explainer or recipe.target, "trained_here": not self.is_trained},
            "tasks": tasks,
            "environment": {
                "versions": library_versions(),
                "device": str(process_state().device),
                "seed": recipe.seed,
                "seconds": {**seconds, "evaluate": round(time.monotonic() - started, 1)},
            },
        }
        report.write_figures(results, run_dir / "figures")
        report.write_results(results, run_dir / "results.json")
        shutil.rmtree(cache_dir, ignore_errors=True)

    def _write_cards(self) -> None:
        from selfexplain.publishing.cards import write_cards

        write_cards(self.run_dir)


def _given(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _fingerprint_model(name: str, revision: str | None) -> str | dict[str, Any]:
    """The content of a model directory; name and revision of a model on the Hub."""
    path = Path(bundled.resolve(name)).expanduser()
    if path.is_dir():
        return fingerprint_files(path)
    if name in bundled.NAMES or name.startswith((".", "/", "~")):
        raise SelfExplainError(f"model {name!r}: no directory {path}. Give a model directory or a Hub id (org/name).")
    return {"name": name, "revision": revision}


def _fingerprint_corpus(name: str, options: CorpusConfig) -> Any:
    from selfexplain.bundled import TINY_WORLD

    path = Path(name).expanduser()
    if name == TINY_WORLD:
        return name
    if path.is_file():
        return [fingerprint_files(path), asdict(options)]
    if path.suffix or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise SelfExplainError(
            f"corpus {name!r}: no such file. Give a text file, a JSONL, CSV or parquet file, a dataset on the Hub "
            f"(org/name) or {TINY_WORLD}."
        )
    return [name, asdict(options)]


def _check_disk(run_dir: Path, needed_gb: float) -> None:
    existing = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    needed_gb -= (
        sum(file.stat().st_size for file in run_dir.rglob("*") if file.is_file()) / 1e9
    )  # what it holds already
    if free_gb < needed_gb:
        raise SelfExplainError(
            f"{run_dir} needs {needed_gb:.3g} GB of disk and {free_gb:.1f} GB are free. Free some, or give a "
            "directory on another disk with output_dir=DIR."
        )


def _announce(recipe: AnyRecipe, run_dir: Path, steps: list[Step]) -> None:
    expected = recipe.expected
    logger.info("%s: %s", recipe.name, recipe.description)
    compared = sum(step.name.startswith("compare/train/") for step in steps)
    named = [step.name for step in steps if not step.name.startswith("compare/")]
    logger.info("steps: %s", ", ".join(named))
    if compared:
        logger.info("and a comparison: %d more explainers are trained, and answer the same test rows", compared)
    logger.info(
        "expected%s: %g minutes and %g GB of memory on %s; results go to %s",
        "" if expected.measured else " (an estimate)",
        expected.minutes, expected.memory_gb, expected.hardware, run_dir,
    )  # fmt: skip
