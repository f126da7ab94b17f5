"""Metrics: scores computed by hand, and answers that do not parse."""

from types import SimpleNamespace

import numpy as np
import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.metrics import METRICS, Simulator, confusion, macro_f1, ratio, row_statistics
from selfexplain.features import chat_simulator
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


def test_row_statistics():
    np.testing.assert_array_equal(row_statistics([0.5, True]), [[0.5, 1], [1, 1]])
    changed_then_unchanged = [[1, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 1, 0]]
    statistics = confusion([True, True, None, False], [True, False, False, True])
    np.testing.assert_array_equal(statistics, changed_then_unchanged)


def test_scores_of_many_sums_at_once():
    with np.errstate(all="raise"):
        means = ratio(np.array([[[3, 4], [0, 0]], [[1, 2], [0, 5]]]))
    np.testing.assert_array_equal(means, [[0.75, np.nan], [0.5, 0]])
    # both classes; only changed rows; no row; (both, predicted, actual) for each class
    sums = np.array([[1, 2, 3, 1, 4, 2], [2, 2, 2, 0, 0, 0], [0] * 6])
    np.testing.assert_allclose(macro_f1(sums), [(2 / 5 + 2 / 6) / 2, 1 / 2, 0])
    assert macro_f1(np.stack([sums, sums])).shape == (2, 3)


def test_metrics_return_floats_and_exact_match_needs_both_parts(feature_rows):
    incorrect_verdict, other_output = render(Outcome(False, "Rome")), render(Outcome(True, "Oslo"))
    assert METRICS["exact_match"]([incorrect_verdict, other_output], [CHANGED] * 2) == 0
    assert METRICS["content_match"]([incorrect_verdict, other_output], [CHANGED] * 2) == 1 / 2
    assert type(METRICS["exact_match"]([CHANGED], [CHANGED])) is float


JUDGE = SimpleNamespace(model="judge")
ROW_ANSWERS = ["good  one\n", " ", "one class", "unparsed", "half"]


@pytest.fixture
def use_scores(monkeypatch):
    """A function that replaces the chat simulator by fixed scores and returns the list of its calls."""

    def use(scores):
        calls = []

        def simulate_each(endpoint, pairs):
            assert endpoint is JUDGE
            calls.append(list(pairs))
            return [(None if value is None else SimpleNamespace(value=value), n_unread) for value, n_unread in scores]

        def detect_each(endpoint, pairs, seed):
            calls.append(list(pairs))
            assert endpoint is JUDGE and seed == 0
            return scores

        monkeypatch.setattr(chat_simulator, "simulate_each", simulate_each)
        monkeypatch.setattr(chat_simulator, "detect_each", detect_each)
        return calls

    return use


@pytest.mark.parametrize(("name", "chance"), [*zip(DESCRIPTION_METRICS, (0, 0.5), strict=True)])
def test_statistics_of_an_endpoint_count_scores_and_unparsable_replies(name, chance, use_scores):
    calls, judge = use_scores([(0.75, 0), (None, 0), (None, 3), (0.25, 2)]), Simulator(endpoint=JUDGE)
    statistics = METRICS[name].count(ROW_ANSWERS, [[n] for n in range(5)], judge)
    expected = [[0.75, 1, 0], [chance, 1, 0], [chance, 1, 0], [0, 0, 3], [0.25, 1, 2]]
    np.testing.assert_array_equal(statistics, expected)
    assert calls == [[("good one", [0]), ("one class", [2]), ("unparsed", [3]), ("half", [4])]]
    score = METRICS[name](ROW_ANSWERS, [[n] for n in range(5)], judge)
    assert score == pytest.approx((0.75 + chance + chance + 0.25) / 4)


@pytest.mark.parametrize("name", DESCRIPTION_METRICS)
@pytest.mark.parametrize(("n_unscored", "n", "is_refused"), [(0, 2, False), (1, 2, True), (2, 5, False), (3, 5, True)])
def test_an_endpoint_may_leave_less_than_half_of_the_descriptions_unscored(name, n_unscored, n, is_refused, use_scores):
    use_scores([(None, 1)] * n_unscored + [(0.5, 0)] * (n - n_unscored))
    judge, inputs = Simulator(endpoint=JUDGE), (["a"] * n, [[]] * n)
    if is_refused:
        message = f"replies of judge on {n_unscored} of {n} descriptions could not be parsed"
        with pytest.raises(SelfExplainError, match=message):
            METRICS[name](*inputs, judge)
    else:
        assert METRICS[name](*inputs, judge) == 0.5
