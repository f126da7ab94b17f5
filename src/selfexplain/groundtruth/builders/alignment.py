"""Align the tokens of a prompt with the tokens of its counterfactual."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.sources import Pair, Prompt
from selfexplain.target.load import Target
from selfexplain.target.tokens import encode_with_spans

Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class AlignedPair:
    """The token ids of a pair.

    Attributes:
        pair: the pair of prompts.
        ids: token ids of the clean prompt, T of them.
        source_ids: token ids of the source prompt.
        token_types: what each of the T tokens belongs to, such as "subject".
        source_positions: position of each token's counterpart in the source prompt; None if it has no counterpart.
    """

    pair: Pair
    ids: list[int]
    source_ids: list[int]
    token_types: list[str]
    source_positions: list[int | None]


def align(target: Target, pair: Pair) -> AlignedPair:
    """Tokenize both prompts and align their positions.

    Positions are counted from the beginning before the subject, from the end of the subject inside it, and from the
    end of the prompt after it.

    Raises:
        SelfExplainError: the pair cannot be patched; the message is the reason in a few words.
    """
    ids, spans = _encode(target, pair.clean)
    source_ids, source_spans = _encode(target, pair.source)
    begin, end = _subject_tokens(spans, pair.clean.subject)
    source_begin, source_end = _subject_tokens(source_spans, pair.source.subject)
    source_positions: list[int | None] = []
    for position in range(len(ids)):
        if position < begin:
            source_positions.append(position if position < source_begin else None)
        elif position < end:
            aligned = source_end - (end - position)
            source_positions.append(aligned if aligned >= source_begin else None)
        else:
            aligned = len(source_ids) - (len(ids) - position)
            source_positions.append(aligned if aligned >= source_end else None)
    return AlignedPair(pair, ids, source_ids, _token_types(pair, spans, begin, end), source_positions)


def _encode(target: Target, prompt: Prompt) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of a prompt and their character spans."""
    ids, spans = encode_with_spans(target.tokenizer, prompt.text)
    if len(ids) > target.context_length:
        raise SelfExplainError("longer than the context")
    return ids, spans


def _subject_tokens(spans: Spans, subject: tuple[int, int]) -> tuple[int, int]:
    """First token of the subject, and the token after its last one."""
    inside = [i for i, (a, b) in enumerate(spans) if a < subject[1] and b > subject[0] and b > a]
    if not inside:
        raise SelfExplainError("subject not found")
    return inside[0], inside[-1] + 1


def _token_types(pair: Pair, spans: Spans, begin: int, end: int) -> list[str]:
    """The type of each token, where tokens `begin` to `end` are the subject.

    Prompts without options have the types subject and other. Prompts with options also distinguish the relation, each
    kind of option, the instruction and the last token.
    """
    if not pair.options:
        return ["subject" if begin <= i < end else "other" for i in range(len(spans))]
    statement_end = pair.clean.statement_end
    kinds = ("original_option", "new_option", *["other_option"] * len(pair.options))
    listed = [
        (match.start(), match.end(), kind)
        for option, kind in zip(pair.options, kinds, strict=False)
        for match in re.finditer(rf"(?<!\w){re.escape(option)}(?!\w)", pair.clean.text)
        if match.start() >= statement_end
    ]
    types = []
    for i, (a, b) in enumerate(spans):
        option_kinds = [kind for first, last, kind in listed if a < last and b > first]
        if begin <= i < end:
            types.append("subject_final" if i == end - 1 else "subject")
        elif i == len(spans) - 1:
            types.append("last")
        elif b <= statement_end:
            types.append("before_subject" if i < begin else "relation")
        elif option_kinds:
            types.append(option_kinds[0])
        else:
            types.append("instruction")
    return types
