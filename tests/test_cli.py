"""The command line: what it prints, how it fails."""

import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import selfexplain
from selfexplain.cli import app
from selfexplain.errors import SelfExplainError


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
    assert "quickstart: " in lines and "minutes on 2 CPU cores" in lines


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

    monkeypatch.setattr("selfexplain.recipes.run.run", fake)
    result = invoke("run", "quickstart", "seed=7", f"output_dir={tmp_path}", "--stage", "dataset")
    assert result.exit_code == 0, result.output
    assert given == [(7, tmp_path, "dataset")]
    assert "Where to look next:" in result.stdout and "manifest.json" in result.stdout


def test_ctrl_c_is_one_line_and_exit_code_130(monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("selfexplain.recipes.run.run", stopped)
    result = invoke("run", "quickstart")
    assert result.exit_code == 130
    assert result.stderr.strip() == "stopped; run the same command again to continue"


class FakeExplainer:
    """Answers with the direction's first component and the layer."""

    def capture(self, text, layers):
        return torch.arange(4.0).reshape(1, 4, 1)

    def explain_feature(self, vector, layer):
        return type("Explanation", (), {"text": f"{vector[0]:.0f} at {layer}"})


@pytest.fixture
def fake_explainer(monkeypatch):
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    monkeypatch.setattr(SelfExplainerForCausalLM, "from_pretrained", lambda name: FakeExplainer())


def test_explain_asks_about_the_token(fake_explainer):
    assert invoke("explain", "some/model", "a text", "--layer", "2", "--token", "1").stdout.strip() == "1 at 2"
    assert invoke("explain", "some/model", "a text", "--layer", "2").stdout.strip() == "3 at 2"


def test_explain_names_the_tokens_there_are(fake_explainer):
    result = invoke("explain", "some/model", "a text", "--layer", "2", "--token", "9")
    assert result.exit_code == 2
    assert "token 9: the text has the tokens 0 to 3." in result.stderr
