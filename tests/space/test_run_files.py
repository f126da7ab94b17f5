"""Files of an explainer: from a run directory and from the Hub."""

import json
import shutil

import huggingface_hub
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError

import run_files
import showcase
from run_files import HubFiles, LocalFiles
from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.predictions import Prediction, write_predictions

PREDICTIONS = [
    Prediction(row=n, group=f"g{n}", prompt="How?", completion="so", confidence=0.5, answers={"explainer": "so"})
    for n in range(3)
]


class NotOnHub(EntryNotFoundError, OSError):
    """The error for a file that a repository does not have."""

    def __init__(self, message):
        OSError.__init__(self, message)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A model card that lists a results dataset, and the files of both repositories."""
    card = type("Card", (), {"data": {"datasets": ["lab/selfexplain-results"]}})
    files = {("lab/model", "results.json"): showcase.HERE / "embedded" / "results.json"}

    def download(repository, name, repo_type="model"):
        if (repository, name) not in files:
            raise NotOnHub(f"404: {repository} has no {name}")
        return str(files[repository, name])

    monkeypatch.setattr(ModelCard, "load", lambda repository: card)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return files


def test_a_directory_without_files_has_no_results_rows_or_predictions(tmp_path):
    files = LocalFiles(tmp_path)
    assert files.results() is None and files.rows("input_ablation") == [] and files.predictions("input_ablation") == []


def test_predictions_of_a_run_directory_are_read_up_to_the_limit(tmp_path, monkeypatch):
    write_predictions(PREDICTIONS, tmp_path / "predictions" / "input_ablation.jsonl")
    assert LocalFiles(tmp_path).predictions("input_ablation") == PREDICTIONS
    monkeypatch.setattr(run_files, "MAX_ROWS", 2)
    assert LocalFiles(tmp_path).predictions("input_ablation") == PREDICTIONS[:2]


def test_a_damaged_results_file_is_an_error(tmp_path):
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(SelfExplainError, match="not valid JSON"):
        LocalFiles(tmp_path).results()


def test_published_results_and_predictions_are_read_from_the_hub(hub, tmp_path):
    files = HubFiles("lab/model", "selfexplain/tiny")
    published = [
        {**prediction.to_data(), "answers": [{"system": name, "answer": a} for name, a in prediction.answers.items()]}
        for prediction in PREDICTIONS
    ]
    path = tmp_path / "input_ablation.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in published))
    hub["lab/selfexplain-results", "tiny/predictions/input_ablation.jsonl"] = path
    assert files.results().recipe == "tiny"
    assert files.predictions("input_ablation") == PREDICTIONS


def test_a_model_without_published_predictions_has_none(hub, caplog):
    assert HubFiles("lab/model", "selfexplain/tiny").predictions("input_ablation") == []
    assert "shows no input_ablation rows for lab/model: 404" in caplog.text


def test_a_model_without_published_results_has_none(hub, caplog):
    assert HubFiles("lab/other", "selfexplain/tiny").results() is None
    assert "lab/other has no results.json" in caplog.text


def test_a_model_without_a_card_has_no_rows(monkeypatch, caplog):
    def missing(repository):
        raise NotOnHub(f"404: {repository} has no README.md")

    monkeypatch.setattr(ModelCard, "load", missing)
    assert HubFiles("lab/bare", "selfexplain/tiny").rows("input_ablation") == []
    assert "shows no input_ablation rows for lab/bare: 404" in caplog.text


def test_a_task_that_is_not_installed_has_no_rows_on_the_hub(hub):
    assert HubFiles("lab/model", "selfexplain/tiny").rows("next_sentiment") == []


def test_trim_writes_the_embedded_files_of_a_run(tmp_path):
    import pyarrow.parquet as pq

    import trim
    from selfexplain.runs.run_directory import RunDirectory

    shutil.copytree(showcase.HERE / "embedded", tmp_path / "run")
    run, out = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "out")
    trim.trim(run, out)
    name = "feature_description"
    assert out.results_path.read_bytes() == run.results_path.read_bytes()
    before, after = (pq.read_table(each.dataset(name).rows("test")) for each in (run, out))
    assert after.equals(before)
