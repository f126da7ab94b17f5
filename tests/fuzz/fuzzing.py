"""Run an area with many generated inputs, and stop inputs that hang."""

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from fuzz.areas import AREAS, explainer
from selfexplain.errors import SelfExplainError
from selfexplain.utils.registry import load_plugins

SECONDS_PER_INPUT = 20


class HangError(Exception):
    """An input took longer than `SECONDS_PER_INPUT`."""


@dataclass
class Outcome:
    """What happened to the inputs of an area.

    Attributes:
        accepted, refused: number of inputs.
        failures: type of an exception and the line of the package that raised it -> the first input, shortened.
    """

    accepted: int = 0
    refused: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    n_failed: int = 0

    @property
    def total(self) -> int:
        return self.accepted + self.refused + self.n_failed

    def fail(self, error: Exception, value: object) -> None:
        self.n_failed += 1
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "selfexplain" in Path(frame.filename).parts] or frames
        place = f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno} ({own[-1].name}): {error}"
        key = place.partition("): ")[0]
        if not any(known.startswith(key) for known in self.failures):
            self.failures[place[:300]] = repr(value)[:600]


def fuzz(name: str, n_inputs: int, first_seed: int = 0) -> Outcome:
    """Use `n_inputs` inputs of an area."""
    area, outcome = AREAS[name], Outcome()
    load_plugins()  # not within the time limit of an input
    if area.uses_model:
        explainer()

    def check(value: object) -> None:
        if outcome.total >= n_inputs:
            return
        try:
            with time_limit():
                area.check(value)
            outcome.accepted += 1
        except SelfExplainError:
            outcome.refused += 1
        except Exception as error:
            outcome.fail(error, value)

    for round_number in range(50):  # hypothesis stops early if it finds no new inputs
        if outcome.total >= n_inputs:
            break
        limits = settings(
            max_examples=n_inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck),
            phases=(Phase.generate,),
        )  # fmt: skip
        seed(first_seed + round_number)(limits(given(area.strategy)(check)))()
    return outcome


@contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangError(f"The input took more than {SECONDS_PER_INPUT} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_INPUT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
