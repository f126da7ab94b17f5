"""Test which simulator scores descriptions, and that missing settings are reported before anything is computed."""

from pathlib import Path

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.pipeline.driver import run
from selfexplain.pipeline.jobs import plan_job
from selfexplain.pipeline.simulator import requests_per_description, simulator
from selfexplain.runs.recipe import load_recipe

FREE = "feature_description.descriptions=[neuronpedia]"
OF_FEATURES = ["feature_description.endpoint=http://f/v1", "feature_description.endpoint_model=writer"]
EVALUATION = ["evaluation.endpoint=http://e/v1", "evaluation.endpoint_model=judge"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        (OF_FEATURES, None),  # its descriptions follow the offline grammar nevertheless
        ([*OF_FEATURES, "feature_description.simulator=endpoint"], ("http://f/v1", "writer")),
        ([*OF_FEATURES, "feature_description.descriptions=[endpoint]"], ("http://f/v1", "writer")),
        ([FREE, *EVALUATION], ("http://e/v1", "judge")),
        ([FREE, *OF_FEATURES, EVALUATION[1]], ("http://f/v1", "judge")),
        (EVALUATION, ("http://e/v1", "judge")),
        ([*EVALUATION, "evaluation.simulator=offline"], None),
        ([FREE, "tasks=[input_ablation]"], None),
    ],
)
def test_the_simulator_can_read_the_descriptions(values, expected):
    endpoint = simulator(load_recipe("quickstart", values), Path("run"))
    assert (endpoint and (endpoint.url, endpoint.model)) == expected
    assert endpoint is None or endpoint.cache == Path("run/replies.sqlite")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([FREE], "descriptions by neuronpedia are free text.*evaluation.endpoint=URL.*evaluation.endpoint_model=NAME"),
        ([FREE, EVALUATION[0]], "it is http://e/v1.*it is None"),
        ([FREE, *EVALUATION, "evaluation.simulator=offline"], "every score would be 0"),
        (["evaluation.simulator=endpoint"], "evaluation.simulator is 'endpoint'"),
    ],
)
def test_descriptions_that_no_simulator_can_score_are_refused_before_anything_is_written(values, words, tmp_path):
    with pytest.raises(SelfExplainError, match=words):
        run(load_recipe("quickstart", values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_job_that_no_simulator_could_score_is_refused():
    with pytest.raises(SelfExplainError, match=r"evaluation\.endpoint=URL"):
        plan_job("gemma_2_2b", [], "l4x1", None)
    assert plan_job("gemma_2_2b", EVALUATION, "l4x1", None).values == tuple(EVALUATION)


def test_requests_per_description_are_counted():
    assert requests_per_description(load_recipe("quickstart")) == 36
