"""Tables and figures show what the results record contains."""

import io

import pytest

from selfexplain.evaluation.report import markdown, tables, write_figures
from selfexplain.evaluation.results import (
    Calibration,
    Environment,
    Results,
    Score,
    ScoredModel,
    TaskResult,
    TestSetResult,
    Unread,
)

CALIBRATION = Calibration(
    correct="exact match",
    ece=0.1,
    ece_uncalibrated=0.25,
    aurc=0.2,
    risk=0.4,
    n_bins=10,
    abstain_below=0.5,
    coverage=0.75,
    risk_answered=0.2,
    curve=[(0.5, 0.1), (1.0, 0.4)],
)


def score(value, low, high):
    return Score(value=value, ci95=(low, high))


def results_of(**tasks):
    model = ScoredModel(name="tiny")
    return Results(
        recipe="test",
        target=model,
        explainer=model,
        tasks=tasks,
        environment=Environment(versions={}, device="cpu", seed=0),
    )


@pytest.fixture
def patching():
    all_metrics = dict.fromkeys(("exact_match", "has_changed_macro_f1", "content_match"), score(0.5, 0.4, 0.6))
    scores = {"lookup_rule": {"has_changed_macro_f1": score(0.25, 0.2, 0.3)}, "explainer": all_metrics}
    return TaskResult(n_test=7, n_groups=3, scores=scores, calibration=CALIBRATION)


def test_markdown_has_one_row_per_system_and_empty_cells_for_missing_scores(patching):
    lines = markdown(results_of(activation_patching=patching)).splitlines()
    assert lines[0] == "**Activation patching**: 7 held-out rows in 3 groups"
    assert lines[2] == "| system | exact match | has changed macro F1 | content match |"
    assert lines[4:6] == [
        "| explainer | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] |",
        "| lookup rule |  | 0.250 [0.200, 0.300] |  |",
    ]
    assert lines[7] == (
        "confidence: calibration error 0.100 (0.250 uncalibrated); 75% of the answers have confidence 0.5 or more, and "
        "20% of these are incorrect; of all answers 40% are incorrect (correct: exact match)"
    )


def test_the_note_on_confidence_without_calibration_and_without_answers(patching):
    calibration = CALIBRATION.model_copy(update={"ece": 0.25, "coverage": 0.0, "risk_answered": None})
    text = markdown(results_of(activation_patching=patching.model_copy(update={"calibration": calibration})))
    assert "0.250 (not calibrated); 0% of the answers have confidence 0.5 or more; of all answers 40%" in text


def test_the_note_on_a_chat_model_counts_unparsable_replies():
    metrics = ("simulator_correlation", "detection_balanced_accuracy")
    unread = {
        system: {metric: Unread(windows=windows, rows=1) for metric in metrics}
        for system, windows in (("explainer", 2), ("untrained", 3))
    }
    scores = {"explainer": dict.fromkeys(metrics, score(0.5, 0.4, 0.6)), "untrained": {}}
    result = TaskResult(n_test=7, n_groups=3, scores=scores, simulator="judge", unread=unread)
    text = markdown(results_of(feature_description=result))
    assert "activations predicted by judge; left out because its replies could not be parsed: 4 windows" in text
    assert "of the explainer and 6 of the other systems, 2 and 2 rows" in text
    assert "| untrained |  |  |" in text


def test_systems_of_a_custom_scorer_come_last(patching):
    scores = {"coin": {"exact_match": score(0.5, 0.5, 0.5)}, **patching.scores}
    custom = patching.model_copy(update={"scores": scores})
    lines = markdown(results_of(activation_patching=custom)).splitlines()
    assert [line.split(" | ")[0] for line in lines[4:7]] == ["| explainer", "| lookup rule", "| coin"]


def test_terminal_tables_are_80_columns_wide_and_show_out_of_distribution_sets(patching):
    from rich.console import Console

    other = {"new_facts": TestSetResult(n_test=2, n_groups=1, scores=patching.scores)}
    console = Console(width=80, file=io.StringIO())
    console.print(tables(results_of(activation_patching=patching.model_copy(update={"out_of_distribution": other}))))
    shown = console.file.getvalue()
    assert "activation patching: 7 held-out rows in 3 groups" in shown
    assert "activation patching, new facts: 2 held-out rows in 1 groups" in shown
    assert any(line.split()[:4] == ["explainer", "0.50", "[0.40,", "0.60]"] for line in shown.splitlines())
    assert all(len(line.rstrip()) <= 80 for line in shown.splitlines())


def test_figures_are_written_for_every_task(patching, tmp_path):
    results = results_of(activation_patching=patching, input_ablation=patching)
    names = [path.name for path in write_figures(results, tmp_path / "figures")]
    assert names == ["activation_patching.png", "input_ablation.png", "summary.png", "risk_coverage.png"]
    assert all((tmp_path / "figures" / name).stat().st_size > 5000 for name in names)
