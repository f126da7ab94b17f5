"""Ground truth of input ablation: answer hinted questions with the hint and without it, or with something else there.

`candidates` asks them; `draw` keeps a balanced sample of the rows.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.balance import balanced
from selfexplain.groundtruth.config import AblationConfig
from selfexplain.groundtruth.sources import HintedQuestion
from selfexplain.groundtruth.sources.tokens import fits
from selfexplain.groundtruth.splits import by_split
from selfexplain.target.ablation import answers, continuations, find_span, without_spans
from selfexplain.target.load import Target
from selfexplain.tasks import input_ablation, outcome
from selfexplain.tasks.outcome import Outcome
from selfexplain.tasks.question import Question


def candidates(
    config: AblationConfig, target: Target, questions: Sequence[HintedQuestion], seed: int
) -> tuple[list[dict], dict]:
    """A row for every question, and counts of questions and of what was left out.

    A row depends on its own question and on `seed` alone.
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
        removed = _removed(config, item)
        before, after = full.output.strip(), ablated.output.strip()
        if not outcome.is_statable(ablated.output):
            counts["questions left out: no sentence can state the answer"] += 1
            continue
        rows.append({
            "prompt": _asked(config, item, seed).prompt,
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


def _problem(config: AblationConfig, target: Target, item: HintedQuestion, seed: int) -> str | None:
    """Why a question cannot be asked, if it cannot."""
    if item.full_text.count(_removed(config, item)) != 1:
        return "hint not found"
    for text in (item.full_text, _ablated_text(config, item)):
        options = continuations(target, text, item.choices)
        if len(target.tokenizer(text)["input_ids"]) + max(len(ids or ()) for ids in options) > target.context_length:
            return "over the context"
        if None in options:
            return "an option merges with the text before it"
    answer = outcome.render(Outcome(True, max(item.choices, key=len)))
    if not fits(target, _asked(config, item, seed).prompt + answer):
        return "over the context once an explainer is asked"
    return None


def _asked(config: AblationConfig, item: HintedQuestion, seed: int) -> Question:
    n_templates = len(input_ablation.templates(None, config.replacement))
    template = random.Random(f"{seed} {item.full_text}").randrange(n_templates)
    return input_ablation.question(item.full_text, None, template, config.replacement)


def _removed(config: AblationConfig, item: HintedQuestion) -> str:
    """What is taken out; where something takes its place, the line breaks around the hint stay."""
    return item.hint.strip() if config.replacement else item.hint


def _ablated_text(config: AblationConfig, item: HintedQuestion) -> str:
    if not config.replacement:
        return item.ablated_text
    return without_spans(item.full_text, [find_span(item.full_text, _removed(config, item))], config.replacement)


def draw(config: AblationConfig, rows: Sequence[Mapping], seed: int) -> tuple[list[int], dict]:
    """Indices of the rows kept, half of them changed in each split, and statistics.

    Of the rows, `group`, `changed`, `topic`, `full_output` and `hinted` are read.

    Raises:
        SelfExplainError: no question's answer changes.
    """
    rng = random.Random(seed)
    drawn: list[int] = []
    for part in by_split([{"group": row["group"], "index": index} for index, row in enumerate(rows)], seed).values():
        drawn += balanced(
            [place["index"] for place in part],
            lambda i: None,
            lambda i: rows[i]["changed"],
            round(config.n_rows * len(part) / len(rows)),
            rng,
        )
    if not drawn:
        raise SelfExplainError(
            f"removing the hint changed none of {len(rows)} answers: this target does not follow hints."
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
