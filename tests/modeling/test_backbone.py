"""Vectors and markers in the residual stream: values of every contract, and when nothing is written."""

import itertools
from copy import deepcopy

import pytest
import torch
from accelerate import infer_auto_device_map, init_empty_weights
from transformers import LlamaConfig, LlamaForCausalLM

from battery import tiny_model
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.activation_adapter import ActivationAdapter
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.inputs import VECTOR_INPUTS
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM, SelfExplainerModel
from selfexplain.modeling.pending import PendingWrites, Write, pending, writing_pending
from selfexplain.target.blocks import decoder_blocks

ARCHITECTURES = ("llama", "granite", "bloom")  # plain embeddings, with a factor of 3, with a norm
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
def stream(model, replacement=None, **inputs):
    """The residual stream `(B, T, d)` at the site, and the final hidden states.

    Args:
        replacement: values for the whole stream at the site; None keeps it as it is.
    """
    injection, blocks, seen = model.injection, decoder_blocks(model.language_model), []

    def keep(module, args, kwargs):
        seen.append(args[0] if args else kwargs["hidden_states"])
        if replacement is not None:
            return ((replacement, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": replacement})

    def keep_output(module, args, output):
        seen.append(output[0] if isinstance(output, tuple) else output)
        if replacement is not None:
            return (replacement, *output[1:]) if isinstance(output, tuple) else replacement

    if injection.site == "block_output":
        handle = blocks[injection.block].register_forward_hook(keep_output)
    else:
        handle = blocks[injection.block].register_forward_pre_hook(keep, with_kwargs=True)
    final = model(input_ids=IDS, **inputs).last_hidden_state
    handle.remove()
    return seen[0], final


CONTRACTS = [
    {"site": site, "block": block, "operation": operation, "norm": norm, "scale": scale}
    for (site, block), operation, norm, scale in itertools.product(
        [("embedding", 0), ("block_input", 2), ("block_output", 1)],
        ["replace", "add"],
        ["raw", "unit", "match"],
        [1, 2.5],
    )
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
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
        torch.testing.assert_close(final, stream(model, expected)[1], atol=1e-4, rtol=1e-3)  # written only there
        assert not torch.allclose(final, clean_final, atol=1e-4)
        assert torch.equal(stream(model)[1], clean_final)  # nothing is left over


@pytest.mark.parametrize("architecture", ARCHITECTURES)
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


def test_blocks_may_take_and_return_the_stream_in_any_form():
    """As the first argument, as a keyword, alone or in a tuple; other arguments and outputs stay as they are."""
    model = explainer_of("llama", site="block_output", norm="raw", markers=False)
    hidden, vector = torch.zeros(1, 3, 32), torch.ones(1, 32)
    (unchanged,), _ = model._write_block_input(None, (hidden,), {})
    assert unchanged is model._write_block_output(None, (), hidden) is hidden

    def written_by(write, *args):
        with writing_pending(PendingWrites(model._key, vectors=Write(torch.tensor([0]), torch.tensor([1]), vector))):
            return write(None, *args)

    (first, second), kwargs = written_by(model._write_block_input, (hidden, "mask"), {"use_cache": True})
    assert second == "mask" and kwargs == {"use_cache": True}
    args, kwargs = written_by(model._write_block_input, (), {"hidden_states": hidden, "use_cache": True})
    assert args == () and kwargs.pop("use_cache") is True and list(kwargs) == ["hidden_states"]
    output, weights, cache = written_by(model._write_block_output, (), (hidden, "weights", "cache"))
    assert (weights, cache) == ("weights", "cache")
    alone = written_by(model._write_block_output, (), hidden)
    for written in (first, kwargs["hidden_states"], output, alone):
        assert written[0].sum(-1).tolist() == [0, 32, 0]


def test_each_vector_is_mapped_with_the_map_of_its_layer():
    model = explainer_of("llama", norm="raw", markers=False)
    model.activation_adapter = ActivationAdapter(32, 32, "scale", [1, 2, 3])
    model.activation_adapter.gain.data = torch.tensor([2.0, 3.0, 5.0])
    inputs = vector_inputs()
    written, _ = stream(model, **inputs)
    for (row, position), v, layer in zip(SLOTS, inputs["activations"].flatten(0, 1), [1, 3, 2], strict=False):
        torch.testing.assert_close(written[row, position], {1: 2, 2: 3, 3: 5}[layer] * v)


def test_a_marker_may_be_at_the_first_token():
    model, inputs = explainer_of("llama"), vector_inputs()
    inputs["activation_positions"][0, 0], inputs["marker_positions"][0, 0] = 1, torch.tensor([0, 2])
    written, _ = stream(model, **inputs)
    torch.testing.assert_close(written[0, [0, 2]], model.activation_adapter.markers.detach())


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


def test_the_scale_of_markers_is_that_of_the_first_1024_embeddings():
    config = LlamaConfig(
        vocab_size=1100, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    base = LlamaForCausalLM(config)
    base.get_input_embeddings().weight.data[1024:] = 100
    model = SelfExplainerForCausalLM.from_base(base).model
    model.init_adapter(3)
    noise = torch.randn(2, 32, generator=torch.Generator().manual_seed(3))
    std = base.get_input_embeddings().weight[:1024].std()
    torch.testing.assert_close(model.activation_adapter.markers.detach(), std.detach() * noise)
    assert model.language_model is base


def test_markers_of_a_base_of_lower_precision_are_scaled_in_float32():
    base = tiny_model("llama").bfloat16()
    model = SelfExplainerForCausalLM.from_base(base).model
    model.init_adapter(3)
    noise = torch.randn(2, 32, generator=torch.Generator().manual_seed(3))
    std = base.get_input_embeddings().weight.detach().float().std()
    torch.testing.assert_close(model.activation_adapter.markers.detach(), std * noise)


def test_initialising_the_adapter_initialises_its_map():
    model = explainer_of("llama")
    model.activation_adapter = ActivationAdapter(32, 32, "mlp", [0, 1], rank=2)
    expected = ActivationAdapter(32, 32, "mlp", [0, 1], rank=2)
    for seed in (0, 4):
        model.init_adapter(seed)
        expected.reset(seed)
        for name in ("weight", "down", "up"):
            assert torch.equal(getattr(model.activation_adapter, name), getattr(expected, name))


def test_the_embeddings_are_those_of_the_base():
    model, embeddings = explainer_of("llama"), torch.nn.Embedding(512, 32)
    model.set_input_embeddings(embeddings)
    assert model.get_input_embeddings() is model.language_model.get_input_embeddings() is embeddings


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


def test_the_attention_mask_and_options_reach_the_base():
    model, mask = explainer_of("llama"), torch.ones(2, 6)
    mask[:, 1] = 0
    with torch.no_grad():
        expected = model.language_model.model(input_ids=IDS, attention_mask=mask).last_hidden_state
        output = model(input_ids=IDS, attention_mask=mask, output_hidden_states=True)
    assert torch.equal(output.last_hidden_state, expected) and len(output.hidden_states) == 5


@pytest.mark.parametrize("site", ["embedding", "block_output"])
def test_a_base_of_lower_precision_keeps_its_precision(site):
    model = explainer_of("llama", site=site, block=0, norm="raw")
    model.language_model.bfloat16()
    inputs = vector_inputs()
    written, final = stream(model, **inputs)
    assert written.dtype == final.dtype == torch.bfloat16
    expected = inputs["activations"][0, 0].bfloat16()
    torch.testing.assert_close(written[0, 2], expected)


def test_the_norm_of_a_stream_in_low_precision_is_computed_in_float32():
    model, inputs = explainer_of("llama", site="block_output", block=0, markers=False), vector_inputs()
    model.language_model.bfloat16()
    (clean, _), (written, _) = stream(model), stream(model, **inputs)
    for (row, position), v in zip(SLOTS, inputs["activations"][inputs["activation_mask"]], strict=True):
        expected = clean[row, position].float().norm() * v / v.norm()
        difference = (written[row, position].float() - expected.bfloat16().float()).norm() / expected.norm()
        assert difference < 1e-4


def test_pending_writes_end_with_their_forward_pass():
    model, inputs = explainer_of("bloom", site="block_output", block=1), vector_inputs()
    with model.writing(IDS, None, inputs) as passed:
        assert list(passed) == ["inputs_embeds"]
        writes = pending(model._key)
        assert writes.vectors.rows.tolist() == [0, 0, 1] and writes.vectors.positions.tolist() == [2, 4, 3]
        with model.writing(IDS, None, dict.fromkeys(VECTOR_INPUTS)) as passed:  # a nested call
            assert passed["input_ids"] is IDS and len(passed) == 1
            assert pending(model._key).vectors is None and pending(model._key).markers is None
        assert pending(model._key) is writes
    assert pending(model._key).vectors is None
    with pytest.raises(KeyError, match="stop"), model.writing(IDS, None, inputs):
        raise KeyError("stop")
    assert pending(model._key).vectors is None


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


META = {
    "torch.device": lambda: torch.device("meta"),
    "init_empty_weights": init_empty_weights,
    "init_empty_weights with buffers": lambda: init_empty_weights(include_buffers=True),
}


@pytest.mark.parametrize("context", META)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_explainer_made_without_weights_equals_the_original_once_they_are_loaded(architecture, context):
    original = SelfExplainerForCausalLM.from_base(tiny_model(architecture), injection=InjectionConfig(block=1))
    with META[context]():
        empty = SelfExplainerForCausalLM(deepcopy(original.config)).eval()
    assert all(parameter.is_meta for parameter in empty.parameters())
    device_map = infer_auto_device_map(empty, no_split_module_classes=empty._no_split_modules)
    assert set(device_map.values()) == {0 if torch.cuda.is_available() else "cpu"}
    empty.load_state_dict(original.state_dict(), assign=True)
    for name, buffer in original.named_buffers():  # not in the state dict
        owner, _, attribute = name.rpartition(".")
        setattr(empty.get_submodule(owner), attribute, buffer)
    inputs = vector_inputs()
    with torch.no_grad():
        torch.testing.assert_close(empty(IDS, **inputs).logits, original(IDS, **inputs).logits)


def test_measuring_the_embedding_site_leaves_every_module_in_its_mode():
    base = tiny_model("bloom").train()
    base.transformer.h[1].eval()
    modes = [module.training for module in base.modules()]
    SelfExplainerModel(SelfExplainerForCausalLM.from_base(tiny_model("bloom")).config, base)
    assert [module.training for module in base.modules()] == modes


def test_modules_that_were_added_to_the_base_keep_their_weights():
    base = tiny_model("llama")
    base.model.layers[1].mlp.up_proj = torch.nn.Linear(32, 64, bias=False)
    before = base.model.layers[1].mlp.up_proj.weight.clone()
    SelfExplainerForCausalLM.from_base(base)
    assert torch.equal(base.model.layers[1].mlp.up_proj.weight, before)
