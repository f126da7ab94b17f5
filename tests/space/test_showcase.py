"""Where the page gets its explainer and what belongs to it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import app
import pages
import questions
import showcase
from selfexplain import bundled
from selfexplain.cli import app as command_line
from selfexplain.errors import SelfExplainError
from selfexplain.publishing.names import DATASET_NAMES


@pytest.fixture
def run(tmp_path):
    """A run directory, as far as the page reads it."""
    shutil.copytree(bundled.resolve("selfexplain/tiny-selfexplainer"), tmp_path / "explainer")
    shutil.copytree(showcase.HERE / "embedded", tmp_path, dirs_exist_ok=True)
    (tmp_path / "examples.json").unlink()
    (tmp_path / "manifest.json").write_text("{}")
    return tmp_path


def test_the_embedded_explainer_comes_with_results_features_and_examples(show):
    assert show.name == "selfexplain/tiny-selfexplainer" and show.foreign is None
    assert show.results["tasks"].keys() == DATASET_NAMES.keys()
    assert len(show.features) == 100 and len(show.texts) > 50
    scores = [feature.simulator_score for feature in show.features]
    assert scores == sorted(scores, reverse=True)


def test_a_run_directory_is_shown_with_held_out_rows_as_examples(run):
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = "The capital of Peru is"
    row = {"target_prompt": text, "source_prompt": "The capital of Cuba is", "layers": [2, 3], "position": 4,
           "source_position": 4, "token_type": "subject_final", "group": "Peru", "changed": True}  # fmt: skip
    folder = run / "datasets" / "activation_patching"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([row, row, row | {"group": "x", "changed": False}]), folder / "test.parquet")
    found = showcase.load(str(run))
    assert found.name == str(run / "explainer") and found.results and found.features
    assert [(each["text"], each["layers"], each["token"]) for each in found.examples["patch"]] == [
        (text, [2, 3], 4)
    ] * 2
    assert found.examples["ablation"] == showcase.FALLBACK["ablation"]
    trial = questions.ask_patch(found, text, row["source_prompt"], (2, 3), 4, 4)
    assert trial.after


def test_a_bare_model_directory_is_enough():
    found = showcase.load(bundled.resolve("selfexplain/tiny-selfexplainer"))
    assert found.results is None and found.features == [] and found.examples == showcase.FALLBACK
    assert questions.ask_feature(found, "The capital of France is", 0, 4).explanation.text
    assert "nothing to show" in pages.results(found.results)


def test_a_merged_explainer_is_asked_about_its_target(show, tmp_path):
    path, text, hint = tmp_path / "merged", "The capital of France is", "\nHint: The answer is Oslo."
    show.explainer.merge_and_save(path)
    found = showcase.load(str(path))
    assert found.foreign is found.target and found.target.name == "selfexplain/tiny"
    assert "Ask a model about itself" in pages.header(found)
    trials = [
        [
            questions.ask_feature(each, text, 1, 4),
            questions.ask_patch(each, text, "The capital of Japan is", (0, 1), 4, 4),
            questions.ask_ablation(each, f"Where is Oslo?\nNorway or Peru?{hint}\nAnswer:", hint),
        ]
        for each in (found, show)
    ]
    for merged, whole in zip(*trials, strict=True):
        assert (merged.before, merged.after) == (whole.before, whole.after)
        assert merged.explanation.text == whole.explanation.text


def test_a_model_on_the_hub_without_a_card_has_no_rows(show, monkeypatch, caplog):
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import EntryNotFoundError

    class Missing(EntryNotFoundError, OSError):
        """As for a file that the Hub does not have."""

    def missing(source):
        raise Missing(f"404: {source} has no README.md")

    monkeypatch.setattr(ModelCard, "load", missing)
    assert showcase._rows("lab/bare", showcase.Path("lab/bare"), "input_ablation", show.explainer) == []
    assert "no input_ablation rows to show for lab/bare: 404" in caplog.text


def test_the_model_that_the_readme_lists_is_shown(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("---\nmodels:\n- org/one\n- org/two\n---\n")
    monkeypatch.setattr(showcase, "HERE", tmp_path)
    assert showcase.listed_model() == "org/one"


def test_the_readme_says_what_the_hub_needs():
    from huggingface_hub import RepoCard

    card = RepoCard.load(showcase.HERE / "README.md").data.to_dict()
    assert card["sdk"] == "gradio" and card["app_file"] == "app.py" and card["python_version"] == "3.12"
    assert len(card["short_description"]) <= 60 and "models" not in card


@pytest.mark.parametrize(
    ("error", "told"), [(SelfExplainError("org/gone is gone"), "org/gone is gone"), (KeyError("inside"), "the log")]
)
def test_what_keeps_the_page_from_starting_is_told_with_what_to_do(monkeypatch, error, told):
    def broken():
        raise error

    monkeypatch.setattr(app, "build", broken)
    page = json.dumps(app.page().get_config_file())
    assert "lost its model" in page and "HF_TOKEN" in page and told in page and "inside" not in page


def test_a_model_that_is_gone_is_told(tmp_path):
    with pytest.raises(SelfExplainError, match="gone"):
        showcase.load(str(tmp_path / "gone"))


def test_demo_serves_the_run_that_is_named(run, monkeypatch):
    given = []
    monkeypatch.setattr(
        "subprocess.run", lambda command, env: given.append((command, env)) or type("", (), {"returncode": 0})
    )
    assert CliRunner().invoke(command_line, ["demo", str(run), "--port", "7999"]).exit_code == 0
    [(command, settings)] = given
    assert command[1].endswith("spaces/explainer/app.py")
    assert (settings["SELFEXPLAIN_EXPLAINER"], settings["GRADIO_SERVER_PORT"]) == (str(run), "7999")
    assert settings["GRADIO_SERVER_NAME"] == "127.0.0.1"


def test_a_bare_model_that_learned_one_question_gets_a_page_for_it(run):
    config = run / "explainer" / "config.json"
    fields = json.loads(config.read_text())
    learned = {"tasks": ["activation_patching"], "trained_layers": {"activation_patching": [0, 2]}}
    config.write_text(json.dumps(fields | learned))
    build = "import app, json; print(json.dumps(app.build().get_config_file(), default=str))"
    settings = os.environ | {"SELFEXPLAIN_EXPLAINER": str(run / "explainer")}
    done = subprocess.run(
        [sys.executable, "-c", build], env=settings, cwd=showcase.HERE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    labels = [each["props"].get("label") for each in json.loads(done.stdout.splitlines()[-1])["components"]]
    assert {"Patch", "Map", "Results"} <= set(labels) and not {"Read", "Remove", "Features"} & set(labels)


def test_tokens_of_sentencepiece_get_their_spaces_back():
    assert showcase._spaced(["She", "looked"]) == ["She", " looked"]
    assert showcase._spaced(["She", " looked", "."]) == ["She", " looked", "."]


def test_demo_says_what_is_missing(run, monkeypatch):
    assert "does not exist" in CliRunner().invoke(command_line, ["demo", str(run / "gone")]).stderr
    shutil.rmtree(run / "explainer")
    assert "no trained explainer" in CliRunner().invoke(command_line, ["demo", str(run)]).stderr
    monkeypatch.setattr("selfexplain.cli.demo.find_spec", lambda name: None)
    assert "pip install 'selfexplain[space]'" in CliRunner().invoke(command_line, ["demo"]).stderr
