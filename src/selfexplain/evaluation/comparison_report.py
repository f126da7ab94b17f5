"""Show a comparison: tables for the terminal and in Markdown, and figures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selfexplain.evaluation.comparison import BASELINES, NEIGHBOUR, READER, ROLES
from selfexplain.evaluation.config import EXPLAINED_BY
from selfexplain.evaluation.report import SYSTEMS
from selfexplain.evaluation.results import ComparedScore, ComparisonResult, RoleDifference, RoleScore, TaskComparison
from selfexplain.utils.formatting import format_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Group

COLOURS = {
    "self": SYSTEMS["explainer"],
    "other": SYSTEMS["untrained"],
    NEIGHBOUR: SYSTEMS[NEIGHBOUR],
    READER: SYSTEMS["gradient_boosting"],
}
NOTE = (
    "Intervals are 95 % bootstrap intervals over groups, for the explainers that were trained here; other trainings "
    "vary more. In the means, every model is target and explainer equally often on both sides."
)


@dataclass(frozen=True)
class Table:
    """A table: title, column heads, and rows of text."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def as_tables(comparison: ComparisonResult) -> Iterator[Table]:
    """Three tables per task: scores of every explainer on all rows, scores by number of rows, and differences."""
    for task, result in comparison.tasks.items():
        sizes = ", ".join(f"{n} test rows of {name}" for name, n in result.n_test.items())
        subject = f"{format_name(task)}, {sizes}"
        yield _explainers_table(result, subject)
        yield _means_table(result, subject)
        yield _differences_table(result, subject)


def _explainers_table(result: TaskComparison, subject: str) -> Table:
    metrics = tuple(result.scores)
    cells = {
        (entry.target, entry.explainer, metric): entry
        for metric in metrics
        for entry in result.scores[metric]
        if entry.share == 1 and entry.explainer not in BASELINES
    }
    pairs = dict.fromkeys((target, explainer) for target, explainer, _ in cells)
    return Table(
        f"who explains whom: {subject}",
        ("target", "explained by", *map(format_name, metrics)),
        [(*pair, *(_value(cells[*pair, metric]) for metric in metrics)) for pair in pairs],
    )


def _means_table(result: TaskComparison, subject: str) -> Table:
    metrics = tuple(result.means)
    means = {(entry.share, entry.role, metric): entry for metric in metrics for entry in result.means[metric]}
    return Table(
        f"by number of training rows, mean over targets: {subject}",
        ("training rows", "explained by", *map(format_name, metrics)),
        [
            (
                f"{means[share, role, metrics[0]].n_train} ({share:.3g})",
                EXPLAINED_BY[role],
                *(_value(means[share, role, metric]) for metric in metrics),
            )
            for share, role in dict.fromkeys((share, role) for share, role, _ in means)
        ],
    )


def _differences_table(result: TaskComparison, subject: str) -> Table:
    metrics = tuple(result.differences)
    differences = {
        (entry.first, entry.second, metric): entry for metric in metrics for entry in result.differences[metric]
    }
    return Table(
        f"differences, mean over targets: {subject}",
        ("difference", *map(format_name, metrics)),
        [
            (
                f"{_role(*first)} - {_role(*second)}",
                *(_difference(differences[first, second, metric]) for metric in metrics),
            )
            for first, second in dict.fromkeys((first, second) for first, second, _ in differences)
        ],
    )


def tables(comparison: ComparisonResult) -> "Group":
    """The tables for `rich`."""
    from rich.console import Group
    from rich.table import Table as RichTable

    rendered = []
    for table in as_tables(comparison):
        shown = RichTable(title=table.title, title_justify="left")
        for name in table.head:
            shown.add_column(name)
        for row in table.rows:
            shown.add_row(*(cell.replace("[", r"\[") for cell in row))
        rendered.append(shown)
    return Group(*rendered, NOTE)


def markdown(comparison: ComparisonResult) -> str:
    """The same tables in Markdown."""
    lines = []
    for table in as_tables(comparison):
        lines += [f"**{table.title[0].upper()}{table.title[1:]}**", ""]
        lines += [f"| {' | '.join(table.head)} |", "|" + "---|" * len(table.head)]
        lines += [f"| {' | '.join(row)} |" for row in table.rows] + [""]
    return "\n".join([*lines, NOTE])


def write_figures(comparison: ComparisonResult, out_dir: Path) -> None:
    """Write `privileged_access.png` and `data_efficiency.png`, with one panel per task for its headline metric."""
    from matplotlib.figure import Figure

    out_dir.mkdir(parents=True, exist_ok=True)
    tasks = comparison.tasks
    for name, draw in (("privileged_access", _draw_explainers), ("data_efficiency", _draw_curves)):
        figure = Figure(figsize=(3.4 * len(tasks) + 1.6, 3.8), layout="constrained")
        panels = figure.subplots(1, len(tasks), squeeze=False)[0]
        for axes, (task, result) in zip(panels, tasks.items(), strict=True):
            draw(axes, result, result.headline)
            axes.set_title(format_name(task), loc="left")
            axes.set_ylabel(format_name(result.headline))
            axes.axhline(0, color="#444", linewidth=0.8)
            axes.grid(axis="y", color="#ddd", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        _save(figure, panels[0], out_dir / f"{name}.png")


def _draw_explainers(axes: "Axes", result: TaskComparison, metric: str) -> None:
    """One column per target and one for the mean; one interval per explainer, with dashes for several seeds."""
    targets = list(result.n_test)
    scores = [entry for entry in result.scores[metric] if entry.share == 1 and entry.explainer not in BASELINES]
    for column, target in enumerate(targets):
        of_target = [entry for entry in scores if entry.target == target]
        of_target.sort(key=lambda entry: entry.explainer != target)
        for number, entry in enumerate(of_target):
            offset = (number - (len(of_target) - 1) / 2) * 0.6 / len(of_target)
            role = "self" if entry.explainer == target else "other"
            _draw_score(axes, column + offset, entry, role, entry.seeds)
    for role, offset in (("self", -0.15), ("other", 0.15)):
        for mean in result.means[metric]:
            if mean.role == role and mean.share == 1:
                _draw_score(axes, len(targets) + offset, mean, role)
    axes.axvline(len(targets) - 0.5, color="#bbb", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(targets) + 1), [*targets, "mean"])
    axes.set_xlim(-0.5, len(targets) + 0.5)
    shown = [
        f"mean of itself - another model:\n{_difference(entry)}"
        for entry in result.differences[metric]
        if (entry.first, entry.second) == (("self", 1.0), ("other", 1.0))
    ]
    axes.set_xlabel("\n".join(["target", *shown]))


def _draw_score(
    axes: "Axes", x: float, entry: ComparedScore | RoleScore, role: str, seeds: list[float] | None = None
) -> None:
    label = f"explained by {EXPLAINED_BY[role]}"
    is_labelled = label in axes.get_legend_handles_labels()[1]
    colour = COLOURS[role]
    axes.plot([x, x], entry.ci95, color=colour, linewidth=2.5, label=None if is_labelled else label, zorder=2)
    axes.plot(x, entry.value, "o", color=colour, markersize=7, zorder=3)
    dashes = seeds if seeds and len(seeds) > 1 else []
    axes.plot([x + 0.07] * len(dashes), dashes, "_", color=colour, markersize=7, zorder=3)


def _draw_curves(axes: "Axes", result: TaskComparison, metric: str) -> None:
    """One line per role over the number of training rows."""
    for number, role in enumerate(ROLES):
        entries = [entry for entry in result.means[metric] if entry.role == role]
        if not entries:
            continue
        rows = [entry.n_train * 1.03 ** (number - 1) for entry in entries]  # shifted, so that intervals do not overlap
        values = [entry.value for entry in entries]
        errors = [
            [entry.value - entry.ci95[0] for entry in entries],
            [entry.ci95[1] - entry.value for entry in entries],
        ]
        axes.errorbar(rows, values, errors, color=COLOURS[role], marker="o", capsize=2, label=EXPLAINED_BY[role])
    axes.set_xscale("log")
    amounts = sorted({entry.n_train for entry in result.means[metric]})
    axes.set_xticks(amounts, [f"{amount:,}" for amount in amounts])
    axes.minorticks_off()
    axes.set_xlabel("training rows")


def _save(figure: "Figure", first: "Axes", path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150)


def _role(role: str, share: float) -> str:
    return EXPLAINED_BY[role] + (" (all rows)" if share == 1 else f" ({share:.3g} of the rows)")


def _value(entry: ComparedScore | RoleScore) -> str:
    low, high = entry.ci95
    return f"{entry.value:.3f} [{low:.3f}, {high:.3f}]"


def _difference(entry: RoleDifference) -> str:
    low, high = entry.ci95
    return f"{entry.difference:+.3f} [{low:+.3f}, {high:+.3f}], p = {entry.p_value:.2g}"
