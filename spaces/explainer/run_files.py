"""Read the files that belong to an explainer: from a run directory, from the embedded files, or from the Hub."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from selfexplain.evaluation.predictions import Prediction
from selfexplain.evaluation.results import Results
from selfexplain.publishing.names import Names, configuration
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.tasks import TASKS

logger = logging.getLogger(__name__)

MAX_ROWS = 1200
"""Number of test rows to read per task. A feature has up to three rows, and each row contains its vector."""


class RunFiles(Protocol):
    """What an evaluation left behind. Everything is optional, because a bare model has none of it."""

    @property
    def examples_path(self) -> Path: ...

    def results(self) -> Results | None:
        """Return the scores, or None if there are none."""

    def rows(self, task: str) -> list[dict[str, Any]]:
        """Return the first `MAX_ROWS` test rows of a task."""

    def predictions(self, task: str) -> list[Prediction]:
        """Return the answers to the first `MAX_ROWS` test rows of a task."""


@dataclass(frozen=True)
class LocalFiles:
    """Files of a run directory, or of any directory with some of its files."""

    root: Path

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.root)

    @property
    def examples_path(self) -> Path:
        return self.root / "examples.json"

    def results(self) -> Results | None:
        return self.run.read_results() if self.run.results_path.is_file() else None

    def rows(self, task: str) -> list[dict[str, Any]]:
        import pyarrow.parquet as pq

        path = self.run.dataset(task).rows("test")
        return pq.read_table(path).slice(0, MAX_ROWS).to_pylist() if path.is_file() else []

    def predictions(self, task: str) -> list[Prediction]:
        if not self.run.predictions_path(task).is_file():
            return []
        return [prediction for prediction, _ in zip(self.run.read_predictions(task), range(MAX_ROWS), strict=False)]


@dataclass(frozen=True)
class HubFiles:
    """Files of a published explainer: of its model repository and of the datasets that its card lists.

    Attributes:
        repository: Hub id of the explainer.
        target: Name of the target, which names the configuration of the datasets.
    """

    repository: str
    target: str

    @property
    def examples_path(self) -> Path:
        return Path("examples.json")  # never published

    def results(self) -> Results | None:
        from huggingface_hub import hf_hub_download

        try:
            path = hf_hub_download(self.repository, "results.json")
        except OSError:
            logger.warning("%s has no results.json. The Results tab stays empty.", self.repository)
            return None
        return Results.read(Path(path))

    def rows(self, task: str) -> list[dict[str, Any]]:
        from datasets import load_dataset

        if task not in TASKS:
            return []
        try:
            name = self._dataset(Names(org="").dataset(task))
            rows = load_dataset(name, configuration(self.target), split="test") if name else None
        except (OSError, ValueError) as error:
            self._warn(task, error)
            return []
        return rows.select(range(min(len(rows), MAX_ROWS))).to_list() if rows else []

    def predictions(self, task: str) -> list[Prediction]:
        from huggingface_hub import hf_hub_download

        results = self.results()
        try:
            name = self._dataset(Names(org="").results)
            if not name or not results:
                return []
            path = hf_hub_download(name, f"{results.recipe}/predictions/{task}.jsonl", repo_type="dataset")
        except OSError as error:
            self._warn(task, error)
            return []
        return list(_read_published_predictions(Path(path)))

    def _dataset(self, suffix: str) -> str | None:
        """Return the first dataset of the model card whose id has this ending.

        Raises:
            OSError: The Hub cannot be reached, or there is no model card.
        """
        from huggingface_hub import ModelCard

        names = ModelCard.load(self.repository).data.get("datasets") or []
        return next((name for name in names if name.endswith(suffix)), None)

    def _warn(self, task: str, error: Exception) -> None:
        reason = str(error).splitlines()[0]
        logger.warning("The demo shows no %s rows for %s: %s", task, self.repository, reason)


def _read_published_predictions(path: Path) -> Iterator[Prediction]:
    """Read predictions from a results dataset, where answers are a list of systems.

    Raises:
        SelfExplainError: A line is not a prediction.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in zip(range(1, MAX_ROWS + 1), file, strict=False):
            data = json.loads(line)
            answers = {answer["system"]: answer["answer"] for answer in data["answers"]}
            yield Prediction.from_data(data | {"answers": answers}, f"{path}, line {number}")
