"""Descriptions in free words, scored by a language model: nothing is 0 for its wording, nothing is asked twice."""

import json
import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest

from fake_endpoint import FakeEndpoint
from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.comparison import Given, compare
from selfexplain.evaluation.config import EvaluationConfig
from selfexplain.evaluation.evaluate import calibrate, evaluate
from selfexplain.evaluation.metrics import metrics
from selfexplain.evaluation.report import markdown
from selfexplain.features.describers import chat_model as language
from selfexplain.features.endpoint import Endpoint

TASK = "feature_description"
CONFIG = EvaluationConfig(batch_size=4, n_resamples=100, selfie_rows=6)
TARGET = SimpleNamespace(name="tiny", d_model=8)
FREE = {"the word red": "mentions of the colour red", "the word blue": "anything that is blue"}


def reader(system, user):
    """A model that expects a feature to be active on the words of its description."""
    description, _, rest = user.partition("\n\n")
    words = set(re.findall(r"\w+", description)) - {"Description"}
    if "unclear" in words:
        return "I cannot say."
    if system == language.SIMULATE:
        tokens = re.findall(r'^(\d+): "(.*)"$', rest, re.M)
        return json.dumps({number: 9 for number, token in tokens if token in words})
    return json.dumps([int(any(word in text for word in words)) for text in rest.split("\n\n")])


class Says:
    """Says the same of every row, or what `by_vector` knows of its vector."""

    def __init__(self, text="", by_vector=None):
        self.text, self.by_vector = text, by_vector or {}

    def answer(self, rows, batch_size=64, progress=None):
        texts = [self.by_vector.get(np.asarray(row["activations"]).tobytes(), self.text) for row in rows]
        return [SimpleNamespace(text=text, log_prob=-0.7) for text in texts]


@pytest.fixture
def rows(feature_rows):
    """The two kinds of window at different places, so that active and inactive ones are told apart by words alone."""
    return [{**row, "completion": FREE[row["completion"]]} for row in feature_rows]


@pytest.fixture
def datasets_dir(tmp_path, rows):
    import datasets

    folder = tmp_path / "datasets" / TASK
    folder.mkdir(parents=True)
    vector = datasets.List(datasets.List(datasets.Value("float16"), length=8))
    data = datasets.Dataset.from_list([{**row, "activations": row["activations"].tolist()} for row in rows])
    for split in ("train", "validation", "test"):
        data.cast_column("activations", vector).to_parquet(folder / f"{split}.parquet")
    (folder / "statistics.json").write_text('{"classes": {}}')
    return folder.parent


@pytest.fixture
def judge(tmp_path):
    def make(fake, model="judge"):
        return Endpoint(fake.url, model, tmp_path / "replies.sqlite", n_retries=0, backoff=0.01)

    return make


@pytest.fixture
def knowing(rows):
    return Says("", {row["activations"].tobytes(): row["completion"] for row in rows})


def test_free_words_are_scored_and_blank_ones_at_chance(rows, judge):
    exemplars = [row["scoring_exemplars"] for row in rows]
    answers = [rows[0]["completion"], "everything", " ", *(row["completion"] for row in rows[3:])]
    alike = [{"tokens": ["a"], "activations": [0.0]}]
    with FakeEndpoint(reader) as fake:
        found = metrics(endpoint=judge(fake))
        counted = found["simulator_correlation"].count(answers, exemplars)
        np.testing.assert_allclose(counted, [[1, 1, 0], *[[0, 1, 0]] * 2, *[[1, 1, 0]] * 3])
        assert found["detection_balanced_accuracy"].count(answers, exemplars)[:, 0].tolist() == [1, 0.5, 0.5, 1, 1, 1]
        assert found["detection_balanced_accuracy"](["red"], [alike]) == 0.5
        assert not any("Description: \n" in body["messages"][1]["content"] for body in fake.asked)


def test_the_same_is_asked_once_wherever_it_stands(rows, judge):
    exemplars, answers = [row["scoring_exemplars"] for row in rows], [row["completion"] for row in rows]
    with FakeEndpoint(reader) as fake:
        for metric in ("simulator_correlation", "detection_balanced_accuracy"):
            metrics(endpoint=judge(fake))[metric](answers, exemplars)
        asked = [json.dumps(body["messages"]) for body in fake.asked]
        assert len(asked) == len(set(asked)) == 2 * (2 + 1)  # of two descriptions two windows, and both at once
        for metric in ("simulator_correlation", "detection_balanced_accuracy"):
            metrics(endpoint=judge(fake))[metric]([f" {text}\n" for text in answers[::-1]], exemplars[::-1])
        assert len(fake.asked) == len(asked)


def test_all_systems_are_scored_by_the_model_and_resuming_costs_nothing(datasets_dir, knowing, judge, caplog):
    def run(endpoint):
        systems = {"selfie": lambda scale: Says("red" if scale == 25 else "green"), "endpoint": endpoint}
        return evaluate(knowing, Says("birds"), TARGET, datasets_dir, (TASK,), CONFIG, 0, **systems)[TASK]

    with FakeEndpoint(reader) as fake, caplog.at_level(logging.INFO):
        result = run(judge(fake))
        n_asked = len(fake.asked)
        assert run(judge(fake)) == result and len(fake.asked) == n_asked
    scores = {system: values["simulator_correlation"]["value"] for system, values in result["scores"].items()}
    assert scores["explainer"] == scores["ground_truth"] == scores["nearest_neighbour"] == pytest.approx(1)
    assert (
        scores["untrained"] == 0 and scores["selfie"] == pytest.approx((1 - 0.2) / 2) and result["selfie_scale"] == 25
    )
    assert scores["shuffled_vector"] < 1 and scores["zero_vector"] == 0
    assert result["scores"]["ground_truth"]["detection_balanced_accuracy"] == {"value": 1.0, "ci95": [1.0, 1.0]}
    assert (
        result["simulator"] == "judge"
        and result["unparsable"]["ground_truth"] == 0 < result["unparsable"]["zero_vector"]
    )
    assert result["unread"]["ground_truth"]["simulator_correlation"] == {"windows": 0, "rows": 0}
    assert "simulating features: " in caplog.text and "requests to" in caplog.text  # told before they are made
    assert "activations foretold by judge" in markdown({"tasks": {TASK: result}})


def test_replies_that_cannot_be_read_are_left_out_and_told(datasets_dir, knowing, rows, judge, caplog):
    unsure = Says("", {**knowing.by_vector, rows[0]["activations"].tobytes(): "unclear"})
    with FakeEndpoint(reader) as fake, caplog.at_level(logging.WARNING):
        result = evaluate(unsure, Says("unclear"), TARGET, datasets_dir, (TASK,), CONFIG, 0, endpoint=judge(fake))[TASK]
        fitted = calibrate(unsure, datasets_dir, (TASK,), CONFIG, 0, endpoint=judge(fake))
    assert result["scores"]["explainer"]["simulator_correlation"]["value"] == pytest.approx(
        1
    )  # of the five rows that have a score
    assert result["unread"]["explainer"] == {
        "simulator_correlation": {"windows": 2, "rows": 1},
        "detection_balanced_accuracy": {"windows": 2, "rows": 1},
    }
    assert result["scores"]["untrained"] == {} and "untrained: simulator_correlation is left out" in caplog.text
    assert "explainer - untrained" not in result["comparisons"]
    assert result["calibration"]["risk"] == 0 and TASK in fitted
    told = markdown({"tasks": {TASK: result}})
    assert "4 windows of the explainer and" in told and "| untrained |  |  |" in told


def test_a_model_whose_replies_mean_nothing_is_refused(rows, judge):
    with (
        FakeEndpoint(lambda system, user: "Certainly!") as fake,
        pytest.raises(SelfExplainError, match="endpoint_model"),
    ):
        metrics(endpoint=judge(fake))["simulator_correlation"](["red"], [rows[0]["scoring_exemplars"]])


def test_the_offline_simulator_refuses_what_it_cannot_read(datasets_dir, knowing):
    with pytest.raises(SelfExplainError, match=r"6 of 6 descriptions.*evaluation\.endpoint=URL"):
        evaluate(knowing, knowing, TARGET, datasets_dir, (TASK,), CONFIG, 0)
    with pytest.raises(SelfExplainError, match="offline simulator"):
        calibrate(knowing, datasets_dir, (TASK,), CONFIG, 0)


def test_a_comparison_is_scored_by_the_model_too(judge, rows):
    right = [row["completion"] for row in rows]
    wrong = [next(text for text in FREE.values() if text != said) for said in right]
    answers = [Given("a", explainer, 1.0, 0, 10, said) for explainer, said in (("a", right), ("b", wrong))]
    with FakeEndpoint(reader) as fake:
        result = compare(TASK, {"a": rows}, answers, {}, n_resamples=100, seed=0, endpoint=judge(fake))
    own, other = (entry["value"] for entry in result["scores"]["simulator_correlation"])
    assert own == pytest.approx(1) and other < 0
