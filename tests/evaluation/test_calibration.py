"""Calibration error and risk-coverage curves, computed by hand."""

import numpy as np
import pytest

from selfexplain.evaluation.calibration import calibration_error, calibration_scores, risks


def test_calibration_error_is_the_weighted_gap_per_bin():
    confidence, correct = np.array([0.95, 0.95, 0.15, 1.0]), np.array([True, False, False, True])
    # bin 0.9 to 1: mean confidence 2.9 / 3, share correct 2 / 3; bin 0.1 to 0.2: 0.15 and 0
    assert calibration_error(confidence, correct) == pytest.approx((0.9 + 0.15) / 4)


def test_risk_falls_if_confidence_is_informative():
    confidence, correct = np.array([0.9, 0.8, 0.3, 0.2]), np.array([True, True, False, False])
    assert risks(confidence, correct).tolist() == [0, 0, 1 / 3, 1 / 2]
    assert risks(np.ones(4), correct).tolist() == [0.5] * 4  # equal confidence: as if drawn at random


def test_calibration_scores():
    confidence, correct = np.array([0.9, 0.8, 0.3, 0.2]), np.array([True, True, False, False])
    scores = calibration_scores(confidence, confidence, correct, abstain_below=0.5, correct_when="exact match")
    assert (scores.coverage, scores.risk_answered, scores.risk) == (0.5, 0, 0.5)
    assert scores.curve == [(0.25, 0), (0.5, 0), (0.75, 1 / 3), (1, 0.5)]
    assert scores.aurc == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert scores.ece == pytest.approx((0.1 + 0.2 + 0.3 + 0.2) / 4)
    assert scores.correct == "exact match" and not scores.is_calibrated


def test_no_risk_is_reported_if_no_answer_is_confident_enough():
    confidence, correct = np.array([0.9, 0.8]), np.array([True, True])
    scores = calibration_scores(confidence, confidence / 2, correct, abstain_below=1.0, correct_when="exact match")
    assert scores.risk_answered is None and scores.coverage == 0 and scores.is_calibrated
