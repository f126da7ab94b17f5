"""Test `selfexplain explain` with a fake explainer."""

from types import SimpleNamespace

import pytest
import torch

from selfexplain.modeling.explanation import Verification


class FakeExplainer:
    """Answers with its arguments; the first value of an activation counts the tokens."""

    def capture(self, text, layers):
        return torch.arange(4.0).reshape(1, 4, 1).expand(len(layers), 4, 1) + len(text)

    def _answer(self, *arguments):
        return SimpleNamespace(text=" ".join(map(str, arguments)), confidence=0.25, answered=False)

    def explain_feature(self, vector, layer):
        return self._answer(f"{vector[0]:.0f} at {layer}")

    def explain_patch(self, text, vector, layers, position):
        return self._answer(f"{vector[0]:.0f} in", text, "at", layers, position)

    def explain_ablation(self, text, remove):
        return self._answer(text, "without", remove)

    def verify(self, explanation, texts):
        return VERIFICATIONS[explanation.text.partition(" ")[0]]


VERIFICATIONS = {
    "text": Verification(agrees=True, clean_output="A", actual_output="B", actual_changed=True),
    "7": Verification(agrees=False, correlation=0.5),
    "5": Verification(agrees=None),
}


@pytest.fixture
def explain(invoke, monkeypatch):
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    monkeypatch.setattr(SelfExplainerForCausalLM, "from_pretrained", lambda name: FakeExplainer())

    def explain(*arguments):
        result = invoke("explain", "some/model", "text", *arguments)
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()

    return explain


def test_a_description_is_about_the_requested_token(explain):
    assert explain("--layer", "2", "--token", "1") == [
        "5 at 2",
        "confidence 0.25 (below the explainer's threshold, so it abstains)",
    ]
    assert explain("--layer", "2")[0] == "7 at 2"


def test_patches_and_ablations_are_explained(explain):
    patch = ("--layer", "0", "--layer", "1", "--token", "2", "--patch-from", "another text")
    assert explain(*patch)[0] == "14 in text at [0, 1] 2"
    assert explain(*patch, "--position", "0")[0] == "12 in text at [0, 1] 2"
    assert explain("--remove", "ex")[0] == "text without ex"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--remove", "ex"), "verification: agrees; the output changes to <<<B>>>"),
        (("--layer", "2"), "verification: disagrees; correlation with the activations on this text 0.50"),
        (("--layer", "2", "--token", "1"), "verification: not possible here; a free-text description needs"),
    ],
)
def test_verify_shows_the_outcome(explain, options, line):
    assert explain(*options, "--verify")[-1].startswith(line)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "Neither --layer nor --remove was given"),
        (("--layer", "1", "--remove", "x"), "--remove was given with --layer or --patch-from"),
        (("--layer", "1", "--layer", "2"), "--layer was given 2 times"),
    ],
)
def test_contradictory_options_are_refused(invoke, options, words):
    result = invoke("explain", "some/model", "a text", *options)
    assert result.exit_code == 2 and words in result.stderr


def test_the_error_for_a_missing_token_names_the_range(invoke, explain):
    result = invoke("explain", "some/model", "a text", "--layer", "2", "--token", "9")
    assert result.exit_code == 2
    assert "Token 9 does not exist. The text has tokens 0 to 3." in result.stderr
