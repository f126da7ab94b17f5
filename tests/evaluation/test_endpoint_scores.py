"""Descriptions in free words, scored by a chat model behind an endpoint."""

import json
import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest

from evaluation_data import write_dataset
from fake_endpoint import FakeEndpoint
from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.comparison import AnswerSet, compare
from selfexplain.evaluation.config import EvaluationConfig
from selfexplain.evaluation.evaluate import calibrate, evaluate
from selfexplain.evaluation.metrics import METRICS, Simulator
from selfexplain.evaluation.results import Unread
from selfexplain.features import chat_simulator
from selfexplain.features.endpoint import Endpoint
from selfexplain.groundtruth.statistics import DatasetStatistics

TASK = "feature_description"
METRIC_NAMES = ("simulator_correlation", "detection_balanced_accuracy")
CONFIG = EvaluationConfig(batch_size=4, n_resamples=100, selfie_rows=6)
TARGET = SimpleNamespace(name="tiny", d_model=8)
FREE_WORDS = {"the word red": "mentions of the colour red", "the word blue": "anything that is blue"}


def reply(system, user):
    """Reply of a chat model that expects a feature to be active on the words of its description."""
    description, _, rest = user.partition("\n\n")
    words = set(re.findall(r"\w+", description)) - {"Description"}
    if "unclear" in words:
        return "I cannot say."
    if system == chat_simulator.SIMULATE:
        tokens = re.findall(r'^(\d+): "(.*)"$', rest, re.M)
        return json.dumps({number: 9 for number, token in tokens if token in words})
    return json.dumps([int(any(word in text for word in words)) for text in rest.split("\n\n")])


class FixedAnswers:
    """Answers with the text of `by_vector` for a row's vector, and with `text` for every other row."""

    def __init__(self, text="", by_vector=None):
        self.text, self.by_vector = text, by_vector or {}

    def answer(self, rows, batch_size=64, progress=None):
        texts = [self.by_vector.get(np.asarray(row["activations"]).tobytes(), self.text) for row in rows]
        return [SimpleNamespace(text=text, log_prob=-0.7) for text in texts]


@pytest.fixture
def rows(feature_rows):
    """Feature rows with descriptions in free words."""
    return [{**row, "completion": FREE_WORDS[row["completion"]]} for row in feature_rows]


@pytest.fixture
def datasets(tmp_path, rows):
    splits = ("train", "validation", "test")
    return {TASK: write_dataset(tmp_path / "datasets", rows, splits, DatasetStatistics())}


@pytest.fixture
def endpoint_of(tmp_path):
    return lambda fake: Endpoint(fake.url, "judge", tmp_path / "replies.sqlite", n_retries=0, backoff=0.01)


@pytest.fixture
def oracle(rows):
    return FixedAnswers("", {row["activations"].tobytes(): row["completion"] for row in rows})


def test_free_words_are_scored_and_blank_answers_score_chance(rows, endpoint_of):
    exemplars = [row["scoring_exemplars"] for row in rows]
    answers = [rows[0]["completion"], "everything", " ", *(row["completion"] for row in rows[3:])]
    all_inactive = [{"tokens": ["a"], "activations": [0.0]}]
    with FakeEndpoint(reply) as fake:
        simulator = Simulator(endpoint=endpoint_of(fake))
        counted = METRICS["simulator_correlation"].count(answers, exemplars, simulator)
        np.testing.assert_allclose(counted, [[1, 1, 0], *[[0, 1, 0]] * 2, *[[1, 1, 0]] * 3])
        detection = METRICS["detection_balanced_accuracy"]
        assert detection.count(answers, exemplars, simulator)[:, 0].tolist() == [1, 0.5, 0.5, 1, 1, 1]
        assert detection(["red"], [all_inactive], simulator) == 0.5
        assert not any("Description: \n" in body["messages"][1]["content"] for body in fake.requests)


def test_the_same_request_is_sent_once(rows, endpoint_of):
    exemplars, answers = [row["scoring_exemplars"] for row in rows], [row["completion"] for row in rows]
    with FakeEndpoint(reply) as fake:
        simulator = Simulator(endpoint=endpoint_of(fake))
        for name in METRIC_NAMES:
            METRICS[name](answers, exemplars, simulator)
        requests = [json.dumps(body["messages"]) for body in fake.requests]
        # Per description: one request for each of two windows, and one for both windows together.
        assert len(requests) == len(set(requests)) == 2 * (2 + 1)
        for name in METRIC_NAMES:
            METRICS[name]([f" {text}\n" for text in answers[::-1]], exemplars[::-1], simulator)
        assert len(fake.requests) == len(requests)


def test_the_chat_model_scores_all_systems_and_resuming_sends_no_requests(datasets, oracle, endpoint_of, caplog):
    def run(endpoint):
        def selfie(scale):
            return FixedAnswers("red" if scale == 25 else "green")

        untrained = FixedAnswers("birds")
        return evaluate(oracle, untrained, TARGET, datasets, CONFIG, 0, selfie=selfie, endpoint=endpoint)[TASK]

    with FakeEndpoint(reply) as fake, caplog.at_level(logging.INFO):
        result = run(endpoint_of(fake))
        n_requests = len(fake.requests)
        assert run(endpoint_of(fake)) == result and len(fake.requests) == n_requests
    scores = {system: values["simulator_correlation"].value for system, values in result.scores.items()}
    assert scores["explainer"] == scores["ground_truth"] == scores["nearest_neighbour"] == pytest.approx(1)
    assert scores["untrained"] == 0
    assert scores["selfie"] == pytest.approx((1 - 0.2) / 2) and result.selfie_scale == 25
    assert scores["shuffled_vector"] < 1 and scores["zero_vector"] == 0
    detection = result.scores["ground_truth"]["detection_balanced_accuracy"]
    assert detection.value == 1 and detection.ci95 == (1, 1)
    assert result.simulator == "judge"
    assert result.unparsable["ground_truth"] == 0 < result.unparsable["zero_vector"]
    assert result.unread["ground_truth"]["simulator_correlation"] == Unread(windows=0, rows=0)
    assert "simulating features: " in caplog.text and "requests to" in caplog.text


def test_unparsable_replies_are_left_out_and_counted(datasets, oracle, rows, endpoint_of, caplog):
    unsure = FixedAnswers("", {**oracle.by_vector, rows[0]["activations"].tobytes(): "unclear"})
    with FakeEndpoint(reply) as fake, caplog.at_level(logging.WARNING):
        endpoint = endpoint_of(fake)
        result = evaluate(unsure, FixedAnswers("unclear"), TARGET, datasets, CONFIG, 0, endpoint=endpoint)[TASK]
        fitted = calibrate(unsure, datasets, CONFIG, 0, endpoint=endpoint)
    # The mean over the five rows that have a score.
    assert result.scores["explainer"]["simulator_correlation"].value == pytest.approx(1)
    assert result.unread["explainer"] == dict.fromkeys(METRIC_NAMES, Unread(windows=2, rows=1))
    assert result.scores["untrained"] == {} and "untrained: simulator_correlation is left out" in caplog.text
    assert "explainer - untrained" not in result.comparisons
    assert result.calibration.risk == 0 and TASK in fitted


def test_a_chat_model_whose_replies_do_not_parse_is_refused(rows, endpoint_of):
    with FakeEndpoint(lambda system, user: "Certainly!") as fake:
        simulator = Simulator(endpoint=endpoint_of(fake))
        with pytest.raises(SelfExplainError, match=r"judge on 1 of 1 descriptions could not be parsed.*endpoint_model"):
            METRICS["simulator_correlation"](["red"], [rows[0]["scoring_exemplars"]], simulator)


def test_the_offline_simulator_is_refused_for_free_words(datasets, oracle):
    with pytest.raises(SelfExplainError, match=r"cannot read 6 of 6 descriptions.*evaluation\.endpoint=URL"):
        evaluate(oracle, oracle, TARGET, datasets, CONFIG, 0)
    with pytest.raises(SelfExplainError, match="offline simulator"):
        calibrate(oracle, datasets, CONFIG, 0)


def test_the_chat_model_scores_comparisons(endpoint_of, rows):
    correct = [row["completion"] for row in rows]
    incorrect = [next(text for text in FREE_WORDS.values() if text != answer) for answer in correct]
    texts = {"a": correct, "b": incorrect}
    answer_sets = [AnswerSet("a", explainer, 1.0, 0, 10, answers) for explainer, answers in texts.items()]
    with FakeEndpoint(reply) as fake:
        result = compare(TASK, {"a": rows}, answer_sets, {}, n_resamples=100, seed=0, endpoint=endpoint_of(fake))
    by_self, by_other = (entry.value for entry in result.scores["simulator_correlation"])
    assert by_self == pytest.approx(1) and by_other < 0
