"""The transformers pipeline "explain-activations"."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import pipeline

from selfexplain import AblationQuery, FeatureQuery, bundled
from selfexplain.errors import SelfExplainError


def test_one_query_gives_one_explanation_and_a_list_gives_a_list(shipped):
    pipe = pipeline("explain-activations", model=shipped, device="cpu")
    vector = shipped.capture("The capital of France is", [0])[0, 4]
    queries = [FeatureQuery(vector, 0), AblationQuery("Hint: The answer is Rome.\nAnswer:"), FeatureQuery(-vector, 0)]
    expected = [explanation.text for explanation in shipped.explain(queries)]
    assert pipe(queries[0]).text == expected[0]
    assert [explanation.text for explanation in pipe(queries, batch_size=2)] == expected
    assert pipe(queries[0], abstain_below=1.0).answered is False


def test_queries_may_come_from_a_generator_or_as_texts(shipped):
    pipe = pipeline("explain-activations", model=shipped, device="cpu")
    text = "Hint: The answer is Rome.\nAnswer:"
    expected = shipped.explain_ablation(text).text
    assert pipe(text).text == expected
    assert [explanation.text for explanation in pipe(text for _ in range(2))] == [expected] * 2
    assert [explanation.text for explanation in shipped.explain(AblationQuery(text) for _ in range(2))] == [
        expected
    ] * 2
    with pytest.raises(SelfExplainError, match="No line of the text begins with 'Hint:'"):
        pipe("The capital of France is")
    with pytest.raises(SelfExplainError, match="No queries were given"):
        pipe(query for query in ())


def test_a_saved_pipeline_loads_again(shipped, tmp_path):
    vector = torch.ones(96)
    pipe = pipeline("explain-activations", model=shipped, device="cpu")
    pipe.save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.glob("saved/pipeline*.py"))
    loaded = pipeline("explain-activations", model=str(tmp_path / "saved"), device="cpu")
    assert loaded(FeatureQuery(vector, 1)).text == pipe(FeatureQuery(vector, 1)).text


def test_importing_selfexplain_registers_the_pipeline():
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


def test_options_of_the_pipeline_apply_to_every_call(shipped):
    pipe = pipeline("explain-activations", model=shipped, device="cpu", paraphrases=True)
    assert pipe(FeatureQuery(torch.ones(96), 1)).agreement is not None
