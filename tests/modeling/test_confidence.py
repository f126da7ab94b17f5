"""Confidence: log-probabilities of claims, calibration, and its storage."""

import json

import numpy as np
import pytest
import torch

from selfexplain.modeling.confidence import claim_log_prob, confidence, fit, store
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.tasks.outcome import Outcome, claim_spans, render


@pytest.mark.parametrize("changed", [True, False])
def test_the_claim_of_an_outcome_is_its_verdict_and_its_output(changed):
    text = " " + render(Outcome(changed, " New York"))
    (begin, end), (first, last) = claim_spans(text)
    assert text[begin:end] == ("m" if changed else "o") and text[first:last] == " New York>"
    assert claim_spans("a feature of capitals") is None


def test_only_tokens_of_the_claim_count():
    pieces = ["The", " most", " likely", " output would change to <<<", " Par", "is", ">>>.", ""]
    log_probs = [-9.0, -1.0, -9.0, -9.0, -2.0, -4.0, -8.0, -9.0]
    assert claim_log_prob(pieces, log_probs) == -15
    assert claim_log_prob(["no", " outcome", ""], [-1.0, -2.0, -3.0]) == -6


def test_confidence_is_a_scaled_and_shifted_logit():
    logits = np.array([-2.0, 0.0, 3.0])
    log_probs = -np.logaddexp(0, -logits)
    expected = 1 / (1 + np.exp(-(logits / 2 + 0.5)))
    assert confidence(log_probs, {"temperature": 2.0, "bias": 0.5}) == pytest.approx(expected)
    assert confidence(log_probs, {"temperature": 1.0, "bias": 0.0}) == pytest.approx(np.exp(log_probs))
    assert confidence(log_probs, None) == pytest.approx(np.exp(log_probs))


@pytest.mark.parametrize("calibration", [None, {"temperature": 0.01, "bias": 5.0}, {"temperature": 100.0, "bias": 0.0}])
def test_confidence_is_monotonic_and_between_0_and_1(calibration):
    values = confidence([-1000.0, -3.0, -0.1, 0.0], calibration)
    assert (np.diff(values) >= 0).all() and values[0] >= 0 and values[-1] <= 1


def test_fit_recovers_temperature_and_bias():
    rng = np.random.default_rng(0)
    logits = rng.normal(1, 2, 4000)
    correct = rng.random(4000) < 1 / (1 + np.exp(-(logits / 3 + 0.5)))
    fitted = fit(-np.logaddexp(0, -logits), correct, [str(n) for n in range(4000)])
    assert fitted["temperature"] == pytest.approx(3, rel=0.2) and fitted["bias"] == pytest.approx(0.5, abs=0.15)


def test_one_group_is_not_calibrated():
    assert fit([-0.1, -0.2], [True, True], ["a", "a"]) is None


def test_a_few_rows_do_not_lead_to_extreme_confidence():
    log_probs = [-0.5, -0.6]
    values = confidence(log_probs, fit(log_probs, [True, True], ["a", "b"]))
    assert (values < 0.9).all() and (values > 0.6).all()


def test_a_calibration_that_fails_on_held_out_groups_is_not_kept():
    groups = np.repeat(list("abcdef"), 20)
    log_probs = np.full(120, np.log(5 / 6))
    assert fit(log_probs, groups != "a", groups) is None  # the overall accuracy is 5/6 already


def test_a_calibration_that_helps_on_held_out_groups_is_kept():
    groups = np.tile(list("abcdef"), 20)
    fitted = fit(np.full(120, np.log(0.5)), np.arange(120) >= 20, groups)
    assert fitted["bias"] == pytest.approx(np.log(5), abs=0.2)  # log-odds of 100 correct answers in 120


def test_perfectly_separable_claims_get_a_finite_temperature():
    log_probs = np.log(np.tile([0.2, 0.8], 30))
    fitted = fit(log_probs, np.tile([False, True], 30), [str(n) for n in range(60)])
    assert np.exp(-5) <= fitted["temperature"] < 1


def test_a_stored_calibration_applies_to_a_loaded_explainer(target_dir, tmp_path):
    explainer = SelfExplainerForCausalLM.from_base(str(target_dir), lora={"rank": 2, "alpha": 2})
    explainer.save_pretrained(tmp_path)
    before = json.loads((tmp_path / "config.json").read_text())
    fitted = {"feature_description": {"temperature": 2.0, "bias": 3.0}}
    store(tmp_path, fitted, 0.4, {"capitals": ["Paris"]})
    after = json.loads((tmp_path / "config.json").read_text())
    assert {key for key in after if after[key] != before.get(key)} == {"calibration", "abstain_below", "classes"}
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path)
    raw, calibrated = (each.explain_feature(torch.ones(32), layer=1) for each in (explainer, loaded))
    assert calibrated.text == raw.text
    expected = confidence(np.log(raw.confidence), fitted["feature_description"])
    assert calibrated.confidence == pytest.approx(expected)
    assert raw.answered and calibrated.answered == (calibrated.confidence >= 0.4)
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == (tmp_path / "config.json").read_text()
