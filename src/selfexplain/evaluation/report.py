"""Show results: tables for the terminal and in Markdown, and figures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfexplain.evaluation.results import Calibration, Gain, Results, Score, TestSetResult
from selfexplain.tasks import TASKS
from selfexplain.utils.formatting import format_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Group

SYSTEMS = {
    "explainer": "#1f5fa8",
    "shuffled_vector": "#8c6bb1",
    "zero_vector": "#b29dcc",
    "text_only": "#d5cae4",
    "untrained": "#c9713d",
    "selfie": "#e0a878",
    "trained_without_vectors": "#eecdb0",
    "nearest_neighbour": "#5d8f5a",
    "lookup_rule": "#93b68f",
    "majority": "#c9dcc5",
    "gradient_boosting": "#a23b3b",
    "token_lens": "#a23b3b",
    "token_lens_grammar": "#c46c6c",
    "logit_lens": "#dca3a3",
    "logit_lens_options": "#c46c6c",
    "logit_lens_vocabulary": "#dca3a3",
    "substitution": "#edcccc",
    "second_choice": "#c46c6c",
    "asked_in_words": "#dca3a3",
    "ground_truth": "#d4a72c",
}
"""Every system, in the order of tables and figures, with its colour.

Controls are violet, baselines that are language models orange, rules green, and readers (`evaluation.readers`) red.
"""

OTHER_SYSTEM = "#999999"
"""Colour of a system that only the scorer of a custom task has; such systems come last."""


def tables(results: Results) -> "Group":
    """One table per test set for `rich`, 80 columns wide: systems by metrics, each score with its 95 % interval."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    rendered: list[Table | str] = [f"{line}\n" for line in _target_notes(results)]
    for task, title, result in _sections(results):
        table = Table(
            title=f"{title}: {result.n_test} held-out rows in {result.n_groups} groups",
            caption="\n".join([*gain_sentences(result), "95 % bootstrap intervals over groups", *_notes(result)]),
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
        )
        table.add_column("system", no_wrap=True)
        metrics = TASKS[task].metrics
        for metric in metrics:
            table.add_column(format_name(metric), justify="right")
        for system in _systems(result):
            cells = [escape(_cell(result.scores[system].get(metric), 2)) for metric in metrics]
            table.add_row(format_name(system), *cells, style="bold" if system == "explainer" else None)
        rendered += [table, ""]
    return Group(*rendered[:-1])


def _target_notes(results: Results) -> list[str]:
    """A sentence if the target's weights are not the original ones."""
    target = results.target
    return [f"Target: {target.name}, weights {target.weights}."] if target.weights else []


def markdown(results: Results) -> str:
    """The same tables in Markdown."""
    lines = [f"{line}\n" for line in _target_notes(results)]
    for task, title, result in _sections(results):
        metrics = TASKS[task].metrics
        lines += [
            f"**{title.capitalize()}**: {result.n_test} held-out rows in {result.n_groups} groups",
            "",
            *(f"- {sentence}" for sentence in gain_sentences(result)),
            *([""] if result.gains else []),
            f"| system | {' | '.join(map(format_name, metrics))} |",
            f"|---|{'---:|' * len(metrics)}",
        ]
        for system in _systems(result):
            cells = [_cell(result.scores[system].get(metric), 3) for metric in metrics]
            lines.append(f"| {format_name(system)} | {' | '.join(cells)} |")
        lines += ["", *(f"{line}\n" for line in _notes(result))]
    return "\n".join(lines)


def gain_sentences(result: TestSetResult) -> list[str]:
    """One sentence per metric: the explainer's gain over the strongest baseline, and whether there is one."""
    return [f"{format_name(metric)}: {_gain(gain)}" for metric, gain in (result.gains or {}).items()]


def gain_verdict(gain: Gain) -> str:
    """Whether an explainer is better than the strongest baseline, judged by the interval of the paired difference."""
    low, high = gain.ci95
    return "better" if low > 0 else "worse" if high < 0 else "no better"


def write_figures(results: Results, out_dir: Path) -> list[Path]:
    """Write one figure per task with all its metrics, `summary.png` with headline metrics, and `risk_coverage.png`.

    Returns:
        Paths of the figures.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    figures = {task: _task_figure(task, result) for task, result in results.tasks.items()}
    figures |= {"summary": _summary_figure(results), "risk_coverage": _risk_coverage_figure(results)}
    return [_save(figure, out_dir / f"{name}.png") for name, figure in figures.items()]


def _task_figure(task: str, result: TestSetResult) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    _draw_bars(axes, result, TASKS[task].metrics)
    axes.set_title(f"{format_name(task)} ({result.n_test} held-out rows)", loc="left")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _summary_figure(results: Results) -> "Figure":
    """One panel per task with its headline metric and the names of its systems."""
    from matplotlib.figure import Figure

    tasks = results.tasks
    figure = Figure(figsize=(3.8 * len(tasks), 5.2), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, (task, result) in zip(panels, tasks.items(), strict=True):
        _draw_bars(axes, result, [TASKS[task].headline])
        axes.set_title(format_name(task), loc="left")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False, fontsize="small")
    return figure


def _risk_coverage_figure(results: Results) -> "Figure":
    """One panel per task with its risk-coverage curve."""
    from matplotlib.figure import Figure

    tasks = results.tasks
    figure = Figure(figsize=(3.4 * len(tasks) + 0.6, 3.2), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, (task, result) in zip(panels, tasks.items(), strict=True):
        if result.calibration:
            _draw_risk_coverage(axes, result.calibration)
        axes.set_title(format_name(task), loc="left")
    panels[0].set_ylabel("share incorrect among those answered")
    return figure


def _save(figure: "Figure", path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150)
    return path


def _sections(results: Results) -> Iterator[tuple[str, str, TestSetResult]]:
    """Task, title and scores of each table; out-of-distribution test sets follow their task."""
    for task, name, result in results.sections():
        yield task, format_name(task) if name is None else f"{format_name(task)}, {format_name(name)}", result


def _systems(result: TestSetResult) -> list[str]:
    return [system for system in {**SYSTEMS, **result.scores} if system in result.scores]


def _gain(gain: Gain) -> str:
    low, high = gain.ci95
    return (
        f"explainer minus {format_name(gain.system)}, the strongest baseline: {gain.difference:+.3f} "
        f"[{low:+.3f}, {high:+.3f}]. The explainer is {gain_verdict(gain)}."
    )


def _notes(result: TestSetResult) -> list[str]:
    """Lines below a table."""
    return [*_hard_note(result), *_reader_notes(result), *_simulator_note(result), *_confidence_note(result)]


def _hard_note(result: TestSetResult) -> list[str]:
    """How the explainer and its control do on the rows on which the strongest baseline is incorrect."""
    if result.hard is None:
        return []
    hard, shown = result.hard, ("explainer", "shuffled_vector")
    scores = (
        f"{format_name(system)} "
        + ", ".join(f"{format_name(metric)} {value:.3f}" for metric, value in hard.scores[system].items())
        for system in shown
        if system in hard.scores
    )
    return [f"on the {hard.n_test} hard rows, on which the strongest baseline is incorrect: {'; '.join(scores)}"]


def strata_table(result: TestSetResult, metric: str) -> list[tuple[str, str, str, str]]:
    """The explainer's gain in one metric on each part of a test set: part, rows, explainer's score, gain."""
    table = []
    for name, by_value in (result.strata or {}).items():
        for value, subset in by_value.items():
            if gain := (subset.gains or {}).get(metric):
                low, high = gain.ci95
                shown = f"{gain.difference:+.3f} [{low:+.3f}, {high:+.3f}]"
                score = f"{subset.scores['explainer'][metric]:.3f}"
                table.append((f"{format_name(name)}: {format_name(value)}", str(subset.n_test), score, shown))
    return table


def _reader_notes(result: TestSetResult) -> list[str]:
    """The readers that could not read the rows, with the reason."""
    return [
        f"{format_name(name)} is not available: {report.unavailable}"
        for name, report in (result.readers or {}).items()
        if report.unavailable
    ]


def _simulator_note(result: TestSetResult) -> list[str]:
    """Which chat model predicted activations, and what could not be parsed; no line for the offline simulator."""
    if result.unread is None:
        return []
    windows, rows = (
        {system: sum(getattr(n, kind) for n in by_metric.values()) for system, by_metric in result.unread.items()}
        for kind in ("windows", "rows")
    )
    line = f"activations predicted by {result.simulator}"
    if any(windows.values()):
        line += (
            f"; left out because its replies could not be parsed: {windows['explainer']} windows of the explainer and "
            f"{sum(windows.values()) - windows['explainer']} of the other systems, {rows['explainer']} and "
            f"{sum(rows.values()) - rows['explainer']} rows"
        )
    return [line]


def _confidence_note(result: TestSetResult) -> list[str]:
    """How well confidence predicts correct answers; no line in results without a calibration."""
    if result.calibration is None:
        return []
    scores = result.calibration
    before = f"{scores.ece_uncalibrated:.3f} uncalibrated" if scores.is_calibrated else "not calibrated"
    line = (
        f"confidence: calibration error {scores.ece:.3f} ({before}); {scores.coverage:.0%} of the answers have "
        f"confidence {scores.abstain_below:g} or more"
    )
    if scores.risk_answered is not None:
        line += f", and {scores.risk_answered:.0%} of these are incorrect"
    return [f"{line}; of all answers {scores.risk:.0%} are incorrect (correct: {scores.correct})"]


def _cell(score: Score | None, digits: int) -> str:
    if score is None:
        return ""
    low, high = score.ci95
    return f"{score.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _draw_bars(axes: "Axes", result: TestSetResult, metrics: Sequence[str]) -> None:
    """One group of bars per metric, one bar per system, with intervals."""
    start = 0.0
    ticks = []
    labelled = set()
    for metric in metrics:
        shown = [system for system in _systems(result) if metric in result.scores[system]]
        for position, system in enumerate(shown):
            score = result.scores[system][metric]
            low, high = score.ci95
            axes.bar(
                start + position,
                score.value,
                0.9,
                yerr=[[max(score.value - low, 0)], [max(high - score.value, 0)]],
                color=SYSTEMS.get(system, OTHER_SYSTEM),
                label=None if system in labelled else format_name(system),
                ecolor="#444",
                capsize=2,
            )
            labelled.add(system)
        ticks.append(start + (len(shown) - 1) / 2)
        start += len(shown) + 1
    axes.set_xticks(ticks, [format_name(metric) for metric in metrics])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(top=1)
    axes.axhline(0, color="#444", linewidth=0.8)
    axes.spines["bottom"].set_visible(False)
    _style(axes)


def _draw_risk_coverage(axes: "Axes", calibration: Calibration) -> None:
    """Share of incorrect answers among the most confident ones, with the abstention threshold as a point."""
    coverage, risk = zip(*calibration.curve, strict=True)
    axes.plot(coverage, risk, color=SYSTEMS["explainer"])
    axes.axhline(calibration.risk, color="#999", linewidth=0.8, linestyle="--")  # uninformative confidence
    if calibration.risk_answered is not None:
        axes.plot(calibration.coverage, calibration.risk_answered, "o", color=SYSTEMS["explainer"], markersize=5)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("share answered")
    _style(axes)


def _style(axes: "Axes") -> None:
    axes.grid(axis="y", color="#ddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
