"""Who scores descriptions follows from who wrote them, and what is missing is told before anything is made."""

from pathlib import Path

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.pipeline.driver import run
from selfexplain.pipeline.jobs import plan_job
from selfexplain.pipeline.simulator import requests_a_description, simulator
from selfexplain.runs.recipe import load_recipe

FREE = "feature_description.descriptions=[neuronpedia]"
OF_FEATURES = ["feature_description.endpoint=http://f/v1", "feature_description.endpoint_model=writer"]
OWN = ["evaluation.endpoint=http://e/v1", "evaluation.endpoint_model=judge"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        (OF_FEATURES, None),  # its descriptions are in the grammar all the same
        ([*OF_FEATURES, "feature_description.simulator=endpoint"], ("http://f/v1", "writer")),
        ([*OF_FEATURES, "feature_description.descriptions=[endpoint]"], ("http://f/v1", "writer")),
        ([FREE, *OWN], ("http://e/v1", "judge")),
        ([FREE, *OF_FEATURES, OWN[1]], ("http://f/v1", "judge")),
        (OWN, ("http://e/v1", "judge")),
        ([*OWN, "evaluation.simulator=offline"], None),
        ([FREE, "tasks=[input_ablation]"], None),
    ],
)
def test_the_simulator_is_one_that_reads_the_descriptions(values, expected):
    found = simulator(load_recipe("quickstart", values), Path("run"))
    assert (found and (found.url, found.model)) == expected
    assert found is None or found.cache == Path("run/replies.sqlite")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([FREE], "free words of neuronpedia.*evaluation.endpoint=URL.*evaluation.endpoint_model=NAME"),
        ([FREE, OWN[0]], "http://e/v1.*given: None"),
        ([FREE, *OWN, "evaluation.simulator=offline"], "every score would be 0"),
        (["evaluation.simulator=endpoint"], "evaluation.simulator is 'endpoint'"),
    ],
)
def test_what_nobody_could_score_is_refused_before_anything_is_made(values, told, tmp_path):
    with pytest.raises(SelfExplainError, match=told):
        run(load_recipe("quickstart", values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_job_that_would_end_there_is_not_planned():
    with pytest.raises(SelfExplainError, match=r"evaluation\.endpoint=URL"):
        plan_job("gemma_2_2b", [], "l4x1", None)
    assert plan_job("gemma_2_2b", OWN, "l4x1", None).values == tuple(OWN)


def test_requests_are_counted():
    assert requests_a_description(load_recipe("quickstart")) == 36
