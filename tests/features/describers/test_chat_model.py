"""Descriptions by a chat model: its requests, and the parsing of its replies."""

import pytest

from chat_windows import WINDOWS, cat_expert
from fake_endpoint import FakeEndpoint
from selfexplain.features.describers import chat_model
from selfexplain.features.endpoint import Endpoint


def test_the_request_shows_active_windows_with_highlights_and_strengths():
    request = chat_model.describe_request(WINDOWS)
    assert request.user == (
        'Excerpt 1: The<< cat>> sat.\nActivations: (" cat", 10)\n\n'
        'Excerpt 2:  a<< cat\n>>\nActivations: (" cat", 5), ("\\n", 4)'
    )
    assert request.temperature == 0 and chat_model.describe_request(WINDOWS, 1).temperature == 1


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
def test_a_description_is_parsed_from_its_line(reply, text):
    assert chat_model.parse_description(reply) == text


def test_replies_without_a_description_give_none(tmp_path):
    def reply(system, user):
        return "I cannot tell." if "sat" in user else cat_expert(system, user)

    requests = [chat_model.describe_request(WINDOWS), chat_model.describe_request(WINDOWS[1:])]
    with FakeEndpoint(reply) as fake:
        endpoint = Endpoint(fake.url, "describer", tmp_path / "replies.sqlite", n_retries=0, backoff=0.01)
        assert chat_model.describe_all(endpoint, requests) == [None, "cats"]
