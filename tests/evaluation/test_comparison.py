"""Comparisons of explainers: scores per cell, means over targets, and differences between them."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.comparison import NEIGHBOUR, AnswerSet, compare, strongest_reader
from selfexplain.evaluation.metrics import Simulator
from selfexplain.evaluation.readers import READERS, Fitted, Material

TASK = "activation_patching"


@pytest.fixture
def rows(patching_rows):
    return {"a": patching_rows, "b": patching_rows[:32]}


def answer_set(rows, target, explainer, share_correct, share=1.0, seed=0, n_train=100):
    """Answers of which the first part is correct."""
    n_correct = round(share_correct * len(rows[target]))
    answers = [row["completion"] if n < n_correct else "?" for n, row in enumerate(rows[target])]
    return AnswerSet(target, explainer, share, seed, n_train, answers)


def compared(rows, answers):
    return compare(TASK, rows, answers, {}, n_resamples=200, seed=0)


def difference(result, first, second, metric="exact_match"):
    (entry,) = [entry for entry in result.differences[metric] if (entry.first, entry.second) == (first, second)]
    return entry


def test_each_cell_has_its_score_over_all_seeds(rows):
    answers = [answer_set(rows, "a", "a", correct, seed=seed) for seed, correct in enumerate((0.25, 1.0))]
    result = compared({"a": rows["a"]}, answers)
    (cell,) = result.scores["exact_match"]
    assert cell.value == 0.625 and cell.seeds == [0.25, 1.0] and cell.n_train == 100
    assert cell.ci95[0] < 0.625 < cell.ci95[1]
    assert result.headline == "has_changed_macro_f1" and result.n_test == {"a": 64}


def test_a_model_that_explains_every_target_better_shows_no_privileged_access(rows):
    scores = {("a", "a"): 0.5, ("a", "b"): 1.0, ("b", "a"): 0.5, ("b", "b"): 1.0}
    result = compared(rows, [answer_set(rows, *pair, correct) for pair, correct in scores.items()])
    entry = difference(result, ("self", 1.0), ("other", 1.0))
    assert entry.difference == pytest.approx(0) and entry.p_value > 0.2


def test_privileged_access_is_a_difference_of_means_over_targets(rows):
    scores = {("a", "a"): 1.0, ("a", "b"): 0.5, ("b", "a"): 0.25, ("b", "b"): 0.5}
    result = compared(rows, [answer_set(rows, *pair, correct) for pair, correct in scores.items()])
    entry = difference(result, ("self", 1.0), ("other", 1.0))
    assert entry.difference == pytest.approx((0.5 + 0.25) / 2) and entry.ci95[0] > 0 and entry.p_value < 0.05
    means = {entry.role: entry.value for entry in result.means["exact_match"]}
    assert means == pytest.approx({"self": 0.75, "other": 0.375})


def test_small_shares_are_compared_with_the_same_share_and_with_all_rows(rows):
    systems = {"a": (0.5, 1.0), "b": (0.25, 0.5), NEIGHBOUR: (0.0, 0.25)}
    one_target = {"a": rows["a"]}
    answers = [
        answer_set(one_target, "a", system, correct, share, n_train=int(100 * share))
        for system, shares_correct in systems.items()
        for share, correct in zip((0.25, 1.0), shares_correct, strict=True)
    ]
    result = compared(one_target, answers)
    assert difference(result, ("self", 0.25), ("other", 0.25)).difference == pytest.approx(0.25)
    assert difference(result, ("self", 0.25), ("other", 1.0)).difference == pytest.approx(0)
    assert difference(result, ("self", 0.25), (NEIGHBOUR, 1.0)).difference == pytest.approx(0.25)
    assert len(result.differences["exact_match"]) == 6
    assert [entry.n_train for entry in result.means["exact_match"]] == [25] * 3 + [100] * 3


def test_answers_that_do_not_match_the_test_rows_are_refused(rows):
    answers = [answer_set(rows, "a", "b", 1.0)]
    with pytest.raises(SelfExplainError, match="64 answers by b to 8 test rows of a"):
        compared({"a": rows["a"][:8]}, answers)
    with pytest.raises(SelfExplainError, match="has no answers"):
        compared(rows, [])


def test_the_strongest_reader_is_chosen_by_its_headline_metric_on_validation_rows(monkeypatch, patching_rows):
    monkeypatch.setattr(READERS, "_values", {})
    truth = {row["prompt"] + row["group"]: row["completion"] for row in patching_rows}

    def correct_if(condition):
        return lambda material: Fitted(
            lambda rows: [truth[row["prompt"] + row["group"]] if condition(row) else "?" for row in rows]
        )

    READERS.register("activation_patching/subjects", correct_if(lambda row: row["token_type"] == "subject"))
    READERS.register("activation_patching/few", correct_if(lambda row: row["group"] == "fact1"))
    validation = [row for row in patching_rows if row["group"] in ("fact0", "fact2", "fact3")]
    chosen = strongest_reader("activation_patching", Material(patching_rows, validation), patching_rows, Simulator())
    subjects = [row["token_type"] == "subject" for row in patching_rows]
    assert [text != "?" for text in chosen] == subjects
    assert strongest_reader("activation_patching", Material(patching_rows), patching_rows, Simulator()) is None
