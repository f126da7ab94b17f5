"""Checks of the vector inputs: every input is either accepted or refused with a `SelfExplainError`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM, SelfExplainerModel
from selfexplain.tasks.question import fill

N_LAYERS, D, T = 4, 32, 6
fewer_examples = settings(max_examples=25, deadline=None)


@pytest.fixture(scope="module")
def explainer(tokenizer):
    from battery import tiny_model

    return SelfExplainerForCausalLM.from_base(tiny_model("llama"), tokenizer)


def batch(k=2, rows=2):
    return {
        "input_ids": torch.ones(rows, T, dtype=torch.long),
        "attention_mask": torch.ones(rows, T, dtype=torch.long),
        "activations": torch.ones(rows, k, D),
        "activation_mask": torch.ones(rows, k, dtype=torch.bool),
        "activation_layers": torch.zeros(rows, k, dtype=torch.long),
        "activation_positions": torch.full((rows, k), 2),
        "marker_positions": torch.tensor([1, 3]).expand(rows, k, 2),
    }


INVALID = {
    "width": ({"activations": torch.ones(2, 2, 8)}, r"have width 8\. This explainer reads vectors of width 32"),
    "rows": ({"activations": torch.ones(3, 2, D)}, r"shape \(3, 2, 32\)\. For 2 rows of tokens, expected \(2, K, 32\)"),
    "flat": ({"activations": torch.ones(2, D)}, r"shape \(2, 32\)"),
    "no mask": ({"activation_mask": None}, "activation_mask is missing"),
    "count": ({"activation_positions": torch.zeros(2, 3).long()}, r"activation_positions has shape \(2, 3\)"),
    "layer": ({"activation_layers": torch.full((2, 2), 4)}, "Row 0, vector 0: layer 4 was given.* layers 0 to 3"),
    "position": ({"activation_positions": torch.tensor([[2, 2], [2, 6]])}, "Row 1, vector 1: position 6 .* 0 to 5"),
    "marker": ({"marker_positions": torch.full((2, 2, 2), 6)}, "position of a marker is outside of tokens 0 to 5"),
    "nan": ({"activations": torch.full((2, 2, D), torch.nan)}, "Row 0, vector 0: activations contain NaN or infinity"),
    "markers": ({"marker_positions": torch.zeros(2, 2, dtype=torch.long)}, r"marker_positions has shape \(2, 2\)"),
    "long": (
        {"input_ids": torch.ones(2, 129, dtype=torch.long), "attention_mask": torch.ones(2, 129, dtype=torch.long)},
        r"129 tokens were given\. The context holds 128",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_invalid_inputs_are_refused(explainer, name):
    changes, message = INVALID[name]
    with pytest.raises(SelfExplainError, match=message):
        explainer(**(batch() | changes))


def test_masked_slots_are_not_checked(explainer):
    inputs = batch()
    inputs["activation_mask"][:, 1] = False
    inputs["activations"][:, 1] = torch.nan
    inputs["activation_layers"][:, 1] = 99
    inputs["activation_positions"][:, 1] = -5
    inputs["marker_positions"] = inputs["marker_positions"].clone()
    inputs["marker_positions"][:, 1] = -1
    assert explainer(**inputs).logits.isfinite().all()


shapes = st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([1, 8, D]))
values = st.sampled_from([0.0, 1.0, -1e4, 1e30, float("nan"), float("inf")])


@fewer_examples
@given(shape=shapes, value=values, layer=st.integers(-3, 9), position=st.integers(-9, 9), missing=st.booleans())
def test_random_inputs_are_accepted_or_refused(explainer, shape, value, layer, position, missing):
    rows, k, d = shape
    inputs = batch() | {
        "activations": torch.full((rows, k, d), value),
        "activation_mask": None if missing else torch.ones(rows, k, dtype=torch.bool),
        "activation_layers": torch.full((rows, k), layer),
        "activation_positions": torch.full((rows, k), position),
        "marker_positions": None,
    }
    valid_shapes = (rows, d) == (2, D) and not missing
    valid_values = 0 <= layer < N_LAYERS and 0 <= position < T and abs(value) < float("inf")
    if valid_shapes and (valid_values or k == 0):
        assert explainer(**inputs).logits.isfinite().all()
    else:
        with pytest.raises(SelfExplainError, match=r"activation|vector"):
            explainer(**inputs)


@fewer_examples
@given(
    text=st.text(max_size=40), counts=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), value=values,
    offset=st.integers(-2, 50),
)  # fmt: skip
def test_random_rows_are_encoded_or_refused(explainer, text, counts, value, offset):
    slots, n_vectors, n_layers = counts
    question = fill("{text}" + "{activation}" * slots, text=text)
    row = {
        "prompt": question.prompt,
        "placeholder_offsets": [*question.placeholder_offsets[:-1], offset] if slots else [],
        "activations": [torch.full((D,), value)] * n_vectors,
        "activation_layers": [1] * n_layers,
    }
    consistent = slots == n_vectors == n_layers and (not slots or offset == question.placeholder_offsets[-1])
    if consistent and (not slots or abs(value) < float("inf")):
        assert explainer.processor([row])["input_ids"].shape[0] == 1
    else:
        with pytest.raises(SelfExplainError, match=r"(?i)activation|placeholder"):
            explainer.processor([row])


def test_thousands_of_vectors_are_accepted(explainer):
    inputs = batch(k=2000)
    inputs["activation_positions"] = torch.arange(2000).remainder(T).expand(2, -1).contiguous()
    assert explainer(**inputs).logits.isfinite().all()


def test_only_the_prefill_receives_vectors(explainer, monkeypatch):
    with_vectors = []
    writing = SelfExplainerModel.writing

    def recorded(self, input_ids, inputs_embeds, vectors):
        with_vectors.append(vectors["activations"] is not None)
        return writing(self, input_ids, inputs_embeds, vectors)

    monkeypatch.setattr(SelfExplainerModel, "writing", recorded)
    explainer.generate(**batch(), max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert with_vectors == [True, False, False, False]
