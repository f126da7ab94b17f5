"""Endpoints: replies are cached, transient failures are retried, refusals stop the run."""

import logging
import threading

import pytest

from fake_endpoint import FakeEndpoint
from selfexplain.errors import SelfExplainError
from selfexplain.features.endpoint import Endpoint, Request


@pytest.fixture
def endpoint(tmp_path):
    def make(fake, **settings):
        defaults = {"n_retries": 2, "backoff": 0.01, "timeout": 30.0}
        return Endpoint(fake.url, "judge", tmp_path / "replies.sqlite", **(defaults | settings))

    return make


def requests(n):
    return [Request("count", f"question {number}", 10) for number in range(n)]


def test_replies_are_in_order_and_cached(endpoint, caplog):
    with FakeEndpoint(lambda system, user: user.upper()) as fake, caplog.at_level(logging.INFO):
        expected = [f"QUESTION {n}" for n in range(20)]
        assert endpoint(fake).ask(requests(20), "asking") == expected
        assert endpoint(fake).ask([*requests(20), *requests(3)], "again") == [*expected, *expected[:3]]
        assert len(fake.requests) == 20
        assert {body["model"] for body in fake.requests} == {"judge"}
        assert endpoint(fake).ask([Request("count", "question 0", 10, sample=1)], "another sample") == ["QUESTION 0"]
        assert len(fake.requests) == 21 and fake.requests[-1]["seed"] == 1
    assert "asking: 20 requests" in caplog.text and "again: 0 requests" in caplog.text


def test_endpoints_with_the_same_model_name_do_not_share_replies(endpoint):
    for reply in ("yes", "no"):
        with FakeEndpoint(lambda system, user, reply=reply: reply) as fake:
            assert endpoint(fake).ask(requests(1), "asking") == [reply]


def test_the_cost_is_estimated_without_sending_requests(endpoint):
    with FakeEndpoint(lambda system, user: "yes") as fake:
        questions = [Request("s" * 400, "u" * 1600, 30), Request("s" * 400, "v" * 1600, 30)]
        cost = endpoint(fake).cost([*questions, questions[0]])
        assert (cost.requests, cost.free, cost.prompt_tokens, cost.most_reply_tokens) == (2, 1, 1000, 60)
        assert not fake.requests
        endpoint(fake).ask(questions[:1], "one")
        assert endpoint(fake).cost(questions).requests == 1


@pytest.mark.parametrize("failure", [429, 500, 503, 3.0])
def test_transient_failures_are_retried(endpoint, failure):
    failing = {"question 1", "question 3"}
    lock = threading.Lock()

    def reply(system, user):
        with lock:
            if user in failing:
                failing.remove(user)
                return failure
        return "yes"

    with FakeEndpoint(reply) as fake:
        timeout = 1.0 if isinstance(failure, float) else 30.0
        assert endpoint(fake, timeout=timeout, n_retries=5).ask(requests(5), "asking") == ["yes"] * 5
        assert len(fake.requests) >= 7 and not failing


@pytest.mark.parametrize(("status", "expected"), [(500, [1.0, 2.0, 4.0]), (429, [0.0, 0.0, 0.0])])
def test_retries_wait_exponentially_or_as_long_as_the_endpoint_asks(endpoint, monkeypatch, status, expected):
    waits = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    with FakeEndpoint(lambda system, user: status if user == "question 7" else "yes") as fake:
        endpoint(fake, n_retries=3, backoff=1.0).ask(requests(40), "asking")
    assert len(waits) == 3
    assert all(0.75 * mean <= wait <= 1.25 * mean for wait, mean in zip(waits, expected, strict=True))


def test_a_reply_without_text_is_retried(endpoint):
    replies = iter([None, "yes"])
    with FakeEndpoint(lambda system, user: next(replies)) as fake:
        assert endpoint(fake).ask(requests(1), "asking") == ["yes"]
        assert len(fake.requests) == 2


def test_a_few_requests_that_keep_failing_give_none_and_a_warning(endpoint, caplog):
    with FakeEndpoint(lambda system, user: 500 if user == "question 7" else "yes") as fake:
        replies = endpoint(fake).ask(requests(40), "asking")
        assert replies.count(None) == 1 and replies[7] is None
        assert sum(body["messages"][1]["content"] == "question 7" for body in fake.requests) == 3
        assert "1 requests failed after all retries: HTTP 500" in caplog.text


def test_too_many_failures_stop_the_run_and_replies_are_kept(endpoint):
    down = threading.Event()

    def reply(system, user):
        return 503 if down.is_set() else "yes"

    with FakeEndpoint(reply) as fake:
        endpoint(fake).ask(requests(10), "asking")
        down.set()
        with pytest.raises(SelfExplainError, match=r"failed on .* requests, most recently with: HTTP 503.*are kept"):
            endpoint(fake, concurrency=2).ask(requests(200), "asking")
        assert len(fake.requests) < 100
        down.clear()
        assert endpoint(fake).cost(requests(10)).requests == 0


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_stops_the_run_at_once(endpoint, status):
    with FakeEndpoint(lambda system, user: status) as fake:
        with pytest.raises(SelfExplainError, match=f"HTTP {status}.*OPENAI_API_KEY"):
            endpoint(fake, concurrency=1).ask(requests(50), "asking")
        assert len(fake.requests) == 1


def test_an_unreachable_endpoint_raises_an_error(tmp_path, monkeypatch):
    with FakeEndpoint(lambda system, user: "yes") as fake:
        url = fake.url
    unreachable = Endpoint(url, "judge", tmp_path / "replies.sqlite", n_retries=1, backoff=0.01)
    with pytest.raises(SelfExplainError, match="offline mode"):
        unreachable.ask(requests(2), "asking")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(SelfExplainError, match=r"failed on .* ConnectError"):
        unreachable.ask(requests(2), "asking")


def test_the_key_comes_from_its_variable_and_is_never_the_hub_token(endpoint, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with FakeEndpoint(lambda system, user: "yes") as fake:
        endpoint(fake).ask(requests(1), "asking")
        monkeypatch.setenv("OPENAI_API_KEY", "mine")
        endpoint(fake).ask([Request("count", "other", 10)], "asking")
    assert fake.keys == ["Bearer none", "Bearer mine"]


def test_a_file_that_is_not_a_cache_raises_an_error(endpoint, tmp_path):
    (tmp_path / "replies.sqlite").write_bytes(b"not a database" * 100)
    with (
        FakeEndpoint(lambda system, user: "yes") as fake,
        pytest.raises(SelfExplainError, match="is not a cache of replies"),
    ):
        endpoint(fake).ask(requests(1), "asking")


def rejecting(**messages):
    """A check that refuses requests with a parameter, with the message about it."""
    return lambda body: next((message for name, message in messages.items() if name in body), None)


@pytest.mark.parametrize(
    ("check", "absent", "present"),
    [
        (
            rejecting(
                max_tokens="Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.",
                temperature="Unsupported value: 'temperature' does not support 0.0 with this model.",
            ),
            {"max_tokens", "temperature"},
            {"max_completion_tokens", "seed"},
        ),
        (rejecting(seed="Extra inputs are not permitted: body.seed"), {"seed"}, {"max_tokens", "temperature"}),
        (rejecting(seed="Unrecognized request argument supplied: seed"), {"seed"}, {"max_tokens", "temperature"}),
    ],
)
def test_parameters_that_the_endpoint_rejects_are_replaced_or_left_out(endpoint, check, absent, present):
    with FakeEndpoint(lambda system, user: "yes", check) as fake:
        assert endpoint(fake, concurrency=2).ask(requests(8), "asking") == ["yes"] * 8
        assert not absent & fake.requests[-1].keys() and present <= fake.requests[-1].keys()
        assert fake.requests[-1].get("max_completion_tokens", fake.requests[-1].get("max_tokens")) == 10
        assert len(fake.requests) <= 8 + 2 * 2  # the parameters are learned once


@pytest.mark.parametrize("unfinished", ["", None, "<think>Let me see"])
def test_reasoning_models_get_more_tokens(endpoint, unfinished):
    def check(body):
        return (unfinished,) if body["max_tokens"] < 2000 else None

    with FakeEndpoint(lambda system, user: "<think>It is\nclear.</think>\n\nyes", check) as fake:
        asked = endpoint(fake, concurrency=1)
        assert asked.ask(requests(3), "asking") == ["yes"] * 3
        assert [body["max_tokens"] for body in fake.requests] == [10, 1034, 4106, 4106, 4106]
        assert asked.cost([Request("count", "other", 10)]).most_reply_tokens == 4106


def test_a_budget_that_the_endpoint_rejects_is_reduced(endpoint):
    def check(body):
        if body["max_tokens"] > 2000:
            return f"max_tokens is too large: {body['max_tokens']}. This model supports at most 2000."
        return None if body["messages"][1]["content"] == "question 1" else ("",)

    with FakeEndpoint(lambda system, user: "yes", check) as fake:
        asked = endpoint(fake, concurrency=1, n_retries=0)
        with pytest.raises(SelfExplainError, match="a reply without text that was cut off, for a request with"):
            asked.ask(requests(1), "asking")
        assert [body["max_tokens"] for body in fake.requests] == [10, 1034, 4106, 1034]
        assert asked.ask(requests(2)[1:], "asking") == ["yes"] and fake.requests[-1]["max_tokens"] == 1034


def test_empty_and_unreadable_replies_are_not_cached(endpoint):
    replies = iter(["", "what?", "7", "8"])
    with FakeEndpoint(lambda system, user: next(replies)) as fake:
        for expected in ("what?", "7", "7"):  # the empty reply is retried at once, the unreadable one next time
            parsers = [lambda reply: reply if reply.isdigit() else None]
            assert endpoint(fake).ask(requests(1), "asking", parsers) == [expected]
        assert len(fake.requests) == 3
