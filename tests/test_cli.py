"""The command line: what it prints, how it fails."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

import selfexplain
from selfexplain.cli import app
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.explanation import Verification


def invoke(*arguments):
    return CliRunner().invoke(app, arguments)


def test_help_answers_within_a_second():
    command = [sys.executable, "-c", "from selfexplain.cli import app; app()", "--help"]
    before = os.times()
    assert "recipes" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1


def test_version():
    assert invoke("--version").stdout.strip() == selfexplain.__version__


def test_recipes_are_listed_with_their_cost():
    lines = invoke("recipes").stdout
    assert lines.startswith("quickstart\n") and "minutes on 2 CPU cores" in lines


def test_bad_input_is_one_line_on_stderr_and_exit_code_2():
    result = invoke("run", "quickstart", "sead=1")
    assert result.exit_code == 2
    assert result.stderr.strip() == "error: quickstart: unknown key 'sead'. Did you mean 'seed'?"
    assert result.stdout == ""


def test_debug_shows_the_traceback():
    assert isinstance(invoke("run", "none", "--debug").exception, SelfExplainError)


def test_values_and_directory_reach_the_run(monkeypatch, tmp_path):
    given = []

    def fake(recipe, output_dir, stage):
        given.append((recipe.seed, output_dir, stage))
        (tmp_path / "manifest.json").write_text("{}")
        return tmp_path

    monkeypatch.setattr("selfexplain.pipeline.driver.run", fake)
    result = invoke("run", "quickstart", "seed=7", f"output_dir={tmp_path}", "--stage", "dataset")
    assert result.exit_code == 0, result.output
    assert given == [(7, tmp_path, "dataset")]
    assert "Where to look next:" in result.stdout and "manifest.json" in result.stdout


def test_ctrl_c_is_one_line_and_exit_code_130(monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("selfexplain.pipeline.driver.run", stopped)
    result = invoke("run", "quickstart")
    assert result.exit_code == 130
    assert result.stderr.strip() == "stopped; run the same command again to continue"


class FakeExplainer:
    """Says what it was asked; its activations count the tokens."""

    def capture(self, text, layers):
        return torch.arange(4.0).reshape(1, 4, 1).expand(len(layers), 4, 1) + len(text)

    def _says(self, *asked):
        return SimpleNamespace(text=" ".join(map(str, asked)), confidence=0.25, answered=False)

    def explain_feature(self, vector, layer):
        return self._says(f"{vector[0]:.0f} at {layer}")

    def explain_patch(self, text, vector, layers, position):
        return self._says(f"{vector[0]:.0f} in", text, "at", layers, position)

    def explain_ablation(self, text, remove):
        return self._says(text, "without", remove)

    def verify(self, explanation, texts):
        return Verification(agrees=True, clean_output="A", actual_output="B", actual_changed=True)


@pytest.fixture
def fake_explainer(monkeypatch):
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    monkeypatch.setattr(SelfExplainerForCausalLM, "from_pretrained", lambda name: FakeExplainer())


def explained(*arguments):
    result = invoke("explain", "some/model", "text", *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_explain_asks_about_the_token(fake_explainer):
    assert explained("--layer", "2", "--token", "1") == ["5 at 2", "confidence 0.25: it would rather not say"]
    assert explained("--layer", "2")[0] == "7 at 2"


def test_explain_asks_the_other_questions_and_shows_what_happens(fake_explainer):
    patch = ("--layer", "0", "--layer", "1", "--token", "2", "--patch-from", "another text")
    assert explained(*patch)[0] == "14 in text at [0, 1] 2"
    assert explained(*patch, "--position", "0")[0] == "12 in text at [0, 1] 2"
    assert explained("--remove", "ex", "--verify")[::2] == [
        "text without ex",
        "really: agrees; the output changes to <<<B>>>",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "give --layer"),
        (("--layer", "1", "--remove", "x"), "--remove asks about the text alone"),
        (("--layer", "1", "--layer", "2"), "a description is of one --layer"),
    ],
)
def test_explain_refuses_options_that_do_not_go_together(options, words):
    result = invoke("explain", "some/model", "a text", *options)
    assert result.exit_code == 2 and words in result.stderr


def test_explain_names_the_tokens_there_are(fake_explainer):
    result = invoke("explain", "some/model", "a text", "--layer", "2", "--token", "9")
    assert result.exit_code == 2
    assert "token 9: the text has the tokens 0 to 3." in result.stderr
