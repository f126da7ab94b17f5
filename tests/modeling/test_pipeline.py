"""`transformers.pipeline("explain-activations")`."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import pipeline

from selfexplain import AblationQuery, FeatureQuery, bundled
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM


@pytest.fixture(scope="module")
def explainer():
    return SelfExplainerForCausalLM.from_pretrained("selfexplain/tiny-selfexplainer")


def test_one_query_gives_one_explanation_and_a_list_a_list(explainer):
    pipe = pipeline("explain-activations", model=explainer, device="cpu")
    vector = explainer.capture("The capital of France is", [0])[0, 4]
    queries = [FeatureQuery(vector, 0), AblationQuery("Hint: The answer is Rome.\nAnswer:"), FeatureQuery(-vector, 0)]
    expected = [explanation.text for explanation in explainer.explain(queries)]
    assert pipe(queries[0]).text == expected[0]
    assert [explanation.text for explanation in pipe(queries, batch_size=2)] == expected
    assert pipe(queries[0], abstain_below=1.0).answered is False


def test_a_fresh_process_that_only_imports_selfexplain_knows_the_task():
    code = f"""
import selfexplain
from transformers import pipeline
pipe = pipeline("explain-activations", model={bundled.resolve("selfexplain/tiny-selfexplainer")!r}, device="cpu")
import torch
print(pipe(selfexplain.FeatureQuery(torch.ones(96), 1)).task)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout.split()[-1:] == ["feature_description"], result.stderr


def test_defaults_of_the_pipeline_apply_to_every_call(explainer):
    pipe = pipeline("explain-activations", model=explainer, device="cpu", paraphrases=True)
    assert pipe(FeatureQuery(torch.ones(96), 1)).agreement is not None
