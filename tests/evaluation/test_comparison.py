"""Who explains whom: scores a cell, means over targets, and what is compared with what."""

import io

import pytest
from matplotlib.figure import Figure

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.comparison import NEIGHBOUR, Given, compare
from selfexplain.evaluation.comparison_report import _who, markdown, tables, write_figures

TASK = "activation_patching"


@pytest.fixture
def rows(patching_rows):
    return {"a": patching_rows, "b": patching_rows[:32]}


def given(rows, target, explainer, share_right, share=1.0, seed=0, n_train=100):
    """Answers of which the first part is right."""
    n_right = round(share_right * len(rows[target]))
    answers = [row["completion"] if n < n_right else "?" for n, row in enumerate(rows[target])]
    return Given(target, explainer, share, seed, n_train, answers)


def compared(rows, answers):
    return compare(TASK, rows, answers, {}, n_resamples=200, seed=0)


def difference(result, first, second, metric="exact_match"):
    (found,) = [
        entry
        for entry in result["differences"][metric]
        if (tuple(entry["first"]), tuple(entry["second"])) == (first, second)
    ]
    return found


def test_each_cell_has_its_score_over_all_seeds(rows):
    answers = [given(rows, "a", "a", right, seed=seed) for seed, right in enumerate((0.25, 1.0))]
    result = compared({"a": rows["a"]}, answers)
    (cell,) = result["scores"]["exact_match"]
    assert cell["value"] == 0.625 and cell["seeds"] == [0.25, 1.0] and cell["n_train"] == 100
    assert cell["ci95"][0] < 0.625 < cell["ci95"][1]


def test_a_model_that_is_the_better_explainer_of_all_shows_no_privileged_access(rows):
    scores = {("a", "a"): 0.5, ("a", "b"): 1.0, ("b", "a"): 0.5, ("b", "b"): 1.0}
    result = compared(rows, [given(rows, *pair, right) for pair, right in scores.items()])
    found = difference(result, ("self", 1.0), ("other", 1.0))
    assert found["difference"] == pytest.approx(0) and found["p_value"] > 0.2


def test_privileged_access_is_the_mean_over_targets(rows):
    scores = {("a", "a"): 1.0, ("a", "b"): 0.5, ("b", "a"): 0.25, ("b", "b"): 0.5}
    result = compared(rows, [given(rows, *pair, right) for pair, right in scores.items()])
    found = difference(result, ("self", 1.0), ("other", 1.0))
    assert found["difference"] == pytest.approx((0.5 + 0.25) / 2) and found["ci95"][0] > 0 and found["p_value"] < 0.05
    means = {entry["role"]: entry["value"] for entry in result["means"]["exact_match"]}
    assert means == pytest.approx({"self": 0.75, "other": 0.375})


def test_few_rows_are_held_against_as_many_and_against_all(rows):
    systems = {"a": (0.5, 1.0), "b": (0.25, 0.5), NEIGHBOUR: (0.0, 0.25)}
    one = {"a": rows["a"]}
    answers = [
        given(one, "a", system, right, share, n_train=int(100 * share))
        for system, rights in systems.items()
        for share, right in zip((0.25, 1.0), rights, strict=True)
    ]
    result = compared(one, answers)
    assert difference(result, ("self", 0.25), ("other", 0.25))["difference"] == pytest.approx(0.25)
    assert difference(result, ("self", 0.25), ("other", 1.0))["difference"] == pytest.approx(0)
    assert difference(result, ("self", 0.25), (NEIGHBOUR, 1.0))["difference"] == pytest.approx(0.25)
    assert len(result["differences"]["exact_match"]) == 6
    assert [entry["n_train"] for entry in result["means"]["exact_match"]] == [25] * 3 + [100] * 3


def test_missing_answers_are_told(rows):
    short = given(rows, "a", "a", 1.0)
    with pytest.raises(SelfExplainError, match="one to each test row"):
        compared({"a": rows["a"][:8]}, [short])


def test_report(rows, tmp_path):
    from rich.console import Console

    pairs = [(target, explainer) for target in "ab" for explainer in ("a", "b", NEIGHBOUR)]
    answers = [given(rows, *pair, 0.5, share, n_train=int(99 * share)) for pair in pairs for share in (0.25, 1.0)]
    found = {"models": ["a", "b"], "n_seeds": 1, "tasks": {TASK: compared(rows, answers)}}
    console = Console(width=200, file=io.StringIO())
    console.print(tables(found))
    for shown in (markdown(found), console.file.getvalue()):
        assert "who explains whom" in shown.lower() and "itself (0.25 of the rows) - another model (all rows)" in shown
        assert "+0.000 [+0.000, +0.000], p = 1" in shown
    write_figures(found, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"privileged_access.png", "data_efficiency.png"}


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_point_lies_in_the_column_of_its_target(rows, n):
    models = "abcd"[:n]
    of_all = {target: rows["b"] for target in models}
    result = compared(of_all, [given(of_all, target, explainer, 0.5) for target in models for explainer in models])
    axes = Figure().subplots()
    _who(axes, result, "exact_match")
    places = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    for column in range(n):
        own = places[n * column : n * (column + 1)]
        assert len(set(own)) == n and sum(own) / n == pytest.approx(column)
        assert all(column - 0.5 < place < column + 0.5 for place in own)
