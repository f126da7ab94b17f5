"""What confidence is made of, what it is worth, and where it is kept."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from selfexplain.evaluation.calibration import calibration_error, calibration_scores, risks
from selfexplain.modeling.confidence import claim_log_prob, confidence, fit, store
from selfexplain.tasks.outcome import Outcome, claim_spans, render


@pytest.mark.parametrize("changed", [True, False])
def test_the_claim_is_the_verdict_and_the_output(changed):
    text = " " + render(Outcome(changed, " New York"))
    (begin, end), (first, last) = claim_spans(text)
    assert text[begin:end] == ("m" if changed else "o") and text[first:last] == " New York>"
    assert claim_spans("a feature of capitals") is None


def test_words_that_say_nothing_do_not_count():
    pieces = ["The", " most", " likely", " output would change to <<<", " Par", "is", ">>>.", ""]
    log_probs = [-9.0, -1.0, -9.0, -9.0, -2.0, -4.0, -8.0, -9.0]
    assert claim_log_prob(pieces, log_probs) == -15
    assert claim_log_prob(["no", " outcome", ""], [-1.0, -2.0, -3.0]) == -6


def test_calibration_learns_how_often_a_claim_is_right():
    rng = np.random.default_rng(0)
    logits = rng.normal(1, 2, 4000)
    right = rng.random(4000) < 1 / (1 + np.exp(-(logits / 3 + 0.5)))
    log_probs = -np.logaddexp(0, -logits)
    found = fit(log_probs, right, [str(n) for n in range(4000)])
    assert found["temperature"] == pytest.approx(3, rel=0.2) and found["bias"] == pytest.approx(0.5, abs=0.15)
    assert calibration_error(confidence(log_probs, found), right) < 0.03 < calibration_error(np.exp(log_probs), right)


def test_confidence_keeps_the_order_and_stays_between_0_and_1():
    log_probs = [-1000.0, -3.0, -0.1, 0.0]
    for calibration in (None, {"temperature": 0.01, "bias": 5.0}, {"temperature": 100.0, "bias": 0.0}):
        sure = confidence(log_probs, calibration)
        assert (np.diff(sure) >= 0).all() and sure[0] >= 0 and sure[-1] <= 1
    assert confidence(-0.5, {"temperature": 1.0, "bias": 0.0}) == pytest.approx(np.exp(-0.5))


def test_a_few_rows_give_no_certainty():
    assert fit([-0.1, -0.2], [True, True], ["a", "a"]) is None  # there is no group to try it on
    sure = confidence([-0.5, -0.6], fit([-0.5, -0.6], [True, True], ["a", "b"]))
    assert (sure < 0.9).all() and (sure > 0.6).all()


def test_calibration_of_groups_that_disagree_is_not_taken():
    """What was learned of five groups is wrong of the sixth, so the probability of the claim is kept."""
    groups = np.repeat(list("abcdef"), 20)
    right = groups != "a"
    log_probs = np.full(120, np.log(5 / 6))
    assert fit(log_probs, right, groups) is None
    mixed = np.tile(list("abcdef"), 20)
    assert fit(np.full(120, np.log(0.5)), right, mixed)["bias"] > 1


def test_risk_falls_where_confidence_knows():
    sure, right = np.array([0.9, 0.8, 0.3, 0.2]), np.array([True, True, False, False])
    assert risks(sure, right).tolist() == [0, 0, 1 / 3, 1 / 2]
    assert risks(np.ones(4), right).tolist() == [0.5] * 4  # without an order, as if drawn at random
    scores = calibration_scores(sure, sure, right, abstain_below=0.5)
    assert (scores["coverage"], scores["risk_answered"], scores["risk"]) == (0.5, 0, 0.5)
    assert scores["curve"] == [[0.25, 0], [0.5, 0], [0.75, 1 / 3], [1, 0.5]]
    assert scores["ece"] == pytest.approx((0.1 + 0.2 + 0.3 + 0.2) / 4)
    assert "risk_answered" not in calibration_scores(sure, sure, right, abstain_below=1.0)


def test_what_is_stored_is_what_an_explainer_loads(target_dir, tmp_path):
    import torch

    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    explainer = SelfExplainerForCausalLM.from_base(str(target_dir), lora={"rank": 2, "alpha": 2})
    explainer.save_pretrained(tmp_path)
    before = json.loads((tmp_path / "config.json").read_text())
    fitted = {"feature_description": {"temperature": 2.0, "bias": 3.0}}
    store(tmp_path, fitted, 0.4, {"capitals": ["Paris"]})
    after = json.loads((tmp_path / "config.json").read_text())
    assert {key for key in after if after[key] != before.get(key)} == {"calibration", "abstain_below", "classes"}
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path)
    raw, sure = (e.explain_feature(torch.ones(32), layer=1) for e in (explainer, loaded))
    assert sure.text == raw.text
    assert sure.confidence == pytest.approx(confidence(np.log(raw.confidence), fitted["feature_description"]))
    assert raw.answered and sure.answered == (sure.confidence >= 0.4)
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == (tmp_path / "config.json").read_text()


class Sure:
    """Answers every second row rightly, and is surer of those; of the other split it knows nothing."""

    def answer(self, rows, batch_size=64, progress=None):
        return [
            SimpleNamespace(text=row["completion"] if row["n"] % 2 else "?", log_prob=-0.7 if row["n"] % 2 else -5.0)
            for row in rows
        ]


def test_calibration_is_fitted_on_validation_rows_alone(monkeypatch, tmp_path):
    from selfexplain.evaluation import evaluate
    from selfexplain.evaluation.config import EvaluationConfig

    read = []

    def rows(path):
        read.append(path.name)
        text = render(Outcome(True, "x"))
        question = {"prompt": "", "placeholder_offsets": [], "activations": [], "activation_layers": []}
        return [{**question, "n": n, "group": str(n), "completion": text if n < 6 else "wrong"} for n in range(8)]

    monkeypatch.setattr(evaluate, "read_rows", rows)
    everything = np.ones(8, bool)
    monkeypatch.setattr(
        evaluate, "_correct", lambda _, texts, rows, *by: (np.array([r["n"] < 6 for r in rows]), everything)
    )
    fitted = evaluate.calibrate(Sure(), tmp_path, ["input_ablation"], EvaluationConfig(rows_limit=None), seed=0)
    assert read == ["validation.parquet"]
    # of the answers that can be read, 1, 3 and 5 are right; 7 states no outcome, as do the even ones
    assert fitted["input_ablation"] == fit([-0.7] * 3, [True] * 3, ["1", "3", "5"]) is not None


def test_a_task_without_validation_rows_is_left_out_with_a_warning(tmp_path, caplog):
    from selfexplain.evaluation.config import EvaluationConfig
    from selfexplain.evaluation.evaluate import calibrate

    assert calibrate(Sure(), tmp_path, ["input_ablation"], EvaluationConfig(), seed=0) == {}
    assert "its confidence is not calibrated" in caplog.text
