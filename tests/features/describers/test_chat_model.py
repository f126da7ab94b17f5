"""What a chat model is asked, and what is made of its replies."""

import json
import re

import numpy as np
import pytest

from fake_endpoint import FakeEndpoint
from selfexplain.features.describers import chat_model as language
from selfexplain.features.description import Description
from selfexplain.features.endpoint import Endpoint
from selfexplain.features.simulate import Score, active_windows, fuzz, fuzzing

WINDOWS = [
    {"tokens": ["The", " cat", " sat", "."], "activations": np.array([0, 8.0, 1.0, 0], np.float32)},
    {"tokens": [" a", " cat", "\n"], "activations": np.array([0, 4.0, 3.0], np.float32)},
    {"tokens": [" no", "thing", " here"], "activations": np.zeros(3, np.float32)},
    {"tokens": [" more", " of", " it"], "activations": np.zeros(3, np.float32)},
]


@pytest.fixture
def endpoint(tmp_path):
    return lambda fake: Endpoint(fake.url, "judge", tmp_path / "replies.sqlite", n_retries=0, backoff=0.01)


def test_active_windows_are_shown_with_highlights_and_strengths():
    request = language.describe_request(WINDOWS)
    assert request.user == (
        'Excerpt 1: The<< cat>> sat.\nActivations: (" cat", 10)\n\n'
        'Excerpt 2:  a<< cat\n>>\nActivations: (" cat", 5), ("\\n", 4)'
    )
    assert request.temperature == 0 and language.describe_request(WINDOWS, 1).temperature == 1


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("DESCRIPTION: words about cats", "words about cats"),
        ("Let me think.\n**Description:** *cats*", "cats"),
        ('description: first\nDESCRIPTION: "the last  one"', "the last one"),
        ("cats, I think", None),
        ("DESCRIPTION:", None),
        ("DESCRIPTION: " + "x" * 400, None),
        ("", None),
    ],
)
def test_a_description_is_read_from_its_line_or_not_at_all(reply, text):
    assert language.parse_description(reply) == text


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
def test_a_simulation_is_numbers_of_tokens_and_strengths_or_nothing(reply, predicted):
    read = language.parse_simulation(reply, 4)
    assert read is None if predicted is None else read.tolist() == predicted


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
def test_a_judgement_is_one_answer_a_text_or_nothing(reply, answers):
    assert language.parse_judgement(reply, 2) == answers


def cat_lover(system, user):
    """Knows that the feature is about cats, whoever asks."""
    if system == language.DESCRIBE:
        return "DESCRIPTION: cats"
    if system == language.SIMULATE:
        return json.dumps({number: 9 for number, token in re.findall(r'^(\d+): "(.*)"$', user, re.M) if "cat" in token})
    texts = user.split("\n\n")[1:]
    sought = "<< cat" if system == language.FUZZ else "cat"
    return json.dumps([int(sought in text) for text in texts])


def test_a_simulator_that_understands_scores_as_the_correlation_of_all_tokens(endpoint):
    with FakeEndpoint(cat_lover) as fake:
        (score, constant), unread = language.simulate_all(endpoint(fake), [("cats", WINDOWS), ("cats", WINDOWS[2:])])
    actual = np.concatenate([window["activations"] for window in WINDOWS])
    expected = np.corrcoef([0, 9, 0, 0, 0, 9, 0, *[0] * 6], actual)[0, 1]
    assert score == Score(pytest.approx(expected), constant=False)
    assert constant == Score(0.0, constant=True) and unread == 0


def test_replies_that_cannot_be_read_are_counted_and_score_nothing(endpoint):
    def nonsense(system, user):
        return "I would say 7." if "sat" in user or "words" in user else cat_lover(system, user)

    with FakeEndpoint(nonsense) as fake:
        scores, unread = language.simulate_all(endpoint(fake), [("cats", WINDOWS), ("words", WINDOWS)])
        kept = np.concatenate([window["activations"] for window in WINDOWS[1:]])
        assert scores[0].value == pytest.approx(np.corrcoef([0, 9, 0, *[0] * 6], kept)[0, 1])
        assert scores[1] is None and unread == 1 + 4
        values, unread = language.detect_all(endpoint(fake), [("words", WINDOWS)], seed=0)
        assert values == [None] and unread == 4
        requests = [language.describe_request(WINDOWS), language.describe_request(WINDOWS[1:])]
        assert language.describe_all(endpoint(fake), requests) == [None, "cats"]


def test_detection_and_fuzzing_are_balanced_accuracies(endpoint):
    with FakeEndpoint(cat_lover) as fake:
        assert language.detect_all(endpoint(fake), [("cats", WINDOWS)], seed=0) == ([1.0], 0)
        assert language.fuzz_all(endpoint(fake), [("cats", WINDOWS)], seed=0)[1] == 0
        assert language.detect_all(endpoint(fake), [("cats", WINDOWS[:2])], seed=0) == ([None], 0)
    with FakeEndpoint(lambda system, user: json.dumps([1] * (user.count("Excerpt")))) as fake:
        always = Endpoint(fake.url, "yes-man", endpoint(fake).cache)
        assert language.detect_all(always, [("cats", WINDOWS)], seed=0) == ([0.5], 0)


def test_fuzzed_windows_highlight_as_many_wrong_tokens_as_right_ones():
    windows = fuzz(WINDOWS * 5, seed=0)
    assert sum(window.right for window in windows) == len(windows) / 2 == 5  # the second has too few other tokens
    for right, wrong in zip(windows[::2], windows[1::2], strict=True):
        assert right.tokens == wrong.tokens and right.highlighted.sum() == wrong.highlighted.sum()
        assert not (right.highlighted & wrong.highlighted).any()
    assert fuzzing(Description(("cat",)), WINDOWS * 5) == 1.0
    assert fuzzing(Description(("sat",)), WINDOWS * 5) < 0.5 == fuzzing(None, WINDOWS)
    assert active_windows(WINDOWS).tolist() == [True, True, False, False]
