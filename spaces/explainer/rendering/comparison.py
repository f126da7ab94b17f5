"""HTML of a comparison: which model explains which best, and how scores grow with the training data."""

from collections.abc import Sequence
from math import log10

from rendering.chart import chart
from rendering.frame import task_title
from rendering.html import escaped, interval, number
from rendering.labels import metric_label
from selfexplain.evaluation.config import EXPLAINED_BY
from selfexplain.evaluation.results import ComparedScore, RoleDifference, RoleScore, TaskComparison


def task_comparison(task: str, result: TaskComparison) -> str:
    """Return the comparison of explainers on one task."""
    metric, title = result.headline, metric_label(result.headline).name
    return f"""<section class="results"><h3>{escaped(task_title(task))} Comparison of explainers</h3>
{_matrix(result.scores[metric], title, _differences(result.differences[metric]))}
{_curves(result.means[metric], title)}</section>"""


def _matrix(scores: Sequence[ComparedScore], title: str, differences: str) -> str:
    """Return targets (rows) by explainers (columns), trained on all rows."""
    models = list(dict.fromkeys(score.target for score in scores))
    by_models = {
        (score.target, score.explainer): score for score in scores if score.share == 1 and score.explainer in models
    }
    heads = "".join(f"<th scope='col'>{escaped(name)}</th>" for name in models)
    rows = []
    for target in models:
        cells = ""
        for explainer in models:
            score = by_models[target, explainer]
            cells += (
                f'<td style="--shade:{max(score.value, 0):.2f}" class="{"self" if target == explainer else ""}">'
                f"{number(score.value)}<small>{interval(score.ci95)}</small></td>"
            )
        rows.append(f"<tr><th scope='row'>{escaped(target)}</th>{cells}</tr>")
    return f"""<p class="from"><strong>Which model explains which best?</strong> {escaped(title)}. Rows: the model being
explained. Columns: the explainer. Outlined: a model that explains itself. {differences}</p>
<div class="mapbox"><table class="matrix"><thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>
</div>"""


def _differences(differences: Sequence[RoleDifference]) -> str:
    """Return the advantage of explaining oneself after training on all rows, in words."""
    return " ".join(
        f"Self minus {EXPLAINED_BY[found.second[0]]}, mean over all models: {number(found.difference)} "
        f"{interval(found.ci95)}, p = {found.p_value:.2g}."
        for found in differences
        if found.first == ("self", 1.0) and found.second[1] == 1
    )


def _curves(means: Sequence[RoleScore], title: str) -> str:
    """Return a score by the number of training rows: mean over targets, one line per kind of explainer."""
    lines = {
        EXPLAINED_BY[role]: [(log10(mean.n_train), mean.value, *mean.ci95) for mean in means if mean.role == role]
        for role in dict.fromkeys(mean.role for mean in means)
    }
    ticks = {log10(n): f"{n:,}" for n in sorted({mean.n_train for mean in means})}
    return f"""<p class="from"><strong>How much training data is needed?</strong> {escaped(title)} by number of training
rows, with 95% confidence intervals.</p>
{chart(lines, ticks, f"{title} by number of training rows")}"""
