"""HTML of trials."""

from dataclasses import replace

from asking.trial import Answer, Trial
from rendering.trial import ablation_trial, confidence_bar, description_trial, feature_trial, patch_trial

HOSTILE = "<script>alert(1)</script>${alert(2)}{{x}}"
CORRECT = Answer("The most likely output would change to <<<x>>>.", True, "x", 0.5, correct=True)
INCORRECT = replace(CORRECT, output="z", correct=False)
TRIAL = Trial("activation_patching", "?", CORRECT, CORRECT, "a vector", "y", "x")


def test_texts_of_visitors_and_models_are_escaped():
    answer = Answer(HOSTILE, True, HOSTILE, 0.5, correct=False)
    trial = Trial(HOSTILE, HOSTILE, answer, answer, HOSTILE, HOSTILE, HOSTILE)
    html = patch_trial(trial, HOSTILE) + ablation_trial(trial, HOSTILE) + description_trial(trial, HOSTILE)
    assert "<script" not in html and html.count("&lt;script&gt;") >= 18


def test_the_verdict_on_a_patch_compares_the_answer_with_the_control():
    for explanation, control, verdict in (
        (CORRECT, INCORRECT, "the prediction depends on the vector"),
        (CORRECT, CORRECT, "the text alone was enough"),
        (INCORRECT, CORRECT, "by chance or from the text"),
        (INCORRECT, INCORRECT, "Incorrect, both with this vector and with a different one"),
    ):
        assert verdict in patch_trial(replace(TRIAL, explanation=explanation, control=control), "")


def test_the_verdict_on_an_ablation_needs_a_change_to_credit_the_control():
    assert "so is the control" in ablation_trial(TRIAL, "")
    for trial in (replace(TRIAL, control=INCORRECT), replace(TRIAL, before="x")):
        assert "The prediction is correct.<" in ablation_trial(trial, "")
    assert "prediction is incorrect" in ablation_trial(replace(TRIAL, explanation=INCORRECT), "")


def test_the_measured_output_is_shown_with_the_output_before():
    changed = patch_trial(TRIAL, "")
    assert changed.count("the output changes to") == 3 and "Output before: “y”" in changed
    same = patch_trial(replace(TRIAL, before="x"), "")
    assert "the output stays</span>x" in same and "Output before" not in same


def test_an_answer_that_cannot_be_parsed_is_marked():
    html = patch_trial(replace(TRIAL, explanation=Answer("perhaps", confidence=0.0, answered=False)), "")
    assert "perhaps" in html and "could not be parsed" in html


def test_descriptions_show_their_scores_or_why_there_is_none():
    described = replace(TRIAL, explanation=Answer("the word x", confidence=0.9, score=-0.25), control=Answer("blah"))
    html = description_trial(described, "")
    assert (
        "\N{MINUS SIGN}0.25" in html and "applies to no token" in html and "this answer depends on the vector" in html
    )
    same = replace(described, control=described.explanation)
    assert "does not depend on the vector" in description_trial(same, "")
    assert "no answer" in description_trial(replace(described, explanation=Answer("", confidence=0.0)), "")


def test_confidence_below_the_threshold_is_explained():
    assert "Confidence 40%<" in confidence_bar(Answer("x", confidence=0.4)).replace("\n", "")
    assert "below the threshold" in confidence_bar(Answer("x", confidence=0.4, answered=False))


def test_a_feature_is_shown_with_its_ground_truth_and_scaled_exemplars(show):
    feature = show.features[0]
    exemplar = {"tokens": ["a", " b"], "activations": [2.0, 4.0]}
    html = feature_trial(replace(feature, exemplars=(exemplar,)), TRIAL, "")
    assert feature.description in html and "Ground truth" in html
    assert "--shade:0.50" in html and "--shade:1.00" in html
