"""Render the cards of a run: the model's, the datasets', and those of the results, the Space and the metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from markupsafe import Markup

from selfexplain.evaluation.config import EXPLAINED_BY
from selfexplain.evaluation.predictions import Prediction
from selfexplain.evaluation.results import Results, TestSetResult
from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
from selfexplain.publishing.card_sections import Usage
from selfexplain.publishing.facts import DatasetFacts, changed_settings, read_facts, source_of
from selfexplain.publishing.figures import draw_change_counts
from selfexplain.publishing.markdown import fragment, quoted, render
from selfexplain.publishing.metadata import TAG, Licence, dataset_metadata, model_metadata, results_metadata
from selfexplain.publishing.names import Names, configuration
from selfexplain.publishing.public_names import read_config
from selfexplain.runs.recipe import Recipe
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.tasks import TASKS
from selfexplain.utils.io import write_atomically
from selfexplain.utils.names import is_hub_id, is_reserved

N_EXAMPLES = 2
"""Held-out rows per task that a model card shows with their answers."""

N_CANDIDATES = 100
"""Test rows from which the question of the usage snippet is chosen."""


def write_cards(run_dir: Path) -> None:
    """Write the cards of a run.

    `cards/model_card.md` is the same as `explainer/README.md`, and `cards/<task>.md` is the same as
    `datasets/<task>/README.md`. A run that only evaluated an explainer has no model card.

    Raises:
        SelfExplainError: a file of the run is missing or damaged.
    """
    run = RunDirectory(Path(run_dir))
    for task in run.read_recipe().tasks:
        facts, dataset = read_facts(run, task), run.dataset(task)
        if facts.change_counts:
            for directory in (run.cards, dataset.root):
                draw_change_counts(facts.change_counts, directory / f"{task}.png")
        _write(dataset_card(task, [facts]), run.cards / f"{task}.md", dataset.card)
    if run.has_explainer:
        card = model_card(run, figures="../figures/")
        _write(card, run.cards / "model_card.md", run.explainer / "README.md")


def model_card(run: RunDirectory, figures: str, names: Names | None = None, licence: Licence | None = None) -> str:
    """The card of a run's explainer.

    Args:
        run: the run.
        figures: path from the card to the figures, such as "figures/".
        names: ids of the published repositories; None for a card in the run directory.
        licence: licence of the base model, if known.
    """
    from selfexplain.training.config import TrainingConfig

    recipe, results, config = run.read_recipe(), run.read_results(), read_config(run)
    if licence is None and is_reserved(str(config.base_model_name_or_path)):
        licence = Licence("mit")  # the licence of this package
    tasks = [TASKS[task] for task in results.tasks]
    usages = {task.name: _usage(task.name, recipe, config, names) for task in tasks}
    rows = {task.name: _example_question(run, task.name) for task in tasks}
    return render(
        "model_card.md.jinja",
        front_matter=Markup(model_metadata(recipe.name, config, results, names, licence)),
        recipe=recipe,
        recipe_text=run.recipe_path.read_text(encoding="utf-8"),
        config=config,
        environment=results.environment.model_dump(),
        tasks=tasks,
        sections=_sections(results),
        comparison=results.comparison,
        explained_by=EXPLAINED_BY,
        examples={task.name: _examples(run, task.name) for task in tasks},
        strongest_of={task.name: _strongest(results, task.name) for task in tasks},
        changed_settings=changed_settings(asdict(recipe.training), TrainingConfig()),
        sources={task.name: source_of(recipe, task.name) for task in tasks},
        figures=figures,
        id=names.model(recipe.name) if names else "explainer",
        names=names,
        licence=licence,
        usage=usages[tasks[0].name],
        imports=sorted(
            {line for task in tasks for line in fragment(task.name, "imports", usages[task.name]).splitlines()}
        ),
        snippets=[fragment(task.name, "usage", rows[task.name], usages[task.name]) for task in tasks],
        is_separate=_is_separate(config),
        reads_vectors=any(task.has_vectors for task in tasks),
        is_on_hub=is_hub_id(recipe.target),
        weights=results.target.weights,
    )


def dataset_card(task: str, facts: Sequence[DatasetFacts], names: Names | None = None) -> str:
    """The card of a task's ground truth.

    Args:
        task: name of the task.
        facts: one entry per target.
        names: ids of the published repositories; None for a card in the run directory.
    """
    return render(
        "dataset_card.md.jinja",
        front_matter=Markup(dataset_metadata(task, facts)),
        task=TASKS[task],
        targets=list(dict.fromkeys(about.recipe.target for about in facts)),
        configurations=facts,
        licences={name: licence for about in facts for name, licence in about.licences.items()},
        id=names.dataset(task) if names else f"datasets/{task}",
        names=names,
    )


def results_card(runs: Mapping[str, Results], names: Names) -> str:
    """The card of the results repository.

    Args:
        runs: recipe -> its results.
        names: ids of the published repositories.
    """
    tasks = [task for task in TASKS if any(task in results.tasks for results in runs.values())]
    return render(
        "results_card.md.jinja",
        front_matter=Markup(results_metadata(tasks, runs)),
        runs=dict(sorted(runs.items())),
        tasks=[TASKS[task] for task in tasks],
        metrics={task: _metrics(task, runs) for task in tasks},
        names=names,
    )


def space_card(text: str, recipe: Recipe, names: Names) -> str:
    """The README of the Space, with the ids of this run's repositories in its metadata."""
    from huggingface_hub import RepoCard

    card = RepoCard(text)
    card.data["title"] = f"{recipe.name} explainer"
    card.data["models"] = [names.model(recipe.name)]
    card.data["datasets"] = [*map(names.dataset, recipe.tasks), names.results]
    card.data["tags"] = sorted({*(card.data.get("tags") or []), TAG})
    return str(card)


def metric_card(text: str) -> str:
    """The README of a metric repository, with the tag of this package."""
    from huggingface_hub import RepoCard

    card = RepoCard(text)
    card.data["tags"] = sorted({*(card.data.get("tags") or []), TAG})
    return str(card)


def _sections(results: Results) -> list[tuple[str, str, TestSetResult]]:
    """Every test set: its name for a heading, the headline metric of its task, its scores."""
    return [
        (task if test_set is None else f"{task}/{test_set}", TASKS[task].headline, result)
        for task, test_set, result in results.sections()
    ]


def _strongest(results: Results, task: str) -> str:
    """The strongest baseline of the task's first metric that it answers in full; empty if none was chosen."""
    gains = (results.tasks[task].gains or {}).values()
    full = [gain.system for gain in gains if gain.system not in _verdicts_only(results, task)]
    return next(iter(full), "")


def _verdicts_only(results: Results, task: str) -> set[str]:
    """Systems that only predict whether the output changes: they lack some of the explainer's scores."""
    scores = results.tasks[task].scores
    return {system for system, of_system in scores.items() if of_system.keys() < scores["explainer"].keys()}


def _metrics(task: str, runs: Mapping[str, Results]) -> list[str]:
    """The metrics that any run reports for a task."""
    scores = [results.tasks[task].scores["explainer"] for results in runs.values() if task in results.tasks]
    return list(dict.fromkeys(metric for metrics in scores for metric in metrics))


def _is_separate(config: SelfExplainerConfig) -> bool:
    """Whether the explainer cannot be switched back to its target, so that calls need `target=`."""
    return config.merged or not _is_own_target(config)


def _is_own_target(config: SelfExplainerConfig) -> bool:
    assert config.target is not None  # the configuration's __post_init__ fills it in
    return config.target.get("model") in (None, config.base_model_name_or_path)


def _usage(task: str, recipe: Recipe, config: SelfExplainerConfig, names: Names | None) -> Usage:
    is_on_hub = is_hub_id(recipe.target)
    rows = [names.dataset(task), configuration(recipe.target)] if names else [f"datasets/{task}"]
    return Usage(
        target_argument=", target=target" if _is_separate(config) and is_on_hub else "",
        reads_target=is_on_hub or not _is_separate(config),
        has_tokenizer=_is_own_target(config),
        load_rows=Markup(", ".join(map(quoted, rows))),
    )


def _example_question(run: RunDirectory, task: str) -> dict[str, Any]:
    """A test row for the usage snippet: the first one, or a short one that changes if answers state an outcome."""
    import pyarrow.parquet as pq

    columns = TASKS[task].query_columns
    with pq.ParquetFile(run.dataset(task).rows("test")) as file:
        rows: list[dict[str, Any]] = next(file.iter_batches(N_CANDIDATES, columns=list(columns))).to_pylist()
    if not TASKS[task].states_outcome:
        return rows[0]
    return min(rows, key=lambda row: (not row["changed"], len(row[columns[0]])))


def _examples(run: RunDirectory, task: str) -> list[Prediction]:
    """The first test rows of different groups, with the answers to them."""
    if not run.predictions_path(task).is_file():
        return []
    first_of_group: dict[str, Prediction] = {}
    for prediction in run.read_predictions(task):
        first_of_group.setdefault(prediction.group, prediction)
    return list(islice(first_of_group.values(), N_EXAMPLES))


def _write(card: str, *paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, card)
