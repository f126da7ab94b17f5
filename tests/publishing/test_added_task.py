"""The task of docs/add_a_question.md, from an installed plug-in to the Hub and the demo, with the commands of users."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pyarrow.parquet as pq
import pytest

from hub.server import Hub
from selfexplain.evaluation.results import Results
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.runs.run_directory import RunDirectory
from serving import serving

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add_a_question.md").read_text(encoding="utf-8")
NAME = "continuation_sentiment"
SMALL = (f"{NAME}.n_texts=1200", f"{NAME}.n_rows=160", "training.epochs=0.5", "evaluation.n_resamples=20")
CONTROLS = {"explainer", "shuffled_vector", "zero_vector", "text_only", "untrained", "nearest_neighbour"}
READER = "words_of_the_text"
SYSTEMS = CONTROLS | {READER}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """A directory with the example module, the metadata of a distribution that names it, and the recipe of the page."""
    path = tmp_path_factory.mktemp("plugin")
    example = ROOT / "docs" / "examples" / f"{NAME}.py"
    (path / example.name).write_text(example.read_text(encoding="utf-8"))
    entry_point = re.search(r'\[project.entry-points."(.*?)"\]\n(\w+) = "my_package.(\w+)"', PAGE)
    metadata = path / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{entry_point[1]}]\n{entry_point[2]} = {entry_point[3]}\n")
    (path / "sentiment.yaml").write_text(re.search(r"```yaml\n(name: sentiment.*?)```", PAGE, re.DOTALL)[1])
    return path


@pytest.fixture(scope="module")
def command(plugin):
    """Run `selfexplain` in a new process that has the plug-in installed; return what it printed."""

    def call(*arguments, **environment):
        settings = os.environ | {"PYTHONPATH": str(plugin), "OMP_NUM_THREADS": "1"} | environment
        done = subprocess.run(
            [sys.executable, "-m", "selfexplain", *arguments], cwd=plugin, env=settings, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


@pytest.fixture(scope="module")
def run_dir(plugin, command):
    command("run", "sentiment.yaml", *SMALL)
    return RunDirectory(plugin / "runs" / "sentiment")


def test_the_dataset_has_the_columns_of_the_task_and_no_text_in_two_splits(run_dir):
    dataset: DatasetDirectory = run_dir.dataset(NAME)
    splits = {split: pq.read_table(dataset.rows(split)).to_pylist() for split in ("train", "validation", "test")}
    assert {"layer", "target_prompt", "continuation", "sentiment"} <= splits["train"][0].keys()
    for rows in splits.values():
        assert {row["completion"] for row in rows} <= {"Europe", "Asia"} and rows
    groups = {split: {row["group"] for row in rows} for split, rows in splits.items()}
    assert not groups["train"] & groups["test"] and not groups["validation"] & groups["test"]
    assert dataset.statistics().splits["train"].rows == len(splits["train"])


def test_the_evaluation_scores_the_task_with_its_controls_and_intervals(run_dir):
    result = Results.read(run_dir.results_path).tasks[NAME]
    assert set(result.scores) == SYSTEMS
    for scores in result.scores.values():
        score = scores["sentiment_accuracy"]
        assert 0 <= score.ci95[0] <= score.value <= score.ci95[1] <= 1
    assert set(result.comparisons) == {f"explainer - {system}" for system in SYSTEMS - {"explainer"}}
    assert result.readers[READER].settings["C"] in (0.1, 1)
    assert result.gains["sentiment_accuracy"].system in {READER, "nearest_neighbour", "untrained"}
    truth = {prediction.completion for prediction in run_dir.read_predictions(NAME)}
    answers = [prediction.answers["nearest_neighbour"] for prediction in run_dir.read_predictions(NAME)]
    correct = [p.answers["nearest_neighbour"] == p.completion for p in run_dir.read_predictions(NAME)]
    assert set(answers) <= {"Europe", "Asia"} and truth <= {"Europe", "Asia"}
    assert result.scores["nearest_neighbour"]["sentiment_accuracy"].value == pytest.approx(sum(correct) / len(correct))


def test_the_cards_are_rendered_from_the_task(run_dir, command):
    card = (run_dir.explainer / "README.md").read_text(encoding="utf-8")
    assert "continuation sentiment" in card.lower() and "sentiment accuracy" in card
    assert "words of the text" in card and "the strongest baseline" in card
    assert "positive or a negative word" in run_dir.dataset(NAME).card.read_text(encoding="utf-8")
    assert "sentiment accuracy" in command("results", str(run_dir.root))


def test_it_is_published_under_the_name_in_the_task(run_dir, command):
    with Hub() as hub:
        command("publish", str(run_dir.root), "--org", "lab", **hub.environment)
        assert {name for _, name in hub.repos} >= {
            "lab/sentiment-selfexplainer",
            "lab/selfexplain-sentiment",
            "lab/selfexplain-results",
        }


def test_the_demo_shows_its_held_out_rows(run_dir, plugin, tmp_path):
    settings = {"SELFEXPLAIN_EXPLAINER": str(run_dir.root), "PYTHONPATH": str(plugin)}
    with serving(ROOT / "spaces" / "explainer", tmp_path / "log", settings) as url, urlopen(f"{url}/config") as reply:
        components = json.load(reply)["components"]
    labels = [component["props"].get("label") for component in components if component["type"] == "tabitem"]
    assert "Continuation sentiment" in labels
    shown = "".join(str(component["props"].get("value")) for component in components)
    assert next(run_dir.read_predictions(NAME)).group.split()[0] in shown
