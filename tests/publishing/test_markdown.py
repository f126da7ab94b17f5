"""Filters of card templates."""

from html import escape

import pytest
from markdown_it import MarkdownIt

from selfexplain.evaluation.results import Difference, Score, TestSetResult
from selfexplain.publishing.markdown import (
    cell,
    code,
    difference,
    fenced,
    joined,
    linked,
    quoted,
    readable,
    shown,
    verdict,
)


@pytest.mark.parametrize("text", ["`", "a|b", "``a` b", "<<<Lima>>>", "*a* _b_"])
def test_code_in_a_table_shows_the_exact_text(text):
    page = MarkdownIt().enable("table").render(f"|a|\n|---|\n| {code(text)} |\n")
    assert f"<code>{escape(text)}</code>" in page


def test_fence_is_longer_than_any_in_the_text():
    assert fenced("a") == "```text\na\n```"
    assert fenced("````\nb") == "`````text\n````\nb\n`````"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (True, "yes"),
        (False, "no"),
        (None, "not set"),
        ("a|b <c>", "a\\|b &lt;c>"),
        ([1, 2.5], "1, 2.5"),
        (list(range(10)), "0, 1, 2, 3, 4, 5, 6, 7, ... (10 in total)"),
        ([], ""),
    ],
)
def test_values_in_tables(value, expected):
    assert shown(value) == expected


def test_scores_and_differences_have_their_interval():
    assert cell(Score(value=0.5, ci95=(0.25, 0.75))) == "0.500 [0.250, 0.750]"
    assert difference(Difference(difference=-0.1, ci95=(-0.2, 0.0), p_value=0.5)) == "-0.100 [-0.200, 0.000]"
    assert cell(None) == difference(None) == ""


def test_names_are_readable():
    assert readable("has_changed_macro_f1") == "has changed macro F1"
    assert readable("feature_description/differences") == "feature description, differences"


def test_text_is_a_python_literal():
    assert quoted('a "b"\n') == r'"a \"b\"\n"'


def test_only_names_on_the_hub_are_links():
    assert linked("lab/rows", "datasets/") == "[lab/rows](https://huggingface.co/datasets/lab/rows)"
    assert linked("selfexplain/tiny") == "`selfexplain/tiny`"
    assert linked("corpus.jsonl") == "`corpus.jsonl`"


def test_items_are_joined_in_a_sentence():
    assert joined(["a"], "or") == "a"
    assert joined(["a", "b", "c"], "or") == "a, b or c"


def result(**intervals: tuple[float, float]) -> TestSetResult:
    comparisons = {
        f"explainer - {system}": {"exact_match": Difference(difference=sum(ci) / 2, ci95=ci, p_value=0.5)}
        for system, ci in intervals.items()
    }
    return TestSetResult(n_test=1, n_groups=1, scores={"explainer": {}}, comparisons=comparisons)


def test_verdict_follows_the_paired_intervals():
    scores = result(
        zero_vector=(0.1, 0.2),
        untrained=(0.01, 0.2),
        lookup_rule=(0.0, 0.1),
        majority=(-0.1, 0.1),
        ground_truth=(-2, -1),
    )
    assert verdict(scores, "exact_match") == (
        "On exact match, the explainer is better than *zero vector* and *untrained*; worse than *ground truth*; "
        "not distinguishable from *lookup rule* and *majority*."
    )
    assert verdict(scores, "content_match") == ""
