"""Hand-computed scores; an unparsable answer never counts as right."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.metrics import METRICS, confusion, is_parsable, macro_f1, metric_path, metrics
from selfexplain.tasks.outcome import Outcome, render

CHANGED, UNCHANGED = render(Outcome(True, "Rome")), render(Outcome(False, "Oslo"))
TRUTHS = [CHANGED, CHANGED, CHANGED, UNCHANGED, UNCHANGED]
ANSWERS = [CHANGED, render(Outcome(False, " Rome ")), "Rome", UNCHANGED, render(Outcome(True, "Lima"))]


def test_outcome_metrics_by_hand():
    assert METRICS["exact_match"](ANSWERS, TRUTHS) == pytest.approx(2 / 5)
    assert METRICS["content_match"](ANSWERS, TRUTHS) == pytest.approx(3 / 5)
    # changed: 1 right of 2 predicted and 3 true; unchanged: 1 right of 2 predicted and 2 true
    assert METRICS["has_changed_macro_f1"](ANSWERS, TRUTHS) == pytest.approx((2 / 5 + 2 / 4) / 2)


def test_macro_f1_is_sklearns():
    """`f1_score(actual, predicted, labels=[0, 1], average="macro", zero_division=0)`, with 2 for unparsable."""
    actual = [1, 1, 1, 0, 0, 1, 0, 0]
    predicted = [1, 2, 0, 0, 2, 1, 1, 0]
    statistics = confusion([{0: False, 1: True, 2: None}[p] for p in predicted], [bool(a) for a in actual])
    assert macro_f1(statistics.sum(axis=0)) == pytest.approx(0.5714285714285714)


def test_unparsable_answers_lower_recall_only():
    right = METRICS["has_changed_macro_f1"](TRUTHS, TRUTHS)
    one_lost = METRICS["has_changed_macro_f1"](["?", *TRUTHS[1:]], TRUTHS)
    assert right == 1
    assert one_lost == pytest.approx((2 * 2 / (2 + 3) + 1) / 2)
    assert METRICS["has_changed_macro_f1"](["?"] * 5, TRUTHS) == 0


def test_a_constant_answer_has_no_f1_for_the_other_class():
    assert METRICS["has_changed_macro_f1"]([CHANGED] * 5, TRUTHS) == pytest.approx((2 * 3 / (5 + 3)) / 2)


def test_feature_metrics(feature_rows):
    exemplars = [row["scoring_exemplars"] for row in feature_rows]
    gold = [row["completion"] for row in feature_rows]
    for name, unparsable in (("simulator_correlation", 0), ("detection_balanced_accuracy", 0.5)):
        assert METRICS[name](gold, exemplars) == pytest.approx(1)
        assert METRICS[name](["?", *gold[1:]], exemplars) == pytest.approx((5 + unparsable) / 6)
    assert METRICS["detection_balanced_accuracy"](gold[::-1], exemplars) == pytest.approx(0)


def test_what_can_be_scored():
    assert is_parsable("activation_patching", CHANGED)
    assert not is_parsable("activation_patching", "Rome")
    assert not is_parsable("feature_description", "")


@pytest.mark.parametrize(("answers", "references"), [([], []), (["a"], TRUTHS), (["a"], ["no outcome"])])
def test_bad_input_is_named(answers, references):
    with pytest.raises(SelfExplainError):
        METRICS["exact_match"](answers, references)


@pytest.mark.parametrize("name", METRICS)
def test_evaluate_module_gives_the_same_number(name, feature_rows, tmp_path, monkeypatch):
    import evaluate

    answers, references = ANSWERS, TRUTHS
    if METRICS[name].reference == "scoring_exemplars":
        answers = [row["completion"] for row in feature_rows[::-1][:3]] + ["?"]
        references = [row["scoring_exemplars"] for row in feature_rows[:4]]
    module = evaluate.load(metric_path(name), cache_dir=str(tmp_path))
    score = module.compute(predictions=answers, references=references)
    assert score == {name: METRICS[name](answers, references)}


def test_unknown_metric():
    with pytest.raises(SelfExplainError, match="exact_match"):
        metric_path("bleu")


def test_classes_of_the_caller_can_be_named(feature_rows):
    exemplars = [feature_rows[0]["scoring_exemplars"]]
    for name in ("simulator_correlation", "detection_balanced_accuracy"):
        assert metrics({"warm colours": {"red", "orange"}})[name](["warm colours"], exemplars) == pytest.approx(1)
        assert metrics()[name](["warm colours"], exemplars) == metrics()[name](["?"], exemplars) < 1
    assert is_parsable("feature_description", "warm colours", {"warm colours": {"red"}})
