"""`predictions/<task>.jsonl`: every test row with the answers of all systems, one record per line."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from selfexplain.errors import SelfExplainError
from selfexplain.utils.io import write_atomically
from selfexplain.utils.records import Record


class Prediction(Record):
    """One test row and the answers to it.

    Attributes:
        row: index of the row in its parquet file.
        completion: the true answer.
        confidence: the explainer's confidence in its answer, from 0 to 1.
        answers: system -> its answer; systems that only predict whether the output changes give a bool.
    """

    schema_version: Literal[1] = 1
    row: int
    group: str
    prompt: str
    completion: str
    confidence: float
    answers: dict[str, bool | str]


def write_predictions(predictions: Iterable[Prediction], path: Path) -> None:
    """Write one JSON line per prediction, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{prediction.model_dump_json()}\n" for prediction in predictions))


def read_predictions(path: Path) -> Iterator[Prediction]:
    """Read a file line by line.

    Raises:
        SelfExplainError: the file is missing, or a line is not a prediction.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield Prediction.parse(line, f"{path}, line {number}")
    except FileNotFoundError as error:
        raise SelfExplainError(f"{path} does not exist. {Prediction.remedy}") from error
