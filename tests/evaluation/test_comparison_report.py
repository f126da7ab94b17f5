"""Tables and figures of a comparison."""

import io

import pytest
from matplotlib.figure import Figure

from selfexplain.evaluation.comparison import NEIGHBOUR, AnswerSet, compare
from selfexplain.evaluation.comparison_report import _draw_explainers, markdown, tables, write_figures
from selfexplain.evaluation.results import ComparisonResult

TASK = "activation_patching"


def compared(rows, targets, explainers, shares=(1.0,)):
    """A comparison in which every explainer answers the first half of the rows correctly."""
    answers = [row["completion"] if n < len(rows) / 2 else "?" for n, row in enumerate(rows)]
    answer_sets = [
        AnswerSet(target, explainer, share, 0, int(99 * share), answers)
        for target in targets
        for explainer in explainers
        for share in shares
    ]
    return compare(TASK, dict.fromkeys(targets, rows), answer_sets, {}, n_resamples=100, seed=0)


def test_tables_and_figures(patching_rows, tmp_path):
    from rich.console import Console

    result = compared(patching_rows, "ab", ("a", "b", NEIGHBOUR), (0.25, 1.0))
    comparison = ComparisonResult(models=["a", "b"], n_seeds=1, tasks={TASK: result})
    console = Console(width=200, file=io.StringIO())
    console.print(tables(comparison))
    for shown in (markdown(comparison), console.file.getvalue()):
        assert "ho explains whom: activation patching, 64 test rows of a, 64 test rows of b" in shown
        assert "itself (0.25 of the rows) - another model (all rows)" in shown
        assert "+0.000 [+0.000, +0.000], p = 1" in shown
    assert "| 24 (0.25) | nearest neighbour | 0.500 [" in markdown(comparison)
    write_figures(comparison, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"privileged_access.png", "data_efficiency.png"}


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_point_is_in_the_column_of_its_target(patching_rows, n):
    models = "abcd"[:n]
    result = compared(patching_rows[:32], models, models)
    axes = Figure().subplots()
    _draw_explainers(axes, result, "exact_match")
    points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    for column in range(n):
        of_target = points[n * column : n * (column + 1)]
        assert len(set(of_target)) == n and sum(of_target) / n == pytest.approx(column)
        assert all(column - 0.5 < point < column + 0.5 for point in of_target)
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["explained by itself", "explained by another model"][: min(n, 2)]
