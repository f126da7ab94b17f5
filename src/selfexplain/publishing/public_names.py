"""Replace the local paths in a run's files by names that other people can use."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
from selfexplain.publishing.repositories import files_below
from selfexplain.runs.recipe import Recipe
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.utils.names import is_hub_id, is_reserved

NAMING_COLUMNS = ("target_model", "sae_release")
"""Columns of datasets that contain names of models or directories; all others contain text and numbers."""

LOCAL_PATH = re.compile(r"(?:(?:/[^\s/]+){2,}/?|~[\w.-]*/\S*|\.{1,2}/\S*|[A-Za-z]:[\\/]\S*)")
"""A word that is a path: two or more components from the root, `~/...`, `./...`, `../...` or `C:\\...`."""

TEXT_SUFFIXES = {
    ".json", ".jsonl", ".yaml", ".yml", ".md", ".txt", ".py", ".jinja", ".css", ".js", ".html", ".toml", ".cfg",
}  # fmt: skip
"""Files that are read as text."""


def is_local(name: str) -> bool:
    """Whether a model name is a directory on this machine: neither reserved nor an id on the Hub."""
    return not is_reserved(name) and (not is_hub_id(name) or Path(name).is_dir())


def read_config(run: RunDirectory) -> SelfExplainerConfig:
    """Read the explainer's configuration.

    Raises:
        SelfExplainError: the file is missing or damaged.
    """
    path = run.explainer / "config.json"
    try:
        return SelfExplainerConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SelfExplainError(
            f"{path} cannot be read ({error}). Run the recipe again to train the explainer."
        ) from error


def base_of(run: RunDirectory) -> str:
    """Name of the explainer's base model, as its configuration has it."""
    return str(read_config(run).base_model_name_or_path)


def choose_public_names(run: RunDirectory, recipe: Recipe, *, full: bool, base: str | None) -> dict[str, str]:
    """Map each local name in a run to its public name: the base's id, and the last component of every other path.

    The explainer's configuration has the absolute paths of its models; recipe and rows have the paths as they were
    typed. Both forms get the same public name.

    Args:
        run: the run.
        recipe: its recipe.
        full: whether the base's weights are published with the explainer.
        base: id on the Hub of a base that the run read from a directory.

    Raises:
        SelfExplainError: others could not load the base, or `base` is not an id or not needed.
    """
    config = read_config(run)
    explainer_base = str(config.base_model_name_or_path)
    _check_base(run, explainer_base, full, base)
    names = {explainer_base: base or Path(explainer_base).name} if is_local(explainer_base) else {}
    assert config.target is not None  # the configuration's __post_init__ fills it in
    typed_and_absolute = ((recipe.explainer or recipe.target, explainer_base), (recipe.target, config.target["model"]))
    for typed, absolute in typed_and_absolute:
        if absolute is not None and is_local(absolute):
            names.setdefault(absolute, Path(absolute).name)
            names[typed] = names[absolute]
    for value in strings_in(asdict(recipe)):
        if not is_reserved(value) and (LOCAL_PATH.fullmatch(value) or ("/" in value and os.path.exists(value))):
            names.setdefault(value, Path(value).name)
    return names


def _check_base(run: RunDirectory, explainer_base: str, full: bool, base: str | None) -> None:
    if base is not None and not is_local(explainer_base):
        raise SelfExplainError(
            f"--base {base} was given, but the base of this run is {explainer_base}, which others can load. "
            "Omit --base."
        )
    if base is not None and not is_hub_id(base):
        raise SelfExplainError(
            f"--base is {base!r}, expected the id of a model on the Hub, such as meta-llama/Llama-3.2-1B."
        )
    if is_local(explainer_base) and not full and base is None:
        raise SelfExplainError(
            f"The base of {run.root} is the directory {explainer_base}, which others cannot load. Publish with --full, "
            "which merges the trained weights into the base, or give the base's id on the Hub with --base ID."
        )


def copy_with_public_names(run: RunDirectory, copy: RunDirectory, names: Mapping[str, str]) -> None:
    """Copy a run: files that contain one of the names are rewritten, all others become symbolic links.

    Only the recipe and files that the manifest lists are copied.

    Args:
        run: the run; it is not changed.
        copy: where to write.
        names: local name -> public name.

    Raises:
        SelfExplainError: a file is outside of the run directory or is a symbolic link.
    """
    listed = {name for step in run.read_manifest().steps.values() for name in step.outputs}
    for name in sorted({run.relative(run.recipe_path), *listed}):
        source, target = run.file(name), copy.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if names and source.suffix == ".parquet":
            _rewrite_parquet(source, target, names)
        elif names and source.suffix in TEXT_SUFFIXES:
            target.write_text(replace_names(source.read_text(encoding="utf-8"), names), encoding="utf-8")
        else:
            target.symlink_to(source.resolve())


def rewrite_json_files(directory: Path, names: Mapping[str, str]) -> None:
    """Replace local names in the JSON files of a directory, except in the tokenizer's vocabulary."""
    for _, file in files_below(directory):
        if file.suffix == ".json" and file.name != "tokenizer.json":
            file.write_text(replace_names(file.read_text(encoding="utf-8"), names), encoding="utf-8")


def replace_names(text: str, names: Mapping[str, str], bare_anywhere: bool = False) -> str:
    """Replace local names in a text.

    Args:
        text: the text.
        names: local name -> public name.
        bare_anywhere: whether to replace names without a "/" everywhere. Otherwise they are replaced only as the value
            of a key that names a model, because in running text they may be ordinary words.
    """
    longest_first = sorted(names, key=len, reverse=True)
    anywhere = [name for name in longest_first if "/" in name or bare_anywhere]
    as_value = [name for name in longest_first if name not in anywhere]
    patterns = [rf"(?<![\w./~-]){re.escape(name)}(?![\w-])" for name in anywhere]
    key = r"""(?:(?<=^target: )|(?<=^explainer: )|(?<="name": ")|(?<="model_name": "))"""
    patterns += [rf"{key}{re.escape(name)}(?=\"|$)" for name in as_value]
    if not patterns:
        return text
    return re.sub("|".join(patterns), lambda match: names[match[0]], text, flags=re.M)


def strings_in(value: Any) -> Iterator[str]:
    """Every string in nested mappings, lists and tuples, without the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_in(item)


def _rewrite_parquet(source: Path, target: Path, names: Mapping[str, str]) -> None:
    """Copy a parquet file and replace local names in the columns that name models or directories."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file, pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer:
        for batch in file.iter_batches():
            for column in set(NAMING_COLUMNS) & set(batch.schema.names):
                field = batch.schema.field(column)
                values = batch[column].to_pylist()
                renamed = {value: replace_names(value, names, bare_anywhere=True) for value in set(values)}
                array = pa.array([renamed[value] for value in values], field.type)
                batch = batch.set_column(batch.schema.get_field_index(column), field, array)
            writer.write_batch(batch)
