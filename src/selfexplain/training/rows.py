"""Read the training rows of ground-truth datasets."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.splits import share_of

if TYPE_CHECKING:
    from datasets import Dataset

    from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor

COLUMNS = ["prompt", "completion", "placeholder_offsets", "activations", "activation_layers"]
"""Dataset columns that training reads."""


def training_rows(
    datasets_dir: Path,
    tasks: Sequence[str],
    processor: "SelfExplainerProcessor",
    max_length: int,
    cache_dir: Path,
    share: float = 1.0,
    seed: int = 0,
) -> "Dataset":
    """Read and tokenise the training rows of several tasks.

    Args:
        datasets_dir: directory with one dataset directory per task.
        tasks: names of the tasks, in the order of the rows.
        processor: processor of the explainer.
        max_length: maximum number of tokens per row.
        cache_dir: directory for temporary files of `datasets`.
        share: fraction of each task's rows to use, chosen by group.
        seed: seed of that choice.

    Returns:
        A dataset with the columns of `collator.tokenize`, `activations` (float16 lists) and `activation_layers`.

    Raises:
        SelfExplainError: a row has more than `max_length` tokens.
    """
    from datasets import concatenate_datasets

    from selfexplain.training.collator import tokenize

    parts = []
    for task in tasks:
        rows = _read(datasets_dir, task, cache_dir, share, seed)
        parts.append(rows.map(lambda row: tokenize(row, processor, max_length), desc=f"tokenising {task}"))
    # Tasks without vectors have an untyped activations column.
    features = next((part.features for part in parts if len(part) and part[0]["activations"]), parts[0].features)
    return concatenate_datasets([part.cast(features) for part in parts]).remove_columns(
        ["prompt", "completion", "placeholder_offsets"]
    )


def golden_rows(
    datasets_dir: Path, tasks: Sequence[str], cache_dir: Path, share: float = 1.0, seed: int = 0
) -> list[dict]:
    """Return the first two training rows of each task, for the injection check.

    If any of them have vectors, the others are left out. For the arguments see `training_rows`.
    """
    tables = [_read(datasets_dir, task, cache_dir, share, seed) for task in tasks]
    rows = [row for table in tables for row in table.take(min(2, len(table)))]
    return [row for row in rows if row["activations"]] or rows


def layers_by_task(datasets_dir: Path, tasks: Sequence[str], cache_dir: Path) -> dict[str, list[int]]:
    """Return the layers of the vectors in each task's training rows, including rows that `share` leaves out."""
    tables = {task: _read(datasets_dir, task, cache_dir, 1.0, 0) for task in tasks}
    return {
        task: sorted({layer for layers in table["activation_layers"] for layer in layers})
        for task, table in tables.items()
    }


def _read(datasets_dir: Path, task: str, cache_dir: Path, share: float, seed: int) -> "Dataset":
    from selfexplain.groundtruth.formats import read_dataset

    path = DatasetDirectory(datasets_dir / task).rows("train")
    if share == 1:
        return read_dataset(path, COLUMNS, cache_dir)
    rows = read_dataset(path, [*COLUMNS, "group"], cache_dir)
    return rows.select(share_of(rows["group"], share, seed)).remove_columns("group")
