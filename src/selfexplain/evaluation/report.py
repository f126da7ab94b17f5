"""Show results: results.json, tables for the terminal, figures."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.metrics import TASK_METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Group

SYSTEMS = {
    "explainer": "#1f5fa8",
    "shuffled_vector": "#8c6bb1",
    "zero_vector": "#b29dcc",
    "text_only": "#d5cae4",
    "untrained": "#c9713d",
    "selfie": "#e0a878",
    "nearest_neighbour": "#5d8f5a",
    "lookup_rule": "#93b68f",
    "majority": "#c9dcc5",
    "ground_truth": "#d4a72c",
}
"""Every system in the order of tables and figures, with its colour: controls violet, baselines orange and green."""

HEADLINE = {
    "feature_description": "simulator_correlation",
    "activation_patching": "has_changed_macro_f1",
    "input_ablation": "has_changed_macro_f1",
}
"""The metric of each task that every system has."""


def readable(name: str) -> str:
    """`has_changed_macro_f1` -> `has changed macro F1`."""
    return name.replace("_", " ").replace("f1", "F1").replace("selfie", "SelfIE")


def write_results(results: Mapping[str, Any], path: Path) -> None:
    """Write results.json: all of it or nothing.

    Raises:
        SelfExplainError: a score is NaN or infinite.
    """
    try:
        text = json.dumps(results, indent=2, allow_nan=False)
    except ValueError as error:
        raise SelfExplainError(f"the results cannot be written to {path}: {error}.") from error
    partial = path.with_suffix(".tmp")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)


def tables(results: Mapping[str, Any]) -> "Group":
    """One table a task for `rich`, 80 columns wide: systems by metrics, each value with its 95 % interval."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    rendered: list[Table | str] = []
    for task, title, result in _sections(results):
        table = Table(
            title=f"{title}: {result['n_test']} held-out rows in {result['n_groups']} groups",
            caption="\n".join(["95 % intervals, bootstrap over groups", *_simulator(result), *_confidence(result)]),
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
        )
        table.add_column("system", no_wrap=True)
        for metric in TASK_METRICS[task]:
            table.add_column(readable(metric), justify="right")
        for system in _systems(result):
            cells = [escape(_cell(result["scores"][system].get(metric), 2)) for metric in TASK_METRICS[task]]
            table.add_row(readable(system), *cells, style="bold" if system == "explainer" else None)
        rendered += [table, ""]
    return Group(*rendered[:-1])


def markdown(results: Mapping[str, Any]) -> str:
    """The same tables in Markdown."""
    lines = []
    for task, title, result in _sections(results):
        metrics = TASK_METRICS[task]
        lines += [
            f"**{title.capitalize()}**: {result['n_test']} held-out rows in {result['n_groups']} groups",
            "",
            f"| system | {' | '.join(map(readable, metrics))} |",
            f"|---|{'---:|' * len(metrics)}",
        ]
        for system in _systems(result):
            cells = [_cell(result["scores"][system].get(metric), 3) for metric in metrics]
            lines.append(f"| {readable(system)} | {' | '.join(cells)} |")
        lines += ["", *(f"{line}\n" for line in (*_simulator(result), *_confidence(result)))]
    return "\n".join(lines)


def write_figures(results: Mapping[str, Any], out_dir: Path) -> list[Path]:
    """Write a figure a task with all its metrics, `summary.png`, one metric a task, and `risk_coverage.png`.

    Returns:
        Their paths.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    out_dir.mkdir(parents=True, exist_ok=True)
    tasks = results["tasks"]
    paths = []

    def save(figure: Figure, name: str) -> None:
        FigureCanvasAgg(figure)
        paths.append(out_dir / f"{name}.png")
        figure.savefig(paths[-1], dpi=150)

    for task, result in tasks.items():
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        _bars(axes, result, TASK_METRICS[task])
        axes.set_title(f"{readable(task)} ({result['n_test']} held-out rows)", loc="left")
        figure.legend(loc="outside right upper", frameon=False)
        save(figure, task)

    figure = Figure(figsize=(3.4 * len(tasks) + 1.6, 3.6), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, (task, result) in zip(panels, tasks.items(), strict=True):
        _bars(axes, result, [HEADLINE[task]])
        axes.set_title(readable(task), loc="left")
    entries = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    order = [readable(system) for system in SYSTEMS if readable(system) in entries]
    figure.legend([entries[label] for label in order], order, loc="outside right upper", frameon=False)
    save(figure, "summary")

    figure = Figure(figsize=(3.4 * len(tasks) + 0.6, 3.2), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, (task, result) in zip(panels, tasks.items(), strict=True):
        _risk_coverage(axes, result["calibration"])
        axes.set_title(readable(task), loc="left")
    panels[0].set_ylabel("share wrong among those answered")
    save(figure, "risk_coverage")
    return paths


def _sections(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Task, title and scores of each table; test sets out of distribution follow their task."""
    for task, result in results["tasks"].items():
        yield task, readable(task), result
        for name, beside in result.get("out_of_distribution", {}).items():
            yield task, f"{readable(task)}, {readable(name)}", beside


def _systems(result: Mapping[str, Any]) -> list[str]:
    return [system for system in SYSTEMS if system in result["scores"]]


def _simulator(result: Mapping[str, Any]) -> list[str]:
    """Who foretold activations from the descriptions, and what is left out; nothing for the offline simulator."""
    if "unread" not in result:
        return []
    windows, rows = (
        {system: sum(n[kind] for n in by_metric.values()) for system, by_metric in result["unread"].items()}
        for kind in ("windows", "rows")
    )
    line = f"activations foretold by {result['simulator']}"
    if any(windows.values()):
        line += (
            f"; left out because its replies cannot be read: {windows['explainer']} windows of the explainer and "
            f"{sum(windows.values()) - windows['explainer']} of the other systems, {rows['explainer']} and "
            f"{sum(rows.values()) - rows['explainer']} rows"
        )
    return [line]


def _confidence(result: Mapping[str, Any]) -> list[str]:
    """What the confidence is worth, in a sentence; nothing in results without it."""
    if "calibration" not in result:
        return []
    said = result["calibration"]
    before = (
        "not calibrated" if said["ece"] == said["ece_uncalibrated"] else f"{said['ece_uncalibrated']:.3f} uncalibrated"
    )
    below = f"at confidence {said['abstain_below']:g} and above it answers {said['coverage']:.0%}"
    risk = f", {said['risk_answered']:.0%} of them wrong" if "risk_answered" in said else ""
    return [
        f"confidence: calibration error {said['ece']:.3f} ({before}); "
        f"{below}{risk}, against {said['risk']:.0%} of all (right: {said['correct']})"
    ]


def _cell(score: Mapping[str, Any] | None, digits: int) -> str:
    if score is None:
        return ""
    low, high = score["ci95"]
    return f"{score['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _bars(axes: "Axes", result: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Groups of bars, one group a metric and one bar a system, with intervals."""
    start = 0.0
    ticks = []
    labelled = set()
    for metric in metrics:
        shown = [system for system in _systems(result) if metric in result["scores"][system]]
        for place, system in enumerate(shown):
            score = result["scores"][system][metric]
            value, (low, high) = score["value"], score["ci95"]
            errors = [[max(value - low, 0)], [max(high - value, 0)]]
            label = None if system in labelled else readable(system)
            axes.bar(
                start + place, value, 0.9, yerr=errors, color=SYSTEMS[system], label=label, ecolor="#444", capsize=2
            )
            labelled.add(system)
        ticks.append(start + (len(shown) - 1) / 2)
        start += len(shown) + 1
    axes.set_xticks(ticks, [readable(metric) for metric in metrics])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(top=1)
    axes.axhline(0, color="#444", linewidth=0.8)
    axes.spines["bottom"].set_visible(False)
    _plain(axes)


def _risk_coverage(axes: "Axes", calibration: Mapping[str, Any]) -> None:
    """Share wrong when only the most confident answers are given, and the threshold below which none is."""
    coverage, risk = zip(*calibration["curve"], strict=True)
    axes.plot(coverage, risk, color=SYSTEMS["explainer"])
    axes.axhline(calibration["risk"], color="#999", linewidth=0.8, linestyle="--")  # confidence that knows nothing
    if "risk_answered" in calibration:
        axes.plot(calibration["coverage"], calibration["risk_answered"], "o", color=SYSTEMS["explainer"], markersize=5)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("share answered")
    _plain(axes)


def _plain(axes: "Axes") -> None:
    axes.grid(axis="y", color="#ddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
