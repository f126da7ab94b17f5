"""Input ablation: what the target says when a part of its input is removed or replaced.

What a shortened prompt shares with the full one up to the change is not computed again (`resume.py`).
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.target.load import Target
from selfexplain.target.precision import in_float32
from selfexplain.target.resume import CleanRun, batches, clean_run, full_forward, padded, resume
from selfexplain.target.sweep import SweepResults, is_coarse, near_ties, run_sweep

logger = logging.getLogger(__name__)

Span = tuple[int, int]


def render(
    target: Target, user: str, system: str | None = None, answer_prefix: str = "", chat: bool | None = None
) -> str:
    """A user's turn as the text that the target reads, up to where it answers; thinking is off.

    The text is meant for `Target.encode`, which puts the tokenizer's own first token before it.

    Args:
        system: the system prompt. Where the chat template takes none it goes above the user's turn, with a warning.
        answer_prefix: how the answer begins, such as "Answer:".
        chat: whether the chat template is used; None where the tokenizer has one.

    Raises:
        SelfExplainError: a chat template is asked for, and the tokenizer has none.
    """
    from jinja2 import TemplateError

    tokenizer = target.tokenizer
    if chat is None:
        chat = tokenizer.chat_template is not None
    if not chat:
        return "\n".join(part for part in (system and system + "\n", user, answer_prefix) if part)
    if tokenizer.chat_template is None:
        raise SelfExplainError(f"{target.name} has no chat template: take chat=False.")
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    turns = [{"role": "system", "content": system}] if system else []
    try:
        text = tokenizer.apply_chat_template([*turns, {"role": "user", "content": user}], **options)
    except TemplateError as error:
        if not system:
            raise
        _warn_of_no_system(target.name, str(error))
        text = tokenizer.apply_chat_template([{"role": "user", "content": f"{system}\n\n{user}"}], **options)
    first = tokenizer("")["input_ids"]
    if first and first[0] == tokenizer.bos_token_id:
        text = text.removeprefix(tokenizer.bos_token)
    return text + answer_prefix


@cache
def _warn_of_no_system(name: str, reason: str) -> None:
    """Once, not at every text."""
    logger.warning("%s takes no system prompt (%s): it goes above the user's turn.", name, reason)


def without_spans(text: str, spans: Sequence[Span], replacement: str = "") -> str:
    """The text with each `(begin, end)` span of characters taken out, or replaced.

    Raises:
        SelfExplainError: spans that are empty, overlap or leave the text.
    """
    result, last = "", 0
    for begin, end in sorted(spans):
        if not last <= begin < end <= len(text):
            raise SelfExplainError(
                f"span {(begin, end)} cannot be removed: the text has {len(text)} characters, and spans have to be "
                "filled and apart."
            )
        result += text[last:begin] + replacement
        last = end
    return result + text[last:]


def find_span(text: str, part: str) -> Span:
    """Where `part` stands in a text.

    Raises:
        SelfExplainError: nowhere, or more than once.
    """
    if not part or text.count(part) != 1:
        raise SelfExplainError(
            f"{part!r} occurs {text.count(part) if part else 0} times in the text: give a part that occurs once."
        )
    begin = text.index(part)
    return begin, begin + len(part)


@dataclass(frozen=True)
class Variant:
    """Another form of a prompt: `ids` instead of those of prompt number `prompt`."""

    prompt: int
    ids: tuple[int, ...]


def run_variants(
    target: Target, prompts: Sequence[Sequence[int]], variants: Sequence[Variant], progress: str | None = None
) -> SweepResults:
    """The target's next token after each prompt and each variant; a variant runs from where it departs from its prompt.

    Raises:
        SelfExplainError: a prompt or variant that is empty or over the context.
    """
    for index, variant in enumerate(variants):
        if not 0 < len(variant.ids) <= target.context_length or not 0 <= variant.prompt < len(prompts):
            raise SelfExplainError(
                f"variant {index} has {len(variant.ids)} tokens and is of prompt {variant.prompt}; {len(prompts)} "
                f"prompts were given, and 1 to {target.context_length} tokens fit in the context of {target.name}."
            )
    shared = [_shared_start(prompts[variant.prompt], variant.ids) for variant in variants]
    return run_sweep(target, prompts, _Variants(target, prompts, variants, shared), len(variants), progress)


def _shared_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


@dataclass(frozen=True)
class _Variants:
    """The interventions of a sweep."""

    target: Target
    prompts: Sequence[Sequence[int]]
    variants: Sequence[Variant]
    shared: Sequence[int]

    def place(self, index: int) -> tuple[int, None, int, int]:
        n = len(self.variants[index].ids)
        return self.variants[index].prompt, None, min(self.shared[index], n - 1), n

    def clean(self, prompts: Sequence[int], cached: bool) -> CleanRun:
        return clean_run(self.target.model, [self.prompts[i] for i in prompts], cached=cached)

    def logits(self, clean: CleanRun, rows: Tensor, indices: Sequence[int], resumed: bool) -> Tensor:
        model, ids = self.target.model, [self.variants[i].ids for i in indices]
        if not resumed:
            return full_forward(model, ids)[:, 0]
        start = min(self.place(i)[2] for i in indices)
        read = torch.tensor([[len(own) - 1 - start] for own in ids], device=model.device)
        tokens = padded([own[start:] for own in ids], model.device)
        return resume(model, clean, rows, start, -1, tokens, read)[:, 0]

    def idle(self, clean: CleanRun, rows: Tensor, indices: Sequence[int]) -> Tensor:
        variants = [self.variants[i] for i in indices]
        return torch.tensor([list(v.ids) == list(self.prompts[v.prompt]) for v in variants])


@dataclass(frozen=True)
class Effect:
    """What leaving one unit out does to the next token.

    Attributes:
        text: the unit.
        span: `(begin, end)`, its characters in the user's text.
        output: the most likely next token without it.
        changed: whether that is another one than with it.
        drop: nats by which the log-probability of the full input's output falls: how much the decision rests on it.
        kl: KL(full || without), in nats.
    """

    text: str
    span: Span
    output: str
    changed: bool
    drop: float
    kl: float


def importance(
    target: Target,
    user: str,
    unit: Literal["word", "token"] = "word",
    replacement: str = "",
    system: str | None = None,
    answer_prefix: str = "",
    chat: bool | None = None,
) -> list[Effect]:
    """Which words or tokens of the user's text matter to what the target says next? Each is left out, by itself.

    Args:
        replacement: a neutral text that takes the place of each; empty to delete it (a word with the space before it).

    Raises:
        SelfExplainError: no text, or one over the context.
    """

    def rendered(text: str) -> str:
        return render(target, text, system, answer_prefix, chat)

    full = target.encode(rendered(user))
    if unit == "word":
        spans = [match.span() for match in re.finditer(r"\S+", user)]
        cut = spans if replacement else [_with_space(user, span) for span in spans]
        variants = [tuple(target.encode(rendered(without_spans(user, [span], replacement)))) for span in cut]
    else:
        text = rendered(user)
        begin = text.rindex(user.strip()) - (len(user) - len(user.lstrip()))
        offsets = target.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        inside = [i for i, (a, b) in enumerate(offsets) if begin <= a < b <= begin + len(user)]
        neutral = target.tokenizer(replacement, add_special_tokens=False)["input_ids"] if replacement else []
        spans = [(offsets[i][0] - begin, offsets[i][1] - begin) for i in inside]
        variants = [(*full[:i], *neutral, *full[i + 1 :]) for i in inside]
    results = run_variants(target, [full], [Variant(0, ids) for ids in variants])
    return [
        Effect(user[a:b], (a, b), target.tokenizer.decode([output]), output != int(results.clean_ids[0]), drop, kl)
        for (a, b), output, drop, kl in zip(
            spans,
            results.ids.tolist(),
            (results.clean_log_probs[0] - results.kept_log_probs).tolist(),
            results.kl.tolist(),
            strict=True,
        )
    ]


def _with_space(text: str, span: Span) -> Span:
    """A word and the space before it, or after it where it is the first."""
    before = len(text[: span[0]]) - len(text[: span[0]].rstrip())
    after = 0 if span[0] > before else len(text[span[1] :]) - len(text[span[1] :].lstrip())
    return span[0] - before, span[1] + after


@dataclass(frozen=True)
class Answer:
    """What the target answers to a multiple-choice question.

    Attributes:
        output: the most likely next token, decoded; by likelihood, the most likely option.
        log_prob: of the output.
        option_log_probs: of each option: of its first token, or by likelihood of all of it.
    """

    output: str
    log_prob: float
    option_log_probs: tuple[float, ...]


def answers(
    target: Target,
    texts: Sequence[str],
    options: Sequence[Sequence[str]],
    by: Literal["next_token", "likelihood"] = "next_token",
) -> list[Answer]:
    """Answers to multiple-choice questions, each with its own options, which follow the text after a space.

    Args:
        by: "next_token": the target's next token is its answer, whatever it is. "likelihood": its answer is the option
            that is the most likely continuation as a whole.

    Raises:
        SelfExplainError: a text or option that is empty or over the context.
    """
    prompts = [target.encode(text) for text in texts]
    tokens = [_options(target, *asked) for asked in zip(texts, prompts, options, strict=True)]
    if by == "likelihood":
        flat = [(n, ids) for n, own in enumerate(tokens) for ids in own]
        scores = iter(_sequence_log_probs(target, [prompts[n] for n, _ in flat], [ids for _, ids in flat]))
        scored = [tuple(next(scores) for _ in own) for own in options]
        return [
            Answer(own[values.index(max(values))], max(values), values)
            for own, values in zip(options, scored, strict=True)
        ]
    found: dict[int, Answer] = {}

    def ask(which: Sequence[int]) -> list[int]:
        """Fill in the answers of some; return those that are near-ties."""
        near = []
        for part in batches([(0, len(prompts[i])) for i in which], target.model.device):
            logits = full_forward(target.model, [prompts[which[n]] for n in part])[:, 0]
            log_probs = logits.log_softmax(-1)
            close = near_ties(logits, target.model.dtype).tolist()
            for row, n in enumerate(part):
                index, output = which[n], int(log_probs[row].argmax())
                first = [ids[0] for ids in tokens[index]]
                found[index] = Answer(
                    target.tokenizer.decode([output]),
                    log_probs[row, output].item(),
                    tuple(log_probs[row, first].tolist()),
                )
                near += [index] * close[row]
        return near

    near = ask(range(len(prompts)))
    if is_coarse(target.model):
        with in_float32(target.model):
            ask(near)
    return [found[index] for index in range(len(prompts))]


def continuations(target: Target, text: str, options: Sequence[str]) -> list[list[int] | None]:
    """Tokens of each option after a text and a space, as they come out where both are tokenised together.

    None for an option that is empty, or whose first token merges with the text's last.
    """
    ids, *together = target.tokenizer([text, *(f"{text} {option}" for option in options)])["input_ids"]
    return [
        own[len(ids) :] if option.strip() and own[: len(ids)] == ids else None
        for option, own in zip(options, together, strict=True)
    ]


def _options(target: Target, text: str, ids: Sequence[int], options: Sequence[str]) -> list[list[int]]:
    found = []
    for option, own in zip(options, continuations(target, text, options), strict=True):
        if own is None or len(ids) + len(own) > target.context_length:
            raise SelfExplainError(
                f"option {option!r} cannot follow the text: it is empty, its first token merges with the text's last, "
                f"or it is over the context ({target.context_length} tokens)."
            )
        found.append(own)
    return found


def _sequence_log_probs(
    target: Target, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
) -> list[float]:
    """Log-probability of each continuation, whole."""
    whole = [[*prompt, *ids] for prompt, ids in zip(prompts, continuations, strict=True)]
    values = [0.0] * len(whole)
    for part in batches([(0, len(ids)) for ids in whole], target.model.device):
        longest = max(len(continuations[i]) for i in part)
        read = torch.tensor([[min(len(prompts[i]) - 1 + k, len(whole[i]) - 2) for k in range(longest)] for i in part])
        log_probs = full_forward(target.model, [whole[i] for i in part], read=read).log_softmax(-1)
        for row, i in enumerate(part):
            steps = torch.arange(len(continuations[i]))
            values[i] = log_probs[row, steps, torch.tensor(continuations[i])].sum().item()
    return values
