"""Check a dataset: run a sample of its rows again, one by one, and compare with the stored results."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.builders import BUILDERS, BuildContext
from selfexplain.groundtruth.builders.builder import PreparesRerun
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.schema import task_of
from selfexplain.groundtruth.sources import Corpus
from selfexplain.groundtruth.splits import SPLITS
from selfexplain.target.load import Target, load_target
from selfexplain.utils.names import is_reserved
from selfexplain.utils.processes import process_state

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


@dataclass(frozen=True)
class RowSource:
    """What the rows of a dataset were built from.

    Attributes:
        config: settings of the task.
        corpus: texts.
        seed: seed of the run.
    """

    config: Any
    corpus: Corpus
    seed: int


def check_dataset(
    directory: Path,
    n_rows: int = 100,
    seed: int = 0,
    target: Target | None = None,
    source: Callable[[str], RowSource] | None = None,
    trust_remote_code: bool = False,
) -> CheckResult:
    """Compare the files with their hashes, and run a sample of rows again.

    For rows with an intervention, the intervention is run again. For rows of feature description, an exemplar is run
    again, and the vector and the simulator score of an offline description are compared. If the target's precision is
    lower than float32, near-ties are decided in float32, as in a build.

    Args:
        directory: directory of one task's dataset.
        n_rows: number of rows to run again, from all splits together.
        seed: seed of the sample.
        target: the target; None to load the model that the rows name. A relative path is resolved from the dataset's
            directory upwards, and then from the working directory.
        source: `source(task)` returns what the rows were built from. Only rows of feature description need it.
        trust_remote_code: whether code in the target's repository may run.

    Raises:
        SelfExplainError: there is no dataset, a file was modified, or the rows cannot be run again.
    """
    dataset = DatasetDirectory(directory)
    if dataset.manifest_path.is_file() and not dataset.is_complete():
        raise SelfExplainError(
            f"A file in {directory} was modified after it was written (its SHA-256 differs). Build the dataset again."
        )
    rows = [(split, index, row) for split in SPLITS for index, row in enumerate(read_rows(dataset.rows(split)))]
    task = task_of(rows[0][2])
    builder = BUILDERS[task.name]
    if builder.rerun is None and not isinstance(builder, PreparesRerun):
        raise SelfExplainError(
            f"{directory} contains rows of {task.title}, which cannot be run again. "
            "Pass the dataset of a task with interventions."
        )
    if builder.rerun is None and source is None:
        raise SelfExplainError(
            f"{directory} contains rows of {task.title}, which can be checked only with the settings and texts of "
            "their run. Pass runs/<recipe>/datasets/<task> of a complete run directory."
        )
    target = target or _load_target(dataset, rows[0][2], trust_remote_code)
    if isinstance(builder, PreparesRerun) and source is not None:
        about = source(task.name)
        rerun = builder.prepare_rerun(BuildContext(task, about.config, target, about.corpus, dataset, {}, about.seed))
    else:
        assert builder.rerun is not None
        rerun = builder.rerun
    chosen = np.random.default_rng(seed).permutation(len(rows))[:n_rows]
    disagreements = []
    for split, index, row in tqdm([rows[i] for i in sorted(chosen)], desc="running again", unit="row"):
        stored, found = rerun(target, row)
        if stored != found:
            disagreements.append(Disagreement(split, index, stored, found))
    allowed = 0 if target.model.dtype == torch.float32 else MAX_DISAGREEING * len(chosen)
    return CheckResult(target.name, len(chosen), disagreements, len(disagreements) <= allowed)


def _load_target(dataset: DatasetDirectory, row: dict, trust_remote_code: bool) -> Target:
    """The target of a dataset, in the dtype and quantisation in which the rows were computed.

    Raises:
        SelfExplainError: the statistics do not name the dtype, or the model cannot be loaded.
    """
    statistics = dataset.statistics()
    if statistics.target_dtype is None:
        raise SelfExplainError(f"{dataset.statistics_path} has no target_dtype. {statistics.remedy}")
    name, revision, quantization = row["target_model"], row["target_revision"], statistics.target_quantization
    if revision is None:  # not from the Hub
        name = find_near(name, dataset.root)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if quantization:
        return load_target(name, revision, statistics.target_dtype, quantization_config=quantization, **options)
    target = load_target(name, revision, statistics.target_dtype, **options)
    target.model.to(process_state().device)
    return target


def find_near(name: str, directory: Path) -> str:
    """The path of a file or directory that a run in `directory` names relative to the place where it was started.

    Args:
        name: relative or absolute path, or any other name.
        directory: directory inside the run.

    Returns:
        The path below the nearest parent of `directory` that contains it; `name` if there is none.
    """
    if Path(name).expanduser().is_absolute() or is_reserved(name):
        return name
    candidates = (parent / name for parent in directory.resolve().parents)
    return next((str(path) for path in candidates if path.exists()), name)
