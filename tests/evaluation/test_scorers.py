"""Scorers: which answers can be read, which are correct, and what a fourth task needs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.metrics import Simulator
from selfexplain.evaluation.scorers import SCORERS, OutcomeScorer, read_classes
from selfexplain.features.description import ABSTENTION
from selfexplain.tasks import TASKS
from selfexplain.tasks.outcome import Outcome, render

CHAT_MODEL = Simulator({}, SimpleNamespace(model="judge"))
PATCHING, FEATURES = SCORERS["activation_patching"], SCORERS["feature_description"]


def test_an_outcome_is_parsable_and_free_words_are_not(patching_rows):
    truth = patching_rows[0]["completion"]
    assert PATCHING.is_parsable(truth, Simulator()) and PATCHING.has_confidence(truth)
    assert not PATCHING.is_parsable("Rome", Simulator()) and not PATCHING.has_confidence("Rome")


def test_a_chat_model_reads_every_description_that_is_not_blank():
    assert FEATURES.is_parsable("the word red", Simulator())
    assert not FEATURES.is_parsable("anything red", Simulator()) and FEATURES.is_parsable("anything red", CHAT_MODEL)
    assert not FEATURES.is_parsable(" ", Simulator()) and not FEATURES.is_parsable(" ", CHAT_MODEL)
    assert FEATURES.is_parsable("warm colours", Simulator({"warm colours": {"red"}}))
    assert FEATURES.has_confidence("anything red")


def test_a_correct_outcome_is_an_exact_match(patching_rows):
    answers = [row["completion"] for row in patching_rows]
    answers[0] = render(Outcome(not patching_rows[0]["changed"], "city0"))
    answers[1] = "?"
    correct, known = PATCHING.correct(answers, patching_rows, Simulator())
    assert correct.tolist() == [False, False, *[True] * 62] and known.all()


def test_a_correct_description_scores_at_least_half_of_the_ground_truth(feature_rows):
    answers = [row["completion"] for row in feature_rows]
    answers[0], answers[1] = answers[1], "?"
    correct, known = FEATURES.correct(answers, feature_rows, Simulator())
    assert correct.tolist() == [False, False, True, True, True, True] and known.all()


def test_abstaining_is_correct_only_for_features_that_cannot_be_expressed(feature_rows):
    rows = [{**row, "completion": ABSTENTION} if index < 3 else row for index, row in enumerate(feature_rows)]
    answers = [ABSTENTION, feature_rows[1]["completion"], "?", ABSTENTION, *(row["completion"] for row in rows[4:])]
    correct, known = FEATURES.correct(answers, rows, Simulator())
    assert correct.tolist() == [True, False, False, False, True, True] and known.all()
    FEATURES.check(rows, Simulator(), "features")
    assert FEATURES.is_parsable(ABSTENTION, Simulator())
    assert [FEATURES.strata(row, Simulator())["form"] for row in (rows[0], rows[5])] == [ABSTENTION, "token"]


def test_outcome_tasks_have_has_changed_baselines(patching_rows):
    changed = PATCHING.changed_baselines(patching_rows, patching_rows)
    assert changed["lookup_rule"] == [row["token_type"] == "subject" for row in patching_rows]
    assert changed["majority"] == [True] * 64
    assert set(PATCHING.baselines(patching_rows, patching_rows)) == {"nearest_neighbour"}
    assert PATCHING.counts(patching_rows) == {"changed": 32, "unchanged": 32}


def test_the_ground_truth_is_a_system_of_descriptions(feature_rows):
    systems = FEATURES.baselines(feature_rows, feature_rows)
    assert systems["ground_truth"] == [row["completion"] for row in feature_rows]
    assert FEATURES.changed_baselines(feature_rows, feature_rows) == {} and FEATURES.counts(feature_rows) is None


def test_only_descriptions_have_the_selfie_baseline_and_a_simulator():
    assert [name for name in ("feature_description", "activation_patching") if SCORERS[name].uses_selfie] == [
        "feature_description"
    ]
    assert FEATURES.simulator_name(Simulator()) == "offline" and FEATURES.simulator_name(CHAT_MODEL) == "judge"
    assert PATCHING.simulator_name(CHAT_MODEL) is None


def test_a_task_that_states_outcomes_needs_one_line(patching_rows):
    task = replace(TASKS["activation_patching"], name="continuation_sentiment", cell=None)
    scorer = OutcomeScorer(task)
    assert scorer.task.metrics == TASKS["activation_patching"].metrics
    assert set(scorer.changed_baselines(patching_rows, patching_rows)) == {"majority"}
    counted = scorer.count_changed([True] * 64, patching_rows)
    np.testing.assert_array_equal(counted.sum(axis=0), [32, 64, 32, 0, 0, 32])


def test_an_unknown_task_is_refused():
    with pytest.raises(SelfExplainError, match="no scorer 'feature_descriptio'"):
        SCORERS["feature_descriptio"]


def test_classes_of_all_datasets_are_sorted(datasets_of):
    assert read_classes(datasets_of("input_ablation", "feature_description")) == {"warm colours": ["orange", "red"]}
    assert read_classes(datasets_of("activation_patching")) == {}
