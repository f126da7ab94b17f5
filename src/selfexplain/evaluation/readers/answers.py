"""Fit all readers of a task and collect their answers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.readers.reader import Material, NotAvailable, Row, readers_of
from selfexplain.evaluation.results import ReaderReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReaderAnswers:
    """The answers of readers.

    Attributes:
        texts: test set -> reader -> one answer per row.
        changed: test set -> reader -> one has-changed prediction per row, for readers that predict nothing else.
        reports: reader -> its settings, or why it is not available.
    """

    texts: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    changed: dict[str, dict[str, list[bool]]] = field(default_factory=dict)
    reports: dict[str, ReaderReport] = field(default_factory=dict)


def ask_readers(task: str, material: Material, rows: Mapping[str, Sequence[Row]]) -> ReaderAnswers:
    """Fit each reader of a task once, and let it answer several test sets.

    Logs a warning for readers that cannot read the rows.

    Args:
        task: name of the task.
        material: what the readers learn from.
        rows: test set -> its rows.

    Raises:
        SelfExplainError: a reader does not give one answer per row.
    """
    answers = ReaderAnswers({name: {} for name in rows}, {name: {} for name in rows})
    for name, fit in readers_of(task).items():
        logger.info("%s: fitting the reader %s", task, name)
        try:
            fitted = fit(material)
            of_reader = {section: list(fitted.answer(of_section)) for section, of_section in rows.items()}
        except NotAvailable as error:
            logger.warning("%s: the reader %s is not available: %s", task, name, error)
            answers.reports[name] = ReaderReport(unavailable=str(error))
            continue
        answers.reports[name] = ReaderReport(settings=dict(fitted.settings))
        for section, of_section in of_reader.items():
            if len(of_section) != len(rows[section]):
                raise SelfExplainError(
                    f"The reader {name} gave {len(of_section)} answers to {len(rows[section])} rows of {task}. Return "
                    "one answer per row."
                )
            if of_section and isinstance(of_section[0], bool | np.bool_):
                answers.changed[section][name] = [bool(answer) for answer in of_section]
            else:
                answers.texts[section][name] = [str(answer) for answer in of_section]
    return answers
