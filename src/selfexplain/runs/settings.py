"""Inspect the settings of any task: which tables they read and which models they apply to."""

from dataclasses import fields, replace
from typing import Any

from selfexplain.groundtruth.config import FeatureConfig, TableConfig
from selfexplain.utils.names import local_path


def tables(settings: Any) -> dict[str, TableConfig]:
    """The tables that a task's items come from, by the name of the field that holds them."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {name: value for name, value in values.items() if isinstance(value, TableConfig)}


def with_tables(settings: Any, changed: dict[str, TableConfig]) -> Any:
    """A copy of the settings with other tables."""
    return replace(settings, **changed)


def about_one_model(settings: Any) -> list[str]:
    """Keys of settings that name data recorded from one particular model, such as its SAEs."""
    keys = []
    if isinstance(settings, FeatureConfig):
        keys += [key for key in ("saes", "neuronpedia") if getattr(settings, key) is not None]
    for name, table in tables(settings).items():
        if getattr(table, "kind", None) == "transluce":
            keys.append(f"{name}.kind=transluce")
    return keys


def local_files(settings: Any) -> dict[str, str]:
    """Settings, other than tables, that name a file or directory of this machine: key -> path."""
    if not isinstance(settings, FeatureConfig):
        return {}
    local = {}
    if settings.saes and exists_here(settings.saes):  # any other name is a release of SAEs
        local["saes"] = settings.saes
    if settings.neuronpedia and not settings.neuronpedia.startswith(("http://", "https://")):
        local["neuronpedia"] = settings.neuronpedia
    return local


def exists_here(name: str) -> bool:
    """Whether a name is written as a path or names an existing file or directory."""
    return name.startswith((".", "/", "~")) or local_path(name).exists()
