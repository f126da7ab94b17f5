"""HTML of the scores: one table per task and metric, with intervals, controls and baselines."""

from collections.abc import Mapping

from rendering.chart import chart
from rendering.comparison import task_comparison
from rendering.frame import task_title
from rendering.html import escaped, interval, number, status
from rendering.labels import SYSTEMS, metric_label, system_label
from selfexplain.evaluation.report import gain_verdict
from selfexplain.evaluation.results import Calibration, Difference, Results, Score, TaskResult
from selfexplain.tasks import TASKS

CONTROLS = ("shuffled_vector", "lookup_rule", "nearest_neighbour")
"""Systems to state the difference to, in order of preference."""


def results(scores: Results | None) -> str:
    """Return the tables of every task, and the comparison of explainers if there is one."""
    if scores is None:
        return status("This explainer has no results.json, so there are no scores to show.")
    parts = [_task(task, result) for task, result in scores.tasks.items()]
    if scores.comparison:
        parts += [task_comparison(task, result) for task, result in scores.comparison.tasks.items()]
    return "".join([*parts, _glossary(scores)])


def _task(task: str, result: TaskResult) -> str:
    metrics = list(next(iter(result.scores.values())))
    tables = "".join(_table(result, metric) for metric in metrics)
    calibration = _calibration(result.calibration) if result.calibration else ""
    groups = f" by {TASKS[task].split_unit}" if task in TASKS else ""
    return f"""<section class="results"><h3>{escaped(task_title(task))}</h3>
<p class="from">{result.n_test:,} held-out questions in {result.n_groups:,} groups{escaped(groups)}. No group occurs in
the training data. Bars are 95% confidence intervals over groups. The vertical line marks 0, and the right edge is
1.</p>{tables}{calibration}</section>"""


def _table(result: TaskResult, metric: str) -> str:
    label, difference = metric_label(metric), _difference(result, metric)
    scores = {system: scores[metric] for system, scores in result.scores.items() if metric in scores}
    low = min(0.0, *(score.ci95[0] for score in scores.values()))
    known = [system for system in SYSTEMS if system in scores]
    others = [system for system in scores if system not in SYSTEMS]
    rows = "".join(_row(system, scores[system], low) for system in known + others)
    return f"""<table class="board">
<caption><strong>{escaped(label.name)}</strong> {escaped(label.meaning)}<br>{escaped(difference)}</caption>
<tbody>{rows}</tbody></table>"""


def _row(system: str, score: Score, low: float) -> str:
    """Return a row whose axis runs from `low` to 1."""
    at, left, right, zero = (100 * (x - low) / (1 - low) for x in (score.value, *score.ci95, 0))
    return (
        f'<tr class="{escaped(system)}"><th scope="row">{escaped(system_label(system).name)}</th>'
        f'<td class="track" aria-hidden="true"><b style="left:{zero:.1f}%"></b>'
        f'<i style="left:{left:.1f}%;width:{right - left:.1f}%"></i><u style="left:{at:.1f}%"></u></td>'
        f'<td class="number">{number(score.value)} <small>{interval(score.ci95)}</small></td></tr>'
    )


def _difference(result: TaskResult, metric: str) -> str:
    """Return the gain over the strongest baseline, or the difference to a control if there is none, in words."""
    if gain := (result.gains or {}).get(metric):
        return (
            f"Explainer minus {_name(gain.system)}, the strongest baseline: {number(gain.difference)} "
            f"{interval(gain.ci95)}. The explainer is {gain_verdict(gain)}."
        )
    for control in CONTROLS:
        comparisons: Mapping[str, Difference] = result.comparisons.get(f"explainer - {control}", {})
        if metric in comparisons:
            found = comparisons[metric]
            return (
                f"Explainer minus {_name(control)}: {number(found.difference)} {interval(found.ci95)}, "
                f"p = {found.p_value:.2g}."
            )
    return ""


def _name(system: str) -> str:
    """Return the name of a system without its kind."""
    label = system_label(system).name
    return label.partition(": ")[2] or label


def _calibration(calibration: Calibration) -> str:
    """Return the share of incorrect answers if only the most confident ones are given."""
    most_confident = [(coverage, risk, risk, risk) for coverage, risk in calibration.curve if coverage > 0.02]
    random = [(x, *[calibration.risk] * 3) for x in (0.0, 1.0)]
    before = f" (before calibration: {calibration.ece_uncalibrated:.3f})" if calibration.is_calibrated else ""
    return f"""<p class="from"><strong>Is the confidence informative?</strong> Share of incorrect answers
(vertical) among the most confident answers (horizontal). Criterion for a correct answer: {
        escaped(calibration.correct)
    }.
Expected calibration error: {calibration.ece:.3f}{before}.</p>
{
        chart(
            {"most confident answers first": most_confident, "random order": random},
            {0.0: "none", 0.5: "half", 1.0: "all"},
            "Share of incorrect answers by share of answers given",
        )
    }"""


def _glossary(scores: Results) -> str:
    """Return what each system in the tables is."""
    present = {system for result in scores.tasks.values() for system in result.scores}
    entries = "".join(
        f"<dt>{escaped(label.name)}</dt><dd>{escaped(label.meaning)}</dd>"
        for system, label in SYSTEMS.items()
        if system in present
    )
    return f'<details class="glossary"><summary>What the systems are</summary><dl>{entries}</dl></details>'
