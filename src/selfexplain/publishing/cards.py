"""Render the model card and the dataset cards of a run."""

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selfexplain.errors import SelfExplainError
from selfexplain.resources import resource

DATASET_NAMES = {
    "feature_description": "selfexplain-features",
    "activation_patching": "selfexplain-patching",
    "input_ablation": "selfexplain-ablation",
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_cards(run_dir: Path) -> None:
    """Write the cards of a run.

    They are `cards/model_card.md`, the same as `explainer/README.md`, and for each task `cards/<task>.md`, the same as
    `datasets/<task>/README.md`. A run that only evaluated an explainer has no `explainer/`, and no model card.

    Raises:
        SelfExplainError: a file of the run directory is missing or unreadable.
    """
    import yaml

    run_dir = Path(run_dir)
    recipe_text = _read(run_dir / "recipe.yaml")
    recipe = yaml.safe_load(recipe_text)
    results = _read_json(run_dir / "results.json")
    shared = {"recipe": recipe, "recipe_text": recipe_text.strip(), "environment": results["environment"]}

    for task in recipe["tasks"]:
        card = _render(
            "dataset_card.md.jinja",
            **shared,
            task=task,
            front_matter=_dataset_front_matter(task),
            settings=yaml.safe_dump(recipe[task], sort_keys=False).strip(),
            statistics=_read_json(run_dir / "datasets" / task / "statistics.json"),
        )
        _write(card, run_dir / "cards" / f"{task}.md", run_dir / "datasets" / task / "README.md")
    if (run_dir / "explainer").is_dir():
        config = _read_json(run_dir / "explainer" / "config.json")
        card = _render(
            "model_card.md.jinja",
            **shared,
            config=config,
            tasks=results["tasks"],
            front_matter=_model_front_matter(recipe, config, results),
            changed_settings=_changed_settings(recipe["training"]),
        )
        _write(card, run_dir / "cards" / "model_card.md", run_dir / "explainer" / "README.md")


def _model_front_matter(recipe: Mapping[str, Any], config: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    base = config["base_model_name_or_path"]
    on_hub = isinstance(base, str) and _HUB_ID.fullmatch(base)  # a directory is no name on the Hub
    return ModelCardData(
        model_name=f"{recipe['name']}-selfexplainer",
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base if on_hub else None,
        base_model_relation="adapter" if on_hub else None,
        datasets=[DATASET_NAMES[task] for task in results["tasks"]],
        tags=["selfexplain", "interpretability", *(task.replace("_", "-") for task in results["tasks"])],
        eval_results=[
            EvalResult(
                task_type="text-generation",
                task_name=_readable(task),
                dataset_type=DATASET_NAMES[task],
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


def _dataset_front_matter(task: str) -> str:
    """Names the parquet files of each split, so that `load_dataset` takes no other file for data."""
    from huggingface_hub import DatasetCardData

    files = [{"split": split, "path": f"{split}.parquet"} for split in ("train", "validation", "test")]
    return DatasetCardData(
        pretty_name=f"selfexplain: {_readable(task)}",
        license="other",
        license_name="as-target-and-corpus",
        task_categories=["text-generation"],
        tags=["selfexplain", "interpretability"],
        configs=[{"config_name": "default", "default": True, "data_files": files}],
    ).to_yaml()


def _changed_settings(training: Mapping[str, Any]) -> dict[str, Any]:
    """The training settings that differ from their defaults, by dotted name."""
    from selfexplain.training.config import TrainingConfig

    defaults = dict(_flat(json.loads(json.dumps(dataclasses.asdict(TrainingConfig())))))
    return {name: value for name, value in _flat(training) if name not in defaults or defaults[name] != value}


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(resource("model_cards")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"readable": _readable, "flat": _flat, "cell": _cell, "shown": _shown}
    return environment.get_template(template).render(**values)


def _readable(name: str) -> str:
    return name.replace("_", " ").replace("f1", "F1")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs of dotted name and value, nested mappings opened."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    """A value for a table cell; of a long list, its beginning."""
    if isinstance(value, list):
        return ", ".join(map(_shown, value[:8])) + (f", ... ({len(value)} in all)" if len(value) > 8 else "")
    text = f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|")


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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise SelfExplainError(f"{path} is not JSON ({error}): delete it and run its stage again.") from error


def _write(text: str, *paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
