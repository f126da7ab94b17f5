"""Input ablation: remove or replace a part of the input and read the target's output.

The tokens that a shortened prompt shares with the full prompt are not computed again (see `resume.py`).
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
from selfexplain.target.sweep import NEAR_TIE, SweepResults, is_coarse, near_ties, run_sweep
from selfexplain.target.tokens import continuation, default_template, encode_text, encode_with_spans, token_text

logger = logging.getLogger(__name__)

Span = tuple[int, int]


def render(
    target: Target, user: str, system: str | None = None, answer_prefix: str = "", chat: bool | None = None
) -> str:
    """Render a user turn as the text that the target reads, up to the beginning of its answer. Thinking is off.

    Pass the result to `Target.encode`, which returns the tokens that the chat template writes: it adds the tokenizer's
    first token (such as `<s>`) only if the template writes it, or if there is no template.

    Args:
        user: text of the user turn.
        system: system prompt. If the chat template does not support one, it is put before the user turn, with a
            warning.
        answer_prefix: beginning of the answer, such as "Answer:".
        chat: whether to use the chat template. None uses it if the tokenizer has one.

    Raises:
        SelfExplainError: `chat` is True and the tokenizer has no chat template.
    """
    from jinja2 import TemplateError

    tokenizer = target.tokenizer
    if chat is None:
        chat = bool(tokenizer.chat_template)
    if not chat:
        return "\n".join(part for part in (system and system + "\n", user, answer_prefix) if part)
    if not tokenizer.chat_template:
        raise SelfExplainError(f"The tokenizer of {target.name} has no chat template. Set chat=False.")
    options = {
        "chat_template": default_template(tokenizer),
        "tokenize": False,
        "add_generation_prompt": True,
        "enable_thinking": False,
    }
    turns = [{"role": "system", "content": system}] if system else []
    try:
        text = tokenizer.apply_chat_template([*turns, {"role": "user", "content": user}], **options)
    except TemplateError as error:
        if not system:
            raise
        _warn_without_system_role(target.name, str(error))
        text = tokenizer.apply_chat_template([{"role": "user", "content": f"{system}\n\n{user}"}], **options)
    text += answer_prefix
    if tokenizer.bos_token is None:
        return text
    shorter = text.removeprefix(tokenizer.bos_token)
    same = encode_text(tokenizer, shorter) == encode_text(tokenizer, text)
    return shorter if same else text  # some tokenizers encode the beginning of a text differently after that token


@cache
def _warn_without_system_role(name: str, reason: str) -> None:
    """Log a warning, once per model and reason."""
    logger.warning(
        "The chat template of %s has no system role (%s). The system prompt goes into the user turn.", name, reason
    )


def without_spans(text: str, spans: Sequence[Span], replacement: str = "") -> str:
    """The text with each `(begin, end)` span of characters removed, or replaced by `replacement`.

    Raises:
        SelfExplainError: a span is empty, overlaps another one, or exceeds the text.
    """
    result, last = "", 0
    for begin, end in sorted(spans):
        if not last <= begin < end <= len(text):
            raise SelfExplainError(
                f"Span {(begin, end)} cannot be removed from a text of {len(text)} characters. Spans must be non-empty "
                "and inside the text, and must not overlap."
            )
        result += text[last:begin] + replacement
        last = end
    return result + text[last:]


def find_span(text: str, part: str) -> Span:
    """The `(begin, end)` character offsets of `part` in a text.

    Raises:
        SelfExplainError: `part` does not occur exactly once.
    """
    if not part or text.count(part) != 1:
        raise SelfExplainError(
            f"{part!r} occurs {text.count(part) if part else 0} times in the text. Give a part that occurs once."
        )
    begin = text.index(part)
    return begin, begin + len(part)


@dataclass(frozen=True)
class Variant:
    """A variant of a prompt.

    Attributes:
        prompt: index of the prompt.
        ids: token ids that replace those of the prompt.
    """

    prompt: int
    ids: tuple[int, ...]


def run_variants(
    target: Target, prompts: Sequence[Sequence[int]], variants: Sequence[Variant], progress: str | None = None
) -> SweepResults:
    """Run prompts and variants and read the next token. Only tokens from a variant's first difference on are run.

    Args:
        prompts: token ids of each prompt.
        progress: label of the progress bar; None for no bar.

    Raises:
        SelfExplainError: a prompt or variant is empty or longer than the context, or a variant's prompt does not exist.
    """
    for index, variant in enumerate(variants):
        if not 0 < len(variant.ids) <= target.context_length or not 0 <= variant.prompt < len(prompts):
            raise SelfExplainError(
                f"Variant {index} has {len(variant.ids)} tokens and belongs to prompt {variant.prompt}. There are "
                f"{len(prompts)} prompts, and a variant must have 1 to {target.context_length} tokens, the context of "
                f"{target.name}."
            )
    target = target.private()
    shared = [_shared_start(prompts[variant.prompt], variant.ids) for variant in variants]
    return run_sweep(target, prompts, _Variants(target, prompts, variants, shared), len(variants), progress)


def _shared_start(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of leading tokens that two sequences share."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


@dataclass(frozen=True)
class _Variants:
    """The variants as the interventions of a sweep."""

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
        read = torch.tensor([[len(variant) - 1 - start] for variant in ids], device=model.device)
        tokens = padded([variant[start:] for variant in ids], model.device)
        return resume(model, clean, rows, start, -1, tokens, read)[:, 0]

    def idle(self, clean: CleanRun, rows: Tensor, indices: Sequence[int]) -> Tensor:
        variants = [self.variants[i] for i in indices]
        return torch.tensor([list(v.ids) == list(self.prompts[v.prompt]) for v in variants])


@dataclass(frozen=True)
class Effect:
    """The effect of removing one unit (word or token) on the next token.

    Attributes:
        text: the unit.
        span: `(begin, end)` character offsets of the unit in the user's text.
        output: the most likely next token without the unit.
        changed: whether this token differs from the one with the unit.
        drop: decrease of the log-probability of the full input's output, in nats.
        kl: KL(full || without the unit) of the next-token distributions, in nats.
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
    """Remove each word or token of the user's text in turn and measure the effect on the next token.

    Args:
        user: text of the user turn.
        unit: what to remove at a time.
        replacement: neutral text that replaces each unit. If it is empty, the unit is deleted (a word together with the
            space before it).
        system: system prompt, see `render`.
        answer_prefix: beginning of the answer, see `render`.
        chat: whether to use the chat template, see `render`.

    Raises:
        SelfExplainError: the text is empty or longer than the context.
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
        _, offsets = encode_with_spans(target.tokenizer, text)
        inside = [i for i, (a, b) in enumerate(offsets) if begin <= a < b <= begin + len(user)]
        neutral = target.tokenizer(replacement, add_special_tokens=False)["input_ids"] if replacement else []
        spans = [(offsets[i][0] - begin, offsets[i][1] - begin) for i in inside]
        variants = [(*full[:i], *neutral, *full[i + 1 :]) for i in inside]
    results = run_variants(target, [full], [Variant(0, ids) for ids in variants])
    return [
        Effect(user[a:b], (a, b), token_text(target.tokenizer, output), output != int(results.clean_ids[0]), drop, kl)
        for (a, b), output, drop, kl in zip(
            spans,
            results.ids.tolist(),
            (results.clean_log_probs[0] - results.kept_log_probs).tolist(),
            results.kl.tolist(),
            strict=True,
        )
    ]


def _with_space(text: str, span: Span) -> Span:
    """The span of a word and the space before it. For the first word, the space after it."""
    before = len(text[: span[0]]) - len(text[: span[0]].rstrip())
    after = 0 if span[0] > before else len(text[span[1] :]) - len(text[span[1] :].lstrip())
    return span[0] - before, span[1] + after


@dataclass(frozen=True)
class ChoiceAnswer:
    """The target's answer to a multiple-choice question.

    Attributes:
        output: the decoded most likely next token, or the most likely option if options are compared by likelihood.
        log_prob: log-probability of the output.
        option_log_probs: log-probability of each option: of its first token, or of the whole option if options are
            compared by likelihood.
    """

    output: str
    log_prob: float
    option_log_probs: tuple[float, ...]


def answers(
    target: Target,
    texts: Sequence[str],
    options: Sequence[Sequence[str]],
    by: Literal["next_token", "likelihood"] = "next_token",
) -> list[ChoiceAnswer]:
    """The target's answers to multiple-choice questions.

    Args:
        texts: question prompts. An option follows its text after a space.
        options: options of each question.
        by: "next_token" takes the target's next token as its answer, whether or not an option begins with it.
            "likelihood" takes the option with the highest probability as a whole.

    Raises:
        SelfExplainError: a text or option is empty or longer than the context.
    """
    target = target.private()
    prompts = [target.encode(text) for text in texts]
    tokens = [_option_tokens(target, *question) for question in zip(texts, prompts, options, strict=True)]
    if by == "likelihood":
        scored = _option_scores(target, prompts, tokens)
        if is_coarse(target.model):
            ties = [n for n, values in enumerate(scored) if _is_near_tie(values, target.model.dtype)]
            with in_float32(target.model):
                exact = _option_scores(target, [prompts[n] for n in ties], [tokens[n] for n in ties])
            for n, values in zip(ties, exact, strict=True):
                scored[n] = values
        return [
            ChoiceAnswer(question[values.index(max(values))], max(values), values)
            for question, values in zip(options, scored, strict=True)
        ]
    first_tokens = [[ids[0] for ids in question] for question in tokens]
    result = _next_token_answers(target, prompts, first_tokens, range(len(prompts)))
    if is_coarse(target.model):
        ties = [index for index, (_, tied) in result.items() if tied]
        with in_float32(target.model):
            result |= _next_token_answers(target, prompts, first_tokens, ties)
    return [result[index][0] for index in range(len(prompts))]


def possible_answers(target: Target, text: str, options: Sequence[str]) -> list[str]:
    """The options that `answers` can report as the most likely one, as in `nexttoken.possible_next_tokens`."""
    target = target.private()
    prompts = [target.encode(text)]
    tokens = [_option_tokens(target, text, prompts[0], options)]
    (values,) = _option_scores(target, prompts, tokens)
    best = [options[values.index(max(values))]]
    if is_coarse(target.model) and _is_near_tie(values, target.model.dtype, 2 * NEAR_TIE):
        with in_float32(target.model):
            (exact,) = _option_scores(target, prompts, tokens)
        best.insert(0, options[exact.index(max(exact))])
    return list(dict.fromkeys(best))


def _is_near_tie(values: Sequence[float], dtype: torch.dtype, margin: float = NEAR_TIE) -> bool:
    """Whether `dtype` cannot separate the two largest log-probabilities."""
    return len(values) > 1 and bool(near_ties(torch.tensor([values]), dtype, margin)[0])


def _option_scores(
    target: Target, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]]
) -> list[tuple[float, ...]]:
    """The log-probability of each option of each question.

    Args:
        prompts: token ids of each question.
        options: token ids of the options of each question.
    """
    flat = [(n, ids) for n, question in enumerate(options) for ids in question]
    scores = iter(_sequence_log_probs(target, [prompts[n] for n, _ in flat], [ids for _, ids in flat]))
    return [tuple(next(scores) for _ in question) for question in options]


def _next_token_answers(
    target: Target, prompts: Sequence[Sequence[int]], first_tokens: Sequence[Sequence[int]], indices: Sequence[int]
) -> dict[int, tuple[ChoiceAnswer, bool]]:
    """Next-token answers to some of the prompts: index -> (answer, whether it is a near-tie).

    Args:
        first_tokens: first token of each option of each prompt.
    """
    result: dict[int, tuple[ChoiceAnswer, bool]] = {}
    for part in batches([(0, len(prompts[i])) for i in indices], target.model.device):
        logits = full_forward(target.model, [prompts[indices[n]] for n in part])[:, 0]
        log_probs = logits.log_softmax(-1)
        tied = near_ties(logits, target.model.dtype).tolist()
        for row, n in enumerate(part):
            index, output = indices[n], int(log_probs[row].argmax())
            answer = ChoiceAnswer(
                token_text(target.tokenizer, output),
                log_probs[row, output].item(),
                tuple(log_probs[row, first_tokens[index]].tolist()),
            )
            result[index] = (answer, tied[row])
    return result


def continuations(target: Target, text: str, options: Sequence[str]) -> list[list[int] | None]:
    """The tokens of each option after a text and a space, tokenised together with the text.

    None for an option that is empty or whose first token merges with the last token of the text.
    """
    return [continuation(target.tokenizer, text, f" {option}") if option.strip() else None for option in options]


def _option_tokens(target: Target, text: str, ids: Sequence[int], options: Sequence[str]) -> list[list[int]]:
    result = []
    for option, tokens in zip(options, continuations(target, text, options), strict=True):
        if tokens is None or len(ids) + len(tokens) > target.context_length:
            raise SelfExplainError(
                f"Option {option!r} cannot follow the text: it is empty, its first token merges with the text's last "
                f"token, or text and option exceed the context of {target.context_length} tokens. Change the option or "
                "the text."
            )
        result.append(tokens)
    return result


def _sequence_log_probs(
    target: Target, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
) -> list[float]:
    """The log-probability of each continuation as a whole."""
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
