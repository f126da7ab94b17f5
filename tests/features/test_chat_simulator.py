"""Scores by a chat model: how its replies are parsed, counted and turned into scores."""

import json

import numpy as np
import pytest

from chat_windows import WINDOWS, cat_expert
from fake_endpoint import FakeEndpoint
from selfexplain.features import chat_simulator
from selfexplain.features.endpoint import Endpoint
from selfexplain.features.simulate import SimulatorScore


@pytest.fixture
def endpoint(tmp_path):
    return lambda fake: Endpoint(fake.url, "judge", tmp_path / "replies.sqlite", n_retries=0, backoff=0.01)


@pytest.mark.parametrize(
    ("reply", "predicted"),
    [
        ('{"2": 8, "3": 2.5}', [0, 8, 2.5, 0]),
        ("Nothing here: {}", [0, 0, 0, 0]),
        ('```json\n{"4": 10}\n```', [0, 0, 0, 10]),
        ('{"5": 1}', None),
        ('{"0": 1}', None),
        ('{"2": 11}', None),
        ('{"2": -1}', None),
        ('{"2": NaN}', None),
        ('{"2": "8"}', None),
        ('{"2": true}', None),
        ('{"cat": 8}', None),
        ("[8, 2]", None),
        ("0 8 2 0", None),
        ('{"2": 8', None),
    ],
)
def test_a_simulation_is_parsed_only_if_all_token_numbers_and_strengths_are_valid(reply, predicted):
    parsed = chat_simulator.parse_simulation(reply, 4)
    assert parsed is None if predicted is None else parsed.tolist() == predicted


@pytest.mark.parametrize(
    ("reply", "answers"),
    [
        ("[1, 0]", [True, False]),
        ("So: [0,1].", [False, True]),
        ("[1]", None),
        ("[1, 2]", None),
        ("yes, no", None),
        ("{}", None),
    ],
)
def test_a_judgement_is_parsed_only_if_it_has_one_answer_per_text(reply, answers):
    assert chat_simulator.parse_judgement(reply, 2) == answers


def test_the_simulator_score_is_the_correlation_over_all_tokens(endpoint):
    with FakeEndpoint(cat_expert) as fake:
        (score, constant), n_failed = chat_simulator.simulate_all(
            endpoint(fake), [("cats", WINDOWS), ("cats", WINDOWS[2:])]
        )
    actual = np.concatenate([window["activations"] for window in WINDOWS])
    expected = np.corrcoef([0, 9, 0, 0, 0, 9, 0, *[0] * 6], actual)[0, 1]
    assert score == SimulatorScore(pytest.approx(expected), constant=False)
    assert constant == SimulatorScore(0.0, constant=True) and n_failed == 0


def test_invalid_replies_are_counted_and_left_out_of_scores(endpoint):
    def reply(system, user):
        return "I would say 7." if "sat" in user or "words" in user else cat_expert(system, user)

    with FakeEndpoint(reply) as fake:
        scores, n_failed = chat_simulator.simulate_all(endpoint(fake), [("cats", WINDOWS), ("words", WINDOWS)])
        kept = np.concatenate([window["activations"] for window in WINDOWS[1:]])
        assert scores[0].value == pytest.approx(np.corrcoef([0, 9, 0, *[0] * 6], kept)[0, 1])
        assert scores[1] is None and n_failed == 1 + 4
        values, n_failed = chat_simulator.detect_all(endpoint(fake), [("words", WINDOWS)], seed=0)
        assert values == [None] and n_failed == 4


def test_detection_and_fuzzing_are_balanced_accuracies(endpoint):
    with FakeEndpoint(cat_expert) as fake:
        assert chat_simulator.detect_all(endpoint(fake), [("cats", WINDOWS)], seed=0) == ([1.0], 0)
        assert chat_simulator.fuzz_all(endpoint(fake), [("cats", WINDOWS * 5)], seed=0) == ([1.0], 0)
        assert chat_simulator.detect_all(endpoint(fake), [("cats", WINDOWS[:2])], seed=0) == ([None], 0)
    with FakeEndpoint(lambda system, user: json.dumps([1] * (user.count("Excerpt")))) as fake:
        always = Endpoint(fake.url, "always-active", endpoint(fake).cache)
        assert chat_simulator.detect_all(always, [("cats", WINDOWS)], seed=0) == ([0.5], 0)
