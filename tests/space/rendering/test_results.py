"""HTML of scores."""

import pytest

from rendering.labels import metric_label, system_label
from rendering.results import results
from selfexplain.evaluation.results import Calibration, Gain, Results
from selfexplain.tasks import TASKS

CURVE = [(0.01, 1.0), (0.1, 0.0), (1.0, 0.4)]


@pytest.fixture
def calibration():
    return Calibration(correct="exact match", ece=0.02, ece_uncalibrated=0.2, aurc=0.3, risk=0.4, n_bins=10,
                       abstain_below=0.5, coverage=0.5, risk_answered=0.2, curve=CURVE)  # fmt: skip


def with_tasks(scores: Results, **tasks):
    return scores.model_copy(update={"tasks": tasks})


def test_every_system_is_shown_with_its_interval(show):
    html = results(show.results)
    for task, result in show.results.tasks.items():
        assert TASKS[task].short_question in html
        for system in result.scores:
            assert f'<tr class="{system}">' in html and f"<dt>{system_label(system).name}</dt>" in html
    score = show.results.tasks["activation_patching"].scores["explainer"]["content_match"]
    assert f"{score.value:.2f} <small>[{score.ci95[0]:.2f}, {score.ci95[1]:.2f}]" in html
    assert "Which model explains which" not in html and "How much training data" not in html


def test_the_difference_from_the_most_informative_control_is_stated(show):
    difference = show.results.tasks["activation_patching"].comparisons["explainer - shuffled_vector"]["exact_match"]
    assert f"Explainer minus shuffled vector: {difference.difference:.2f}" in results(show.results)


def test_the_gain_over_the_strongest_baseline_comes_first(show):
    gain = Gain(
        system="gradient_boosting", validation_score=0.8, difference=-0.11, ci95=(-0.2, -0.05), p_value=0.01
    )  # fmt: skip
    result = show.results.tasks["input_ablation"].model_copy(update={"gains": {"content_match": gain}})
    html = results(with_tasks(show.results, input_ablation=result))
    assert (
        "Explainer minus gradient boosting, the strongest baseline: -0.11 [-0.20, -0.05]. The explainer is worse."
        in (html.replace("\u2212", "-"))
    )


def test_a_calibration_is_drawn_as_a_curve(show, calibration):
    result = show.results.tasks["input_ablation"]
    html = results(with_tasks(show.results, input_ablation=result.model_copy(update={"calibration": calibration})))
    assert html.count("<polyline") == 2 and "calibration error: 0.020 (before calibration: 0.200)" in html
    kept = calibration.model_copy(update={"ece_uncalibrated": 0.02})
    html = results(with_tasks(show.results, input_ablation=result.model_copy(update={"calibration": kept})))
    assert "before calibration" not in html
    html = results(with_tasks(show.results, input_ablation=result.model_copy(update={"calibration": None})))
    assert "<polyline" not in html


def test_a_task_that_is_not_installed_is_shown_by_its_name(show):
    result = show.results.tasks["input_ablation"].model_copy(update={"calibration": None})
    html = results(with_tasks(show.results, next_sentiment=result))
    assert "Next sentiment" in html and "396 held-out questions in 100 groups." in html


def test_without_results_the_tab_shows_a_message():
    assert "no results.json" in results(None)


def test_an_unknown_metric_or_system_is_shown_by_its_name():
    assert metric_label("sentiment_f1").name == "Sentiment F1" and metric_label("sentiment_f1").meaning == ""
    assert system_label("random_guess").name == "random guess"
    assert metric_label("detection_balanced_accuracy").meaning.endswith("Chance is 0.5.")
