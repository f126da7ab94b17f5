"""Export a dataset in the format of another project."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.bundled import resolve
from selfexplain.groundtruth.builders.transluce import WRITERS
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.schema import task_of
from selfexplain.groundtruth.splits import SPLITS
from selfexplain.target.tokenizer_files import load_tokenizer
from selfexplain.utils.registry import Registry

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def to_transluce(task: str, rows: list[dict], tokenizer: "PreTrainedTokenizerBase") -> list[dict[str, Any]]:
    """Convert rows into the format of the datasets that Transluce published (Li et al., arXiv 2511.08579).

    Values that rows of this package do not contain are None.

    Raises:
        SelfExplainError: Transluce published no dataset for this task, or its format cannot express a row.
    """
    write = WRITERS[task]
    return [write(index, row, tokenizer) for index, row in enumerate(rows)]


EXPORT_FORMATS: Registry[Callable[[str, list[dict], Any], list[dict[str, Any]]]] = Registry("export format")
"""Name of a format -> `convert(task, rows, tokenizer)`, which returns the exported rows."""

EXPORT_FORMATS.register("transluce", to_transluce)


def export_dataset(directory: Path, out_dir: Path, format: str = "transluce") -> list[Path]:
    """Write the splits of a dataset as parquet files in the format of another project.

    Args:
        directory: directory of one task's dataset.
        out_dir: directory for the exported files.
        format: name of a format in `EXPORT_FORMATS`.

    Returns:
        The written files, one per split.

    Raises:
        SelfExplainError: there is no dataset, the format is unknown, or it cannot express the rows.
    """
    from datasets import Dataset

    convert, source, destination = EXPORT_FORMATS[format], DatasetDirectory(directory), DatasetDirectory(out_dir)
    splits = {split: read_rows(source.rows(split)) for split in SPLITS}
    first = splits[SPLITS[0]][0]
    task = task_of(first)
    target = first["target_model"]
    tokenizer = load_tokenizer(target, resolve(target), revision=first["target_revision"])
    exported = {split: convert(task.name, rows, tokenizer) for split, rows in splits.items()}
    out_dir.mkdir(parents=True, exist_ok=True)
    for split, rows in exported.items():
        Dataset.from_list(rows).to_parquet(destination.rows(split))
    return [destination.rows(split) for split in SPLITS]
