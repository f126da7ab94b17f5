"""A sample of the hostile repositories of `make hostile`, loaded in this process and without limits."""

import random

import pytest

from hostile.cases import all_cases
from hostile.run import build, copy, load
from selfexplain.errors import SelfExplainError
from selfexplain.target import limited

KINDS = list(dict.fromkeys(case.kind for case in all_cases()))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    directory = tmp_path_factory.mktemp("good")
    build(directory)
    return directory


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_repository_loads_or_is_refused(good, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(limited, "CPU_SECONDS", 1)
    monkeypatch.setattr("builtins.input", lambda prompt="": pytest.fail("asked on the terminal"))
    case = random.Random(1).choice([case for case in all_cases() if case.kind == kind])
    copy(good, tmp_path / "case")
    case.change(tmp_path / "case", tmp_path / "canary")
    try:
        load(case, tmp_path / "case")
    except SelfExplainError as error:
        assert str(error).endswith(".")
    assert not (tmp_path / "canary").exists()


def test_there_are_enough_cases_and_no_two_are_the_same():
    cases = all_cases()
    assert len(cases) >= 300
    assert len({(case.kind, case.name) for case in cases}) > 0.95 * len(cases)
