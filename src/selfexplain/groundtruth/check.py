"""Check a dataset: run a sample of its interventions again, one by one, and compare with the stored results."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.builders import BUILDERS
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.schema import task_of
from selfexplain.groundtruth.splits import SPLITS
from selfexplain.target.load import Target, load_target

MAX_DISAGREEING = 0.02  # allowed share below float32, where padding and batching can change outputs that nearly tie


@dataclass(frozen=True)
class Disagreement:
    """A row whose result differs from the stored one.

    Attributes:
        split: split of the row.
        row: index of the row in its split.
        stored: stored result.
        found: result of the new run.
    """

    split: str
    row: int
    stored: str
    found: str


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        target: name of the target that was run.
        n_rows: number of rows that were run again.
        disagreements: rows whose result differs from the stored one.
        passed: whether the number of disagreements is acceptable.
    """

    target: str
    n_rows: int
    disagreements: list[Disagreement]
    passed: bool


def check_dataset(directory: Path, n_rows: int = 100, seed: int = 0, target: Target | None = None) -> CheckResult:
    """Compare the files with their hashes, and run the interventions of a sample of rows again.

    Args:
        directory: directory of one task's dataset.
        n_rows: number of rows to run again, from all splits together.
        seed: seed of the sample.
        target: the target; None to load the model that the rows name.

    Raises:
        SelfExplainError: there is no dataset, a file was modified, or the task has no intervention that can be run
            again.
    """
    dataset = DatasetDirectory(directory)
    if dataset.manifest_path.is_file() and not dataset.is_complete():
        raise SelfExplainError(
            f"A file in {directory} was modified after it was written (its SHA-256 differs). Build the dataset again."
        )
    rows = [(split, index, row) for split in SPLITS for index, row in enumerate(read_rows(dataset.rows(split)))]
    task = task_of(rows[0][2])
    rerun = BUILDERS[task.name].rerun
    if rerun is None:
        raise SelfExplainError(
            f"{directory} contains rows of {task.title}, which have no intervention to run again. "
            "Pass the dataset of a task with interventions."
        )
    target = target or _load_target(dataset, rows[0][2])
    chosen = np.random.default_rng(seed).permutation(len(rows))[:n_rows]
    disagreements = []
    for split, index, row in tqdm([rows[i] for i in sorted(chosen)], desc="running again", unit="row"):
        stored, found = rerun(target, row)
        if stored != found:
            disagreements.append(Disagreement(split, index, stored, found))
    allowed = 0 if target.model.dtype == torch.float32 else MAX_DISAGREEING * len(chosen)
    return CheckResult(target.name, len(chosen), disagreements, len(disagreements) <= allowed)


def _load_target(dataset: DatasetDirectory, row: dict) -> Target:
    """The target of a dataset, in the dtype and quantisation in which the rows were computed.

    Raises:
        SelfExplainError: the statistics do not name the dtype, or the model cannot be loaded.
    """
    statistics = dataset.statistics()
    if statistics.target_dtype is None:
        raise SelfExplainError(f"{dataset.statistics_path} has no target_dtype. {statistics.remedy}")
    quantization = statistics.target_quantization
    options = {"quantization_config": quantization} if quantization else {}
    return load_target(row["target_model"], row["target_revision"], statistics.target_dtype, **options)
