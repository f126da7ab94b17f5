"""Calibration error and risk-coverage curves, computed by hand."""

import numpy as np
import pytest

from selfexplain.evaluation.calibration import calibration_error, calibration_scores, risks


def test_calibration_error_is_the_weighted_gap_per_bin():
    confidence, correct = np.array([0.95, 0.95, 1.0, 0.85, 0.15]), np.array([True, True, False, True, False])
    # bin 0.9 to 1: mean confidence 2.9 / 3, share correct 2 / 3; bin 0.8 to 0.9: 0.85 and 1; bin 0.1 to 0.2: 0.15 and 0
    assert calibration_error(confidence, correct) == pytest.approx((0.9 + 0.15 + 0.15) / 5)


def test_risk_falls_if_confidence_is_informative():
    confidence, correct = np.array([0.9, 0.8, 0.3, 0.2]), np.array([True, True, False, False])
    assert risks(confidence, correct).tolist() == [0, 0, 1 / 3, 1 / 2]
    assert risks(np.ones(4), correct).tolist() == [0.5] * 4  # equal confidence: the mean error rate


def test_calibration_scores():
    confidence, correct = np.array([0.9, 0.8, 0.3, 0.2]), np.array([True, True, False, False])
    scores = calibration_scores(confidence, confidence, correct, abstain_below=0.5, correct_when="exact match")
    assert (scores.coverage, scores.risk_answered, scores.risk) == (0.5, 0, 0.5)
    assert scores.curve == [(0.25, 0), (0.5, 0), (0.75, 1 / 3), (1, 0.5)]
    assert scores.aurc == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert scores.ece == pytest.approx((0.1 + 0.2 + 0.3 + 0.2) / 4)
    assert scores.correct == "exact match" and not scores.is_calibrated


def test_risk_of_answered_questions_includes_answers_at_the_threshold():
    confidence, correct = np.array([0.9, 0.8, 0.6, 0.3]), np.array([True, False, False, True])
    scores = calibration_scores(confidence, confidence, correct, abstain_below=0.6, correct_when="exact match")
    assert scores.coverage == 3 / 4 and scores.risk_answered == pytest.approx(2 / 3)


def test_the_curve_of_many_answers_has_evenly_spaced_points():
    correct = np.arange(120) % 3 > 0
    confidence = np.linspace(0.99, 0.01, 120)
    curve = calibration_scores(confidence, confidence, correct, abstain_below=0.5, correct_when="exact match").curve
    answered = [round(1 + 119 * i / 49) for i in range(50)]
    assert curve == pytest.approx(np.array([(n / 120, 1 - correct[:n].mean()) for n in answered]))


def test_no_risk_is_reported_if_no_answer_is_confident_enough():
    confidence, correct = np.array([0.9, 0.8]), np.array([True, True])
    scores = calibration_scores(confidence, confidence / 2, correct, abstain_below=1.0, correct_when="exact match")
    assert scores.risk_answered is None and scores.coverage == 0 and scores.is_calibrated


def test_the_bins_are_a_tenth_wide():
    # 0.02 and 0.095 share the first of ten bins; in eleven they would not.
    assert calibration_error(np.array([0.02, 0.095]), np.array([True, False])) == pytest.approx(0.5 - 0.0575)
