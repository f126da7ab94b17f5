"""Render the cards of a run: the model's, the datasets', that of the results and that of the Space."""

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.config import EXPLAINED_BY
from selfexplain.groundtruth.config import AblationConfig, FeatureConfig, PatchingConfig
from selfexplain.publishing.figures import change_counts, write_construction
from selfexplain.publishing.names import DATASET_NAMES, Names, is_hub_id
from selfexplain.resources import resource

if TYPE_CHECKING:
    from jinja2 import Environment

SPLITS = ("train", "validation", "test")
TAG = "selfexplain"
FIRST_ROWS = 100
ASKED = {
    "feature_description": ["layer"],
    "activation_patching": ["target_prompt", "source_prompt", "layers", "position", "source_position", "changed"],
    "input_ablation": ["target_prompt", "removed_text", "replacement", "choices", "answered_by", "changed"],
}
"""The columns of a row that say what it asks."""
DEFAULTS = {
    "feature_description": FeatureConfig,
    "activation_patching": PatchingConfig,
    "input_ablation": AblationConfig,
}


@dataclass(frozen=True)
class Configuration:
    """What a dataset card says of the rows about one target.

    Attributes:
        name: of the configuration, and of the directory of its files; "" where they lie beside the card.
        recipe: the resolved recipe that made them.
        statistics: of the construction.
        result: the scores of the task; None before an evaluation.
        versions: of the libraries that made them.
        example: the first test row, prompt and completion.
        vectors_apart: whether each vector is kept once, in a file of its own.
        task: of the rows.
        licences: of target and source, by name, where they are known.
    """

    name: str
    recipe: Mapping[str, Any]
    statistics: Mapping[str, Any]
    result: Mapping[str, Any] | None
    versions: Mapping[str, str]
    example: Mapping[str, str]
    vectors_apart: bool = False
    task: str = ""
    licences: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> tuple[str, str | None]:
        return source_of(self.recipe, self.task)

    @property
    def out_of_distribution(self) -> Mapping[str, Mapping[str, Any]]:
        """Counts of the test sets out of distribution, by name."""
        return self.statistics.get("out_of_distribution", {})

    @property
    def changed_settings(self) -> dict[str, Any]:
        return _changed_settings(self.recipe[self.task], DEFAULTS[self.task]())

    @property
    def prefix(self) -> str:
        return f"{self.name}/" if self.name else ""

    @property
    def has_figure(self) -> bool:
        return bool(change_counts(self.statistics))

    @property
    def tables(self) -> dict[str, Mapping[str, Mapping[str, Any]]]:
        """The statistics that are tables: rows of named columns, or of one number without a name."""
        found = {}
        for name, value in self.statistics.items():
            if not isinstance(value, Mapping) or not value or name == "out_of_distribution":
                continue
            rows = list(value.values())
            if all(isinstance(row, Mapping) for row in rows) and len({tuple(row) for row in rows}) == 1:
                found[name] = value
            elif len(rows) > 6 and all(isinstance(row, int | float) for row in rows):
                found[name] = {key: {"": row} for key, row in value.items()}
        return found

    @property
    def numbers(self) -> dict[str, Any]:
        """The other statistics, by dotted name; long lists are left to statistics.json."""
        elsewhere = {*self.tables, "out_of_distribution"}
        rest = {name: value for name, value in self.statistics.items() if name not in elsewhere}
        return {name: value for name, value in _flat(rest) if not (isinstance(value, list) and len(value) > 8)}


@dataclass(frozen=True)
class Licence:
    """The licence that a model inherits from its base, in the words of the Hub's metadata."""

    license: str
    license_name: str | None = None
    license_link: str | None = None


def write_cards(run_dir: Path) -> None:
    """Write the cards of a run.

    They are `cards/model_card.md`, the same as `explainer/README.md`, and for each task `cards/<task>.md`, the same as
    `datasets/<task>/README.md`. A run that only evaluated an explainer has no `explainer/`, and no model card.

    Raises:
        SelfExplainError: a file of the run directory is missing or unreadable.
    """
    run_dir = Path(run_dir)
    for task in read_recipe(run_dir)["tasks"]:
        found = read_configuration(run_dir, task)
        if change_counts(found.statistics):
            for directory in (run_dir / "cards", run_dir / "datasets" / task):
                write_construction(found.statistics, directory / f"{task}.png")
        card = dataset_card(task, [found])
        _write(card, run_dir / "cards" / f"{task}.md", run_dir / "datasets" / task / "README.md")
    if (run_dir / "explainer").is_dir():
        card = model_card(run_dir, figures="../figures/")
        _write(card, run_dir / "cards" / "model_card.md", run_dir / "explainer" / "README.md")


def model_card(run_dir: Path, figures: str, names: Names | None = None, licence: Licence | None = None) -> str:
    """The card of a run's explainer.

    Args:
        figures: where the card finds the figures, such as "figures/".
        names: of the published repositories; None for a card that points into the run directory.
        licence: of the base model, where it is known.
    """
    from selfexplain.training.config import TrainingConfig

    recipe, results = read_recipe(run_dir), read_results(run_dir)
    config = read_json(run_dir / "explainer" / "config.json")
    merged = config.get("merged", False)
    if licence is None and config["base_model_name_or_path"] in bundled.NAMES:
        licence = Licence("mit")  # what this package itself has
    return _render(
        "model_card.md.jinja",
        recipe=recipe,
        recipe_text=(run_dir / "recipe.yaml").read_text(encoding="utf-8").strip(),
        environment=results["environment"],
        config=config,
        tasks=results["tasks"],
        comparison=results.get("comparison"),
        explained_by=EXPLAINED_BY,
        examples={task: _examples(run_dir, task) for task in results["tasks"]},
        front_matter=_model_front_matter(recipe, config, results, names, licence, merged),
        asked={task: _asked(run_dir, task) for task in results["tasks"]},
        changed_settings=_changed_settings(recipe["training"], TrainingConfig()),
        figures=figures,
        id=names.model(recipe["name"]) if names else "explainer",
        names=names,
        licence=licence,
        merged=merged,
        foreign=config["target"].get("model") not in (None, config["base_model_name_or_path"]),
        apart=merged or config["target"].get("model") not in (None, config["base_model_name_or_path"]),
        reachable=is_hub_id(recipe["target"]),
        sources={task: source_of(recipe, task) for task in results["tasks"]},
    )


def dataset_card(task: str, configurations: Sequence[Configuration], names: Names | None = None) -> str:
    """The card of one task's ground truth, which may be about several targets.

    Args:
        names: of the published repositories; None for a card that lies beside the rows.
    """
    return _render(
        "dataset_card.md.jinja",
        task=task,
        configurations=configurations,
        front_matter=_dataset_front_matter(task, configurations),
        licences={name: licence for found in configurations for name, licence in found.licences.items()},
        id=names.dataset(task) if names else f"datasets/{task}",
        names=names,
    )


def results_card(runs: Mapping[str, Mapping[str, Any]], names: Names) -> str:
    """The card of the results of several recipes: name -> results.json."""
    from huggingface_hub import DatasetCardData

    tasks = [task for task in DATASET_NAMES if any(task in run["tasks"] for run in runs.values())]
    scores = {"config_name": "scores", "default": True, "data_files": [{"split": "test", "path": "*/scores.jsonl"}]}
    answers = [
        {"config_name": task, "data_files": [{"split": "test", "path": f"*/predictions/{task}.jsonl"}]}
        for task in tasks
    ]
    front_matter = DatasetCardData(
        pretty_name="selfexplain: results",
        license="other",
        license_name="as-target-and-corpus",
        tags=[TAG, "interpretability", "leaderboard"],
        configs=[scores, *answers],
    ).to_yaml()
    return _render("results_card.md.jinja", front_matter=front_matter, runs=runs, tasks=tasks, names=names)


def space_card(text: str, recipe: Mapping[str, Any], names: Names) -> str:
    """The README of the Space with the ids of this run in its metadata."""
    from huggingface_hub import RepoCard

    card = RepoCard(text)
    card.data["title"] = f"{recipe['name']} explainer"
    card.data["models"] = [names.model(recipe["name"])]
    card.data["datasets"] = [*map(names.dataset, recipe["tasks"]), names.results]
    card.data["tags"] = sorted({*(card.data.get("tags") or []), TAG})
    return str(card)


def read_recipe(run_dir: Path) -> dict[str, Any]:
    import yaml

    path = run_dir / "recipe.yaml"
    try:
        return yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise SelfExplainError(f"{path} is not YAML ({where}): run the recipe again in that directory.") from error


def source_of(recipe: Mapping[str, Any], task: str) -> tuple[str, str | None]:
    """What a task's rows were made from, and its revision: the table that the recipe names, or else its corpus."""
    table = recipe[task].get("source")
    if table and table["path"]:
        return table["path"], table["revision"]
    return recipe["corpus"], recipe["corpus_options"]["revision"]


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise SelfExplainError(f"{path} is not JSON ({error}): delete it and run its stage again.") from error


def read_results(run_dir: Path) -> dict[str, Any]:
    """Raises SelfExplainError where a task of the recipe has no scores."""
    results = read_json(run_dir / "results.json")
    for task in read_recipe(run_dir)["tasks"]:
        if not results["tasks"].get(task, {}).get("scores", {}).get("explainer"):
            raise SelfExplainError(
                f"{run_dir / 'results.json'} has no scores of {task}: run the recipe again to evaluate it."
            )
    return results


def read_configuration(run_dir: Path, task: str) -> Configuration:
    """What the files of a run say of a task's rows."""
    import pyarrow.parquet as pq

    results = read_json(run_dir / "results.json")
    directory = run_dir / "datasets" / task
    with pq.ParquetFile(directory / "test.parquet") as rows:
        first = next(rows.iter_batches(1, columns=["prompt", "completion"])).to_pylist()[0]
    return Configuration(
        name="",
        recipe=read_recipe(run_dir),
        statistics=read_json(directory / "statistics.json"),
        result=results["tasks"].get(task),
        versions=results["environment"]["versions"],
        example=first,
        vectors_apart=(directory / "vectors.parquet").is_file(),
        task=task,
    )


def _model_front_matter(
    recipe: Mapping[str, Any],
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    names: Names | None,
    licence: Licence | None,
    merged: bool,
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    base = config["base_model_name_or_path"]
    on_hub = isinstance(base, str) and is_hub_id(base)  # a directory is no name on the Hub
    datasets = {task: names.dataset(task) if names else DATASET_NAMES[task] for task in results["tasks"]}
    return ModelCardData(
        model_name=f"{recipe['name']}-selfexplainer",
        library_name="transformers",
        pipeline_tag="text-generation",
        **({key: value for key, value in dataclasses.asdict(licence).items() if value} if licence else {}),
        base_model=base if on_hub else None,
        base_model_relation=("finetune" if merged else "adapter") if on_hub else None,
        datasets=[*datasets.values()],
        tags=[TAG, "interpretability", *(task.replace("_", "-") for task in results["tasks"])],
        eval_results=[
            EvalResult(
                task_type="text-generation",
                task_name=_readable(task),
                dataset_type=datasets[task],
                dataset_name=DATASET_NAMES[task],
                dataset_split="test",
                metric_type=metric,
                metric_name=_readable(metric),
                metric_value=round(score["value"], 4),
            )
            for task, result in results["tasks"].items()
            for metric, score in result["scores"]["explainer"].items()
        ],
    ).to_yaml()


def _dataset_front_matter(task: str, configurations: Sequence[Configuration]) -> str:
    """Names the parquet files of each split, so that `load_dataset` takes no other file for data."""
    from huggingface_hub import DatasetCardData

    return DatasetCardData(
        pretty_name=f"selfexplain: {_readable(task)}",
        license="other",
        license_name="as-target-and-corpus",
        task_categories=["text-generation"],
        tags=[TAG, "interpretability"],
        configs=[entry for found in configurations for entry in _configs(found, len(configurations) == 1)],
    ).to_yaml()


def _configs(found: Configuration, only: bool) -> Iterator[dict[str, Any]]:
    """The entries of a configuration in the metadata: its splits, its vectors where they lie apart, its other tests."""
    splits = [{"split": split, "path": f"{found.prefix}{split}.parquet"} for split in SPLITS]
    yield {"config_name": found.name or "default", **({"default": True} if only else {}), "data_files": splits}
    if found.vectors_apart:
        name = f"{found.name}-vectors" if found.name else "vectors"
        yield {"config_name": name, "data_files": [{"split": "train", "path": f"{found.prefix}vectors.parquet"}]}
    for kind in found.out_of_distribution:
        name = f"{found.name}-{kind}" if found.name else kind
        yield {"config_name": name, "data_files": [{"split": "test", "path": f"{found.prefix}{kind}.parquet"}]}


def sections(tasks: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The scores of each task by its name, those of its test sets out of distribution by `<task>/<name>`."""
    for task, result in tasks.items():
        yield task, result
        for name, beside in result.get("out_of_distribution", {}).items():
            yield f"{task}/{name}", beside


def _examples(run_dir: Path, task: str, n: int = 2) -> list[dict[str, Any]]:
    """The first test rows, one a group, with the explainer's answers."""
    path = run_dir / "predictions" / f"{task}.jsonl"
    firsts: dict[str, dict[str, Any]] = {}
    for line in _read(path).splitlines() if path.is_file() else ():
        row = json.loads(line)
        firsts.setdefault(row["group"], row)
    return list(firsts.values())[:n]


def _asked(run_dir: Path, task: str) -> dict[str, Any]:
    """What a card asks as an example: the layer of the first held-out feature, or a short question with an effect."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(run_dir / "datasets" / task / "test.parquet") as file:
        rows = next(file.iter_batches(FIRST_ROWS, columns=ASKED[task])).to_pylist()
    if task == "feature_description":
        return rows[0]
    return min(rows, key=lambda row: (not row["changed"], len(row["target_prompt"])))


def _changed_settings(settings: Mapping[str, Any], defaults: Any) -> dict[str, Any]:
    """The settings that differ from those of a dataclass of defaults, by dotted name."""
    usual = dict(_flat(json.loads(json.dumps(dataclasses.asdict(defaults)))))
    return {name: value for name, value in _flat(settings) if name not in usual or usual[name] != value}


def _render(template: str, **values: Any) -> str:
    from huggingface_hub import constants

    return _templates().get_template(template).render(hub=constants.ENDPOINT, linked=_linked, **values)


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(resource("model_cards")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for filter in (_readable, _flat, _cell, _shown, _quoted, _fenced, _code, sections):
        environment.filters[filter.__name__.removeprefix("_")] = filter
    return environment


def _linked(name: str, kind: str = "") -> str:
    """A model or, of kind "datasets/", a dataset, as a link where it is on the Hub."""
    from huggingface_hub import constants

    if is_hub_id(name) and name not in (*bundled.NAMES, bundled.TINY_WORLD):
        return f"[{name}]({constants.ENDPOINT}/{kind}{name})"
    return f"`{name}`"


def _quoted(text: str) -> str:
    """As a literal of Python."""
    return json.dumps(text, ensure_ascii=False)


def _fenced(text: str) -> str:
    """Text that is shown as it stands, inside a fence longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text.strip()}\n{fence}"


def _code(text: str) -> str:
    """Text that is shown as it stands, in a cell of a table: else `<<<Lima>>>` would be taken for a tag."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    line = " ".join(text.split())
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}".replace("|", "\\|") if line else ""


def _readable(name: str) -> str:
    return name.replace("_", " ").replace("f1", "F1").replace("selfie", "SelfIE").replace("/", ", ")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs of dotted name and value, nested mappings opened."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    """A value for a table cell; of a long list, its beginning."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value[:8])) + (f", ... ({len(value)} in all)" if len(value) > 8 else "")
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _cell(entry: Mapping[str, Any] | None, key: str = "value") -> str:
    if entry is None:
        return ""
    low, high = entry["ci95"]
    return f"{entry[key]:.3f} [{low:.3f}, {high:.3f}]"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SelfExplainError(f"{path} cannot be read ({error.strerror}): finish the run first.") from error


def _write(text: str, *paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
