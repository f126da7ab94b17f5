"""Event handlers of the Remove tab."""

import html
from dataclasses import replace

import pytest

from examples import EXAMPLE_SOURCES, held_out_examples

CHAT = "<|im_start|>user\nQuestion: Where is {}?\nEurope, Asia or America?{}<|im_end|>\n<|im_start|>assistant\nAnswer:"


@pytest.fixture
def ablation(show):
    from tabs import ablation

    return ablation


def test_a_line_is_removed_with_its_line_break(ablation):
    assert ablation.parts_of("a\nb\n") == ["a", "\nb", "\n"]
    part, parts, answer = ablation.ablate("Question: Where?\nHint: The answer is Peru.\nAnswer:", "", 9)
    assert part == 2 and parts.count("<button") == 3 and "Measured" in answer


def test_an_error_replaces_the_answer_and_a_long_text_is_not_sent_back(ablation):
    assert "The text is empty" in ablation.ablate("", "", 2)[-1]
    _, parts, answer = ablation.ablate("\n" * 300_000, "", 0)
    assert parts == "" and "Shorten it" in answer


@pytest.mark.parametrize("hint", ["\nHint: The answer is Asia", "Hint:\nA friend says Asia."])
def test_the_part_of_an_example_may_end_within_a_line_or_span_several(ablation, show, monkeypatch, hint):
    import app
    import service

    short = {"target_prompt": CHAT.format("Peru", hint), "removed_text": hint, "topic": "homes"}
    long = short | {"target_prompt": CHAT.format("Peru " * 120, hint)}
    rows = [row | {"changed": changed} for changed in (True, False) for row in (long, short)]
    examples = held_out_examples(EXAMPLE_SOURCES["input_ablation"], rows, show.target)
    assert [example.text for example in examples] == [short["target_prompt"]] * 2
    all_examples = {**show.examples, "input_ablation": tuple(examples)}
    monkeypatch.setattr(service, "SHOW", replace(show, examples=all_examples))
    app.build()
    part, _, answer = ablation.ablate(examples[0].text, hint, ablation.part_of(examples[0]))
    assert ablation.parts_of(examples[0].text, hint)[part] == hint and f"remove={hint!r}" in html.unescape(answer)
    assert ablation.ablate(examples[0].text, hint, part - 1)[0] == part - 1
