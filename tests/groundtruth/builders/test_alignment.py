"""Tokens of a prompt are aligned with those of its counterfactual around subjects of different length."""

from dataclasses import replace

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.builders.alignment import align
from selfexplain.groundtruth.sources import Pair, Prompt


def prompt(subject, template="The capital of {} is"):
    begin = template.index("{}")
    return Prompt(template.format(subject), subject, (begin, begin + len(subject)), len(template.format(subject)))


def test_positions_are_aligned_around_subjects_of_different_length(target):
    pair = align(target, Pair(prompt("France"), prompt("New Zealand")))
    n_subject, n_extra = pair.token_types.count("subject"), len(pair.source_ids) - len(pair.ids)
    assert n_extra > 0 and n_subject >= 1
    others = [i for i, kind in enumerate(pair.token_types) if kind == "other"]
    assert len(others) >= 4 and all(pair.ids[i] == pair.source_ids[pair.source_positions[i]] for i in others)
    last = max(i for i, kind in enumerate(pair.token_types) if kind == "subject")
    assert pair.source_positions[last] == last + n_extra


def test_tokens_without_a_counterpart_have_none(target):
    pair = align(target, Pair(prompt("New Zealand"), prompt("France")))
    subject = [i for i, kind in enumerate(pair.token_types) if kind == "subject"]
    n_source = align(target, Pair(prompt("France"), prompt("France"))).token_types.count("subject")
    assert 0 < n_source < len(subject)
    assert all(pair.source_positions[i] is None for i in subject[:-n_source])
    assert all(pair.source_positions[i] is not None for i in subject[-n_source:])


def test_token_types_of_prompts_with_options(target):
    statement, text = "The capital of France is", "The capital of France is Paris or Tokyo or Rome and unknown."
    clean = Prompt(text, "France", (15, 21), len(statement))
    pair = align(target, Pair(clean, clean, ("Paris", "Tokyo", "Rome")))
    spans = target.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    types = {kind: "" for kind in pair.token_types}
    for kind, (begin, end) in zip(pair.token_types, spans, strict=True):
        types[kind] += text[begin:end]
    assert pair.token_types[-1] == "last" and types["relation"] == " is" and types["before_subject"] == "The capital of"
    assert types.get("subject", "") + types["subject_final"] == " France"
    assert types["original_option"] == " Paris" and types["new_option"] == " Tokyo" and types["other_option"] == " Rome"


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (Pair(replace(prompt("France"), subject=(90, 95)), prompt("Japan")), "subject not found"),
        (Pair(prompt("France", "The capital of {} is" + " very" * 300), prompt("Japan")), "longer than the context"),
    ],
)
def test_pairs_that_cannot_be_aligned_raise_an_error_with_the_reason(target, pair, reason):
    with pytest.raises(SelfExplainError, match=f"^{reason}$"):
        align(target, pair)
