"""Checks of the vector inputs: every input is either accepted or refused with a `SelfExplainError`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.inputs import check_neighbours, check_vectors
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


def check(length=T, layers=range(N_LAYERS), **changes):
    """Check valid inputs of two rows with two vectors, in which single entries are changed: name -> (index, value)."""
    inputs = batch()
    inputs["marker_positions"] = inputs["marker_positions"].clone()
    for name, (index, value) in changes.items():
        inputs[name][index] = value
    check_vectors(inputs, (2, length), D, layers, context_length=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_layers": ((1, 0), 4)}, "Row 1, vector 0: layer 4 was given.* layers 0 to 3"),
        ({"activation_layers": ((0, 1), -1)}, "Row 0, vector 1: layer -1 was given"),
        ({"activation_layers": ((0, 1), 1), "layers": [0, 2]}, "Row 0, vector 1: layer 1 was given.* layers 0, 2"),
        ({"activation_positions": ((1, 0), -1)}, "Row 1, vector 0: position -1 was given.* tokens 0 to 5"),
        ({"activation_positions": ((0, 1), 6)}, "Row 0, vector 1: position 6 was given.* tokens 0 to 5"),
        ({"marker_positions": ((1, 0, 0), 6)}, "Row 1, vector 0: the position of a marker"),
        ({"marker_positions": ((0, 1, 1), 6)}, "Row 0, vector 1: the position of a marker"),
        ({"marker_positions": ((1, 1, 0), -2)}, "Row 1, vector 1: the position of a marker"),
        ({"marker_positions": ((1, 1, 1), -2)}, "Row 1, vector 1: the position of a marker"),
        ({"activations": ((1, 0, 3), torch.inf)}, "Row 1, vector 0: activations contain NaN or infinity"),
        ({"length": 9}, "9 tokens were given"),
    ],
)
def test_one_invalid_entry_is_refused(change, message):
    with pytest.raises(SelfExplainError, match=message):
        check(**change)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"length": 8},
        {"layers": [0]},
        {"activation_layers": ((1, 1), 3)},
        {"activation_layers": ((1, 1), 2), "layers": [0, 2]},
        {"activation_positions": ((1, 1), 0)},
        {"activation_positions": ((1, 1), 5)},
        {"marker_positions": ((0, 0), -1)},
        {"marker_positions": ((0, 0), torch.tensor([0, 5]))},
    ],
)
def test_valid_entries_are_accepted(change):
    check(**change)


@pytest.mark.parametrize("mask", [True, False])
def test_without_marker_positions_only_used_slots_are_checked(mask):
    inputs = batch() | {"marker_positions": None}
    inputs["activation_positions"][1, 1] = 6
    inputs["activation_mask"][1, 1] = mask
    if not mask:
        check_vectors(inputs, (2, T), D, range(N_LAYERS), 8)
        return
    with pytest.raises(SelfExplainError, match="Row 1, vector 1: position 6 was given"):
        check_vectors(inputs, (2, T), D, range(N_LAYERS), 8)


IDS = torch.tensor([[1, 7, 5, 9, 3], [5, 9, 7, 5, 9]])


@pytest.mark.parametrize(("rows", "positions"), [([], []), ([0], [2]), ([1], [3]), ([1, 0], [3, 2])])
def test_slots_between_the_neighbours_of_the_contract_are_accepted(rows, positions):
    check_neighbours(IDS, torch.tensor(rows).long(), torch.tensor(positions).long(), (7, 9))


@pytest.mark.parametrize(
    ("rows", "positions", "message"),
    [
        ([1], [0], r"Row 1: .* are \[-1, 9\], but the injection contract expects \[7, 9\]"),
        ([1], [4], r"Row 1: .* are \[5, -1\]"),
        ([0], [1], r"Row 0: .* are \[1, 5\]"),
        ([0, 0, 1], [2, 3, 0], r"Row 0: .* are \[5, 3\]"),
        ([0, 1], [2, 2], r"Row 1: .* are \[9, 5\]"),
    ],
)
def test_slots_between_other_tokens_are_refused(rows, positions, message):
    with pytest.raises(SelfExplainError, match=message):
        check_neighbours(IDS, torch.tensor(rows), torch.tensor(positions), (7, 9))


@pytest.mark.parametrize("position", [0, 4])
def test_a_slot_at_the_edge_of_the_row_has_no_neighbour(position):
    """Token 0 is not a neighbour."""
    ids = torch.tensor([[5, 9, 0, 7, 5]])
    with pytest.raises(SelfExplainError, match="-1"):
        check_neighbours(ids, torch.tensor([0]), torch.tensor([position]), (0, 9) if position == 0 else (7, 0))


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

    def recorded(self, input_ids, inputs_embeds, vectors, is_part):
        with_vectors.append(vectors["activations"] is not None)
        return writing(self, input_ids, inputs_embeds, vectors, is_part)

    monkeypatch.setattr(SelfExplainerModel, "writing", recorded)
    explainer.generate(**batch(), max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert with_vectors == [True, False, False, False]


@pytest.mark.parametrize("name", ["activation_mask", "activation_layers", "activation_positions", "marker_positions"])
def test_vector_inputs_without_vectors_are_refused(explainer, name):
    inputs = {"input_ids": batch()["input_ids"], name: batch()[name]}
    for call in (explainer, explainer.model, explainer.generate):
        with pytest.raises(SelfExplainError, match=f"{name} were given without activations"):
            call(**inputs)
    assert explainer(**inputs | {name: batch()[name][:, :0]}).logits.isfinite().all()  # there are no slots
