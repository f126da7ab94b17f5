"""Build the rows of input ablation: ask questions with their hints, and again without them or with a replacement."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from selfexplain.bundled import TINY_WORLD
from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.balance import draw_balanced
from selfexplain.groundtruth.builders import transluce
from selfexplain.groundtruth.builders.builder import register
from selfexplain.groundtruth.builders.items import Builder
from selfexplain.groundtruth.config import AblationConfig
from selfexplain.groundtruth.sources import Corpus, HintedQuestion, SourceItems, table_questions
from selfexplain.groundtruth.sources.tokens import fits
from selfexplain.target.ablation import answers, continuations, find_span, possible_answers, without_spans
from selfexplain.target.load import Target
from selfexplain.target.nexttoken import possible_next_tokens
from selfexplain.target.tokens import encode_text, token_text
from selfexplain.tasks import input_ablation, outcome
from selfexplain.tasks.outcome import Outcome
from selfexplain.tasks.question import Question


def find_questions(config: AblationConfig, target: Target, corpus: Corpus, seed: int) -> SourceItems[HintedQuestion]:
    """The questions with hints, and counts of what was skipped.

    Raises:
        SelfExplainError: the source is missing or unreadable, or is plain text.
    """
    if config.source.kind == "multiple_choice":
        return table_questions(config.source, target, config.n_questions, seed)
    if corpus.questions is None:
        raise SelfExplainError(
            f"input_ablation needs questions with hints, but the corpus {corpus.name} is plain text. "
            "Set input_ablation.source.kind=multiple_choice and input_ablation.source.path, "
            f"set corpus={TINY_WORLD}, or remove input_ablation from tasks."
        )
    return SourceItems(list(corpus.questions(config.n_questions, seed)))


def compute_rows(
    config: AblationConfig, target: Target, questions: Sequence[HintedQuestion], seed: int
) -> tuple[list[dict], dict]:
    """One row per question, and counts of the questions and of those that are left out.

    A row depends only on its own question and on `seed`.
    """
    counts = Counter(questions=len(questions))
    usable = []
    for item in questions:
        if problem := _problem(config, target, item, seed):
            counts[f"questions left out: {problem}"] += 1
        else:
            usable.append(item)
    texts = [item.full_text for item in usable] + [_ablated_text(config, item) for item in usable]
    answered = answers(target, texts, [item.choices for item in usable] * 2, config.answers)
    rows = []
    for item, full, ablated in zip(usable, answered[: len(usable)], answered[len(usable) :], strict=True):
        if not outcome.is_statable(ablated.output):
            counts["questions left out: no sentence can state the answer"] += 1
            continue
        before, after = full.output.strip(), ablated.output.strip()
        removed = _removed_text(config, item)
        rows.append({
            "prompt": _question(config, item, seed).prompt,
            "completion": outcome.render(Outcome(before != after, ablated.output)),
            "placeholder_offsets": [],
            "activations": [],
            "activation_layers": [],
            "group": item.group,
            "question": item.question,
            "choices": list(item.choices),
            "answer": item.answer,
            "topic": item.topic,
            "hint_style": item.hint_style,
            "hinted": item.hinted,
            "target_prompt": item.full_text,
            "removed_text": removed,
            "removed_span": list(find_span(item.full_text, removed)),
            "replacement": config.replacement,
            "answered_by": config.answers,
            "full_output": before,
            "ablated_output": after,
            "changed": before != after,
            "option_log_probs_full": list(full.option_log_probs),
            "option_log_probs_ablated": list(ablated.option_log_probs),
        })  # fmt: skip
    return rows, dict(counts)


def draw_rows(config: AblationConfig, rows: Sequence[Mapping], seed: int) -> tuple[list[int], dict]:
    """Indices of the rows to keep, half of them changed in each split, and statistics.

    Args:
        config: settings of the task.
        rows: candidates with the columns `group`, `changed`, `topic`, `full_output` and `hinted`.
        seed: seed of the splits and of the draw.

    Raises:
        SelfExplainError: no answer changes.
    """
    drawn = draw_balanced(rows, config.n_rows, seed) if rows else []
    if not drawn:
        raise SelfExplainError(
            f"None of {len(rows)} answers changes if the hint is removed, so this target does not follow the hints. "
            "Use different hints (input_ablation.source.hints) or a different target."
        )
    topics = Counter((row["topic"], row["changed"]) for row in rows)
    return drawn, {
        "questions": len(rows),
        "questions_changed": sum(row["changed"] for row in rows) / len(rows),
        "hint_followed": sum(row["full_output"] == row["hinted"] for row in rows) / len(rows),
        "rows": len(drawn),
        "rows_changed": sum(rows[i]["changed"] for i in drawn) / len(drawn),
        "questions_by_topic": {
            t: {"unchanged": topics[t, False], "changed": topics[t, True]} for t in sorted({t for t, _ in topics})
        },
    }


def rerun(target: Target, row: Mapping[str, Any]) -> tuple[str, str]:
    """Stored and new outputs of a row, before and after the ablation.

    Rows of old datasets lack the columns `replacement` and `answered_by`. In these the hint is removed and the answer
    is the next token.
    """
    begin, end = row["removed_span"]
    text = row["target_prompt"]
    texts = text, text[:begin] + row.get("replacement", "") + text[end:]
    stored = row["full_output"], row["ablated_output"]
    found = []
    for text, output in zip(texts, stored, strict=True):
        if row.get("answered_by") == "likelihood":
            possible = possible_answers(target, text, row["choices"])
        else:
            tokens = possible_next_tokens(target, target.encode(text))
            possible = [token_text(target.tokenizer, token).strip() for token in tokens]
        found.append(output if output in possible else possible[0])
    return " -> ".join(map(repr, stored)), " -> ".join(map(repr, found))


def _problem(config: AblationConfig, target: Target, item: HintedQuestion, seed: int) -> str | None:
    """Why a question cannot be used; None if it can."""
    if item.full_text.count(_removed_text(config, item)) != 1:
        return "hint not found"
    for text in (item.full_text, _ablated_text(config, item)):
        options = continuations(target, text, item.choices)
        if len(encode_text(target.tokenizer, text)) + max(len(ids or ()) for ids in options) > target.context_length:
            return "longer than the context"
        if None in options:
            return "an option merges with the text before it"
    answer = outcome.render(Outcome(True, max(item.choices, key=len)))
    if not fits(target, _question(config, item, seed).prompt + answer):
        return "question to the explainer longer than the context"
    return None


def _question(config: AblationConfig, item: HintedQuestion, seed: int) -> Question:
    """The question to the explainer, in a wording that depends on the item and the seed."""
    n_templates = len(input_ablation.templates(None, config.replacement))
    template = random.Random(f"{seed} {item.full_text}").randrange(n_templates)
    return input_ablation.question(item.full_text, None, template, config.replacement)


def _removed_text(config: AblationConfig, item: HintedQuestion) -> str:
    """The text to remove. If it is replaced, the line breaks around the hint are kept."""
    return item.hint.strip() if config.replacement else item.hint


def _ablated_text(config: AblationConfig, item: HintedQuestion) -> str:
    if not config.replacement:
        return item.ablated_text
    return without_spans(item.full_text, [find_span(item.full_text, _removed_text(config, item))], config.replacement)


BUILDER: Builder[AblationConfig, HintedQuestion] = Builder(
    config_class=AblationConfig,
    item_type=HintedQuestion,
    noun="questions",
    n_items=lambda config: config.n_questions,
    items_per_shard=1024,
    find_items=find_questions,
    rows=compute_rows,
    draw_rows=draw_rows,
    draw_columns=("changed", "topic", "hint_style", "full_output", "hinted"),
    n_rows=lambda config: config.n_rows,
    rerun=rerun,
    published={"transluce": transluce.PublishedRows(AblationConfig, transluce.read_ablation)},
)
register(input_ablation.TASK, BUILDER)
