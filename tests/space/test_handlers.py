"""What the page's events call, called directly."""

import html
import pickle
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

import showcase
from limits import RateLimit
from selfexplain.errors import SelfExplainError

VISITOR = SimpleNamespace(client=SimpleNamespace(host="203.0.113.9"))
TEXT = "The capital of Peru is"


@pytest.fixture
def tabs(show):
    import tabs

    return tabs


def test_the_first_answer_costs_less_than_two_seconds(show):
    import questions

    questions._bank.cache_clear()
    start = time.process_time()
    questions.ask_feature(show, "The currency of Chile is the", 4, -1)
    assert time.process_time() - start < 2


def test_a_text_is_read_at_the_token_and_layer_that_are_picked(tabs):
    token, tokens, _, answer = tabs.read(TEXT, 2, 4)
    assert token == 4 and tokens.count('aria-pressed="true"') == 1 and "Peru" in answer
    assert tabs.read(TEXT, 2, -1)[0] == tabs.read(TEXT, 2, 99)[0] == 5  # the last, also when the text got shorter


def test_an_error_takes_the_place_of_the_answer_and_is_no_traceback(tabs, monkeypatch, caplog):
    import service

    assert "room for 128" in tabs.read("a b " * 60, 0, 0)[-1]
    assert "The text is empty" in tabs.patch(" ", TEXT, 0, 0, 0)[-1]

    def broken(*arguments):
        raise RuntimeError("a secret path")

    monkeypatch.setattr(service.questions, "ask_patch", broken)
    answer = tabs.patch(TEXT, f"{TEXT} not", 0, 0, 0)[-1]
    assert service.SORRY in html.unescape(answer) and "secret" not in answer
    with pytest.raises(service.gr.Error) as told:
        service.explain_patch(TEXT, f"{TEXT} not", [0], 0, 0)
    assert told.value.message == service.SORRY and "a secret path" in caplog.text


def test_a_text_that_is_too_long_is_not_sent_back(tabs):
    _, parts, answer = tabs.ablate("\n" * 300_000, "", 0)
    assert parts == "" and "Shorten it" in answer


def zero_gpu(duration):
    """What `spaces.GPU` is on ZeroGPU: another process, from which of errors only gradio's come back as they were."""
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


def test_on_zerogpu_bad_input_and_spent_quota_are_told_and_the_rest_is_not(show, monkeypatch):
    import service

    monkeypatch.setattr(service.spaces, "GPU", zero_gpu)
    calls = []

    @service.on_gpu(seconds=1)
    def ask(kind):
        calls.append(kind)
        if kind == "bad":
            raise SelfExplainError("There is no layer 99.")
        if kind == "quota":
            raise service.gr.Error("You have exceeded your quota.", title="ZeroGPU quota exceeded")
        if kind == "broken":
            raise RuntimeError("a secret path")
        return kind

    told = {kind: service.shown(lambda kind=kind: ask(kind)) for kind in ("bad", "quota", "broken", "good")}
    assert "There is no layer 99." in told["bad"] and "exceeded your quota" in told["quota"]
    assert service.SORRY in html.unescape(told["broken"]) and "RuntimeError" not in told["broken"]
    with pytest.raises(service.gr.Error) as error:
        service.told(ask)("bad")
    assert error.value.message == "There is no layer 99."
    assert ask("good") == "good" and calls == ["bad", "quota", "broken", "good", "bad"]  # answers are remembered


@pytest.mark.parametrize(
    ("header", "seen"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("198.51.100.1, 203.0.113.7", "203.0.113.7"),  # the first is what the visitor wrote
        ("198.51.100.1, 203.0.113.7, 10.20.3.4, 100.64.1.2", "203.0.113.7"),
    ],
)
def test_a_visitor_is_the_address_that_the_proxy_saw(header, seen):
    import asyncio

    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    import app

    async def page(scope, receive, send):
        hosts.append(scope["client"][0])

    hosts: list[str] = []
    scope = {"type": "http", "client": ("10.16.0.1", 5), "headers": [(b"x-forwarded-for", header.encode())]}
    asyncio.run(ProxyHeadersMiddleware(page, app.PROXIES)(scope, None, None))
    assert hosts == [seen]


def test_without_a_block_whose_first_layer_it_reads_there_is_no_patch_tab(show, monkeypatch):
    import app
    import service

    def labels():
        return {part["props"].get("label") for part in app.build().get_config_file()["components"]}

    assert {"Read", "Patch", "Map"} <= labels()
    monkeypatch.setattr(service, "BLOCKS", [])
    assert labels() & {"Read", "Patch", "Map"} == {"Read"}


def test_a_line_is_removed_with_its_line_break(tabs):
    assert tabs.parts_of("a\nb\n") == ["a", "\nb", "\n"]
    part, parts, answer = tabs.ablate("Question: Where?\nHint: The answer is Peru.\nAnswer:", "", 9)
    assert part == 2 and parts.count("<button") == 3 and "What really happens" in answer
    assert "The text is empty" in tabs.ablate("", "", 2)[-1]


CHAT = "<|im_start|>user\nQuestion: Where is {}?\nEurope, Asia or America?{}<|im_end|>\n<|im_start|>assistant\nAnswer:"


@pytest.mark.parametrize("hint", ["\nHint: The answer is Asia", "Hint:\nA friend says Asia."])
def test_the_part_of_an_example_may_end_within_a_line_or_have_several(tabs, show, monkeypatch, hint):
    import app
    import service

    short = {"target_prompt": CHAT.format("Peru", hint), "removed_text": hint, "topic": "homes"}
    long = short | {"target_prompt": CHAT.format("Peru " * 120, hint)}
    rows = [each | {"changed": changed} for changed in (True, False) for each in (long, short)]
    found = showcase.examples({"activation_patching": [], "input_ablation": rows}, show.target)
    assert [each["text"] for each in found["ablation"]] == [short["target_prompt"]] * 2
    for module in (tabs, service):
        monkeypatch.setattr(module, "SHOW", replace(show, examples=show.examples | found))
    app.build()
    example = found["ablation"][0]
    part, _, answer = tabs.ablate(example["text"], hint, tabs.part_of(example))
    assert tabs.parts_of(example["text"], hint)[part] == hint and f"remove={hint!r}" in html.unescape(answer)
    assert tabs.ablate(example["text"], hint, part - 1)[0] == part - 1


def test_features_are_found_by_all_words(tabs, show):
    assert "100 of 100" in tabs.search("")
    assert "1 of 100" in tabs.search("DODOMA word") and "No description" in tabs.search("dodoma Peru")
    assert str(show.features[3].description) in tabs.feature(3)


def test_a_visitor_who_asks_too_much_is_told_to_wait(tabs, monkeypatch):
    import service

    monkeypatch.setattr(service, "LIMIT", RateLimit(n=2, seconds=60))
    answers = [tabs.read(TEXT, 2, 4, VISITOR)[-1] for _ in range(3)]
    assert ["questions a minute" in answer for answer in answers] == [False, False, True]
    assert "questions a minute" in tabs.patch_map(TEXT, TEXT, 0, SimpleNamespace(client=SimpleNamespace(host="b")))
    with pytest.raises(service.gr.Error, match="questions a minute"):
        service.explain_feature(TEXT, 2, 4, VISITOR)
