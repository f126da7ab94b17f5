"""Render the Jinja templates of cards: the environment, its filters, and the macros of tasks.

Everything that a template inserts is escaped, so that names and texts of models, recipes and datasets stay text. The
exceptions are text in the templates themselves and what the filters below return, which is `Markup`.
"""

import json
import re
import urllib.parse
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from selfexplain.evaluation.report import gain_sentences, gain_verdict, strata_table
from selfexplain.evaluation.results import Difference, RoleDifference, RoleScore, Score, TestSetResult
from selfexplain.publishing.card_sections import templates_of
from selfexplain.publishing.facts import LONG_LIST, flatten
from selfexplain.resources import resource
from selfexplain.tasks import TASKS
from selfexplain.utils.formatting import format_name
from selfexplain.utils.names import is_hub_id, is_reserved

if TYPE_CHECKING:
    from jinja2 import Environment, nodes

_SPECIAL = re.compile(r"[\\`*|~]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])|^(?=[#>+=-])")
"""Characters that format text in Markdown; `_`, `]` and some others do so only at certain places."""


def render(template: str, **values: Any) -> str:
    """Render a template of `model_cards/`; `hub` is the address of the Hub in use."""
    from huggingface_hub import constants

    return _environment().get_template(template).render(hub=constants.ENDPOINT, **values)


def fragment(task: str, macro: str, *arguments: Any) -> Markup:
    """Render a macro of a task's card section, or the generic one if the section does not define it."""
    for template in templates_of(task):
        found = getattr(_environment().get_template(template).module, macro, None)
        if found is not None:
            return Markup(str(found(TASKS[task], *arguments)).strip())
    raise LookupError(f"No card template defines the macro {macro!r}.")


@cache
def _environment() -> "Environment":
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, FunctionLoader, StrictUndefined, nodes

    class CardEnvironment(Environment):
        """An environment that does not escape the strings in a template."""

        def _parse(self, source: str, name: str | None, filename: str | None) -> "nodes.Template":
            tree = super()._parse(source, name, filename)
            for constant in tree.find_all(nodes.Const):
                if isinstance(constant.value, str):
                    constant.value = Markup(constant.value)
            return tree

    environment = CardEnvironment(
        loader=ChoiceLoader([FunctionLoader(_read_absolute), FileSystemLoader(resource("model_cards"))]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=True,
        finalize=escaped,
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
        "url": url,
        "verdict": verdict,
    }
    environment.globals |= {"linked": linked, "web_link": web_link, "fragment": fragment, "TASKS": TASKS}
    return environment


def _read_absolute(name: str) -> str | None:
    path = Path(name)
    return path.read_text(encoding="utf-8") if path.is_absolute() and path.is_file() else None


def escaped(value: Any) -> Any:
    """A value as text in one line of Markdown, in which nothing is a tag, a link or formatting; `Markup` is kept."""
    if isinstance(value, Markup) or not isinstance(value, str | list | tuple | dict):
        return value
    line = re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", str(value))
    text = _SPECIAL.sub(lambda match: f"\\{match[0]}", line)
    return Markup(re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;"))


def linked(name: str, kind: str = "") -> Markup:
    """A link to a model (or, with kind "datasets/", a dataset) if it is on the Hub; otherwise its name as code."""
    from huggingface_hub import constants

    if is_hub_id(name) and not is_reserved(name):
        return Markup(f"[{name}]({constants.ENDPOINT}/{kind}{name})")
    return code(name)


def web_link(text: str, address: str | None) -> Markup:
    """A link to an address on the web; only the text if there is no address, or if it has another scheme."""
    if address is None or not is_web_address(address):
        return Markup(escaped(text))
    return Markup(f"[{escaped(text)}]({urllib.parse.quote(address, safe=':/?#@!$&+,;=%~')})")


def is_web_address(address: str) -> bool:
    """Whether an address starts with http:// or https:// and has no spaces or control characters."""
    return re.fullmatch(r"https?://[^\s\x00-\x1f]+", address, re.IGNORECASE) is not None


def url(path: str) -> Markup:
    """A relative path as the destination of a link."""
    return Markup(urllib.parse.quote(path, safe="/"))


def quoted(value: Any) -> Markup:
    """A Python literal of a string, of numbers, or of lists of them, in one line."""
    return Markup(json.dumps(value, ensure_ascii=False))


def fenced(text: str, language: str = "text") -> Markup:
    """A code block with the text, fenced by more backticks than any run of backticks in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markup(f"{fence}{language}\n{text.strip()}\n{fence}")


def code(text: str) -> Markup:
    """Inline code for a table cell, so that `<<<Lima>>>` is not taken for an HTML tag."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    line = " ".join(text.split())
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return Markup(f"{ticks}{pad}{line}{pad}{ticks}".replace("|", "\\|") if line else "")


def readable(name: str) -> Markup:
    """An identifier as words; `<task>/<test set>` becomes "task, test set"."""
    return Markup(escaped(format_name(name).replace("/", ", ")))


def shown(value: Any) -> Markup:
    """A value for a table cell; long lists are cut."""
    if value is None:
        return Markup("not set")
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    if isinstance(value, list | tuple):
        n_more = f", ... ({len(value)} in total)" if len(value) > LONG_LIST else ""
        return Markup(", ".join(map(shown, value[:LONG_LIST])) + n_more)
    if isinstance(value, int):
        return Markup(f"{value:,}")
    if isinstance(value, float):
        return Markup(f"{value:.4g}")
    return Markup(escaped(value if isinstance(value, str) else json.dumps(value)))


def cell(score: Score | RoleScore | None) -> Markup:
    """A score with its interval for a table cell; empty if there is none."""
    return Markup() if score is None else _with_interval(score.value, score.ci95)


def difference(entry: Difference | RoleDifference | None) -> Markup:
    """A difference with its interval for a table cell; empty if there is none."""
    return Markup() if entry is None else _with_interval(entry.difference, entry.ci95)


def _with_interval(value: float, interval: tuple[float, float]) -> Markup:
    low, high = interval
    return Markup(f"{value:.3f} [{low:.3f}, {high:.3f}]")


def verdict(result: TestSetResult, metric: str) -> Markup:
    """One sentence that compares the explainer with the other systems on a metric, judged by the paired intervals.

    Args:
        result: the scores.
        metric: name of the metric.
    """
    outcomes: dict[str, list[Markup]] = {"better than": [], "worse than": [], "not distinguishable from": []}
    for pair, metrics in result.comparisons.items():
        if metric in metrics:
            low, high = metrics[metric].ci95
            outcome = "better than" if low > 0 else "worse than" if high < 0 else "not distinguishable from"
            outcomes[outcome].append(readable(pair.removeprefix("explainer - ")))
    parts = [f"{outcome} {_listed(systems)}" for outcome, systems in outcomes.items() if systems]
    return Markup(f"On {readable(metric)}, the explainer is {'; '.join(parts)}." if parts else "")


def _listed(names: Sequence[Markup]) -> Markup:
    """Names in a sentence: "*a*, *b* and *c*"."""
    return joined([Markup(f"*{name}*") for name in names], "and")


def joined(items: Sequence[str], word: str) -> Markup:
    """Items in a sentence: "a, b and c" for the word "and"."""
    *first, last = map(escaped, items)
    return Markup(f"{', '.join(first)} {word} {last}" if first else last)
