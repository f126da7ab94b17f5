"""`card.json`: what a dataset card reports about the rows of one run.

Runs that share a dataset repository read each other's files, because the card covers all of them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Literal

from pydantic import Field

from selfexplain.evaluation.results import TaskResult
from selfexplain.groundtruth.config import TASK_CONFIGS
from selfexplain.groundtruth.statistics import DatasetStatistics
from selfexplain.runs.recipe import Recipe
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.utils.records import Record, Value

LONG_LIST = 8
"""Lists with more entries are not shown in a card's table; they are in `statistics.json`."""

LARGE_TABLE = 6
"""Counts by name with more entries than this get a separate table."""


class RecipeFacts(Value):
    """The settings of a run that a dataset card reports.

    Attributes:
        name: name of the recipe.
        seed: seed of the run.
        target: model that the rows are about.
        explainer: base model of the explainer that was trained on the rows.
        source: corpus or table that the rows were made from.
        source_revision: revision of the source on the Hub, if it is there.
        changed_settings: settings of the task that differ from the defaults, by dotted name.
    """

    name: str
    seed: int
    target: str
    explainer: str
    source: str
    source_revision: str | None = None
    changed_settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def run(self) -> dict[str, str | int]:
        """What distinguishes the run from other runs."""
        return {"recipe": self.name, "target": self.target, "explainer": self.explainer, "seed": self.seed}


class Example(Value):
    """A row of the dataset."""

    prompt: str
    completion: str


def _migrate_whole_recipe(data: dict[str, Any]) -> dict[str, Any]:
    """Version 0 contained the whole recipe and named `has_vectors_file` differently."""
    recipe, task = data["recipe"], data["task"]
    settings = recipe[task]
    table = settings.get("source") or {}
    source = (table["path"], table.get("revision")) if table.get("path") else None
    source = source or (recipe["corpus"], recipe["corpus_options"]["revision"])
    facts = {
        "name": recipe["name"],
        "seed": recipe["seed"],
        "target": recipe["target"],
        "explainer": recipe.get("explainer") or recipe["target"],
        "source": source[0],
        "source_revision": source[1],
        "changed_settings": changed_settings(settings, TASK_CONFIGS[task]()),
    }
    kept = ("task", "name", "statistics", "result", "versions", "example", "licences")
    return {
        **{key: data[key] for key in kept if key in data},
        "recipe": facts,
        "has_vectors_file": data.get("vectors_apart", False),
    }


class DatasetFacts(Record):
    """The rows of one task about one target.

    Attributes:
        task: task of the rows.
        name: name of the configuration and of the directory with its files; empty if they are next to the card.
        recipe: settings of the run that made the rows.
        statistics: statistics collected while the rows were built.
        result: scores of the explainer that was trained on them; None before the evaluation.
        versions: library -> version.
        example: first row of the test split.
        has_vectors_file: whether rows refer to vectors in a separate file.
        files: name of a parquet file -> its SHA-256; empty if an earlier version wrote the facts.
        licences: target or source -> its licence, where it is known.
    """

    migrations: ClassVar[Mapping[int, Any]] = {0: _migrate_whole_recipe}
    remedy: ClassVar[str] = "Publish the run that wrote it again."

    schema_version: Literal[1] = 1
    task: str
    name: str = ""
    recipe: RecipeFacts
    statistics: DatasetStatistics
    result: TaskResult | None = None
    versions: dict[str, str]
    example: Example
    has_vectors_file: bool = False
    files: dict[str, str] = Field(default_factory=dict)
    licences: dict[str, str] = Field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """Path of the files relative to the card."""
        return f"{self.name}/" if self.name else ""

    @property
    def change_counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """The tables that count interventions by whether they `changed` the output."""
        return {
            name: value
            for name, value in self.statistics.counts.items()
            if isinstance(value, dict)
            and value
            and all(isinstance(row, dict) and row.keys() == {"changed", "unchanged"} for row in value.values())
        }

    @property
    def tables(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Counts that form a table: rows with the same columns, or many numbers by name (a column without a name)."""
        tables = {}
        for name, value in self._counts.items():
            if not isinstance(value, dict) or not value:
                continue
            rows = list(value.values())
            if all(isinstance(row, dict) for row in rows) and len({tuple(row) for row in rows}) == 1:
                tables[name] = value
            elif len(rows) > LARGE_TABLE and all(isinstance(row, int | float) for row in rows):
                tables[name] = {key: {"": row} for key, row in value.items()}
        return tables

    @property
    def numbers(self) -> dict[str, Any]:
        """All other counts by dotted name, without long lists."""
        others = {name: value for name, value in self._counts.items() if name not in self.tables}
        return {
            name: value for name, value in flatten(others) if not (isinstance(value, list) and len(value) > LONG_LIST)
        }

    @property
    def _counts(self) -> dict[str, Any]:
        """The counts of the builder, then the declared statistics that are not shown elsewhere."""
        declared = self.statistics.to_data()
        shown_elsewhere = {"schema_version", "splits", "out_of_distribution"}
        counts = self.statistics.counts
        return {**counts, **{name: value for name, value in declared.items() if value and name not in shown_elsewhere}}


def read_facts(run: RunDirectory, task: str) -> DatasetFacts:
    """Collect the facts about a task's rows from the files of a run.

    Raises:
        SelfExplainError: a file is missing or damaged.
    """
    import pyarrow.parquet as pq

    dataset, recipe, results = run.dataset(task), run.read_recipe(), run.read_results()
    with pq.ParquetFile(dataset.rows("test")) as rows:
        first = next(rows.iter_batches(1, columns=["prompt", "completion"])).to_pylist()[0]
    return DatasetFacts(
        task=task,
        recipe=recipe_facts(recipe, task),
        statistics=dataset.statistics(),
        result=results.tasks.get(task),
        versions=results.environment.versions,
        example=Example(**first),
        has_vectors_file=dataset.vectors.is_file(),
        files=dataset.hashes(),
    )


def recipe_facts(recipe: Recipe, task: str) -> RecipeFacts:
    """The settings that a card of the task reports."""
    source, revision = source_of(recipe, task)
    settings = _as_json(asdict(task_settings(recipe, task)))
    return RecipeFacts(
        name=recipe.name,
        seed=recipe.seed,
        target=recipe.target,
        explainer=recipe.explainer or recipe.target,
        source=source,
        source_revision=revision,
        changed_settings=changed_settings(settings, TASK_CONFIGS[task]()),
    )


def source_of(recipe: Recipe, task: str) -> tuple[str, str | None]:
    """Name and revision of what a task's rows were made from: the table of its settings, otherwise the corpus."""
    table = getattr(task_settings(recipe, task), "source", None)
    if table is not None and table.path:
        return table.path, table.revision
    return recipe.corpus, recipe.corpus_options.revision


def task_settings(recipe: Recipe, task: str) -> Any:
    """The settings dataclass of a task in a recipe."""
    return recipe.settings(task)


def changed_settings(settings: Mapping[str, Any], defaults: Any) -> dict[str, Any]:
    """The settings, by dotted name, that differ from those of a dataclass with default values."""
    usual = dict(flatten(_as_json(asdict(defaults))))
    return {name: value for name, value in flatten(settings) if name not in usual or usual[name] != value}


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs of dotted name and value from nested mappings."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(values)))
