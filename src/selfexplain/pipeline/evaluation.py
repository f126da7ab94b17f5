"""Evaluate the explainer of a recipe and write `results.json`, predictions and figures."""

import shutil
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from selfexplain import bundled
from selfexplain.pipeline.explainers import LazyExplainer, ModelSlot, load_explainer, load_untrained
from selfexplain.pipeline.simulator import simulator
from selfexplain.runs.recipe import Recipe
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.runs.versions import library_versions
from selfexplain.utils.processes import process_state

if TYPE_CHECKING:
    from selfexplain.evaluation.results import Environment, TaskResult
    from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
    from selfexplain.target.load import Target, TargetShape


def evaluate_explainer(
    recipe: Recipe,
    run: RunDirectory,
    target: Callable[[], "Target"],
    is_trained: bool,
    free: Callable[[], None],
    check: Callable[[], None],
) -> None:
    """Score the explainer with all controls and baselines, and write the results.

    An explainer that this run trained is calibrated first.

    Args:
        recipe: the recipe.
        run: its run directory, with the datasets and, unless `is_trained`, the explainer.
        target: function that returns the loaded target, for the baselines that run it.
        is_trained: whether the recipe names an explainer that is already trained.
        free: function that frees the target.
        check: function that raises if the datasets have changed; called before anything is written.
    """
    from selfexplain.evaluation import report
    from selfexplain.evaluation.results import Results, ScoredModel
    from selfexplain.modeling.repository import ExplainerFiles
    from selfexplain.target.load import target_shape

    started = time.monotonic()
    name = str(recipe.explainer if is_trained else run.explainer)
    revision = recipe.explainer_revision if is_trained else None
    config = ExplainerFiles(name, bundled.resolve(name), {"revision": revision}).config(recipe.trust_remote_code)
    shape = target_shape(recipe.target, recipe.target_revision, recipe.trust_remote_code)
    slot = ModelSlot()
    explainer = LazyExplainer(partial(load_explainer, recipe, name, revision), slot)
    if not is_trained:
        config.calibration = _calibrate(recipe, run, explainer)
    share = 1.0 if is_trained else recipe.training.share
    tasks = _score(recipe, run, explainer, slot, config, shape, target, share)
    slot.clear()
    free()
    results = Results(
        recipe=recipe.name,
        target=ScoredModel(name=shape.name, revision=shape.revision, weights=shape.weights),
        explainer=ScoredModel(name=recipe.explainer or recipe.target, trained_here=not is_trained),
        tasks=tasks,
        environment=_environment(recipe, run, round(time.monotonic() - started, 1)),
    )
    check()
    report.write_figures(results, run.figures)
    results.write(run.results_path)
    shutil.rmtree(run.answer_cache, ignore_errors=True)


def _calibrate(recipe: Recipe, run: RunDirectory, explainer: LazyExplainer) -> Any:
    """Fit the calibration on the validation splits, and store it in the explainer's configuration."""
    from selfexplain.evaluation.evaluate import calibrate
    from selfexplain.evaluation.scorers import read_classes
    from selfexplain.modeling.confidence import store

    datasets = {task: run.dataset(task) for task in recipe.tasks}
    calibration = calibrate(
        explainer,
        datasets,
        recipe.evaluation,
        recipe.seed,
        cache_dir=run.answer_cache,
        endpoint=simulator(recipe, run.root),
    )
    store(run.explainer, calibration, recipe.evaluation.abstain_below, read_classes(datasets))
    return calibration


def _score(
    recipe: Recipe,
    run: RunDirectory,
    explainer: LazyExplainer,
    slot: ModelSlot,
    config: "SelfExplainerConfig",
    shape: "TargetShape",
    target: Callable[[], "Target"],
    share: float,
) -> "dict[str, TaskResult]":
    from selfexplain.evaluation import selfie
    from selfexplain.evaluation.evaluate import evaluate

    endpoint = simulator(recipe, run.root)
    return evaluate(
        explainer,
        LazyExplainer(partial(load_untrained, recipe, config), slot),
        shape,
        {task: run.dataset(task) for task in recipe.tasks},
        recipe.evaluation,
        recipe.seed,
        cache_dir=run.answer_cache,
        predictions_dir=run.predictions,
        calibration=config.calibration,
        selfie=partial(_selfie, target, slot, endpoint is None) if selfie.is_possible(shape) else None,
        endpoint=endpoint,
        share=share,
        load_target=partial(_target_alone, target, slot),
        without_vectors=_without_vectors(recipe, run, slot),
    )


def _target_alone(target: Callable[[], "Target"], slot: ModelSlot) -> "Target":
    """The target, after the explainer in the slot has been freed."""
    slot.clear()
    return target()


def _without_vectors(recipe: Recipe, run: RunDirectory, slot: ModelSlot) -> LazyExplainer | None:
    """The explainer that was trained without vectors; None if this run did not train it."""
    path = run.explainer_without_vectors
    if not (recipe.evaluation.without_vectors and path.is_dir()):
        return None
    return LazyExplainer(partial(load_explainer, recipe, str(path)), slot)


def _selfie(target: Callable[[], "Target"], slot: ModelSlot, in_grammar: bool, scale: float) -> LazyExplainer:
    """The SelfIE baseline at a scale; all scales share the loaded target."""
    return LazyExplainer(partial(_load_selfie, target, scale, in_grammar), slot)


def _load_selfie(target: Callable[[], "Target"], scale: float, in_grammar: bool) -> Any:
    from selfexplain.evaluation.selfie import selfie

    return selfie(target(), scale, in_grammar=in_grammar)


def _environment(recipe: Recipe, run: RunDirectory, seconds: float) -> "Environment":
    from selfexplain.evaluation.results import Environment

    return Environment(
        versions=library_versions(),
        device=str(process_state().device),
        seed=recipe.seed,
        seconds={**run.read_manifest().seconds, "evaluate": seconds},
    )
