"""Caching, ZeroGPU, rate limits and error messages."""

import html
import pickle
from types import SimpleNamespace

import pytest

from limits import RateLimit
from selfexplain.errors import SelfExplainError

VISITOR = SimpleNamespace(client=SimpleNamespace(host="203.0.113.9"))
TEXT = "The capital of Peru is"


def zero_gpu(duration):
    """Behave like `spaces.GPU` on ZeroGPU: a separate process, from which only Gradio's errors return unchanged."""
    import gradio as gr

    def decorate(task):
        def handler(*args):
            try:
                return pickle.loads(pickle.dumps(task(*pickle.loads(pickle.dumps(args)))))
            except gr.Error:
                raise
            except Exception as error:
                raise gr.Error(type(error).__name__, title="ZeroGPU worker error", print_exception=False) from None

        return handler

    return decorate


def test_on_zero_gpu_visitors_see_input_and_quota_errors_but_no_internal_ones(show, monkeypatch):
    import endpoints
    import service

    monkeypatch.setattr(service.spaces, "GPU", zero_gpu)
    calls = []

    @service.on_gpu(seconds=1)
    def ask(kind):
        calls.append(kind)
        if kind == "invalid":
            raise SelfExplainError("There is no layer 99.")
        if kind == "quota":
            raise service.gr.Error("You have exceeded your quota.", title="ZeroGPU quota exceeded")
        if kind == "bug":
            raise RuntimeError("a secret path")
        return kind

    shown = {kind: service.html_or_error(lambda kind=kind: ask(kind)) for kind in ("invalid", "quota", "bug", "valid")}
    assert "There is no layer 99." in shown["invalid"] and "exceeded your quota" in shown["quota"]
    assert service.SORRY in html.unescape(shown["bug"]) and "RuntimeError" not in shown["bug"]
    with pytest.raises(service.gr.Error, match=r"There is no layer 99\."):
        endpoints.raises_gradio_errors(ask)("invalid")
    assert ask("valid") == "valid"
    assert calls == ["invalid", "quota", "bug", "valid", "invalid"]  # answers are cached, errors are not


def test_visitors_and_programs_see_an_apology_for_a_bug_and_the_log_has_the_reason(show, monkeypatch, caplog):
    import endpoints
    import service
    from tabs import patch

    def broken(*arguments):
        raise RuntimeError("a secret path")

    monkeypatch.setattr(service.patch, "ask_patch", broken)
    answer = patch.patch(TEXT, f"{TEXT} not", 0, 0, 0)[-1]
    assert service.SORRY in html.unescape(answer) and "secret" not in answer
    with pytest.raises(service.gr.Error) as error:
        endpoints.explain_patch(TEXT, f"{TEXT} not", [0], 0, 0)
    assert error.value.message == service.SORRY and "a secret path" in caplog.text


def test_a_visitor_over_the_rate_limit_is_asked_to_wait(show, monkeypatch):
    import endpoints
    import service
    from tabs import patch, read

    monkeypatch.setattr(service, "LIMIT", RateLimit(n=2, seconds=60))
    answers = [read.read(TEXT, 2, 4, VISITOR)[-1] for _ in range(3)]
    assert ["questions per minute" in answer for answer in answers] == [False, False, True]
    other = SimpleNamespace(client=SimpleNamespace(host="b"))
    assert "questions per minute" in patch.patch_map(TEXT, TEXT, 0, other)  # a map counts as many questions
    with pytest.raises(service.gr.Error, match="questions per minute"):
        endpoints.explain_feature(TEXT, 2, 4, VISITOR)


def test_addresses_of_one_ipv6_network_share_a_limit(show, monkeypatch):
    import service

    monkeypatch.setattr(service, "LIMIT", RateLimit(n=3, seconds=60))
    visitors = [SimpleNamespace(client=SimpleNamespace(host=f"2001:db8::{n}")) for n in range(1, 5)]
    for visitor in visitors[:3]:
        service.admit(visitor)
    with pytest.raises(SelfExplainError, match="questions per minute"):
        service.admit(visitors[3])
