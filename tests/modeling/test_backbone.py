"""Vectors and markers in the residual stream: values of every contract, and when nothing is written."""

import itertools

import pytest
import torch

from battery import tiny_model
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.inputs import VECTOR_INPUTS
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM, SelfExplainerModel
from selfexplain.target.blocks import decoder_blocks

FACTORS = {"llama": 1.0, "granite": 3.0}  # of the embeddings
IDS = torch.tensor([[1, 40, 50, 60, 70, 80], [1, 41, 51, 61, 71, 81]])
SLOTS = [(0, 2), (0, 4), (1, 3)]  # row and position of each vector


def explainer_of(architecture, **contract):
    return SelfExplainerForCausalLM.from_base(tiny_model(architecture), injection=InjectionConfig(**contract)).model


def vector_inputs():
    """Three vectors in two rows; the last slot is empty, and one vector has no second marker."""
    return {
        "activations": torch.randn(2, 2, 32, generator=torch.Generator().manual_seed(0)),
        "activation_mask": torch.tensor([[True, True], [True, False]]),
        "activation_layers": torch.tensor([[1, 3], [2, 0]]),
        "activation_positions": torch.tensor([[2, 4], [3, 5]]),
        "marker_positions": torch.tensor([[[1, 3], [3, 5]], [[2, -1], [-1, -1]]]),
    }


@torch.no_grad()
def stream(model, **inputs):
    """The residual stream `(B, T, d)` at the site, and the final hidden states."""
    injection, blocks, seen = model.injection, decoder_blocks(model.language_model), []
    if injection.site == "block_output":
        handle = blocks[injection.block].register_forward_hook(lambda m, args, output: seen.append(output))
    else:
        handle = blocks[injection.block].register_forward_pre_hook(
            lambda m, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
    final = model(input_ids=IDS, **inputs).last_hidden_state
    handle.remove()
    return seen[0][0] if isinstance(seen[0], tuple) else seen[0], final


CONTRACTS = [
    {"site": site, "block": block, "operation": operation, "norm": norm, "scale": scale}
    for (site, block), operation, norm, scale in itertools.product(
        [("embedding", 0), ("block_input", 2), ("block_output", 1)],
        ["replace", "add"],
        ["raw", "unit", "match"],
        [1, 2.5],
    )
]


@pytest.mark.parametrize("architecture", FACTORS)
def test_vectors_are_written_as_the_contract_prescribes(architecture):
    for contract in CONTRACTS:
        model = explainer_of(architecture, markers=False, **contract)
        inputs = vector_inputs()
        (clean, clean_final), (written, final) = stream(model), stream(model, **inputs)
        expected = clean.clone()
        for (row, position), v in zip(SLOTS, inputs["activations"][inputs["activation_mask"]], strict=True):
            h = clean[row, position]
            unit = v / v.square().sum().sqrt()
            vector = {"raw": v, "unit": unit, "match": h.square().sum().sqrt() * unit}[contract["norm"]]
            expected[row, position] = (h if contract["operation"] == "add" else 0) + contract["scale"] * vector
        torch.testing.assert_close(written, expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(final, clean_final, atol=1e-4)
        assert torch.equal(stream(model)[1], clean_final)  # nothing is left over


@pytest.mark.parametrize("architecture", [*FACTORS, "bloom"])
def test_markers_are_written_around_the_slots_at_the_scale_of_block_0(architecture):
    model = explainer_of(architecture, site="block_output", block=1)
    begin, end = model.activation_adapter.markers.detach()
    inputs, seen = vector_inputs(), []
    decoder_blocks(model.language_model)[0].register_forward_pre_hook(
        lambda m, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).detach()), with_kwargs=True
    )
    stream(model)
    stream(model, **inputs)
    expected = seen[0].clone()
    expected[0, 1], expected[0, 5], expected[1, 2] = begin, end, begin
    both = torch.stack([begin, end])  # position 3 of row 0 is the end of one slot and the begin of the next one
    assert any(torch.allclose(seen[1][0, 3], marker, atol=1e-5) for marker in both)
    expected[0, 3] = seen[1][0, 3]
    torch.testing.assert_close(seen[1], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("without", ["markers", "positions"])
def test_markers_are_optional(without):
    model = explainer_of("llama", markers=without != "markers")
    inputs = vector_inputs() | ({} if without == "markers" else {"marker_positions": None})
    (clean, _), (written, _) = stream(model), stream(model, **inputs)
    changed = (written != clean).any(-1).nonzero().tolist()
    assert changed == [list(slot) for slot in SLOTS]


@pytest.mark.parametrize(("architecture", "factor"), [("llama", 1.0), ("granite", 3.0), ("bloom", 1.0)])
def test_markers_start_at_the_scale_of_the_input_of_block_0(architecture, factor):
    model = explainer_of(architecture)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        if architecture == "bloom":
            embeddings = model.language_model.transformer.word_embeddings_layernorm(embeddings)
        std = embeddings[:1024].std()
    for seed in (0, 5):
        model.init_adapter(seed)
        noise = torch.randn(2, 32, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(model.activation_adapter.markers.detach(), factor * std * noise)


def test_embeddings_may_be_given_instead_of_ids():
    model, inputs = explainer_of("llama"), vector_inputs()
    with torch.no_grad():
        by_ids = model(input_ids=IDS, **inputs).last_hidden_state
        embeddings = model.get_input_embeddings()(IDS)
        before = embeddings.clone()
        assert torch.equal(model(inputs_embeds=embeddings, **inputs).last_hidden_state, by_ids)
        assert torch.equal(embeddings, before)
        plain = model(input_ids=IDS).last_hidden_state
        assert torch.equal(model(inputs_embeds=embeddings).last_hidden_state, plain)


def test_the_attention_mask_reaches_the_base():
    model, mask = explainer_of("llama"), torch.ones(2, 6)
    mask[:, 1] = 0
    with torch.no_grad():
        expected = model.language_model.model(input_ids=IDS, attention_mask=mask).last_hidden_state
        assert torch.equal(model(input_ids=IDS, attention_mask=mask).last_hidden_state, expected)


@pytest.mark.parametrize("site", ["embedding", "block_output"])
def test_a_base_of_lower_precision_keeps_its_precision(site):
    model = explainer_of("llama", site=site, block=0, norm="raw")
    model.language_model.bfloat16()
    inputs = vector_inputs()
    written, final = stream(model, **inputs)
    assert written.dtype == final.dtype == torch.bfloat16
    expected = inputs["activations"][0, 0].bfloat16()
    torch.testing.assert_close(written[0, 2], expected)


def test_pending_writes_are_kept_for_the_backward_pass_only():
    model, inputs = explainer_of("llama"), vector_inputs()
    with model.writing(IDS, None, inputs) as passed:
        assert list(passed) == ["inputs_embeds"]
        assert model._vectors.rows.tolist() == [0, 0, 1] and model._vectors.positions.tolist() == [2, 4, 3]
    assert model._vectors is not None and model._markers is not None
    with model.writing(IDS, None, dict.fromkeys(VECTOR_INPUTS)) as passed:
        assert passed["input_ids"] is IDS and len(passed) == 1
        assert model._vectors is None and model._markers is None
    with torch.no_grad(), pytest.raises(KeyError, match="stop"), model.writing(IDS, None, inputs):
        raise KeyError("stop")
    assert model._vectors is None and model._markers is None


def test_the_tokens_around_a_slot_must_be_those_of_the_contract():
    model, inputs = explainer_of("llama", neighbour_ids=(40, 60), markers=False), vector_inputs()
    with pytest.raises(SelfExplainError, match=r"Row 0: the tokens around a vector are \[60, 80\]"):
        model(input_ids=IDS, **inputs)
    embeddings = model.get_input_embeddings()(IDS)
    assert model(inputs_embeds=embeddings, **inputs).last_hidden_state.isfinite().all()  # the tokens are unknown
    inputs["activation_mask"] = torch.tensor([[True, False], [False, False]])
    assert model(input_ids=IDS, **inputs).last_hidden_state.isfinite().all()


def test_a_base_is_made_from_the_configuration_if_none_is_given():
    config = SelfExplainerForCausalLM.from_base(tiny_model("llama")).config
    assert type(SelfExplainerModel(config).language_model) is type(tiny_model("llama"))
