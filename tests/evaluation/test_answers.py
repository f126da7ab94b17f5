"""Asking explainers, and the answer cache."""

import pytest

from evaluation_data import Oracle
from selfexplain.evaluation.answers import answer_all, read_answers


def test_cached_answers_are_not_generated_again(patching_rows, tmp_path):
    cache = tmp_path / "answers.jsonl"
    first = Oracle(patching_rows)
    answers = answer_all(first, patching_rows, 4, "test", cache)
    assert [answer.text for answer in answers] == [row["completion"] for row in patching_rows]
    second = Oracle([])
    assert answer_all(second, patching_rows, 4, "test", cache) == answers == read_answers(cache, patching_rows)
    assert first.n_answered == 64 and second.n_answered == 0


def test_an_interrupted_cache_continues_after_its_last_complete_line(patching_rows, tmp_path):
    cache = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        answer_all(Oracle(patching_rows, stop_after=32), patching_rows, 4, "test", cache)
    cache.write_text(cache.read_text() + '{"row": "incompl')
    assert len(read_answers(cache, patching_rows)) == 32
    second = Oracle(patching_rows)
    answers = answer_all(second, patching_rows, 4, "test", cache)
    assert second.n_answered == 32 and len(answers) == 64
    assert read_answers(cache, patching_rows) == answers


def test_answers_to_changed_rows_are_not_used(patching_rows, tmp_path):
    cache = tmp_path / "answers.jsonl"
    answer_all(Oracle(patching_rows), patching_rows, 4, "test", cache)
    changed = [*patching_rows[:3], {**patching_rows[3], "activations": patching_rows[4]["activations"]}]
    assert len(read_answers(cache, changed)) == 3
    assert read_answers(cache, [{**patching_rows[0], "prompt": "another"}]) == []
    assert read_answers(tmp_path / "missing.jsonl", patching_rows) == []


def test_without_a_cache_every_row_is_asked(patching_rows):
    explainer = Oracle(patching_rows)
    assert len(answer_all(explainer, patching_rows[:5], 2, "test")) == explainer.n_answered == 5
