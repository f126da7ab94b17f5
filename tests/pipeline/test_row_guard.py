"""Test that rows which change between training and evaluation are noticed."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.pipeline.row_guard import RowGuard
from selfexplain.runs.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path)
    for task in ("a", "b"):
        run.dataset(task).root.mkdir(parents=True)
        run.dataset(task).rows("train").write_bytes(b"rows")
    return run


def datasets(run):
    return [run.dataset(task) for task in ("a", "b")]


def test_changed_rows_are_noticed_in_the_same_and_in_a_later_process(run):
    guard, later, unrelated = RowGuard(run), RowGuard(run), RowGuard(run)
    revisions = guard.start(datasets(run))
    assert list(revisions) == ["rows datasets/a", "rows datasets/b"]
    later.expect({**revisions, "model x@main": "0" * 40})
    for one in (guard, later, unrelated):
        one.check(datasets(run))
    run.dataset("b").rows("test").write_bytes(b"other rows")
    for one in (guard, later):
        with pytest.raises(SelfExplainError, match=r"rows in .*datasets/b were changed after.*No scores were written"):
            one.check(datasets(run))
    guard.start(datasets(run))  # trained again
    guard.check(datasets(run))
