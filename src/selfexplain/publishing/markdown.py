"""Render the Jinja templates of cards: the environment, its filters, and the macros of tasks."""

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.evaluation.report import gain_sentences, gain_verdict, strata_table
from selfexplain.evaluation.results import Difference, RoleDifference, RoleScore, Score, TestSetResult
from selfexplain.publishing.card_sections import templates_of
from selfexplain.publishing.facts import LONG_LIST, flatten
from selfexplain.resources import resource
from selfexplain.tasks import TASKS
from selfexplain.utils.formatting import format_name
from selfexplain.utils.names import is_hub_id, is_reserved

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """Render a template of `model_cards/`; `hub` is the address of the Hub in use."""
    from huggingface_hub import constants

    return _environment().get_template(template).render(hub=constants.ENDPOINT, **values)


def fragment(task: str, macro: str, *arguments: Any) -> str:
    """Render a macro of a task's card section, or the generic one if the section does not define it."""
    for template in templates_of(task):
        found = getattr(_environment().get_template(template).module, macro, None)
        if found is not None:
            return str(found(TASKS[task], *arguments)).strip()
    raise LookupError(f"No card template defines the macro {macro!r}.")


@cache
def _environment() -> "Environment":
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([FunctionLoader(_read_absolute), FileSystemLoader(resource("model_cards"))]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "cell": cell,
        "code": code,
        "difference": difference,
        "fenced": fenced,
        "flat": flatten,
        "gain_verdict": gain_verdict,
        "gains": gain_sentences,
        "joined": joined,
        "quoted": quoted,
        "readable": readable,
        "shown": shown,
        "strata": strata_table,
        "verdict": verdict,
    }
    environment.globals |= {"linked": linked, "fragment": fragment, "TASKS": TASKS}
    return environment


def _read_absolute(name: str) -> str | None:
    path = Path(name)
    return path.read_text(encoding="utf-8") if path.is_absolute() and path.is_file() else None


def linked(name: str, kind: str = "") -> str:
    """A link to a model (or, with kind "datasets/", a dataset) if it is on the Hub; otherwise its name as code."""
    from huggingface_hub import constants

    if is_hub_id(name) and not is_reserved(name):
        return f"[{name}]({constants.ENDPOINT}/{kind}{name})"
    return f"`{name}`"


def quoted(text: str) -> str:
    """A Python string literal."""
    return json.dumps(text, ensure_ascii=False)


def fenced(text: str) -> str:
    """A code block with the text, fenced by more backticks than any run of backticks in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text.strip()}\n{fence}"


def code(text: str) -> str:
    """Inline code for a table cell, so that `<<<Lima>>>` is not taken for an HTML tag."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    line = " ".join(text.split())
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}".replace("|", "\\|") if line else ""


def readable(name: str) -> str:
    """An identifier as words; `<task>/<test set>` becomes "task, test set"."""
    return format_name(name).replace("/", ", ")


def shown(value: Any) -> str:
    """A value for a table cell; long lists are cut."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        n_more = f", ... ({len(value)} in total)" if len(value) > LONG_LIST else ""
        return ", ".join(map(shown, value[:LONG_LIST])) + n_more
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def cell(score: Score | RoleScore | None) -> str:
    """A score with its interval for a table cell; empty if there is none."""
    return "" if score is None else _with_interval(score.value, score.ci95)


def difference(entry: Difference | RoleDifference | None) -> str:
    """A difference with its interval for a table cell; empty if there is none."""
    return "" if entry is None else _with_interval(entry.difference, entry.ci95)


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def verdict(result: TestSetResult, metric: str) -> str:
    """One sentence that compares the explainer with the other systems on a metric, judged by the paired intervals.

    Args:
        result: the scores.
        metric: name of the metric.
    """
    outcomes: dict[str, list[str]] = {"better than": [], "worse than": [], "not distinguishable from": []}
    for pair, metrics in result.comparisons.items():
        if metric in metrics:
            low, high = metrics[metric].ci95
            outcome = "better than" if low > 0 else "worse than" if high < 0 else "not distinguishable from"
            outcomes[outcome].append(readable(pair.removeprefix("explainer - ")))
    parts = [f"{outcome} {_listed(systems)}" for outcome, systems in outcomes.items() if systems]
    return f"On {readable(metric)}, the explainer is {'; '.join(parts)}." if parts else ""


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence: "*a*, *b* and *c*"."""
    return joined([f"*{name}*" for name in names], "and")


def joined(items: Sequence[str], word: str) -> str:
    """Items in a sentence: "a, b and c" for the word "and"."""
    *first, last = items
    return f"{', '.join(first)} {word} {last}" if first else last
