"""Texts become token ids up to their last character, and tokens become text in which different tokens differ."""

from copy import deepcopy
from dataclasses import replace

import pytest
from tokenizers import processors

from chat_styles import STYLES, styled
from selfexplain.errors import SelfExplainError
from selfexplain.target.ablation import answers, continuations, importance, render
from selfexplain.target.nexttoken import next_tokens
from selfexplain.target.tokens import added_tokens, continuation, encode_text, encode_with_spans, token_text
from slow_tokenizer import SlowTokenizer

TEXT = "The capital of France is"


@pytest.fixture
def ending(tokenizer):
    """The same tokenizer, but it appends `</s>` to every text."""
    ending = deepcopy(tokenizer)
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return ending


def test_the_end_token_that_a_tokenizer_appends_is_not_part_of_a_text(target, ending):
    assert ending(TEXT)["input_ids"][-1] == 2
    other = replace(target, tokenizer=ending)
    assert added_tokens(ending) == ([1], [2])
    assert other.encode(TEXT) == target.encode(TEXT) == target.tokenizer(TEXT)["input_ids"]
    assert next_tokens(other, [TEXT]) == next_tokens(target, [TEXT])
    options = ["Paris", "Tokyo"]
    assert continuations(other, TEXT, options) == continuations(target, TEXT, options)
    for by in ("next_token", "likelihood"):
        assert answers(other, [TEXT], [options], by) == answers(target, [TEXT], [options], by)
    for unit in ("word", "token"):
        assert importance(other, TEXT, unit) == importance(target, TEXT, unit)


def test_spans_are_those_of_the_tokenizer(tokenizer):
    ids, spans = encode_with_spans(tokenizer, TEXT)
    encoded = tokenizer(TEXT, return_offsets_mapping=True)
    assert (ids, spans) == (encoded["input_ids"], encoded["offset_mapping"])


@pytest.mark.parametrize("text", [TEXT, " The é日本 capital", "\n\nx  y"])
def test_a_tokenizer_without_offsets_has_the_same_spans(tokenizer, text):
    slow = SlowTokenizer(tokenizer)
    ids, spans = encode_with_spans(slow, text)
    assert not slow.is_fast and ids == encode_text(tokenizer, text)
    _, expected = encode_with_spans(tokenizer, text)
    assert [text[:b] for a, b in spans if b > a][-1] == text
    if text == TEXT:
        assert [b for _, b in spans] == [b for _, b in expected]


def test_tokens_that_do_not_decode_to_the_text_have_no_spans(tokenizer):
    class Lossy(SlowTokenizer):
        def convert_tokens_to_string(self, tokens):
            return "other"

    with pytest.raises(SelfExplainError, match=r"Lossy has no character offsets.*'other'.*fast version"):
        encode_with_spans(Lossy(tokenizer), TEXT)


def test_a_text_that_spells_its_beginning_gets_no_second_one(tokenizer):
    assert encode_text(tokenizer, f"<s>{TEXT}") == encode_text(tokenizer, TEXT)


@pytest.mark.parametrize("style", [style for style in STYLES if styled(style).chat_template])
def test_a_rendered_prompt_has_the_tokens_of_the_chat_template(target, style):
    tokenizer = styled(style)
    text = render(replace(target, tokenizer=tokenizer), TEXT)
    turn = [{"role": "user", "content": TEXT}]
    expected = tokenizer.apply_chat_template(
        turn, add_generation_prompt=True, tokenize=True, return_dict=True, enable_thinking=False
    )["input_ids"]
    assert encode_text(tokenizer, text) == expected
    assert encode_text(tokenizer, TEXT)[: len(added_tokens(tokenizer)[0])] == added_tokens(tokenizer)[0]
    assert not text.startswith("<s>") or style in ("llama 2, first", "unigram, first")


def test_a_continuation_is_tokenised_together_with_its_text():
    tokenizer = styled("llama 2, first")
    assert tokenizer.convert_ids_to_tokens(continuation(tokenizer, "The capital:", " is the")) == [
        "\u2581is",
        "\u2581the",
    ]
    assert continuation(tokenizer, "The", " ") is None
    assert continuation(styled("gpt-2"), "The capi", "tal") is None


@pytest.mark.parametrize("style", STYLES)
def test_different_tokens_have_different_texts(style):
    tokenizer = styled(style)
    texts = {}
    for token in range(len(tokenizer)):
        texts.setdefault(token_text(tokenizer, token), []).append(tokenizer.convert_ids_to_tokens(token))
    assert not any("\ufffd" in text for text in texts)
    for names in texts.values():
        assert len(names) == 1 or any(name.startswith("<0x") for name in names), names  # "A" and <0x41> are equal


def test_bytes_of_a_character_are_shown():
    gpt, llama = styled("gpt-2"), styled("llama 2")
    ids = gpt(" \u65e5", add_special_tokens=False)["input_ids"]
    assert "".join(token_text(gpt, token) for token in ids) == r" \xe6\x97\xa5"
    assert token_text(llama, llama.convert_tokens_to_ids("<0xE6>")) == r"\xe6"
    assert token_text(llama, llama.convert_tokens_to_ids("\u2581the")) == " the"
    assert token_text(SlowTokenizer(gpt), ids[-1]) == r"\xa5"
