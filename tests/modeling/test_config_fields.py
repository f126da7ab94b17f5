"""The fields of an explainer's `config.json` have types and limits."""

import pytest
from transformers import LlamaConfig

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig

TARGET = {"model": "x", "revision": None, "n_layers": 4, "d_model": 32}


def config(**fields):
    return SelfExplainerConfig(text_config=LlamaConfig(hidden_size=32, num_hidden_layers=4), **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": TARGET | {"n_layers": 10**9}}, r"config.json: target.n_layers is '1000000000'"),
        ({"target": {"n_layers": 4}}, r"config.json: (adapter.d_target|target.d_model) is"),
        ({"adapter": {"kind": "evil", "d_target": 32}}, "config.json: adapter.kind is 'evil'"),
        ({"adapter": {"kind": "linear", "d_target": 10**9}}, "config.json: adapter.d_target is '1000000000'"),
        ({"adapter": {"d_target": 32, "layers": [0, 10**9]}}, "config.json: adapter.layers.1 is '1000000000'"),
        ({"lora": {"rank": "4"}}, "config.json: lora.rank is '4'"),
        ({"tasks": [5]}, "config.json: tasks.0 is '5'"),
        ({"calibration": {"x": {"temperature": float("nan")}}}, "config.json: calibration.x.temperature is 'nan'"),
        ({"abstain_below": "x"}, "config.json: abstain_below is 'x'"),
        ({"injection": 5}, "injection is 5, expected a mapping"),
        ({"num_labels": 10**9}, "config.json: num_labels is 1000000000"),
    ],
)
def test_invalid_fields_are_named(fields, message):
    with pytest.raises(SelfExplainError, match=message):
        config(**fields)


@pytest.mark.parametrize("text", [{}, {"model_type": "nonsense"}, {"model_type": "llama", "num_hidden_layers": 10**9}])
def test_an_invalid_configuration_of_the_base_is_named(text):
    with pytest.raises(SelfExplainError, match=r"^text_config in config.json"):
        SelfExplainerConfig(text_config=text)


def test_valid_fields_are_unchanged():
    fields = {"tasks": ["a"], "adapter": {"kind": "linear", "d_target": 32, "layers": [0, 2]}, "target": TARGET}
    fields |= {"trained_layers": {"a": [0, 2]}, "calibration": {"a": {"temperature": 1, "bias": 0.5}}}
    made = config(**fields)
    assert {name: getattr(made, name) for name in fields} == fields


def test_an_attention_implementation_is_taken_from_the_caller_only():
    saved = config().to_dict() | {"attn_implementation": "eager"}
    assert SelfExplainerConfig.from_dict(saved)._attn_implementation is None
    assert SelfExplainerConfig.from_dict(saved, attn_implementation="eager")._attn_implementation == "eager"
