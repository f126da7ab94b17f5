"""The tab of a task that has no custom tab."""

from dataclasses import replace

import gradio as gr
import pytest

from run_files import LocalFiles
from selfexplain.evaluation.predictions import Prediction, write_predictions

TASK = "next_sentiment"


@pytest.fixture
def build(show, monkeypatch, tmp_path):
    """A function that builds the tab for a run directory and returns the HTML in it."""
    import service
    from tabs import held_out

    monkeypatch.setattr(service, "SHOW", replace(show, files=LocalFiles(tmp_path)))

    def build():
        with gr.Blocks() as demo, gr.Tabs():
            held_out.build(TASK)
        return [str(part["props"].get("value")) for part in demo.get_config_file()["components"]]

    return build


def test_held_out_rows_are_shown_with_the_answers_of_all_systems(build, tmp_path):
    answers = {"explainer": "joy", "shuffled_vector": "fear"}
    rows = [Prediction(row=n, group="g", prompt=f"Mood {n}?", completion="joy", confidence=0.7, answers=answers)
            for n in range(2)]  # fmt: skip
    write_predictions(rows, tmp_path / "predictions" / f"{TASK}.jsonl")
    html = "".join(build())
    assert "Mood 0?" in html and "Mood 1?" in html and "Confidence 70%" in html and "control: shuffled vector" in html


def test_without_predictions_the_tab_shows_the_remedy(build):
    assert "There are no predictions for next sentiment. Evaluate the explainer" in "".join(build())
