"""Metrics: scores computed by hand, and answers that do not parse."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.metrics import METRICS, Simulator, confusion, macro_f1
from selfexplain.tasks.outcome import Outcome, render

CHANGED, UNCHANGED = render(Outcome(True, "Rome")), render(Outcome(False, "Oslo"))
TRUTHS = [CHANGED, CHANGED, CHANGED, UNCHANGED, UNCHANGED]
ANSWERS = [CHANGED, render(Outcome(False, " Rome ")), "Rome", UNCHANGED, render(Outcome(True, "Lima"))]
DESCRIPTION_METRICS = ("simulator_correlation", "detection_balanced_accuracy")


def test_outcome_metrics_computed_by_hand():
    assert METRICS["exact_match"](ANSWERS, TRUTHS) == pytest.approx(2 / 5)
    assert METRICS["content_match"](ANSWERS, TRUTHS) == pytest.approx(3 / 5)
    # changed: 1 correct of 2 predicted and 3 true; unchanged: 1 correct of 2 predicted and 2 true
    assert METRICS["has_changed_macro_f1"](ANSWERS, TRUTHS) == pytest.approx((2 / 5 + 2 / 4) / 2)


def test_macro_f1_equals_scikit_learn():
    from sklearn.metrics import f1_score

    actual = [1, 1, 1, 0, 0, 1, 0, 0]
    predicted = [1, 2, 0, 0, 2, 1, 1, 0]  # 2: unparsable
    statistics = confusion([{0: False, 1: True, 2: None}[p] for p in predicted], [bool(a) for a in actual])
    expected = f1_score(actual, predicted, labels=[0, 1], average="macro", zero_division=0)
    assert macro_f1(statistics.sum(axis=0)) == pytest.approx(expected) == pytest.approx(0.5714285714285714)


def test_unparsable_answers_lower_recall_only():
    all_correct = METRICS["has_changed_macro_f1"](TRUTHS, TRUTHS)
    one_unparsable = METRICS["has_changed_macro_f1"](["?", *TRUTHS[1:]], TRUTHS)
    assert all_correct == 1
    assert one_unparsable == pytest.approx((2 * 2 / (2 + 3) + 1) / 2)
    assert METRICS["has_changed_macro_f1"](["?"] * 5, TRUTHS) == 0


def test_a_constant_answer_has_f1_zero_for_the_other_class():
    assert METRICS["has_changed_macro_f1"]([CHANGED] * 5, TRUTHS) == pytest.approx((2 * 3 / (5 + 3)) / 2)


def test_description_metrics(feature_rows):
    exemplars = [row["scoring_exemplars"] for row in feature_rows]
    ground_truth = [row["completion"] for row in feature_rows]
    for name, unparsable in zip(DESCRIPTION_METRICS, (0, 0.5), strict=True):
        assert METRICS[name](ground_truth, exemplars) == pytest.approx(1)
        assert METRICS[name](["?", *ground_truth[1:]], exemplars) == pytest.approx((5 + unparsable) / 6)
    assert METRICS["detection_balanced_accuracy"](ground_truth[::-1], exemplars) == pytest.approx(0)


@pytest.mark.parametrize(
    ("answers", "references", "message"),
    [
        ([], [], "0 answers and 0 references"),
        (["a"], TRUTHS, "1 answers and 5 references"),
        (["a"], ["no outcome"], "Reference 0 is 'no outcome', which does not state an outcome"),
    ],
)
def test_invalid_input_is_refused(answers, references, message):
    with pytest.raises(SelfExplainError, match=message):
        METRICS["exact_match"](answers, references)


def test_an_unknown_metric_is_refused_with_the_nearest_name():
    with pytest.raises(SelfExplainError, match=r"no metric 'exact_mach'.*Did you mean 'exact_match'"):
        METRICS["exact_mach"]


@pytest.mark.parametrize("name", DESCRIPTION_METRICS)
def test_descriptions_may_name_the_classes_of_the_simulator(name, feature_rows):
    exemplars = [feature_rows[0]["scoring_exemplars"]]
    simulator = Simulator({"warm colours": {"red", "orange"}})
    assert METRICS[name](["warm colours"], exemplars, simulator) == pytest.approx(1)
    assert METRICS[name](["warm colours"], exemplars) == METRICS[name](["?"], exemplars) < 1
