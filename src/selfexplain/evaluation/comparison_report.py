"""Show a comparison: tables for the terminal and in Markdown, figures."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.evaluation.comparison import NEIGHBOUR, ROLES
from selfexplain.evaluation.config import EXPLAINED_BY
from selfexplain.evaluation.report import HEADLINE, SYSTEMS, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Group

COLOURS = {"self": SYSTEMS["explainer"], "other": SYSTEMS["untrained"], NEIGHBOUR: SYSTEMS[NEIGHBOUR]}
NOTE = (
    "95 % intervals, bootstrap over groups, for the explainers that were trained here: other trainings differ by more. "
    "In means every model is explained and explains equally often on both sides."
)


@dataclass(frozen=True)
class Table:
    """A table to be shown: a title, the heads of its columns, and rows of text."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def as_tables(found: Mapping[str, Any]) -> Iterator[Table]:
    """Per task: who explains whom with all rows, scores by the number of rows, and what the differences are."""
    for task, result in found["tasks"].items():
        metrics = tuple(result["scores"])
        about = f"{readable(task)}, {', '.join(f'{n} test rows of {name}' for name, n in result['n_test'].items())}"
        cells = {
            (entry["target"], entry["explainer"], metric): entry
            for metric in metrics
            for entry in result["scores"][metric]
            if entry["share"] == 1 and entry["explainer"] != NEIGHBOUR
        }
        pairs = dict.fromkeys((target, explainer) for target, explainer, _ in cells)
        yield Table(
            f"who explains whom: {about}",
            ("target", "explained by", *map(readable, metrics)),
            [(*pair, *(_value(cells[*pair, metric]) for metric in metrics)) for pair in pairs],
        )
        means = {
            (entry["share"], entry["role"], metric): entry for metric in metrics for entry in result["means"][metric]
        }
        yield Table(
            f"by the number of training rows, mean over targets: {about}",
            ("training rows", "explained by", *map(readable, metrics)),
            [
                (
                    f"{means[share, role, metrics[0]]['n_train']} ({share:.3g})",
                    EXPLAINED_BY[role],
                    *(_value(means[share, role, metric]) for metric in metrics),
                )
                for share, role in dict.fromkeys((share, role) for share, role, _ in means)
            ],
        )
        differences = {
            (tuple(entry["first"]), tuple(entry["second"]), metric): entry
            for metric in metrics
            for entry in result["differences"][metric]
        }
        yield Table(
            f"differences, mean over targets: {about}",
            ("difference", *map(readable, metrics)),
            [
                (
                    f"{_with(*first)} - {_with(*second)}",
                    *(_difference(differences[first, second, metric]) for metric in metrics),
                )
                for first, second in dict.fromkeys((first, second) for first, second, _ in differences)
            ],
        )


def tables(found: Mapping[str, Any]) -> "Group":
    """The tables for `rich`."""
    from rich.console import Group
    from rich.table import Table as RichTable

    rendered = []
    for table in as_tables(found):
        shown = RichTable(title=table.title, title_justify="left")
        for name in table.head:
            shown.add_column(name)
        for row in table.rows:
            shown.add_row(*(cell.replace("[", r"\[") for cell in row))
        rendered.append(shown)
    return Group(*rendered, NOTE)


def markdown(found: Mapping[str, Any]) -> str:
    """The same tables in Markdown."""
    lines = []
    for table in as_tables(found):
        lines += [f"**{table.title[0].upper()}{table.title[1:]}**", ""]
        lines += [f"| {' | '.join(table.head)} |", "|" + "---|" * len(table.head)]
        lines += [f"| {' | '.join(row)} |" for row in table.rows] + [""]
    return "\n".join([*lines, NOTE])


def write_figures(found: Mapping[str, Any], out_dir: Path) -> None:
    """Write `privileged_access.png` and `data_efficiency.png`, a panel a task with the task's headline metric."""
    from matplotlib.figure import Figure

    out_dir.mkdir(parents=True, exist_ok=True)
    tasks = found["tasks"]
    for name, draw in (("privileged_access", _who), ("data_efficiency", _curves)):
        figure = Figure(figsize=(3.4 * len(tasks) + 1.6, 3.8), layout="constrained")
        panels = figure.subplots(1, len(tasks), squeeze=False)[0]
        for axes, (task, result) in zip(panels, tasks.items(), strict=True):
            draw(axes, result, HEADLINE[task])
            axes.set_title(readable(task), loc="left")
            axes.set_ylabel(readable(HEADLINE[task]))
            axes.axhline(0, color="#444", linewidth=0.8)
            axes.grid(axis="y", color="#ddd", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        _finish(figure, panels[0], out_dir / f"{name}.png")


def _who(axes: "Axes", result: Mapping[str, Any], metric: str) -> None:
    """One column a target, and one for the mean; an interval an explainer, a dash a training of several."""
    targets = list(result["n_test"])
    scores = [entry for entry in result["scores"][metric] if entry["share"] == 1 and entry["explainer"] != NEIGHBOUR]
    labelled: set[str] = set()

    def point(place: float, entry: Mapping[str, Any], role: str) -> None:
        label = None if role in labelled else f"explained by {EXPLAINED_BY[role]}"
        labelled.add(role)
        low, high = entry["ci95"]
        axes.plot([place, place], [low, high], color=COLOURS[role], linewidth=2.5, label=label, zorder=2)
        axes.plot(place, entry["value"], "o", color=COLOURS[role], markersize=7, zorder=3)
        seeds = entry.get("seeds", [])
        seeds = seeds if len(seeds) > 1 else []
        axes.plot([place + 0.07] * len(seeds), seeds, "_", color=COLOURS[role], markersize=7, zorder=3)

    for column, target in enumerate(targets):
        own = [entry for entry in scores if entry["target"] == target]
        own.sort(key=lambda entry: entry["explainer"] != target)
        for number, entry in enumerate(own):
            beside = (number - (len(own) - 1) / 2) * 0.6 / len(own)
            point(column + beside, entry, "self" if entry["explainer"] == target else "other")
    for role in ROLES[:2]:
        for entry in result["means"][metric]:
            if entry["role"] == role and entry["share"] == 1:
                point(len(targets) + (-0.15 if role == "self" else 0.15), entry, role)
    axes.axvline(len(targets) - 0.5, color="#bbb", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(targets) + 1), [*targets, "mean"])
    axes.set_xlim(-0.5, len(targets) + 0.5)
    shown = [
        f"mean of itself - another model:\n{_difference(entry)}"
        for entry in result["differences"][metric]
        if entry["first"] == ["self", 1.0] and entry["second"] == ["other", 1.0]
    ]
    axes.set_xlabel("\n".join(["target", *shown]))


def _curves(axes: "Axes", result: Mapping[str, Any], metric: str) -> None:
    """A line a role over the number of training rows."""
    for number, role in enumerate(ROLES):
        entries = [entry for entry in result["means"][metric] if entry["role"] == role]
        if not entries:
            continue
        rows = [entry["n_train"] * 1.03 ** (number - 1) for entry in entries]  # side by side where they overlap
        values = [entry["value"] for entry in entries]
        errors = [
            [entry["value"] - entry["ci95"][0] for entry in entries],
            [entry["ci95"][1] - entry["value"] for entry in entries],
        ]
        axes.errorbar(rows, values, errors, color=COLOURS[role], marker="o", capsize=2, label=EXPLAINED_BY[role])
    axes.set_xscale("log")
    amounts = sorted({entry["n_train"] for entry in result["means"][metric]})
    axes.set_xticks(amounts, [f"{amount:,}" for amount in amounts])
    axes.minorticks_off()
    axes.set_xlabel("training rows")


def _finish(figure: "Figure", first: "Axes", path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150)


def _with(role: str, share: float) -> str:
    return EXPLAINED_BY[role] + (" (all rows)" if share == 1 else f" ({share:.3g} of the rows)")


def _value(entry: Mapping[str, Any]) -> str:
    low, high = entry["ci95"]
    return f"{entry['value']:.3f} [{low:.3f}, {high:.3f}]"


def _difference(entry: Mapping[str, Any]) -> str:
    low, high = entry["ci95"]
    return f"{entry['difference']:+.3f} [{low:+.3f}, {high:+.3f}], p = {entry['p_value']:.2g}"
