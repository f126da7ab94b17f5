"""The same checks for explainers around every architecture."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from battery import ARCHITECTURES, tiny_model
from explainers import trained
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.target.blocks import attention_and_mlp, decoder_blocks, embedding_site
from selfexplain.target.capture import capture
from selfexplain.tasks import feature_description
from selfexplain.tasks.question import fill

EMBEDDING = InjectionConfig(scale=2.0)
ADDED = InjectionConfig(site="block_output", block=1, operation="add", norm="unit", markers=False)
REPLACED = InjectionConfig(site="block_input", block=2, norm="raw", markers=False)


def rows():
    """Two rows of different lengths, one with two vectors and one with a single vector."""
    a, b, c = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    two, one = fill("{activation} or {activation}?\n"), feature_description.question(2)
    return [
        {
            "prompt": question.prompt,
            "placeholder_offsets": question.placeholder_offsets,
            "activations": vectors,
            "activation_layers": layers,
        }
        for question, vectors, layers in ((two, [a, b], [1, 3]), (one, [c], [2]))
    ]


def generate(explainer, inputs, **options):
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0} | options
    return explainer.generate(**inputs, **options)[:, -options["max_new_tokens"] :]


def one_by_one(explainer, **options):
    return torch.cat([generate(explainer, explainer.processor([row]), **options) for row in rows()])


@torch.no_grad()
def logits(explainer, inputs):
    return explainer(**inputs).logits[:, -1].float()


def check_generation(explainer, inputs):
    generated = generate(explainer, inputs)
    assert torch.equal(generated, generate(explainer, inputs, use_cache=False))
    others = {name: value for name, value in inputs.items() if name != "input_ids"}
    embedded = explainer.get_input_embeddings()(inputs["input_ids"])
    assert torch.equal(generated, generate(explainer, others | {"inputs_embeds": embedded}))
    assert torch.equal(generated, one_by_one(explainer))  # left padding changes nothing
    beams = {"num_beams": 2, "num_return_sequences": 2}
    assert torch.equal(generate(explainer, inputs, **beams), one_by_one(explainer, **beams))


@torch.no_grad()
def stream_at_site(explainer, inputs):
    """The residual stream `(B, T, d)` at the injection site as the blocks see it, without position embeddings."""
    injection, blocks, seen = explainer.model.injection, decoder_blocks(explainer.language_model), []
    if injection.site == "block_output":
        handle = blocks[injection.block].register_forward_hook(lambda m, args, output: seen.append(output))
    else:
        handle = blocks[injection.block].register_forward_pre_hook(
            lambda m, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
    explainer(**inputs)
    handle.remove()
    stream = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    if injection.site == "embedding" and explainer.config.text_config.model_type == "gpt2":
        stream = stream - explainer.language_model.transformer.wpe.weight[: stream.shape[1]]
    return stream


def check_read_back(explainer, inputs):
    contract, markers = explainer.model.injection, explainer.model.activation_adapter.markers.detach()
    written = stream_at_site(explainer, inputs)
    bare = deepcopy(explainer)
    for module in bare.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    clean = stream_at_site(bare, {name: inputs[name] for name in ("input_ids", "attention_mask")})
    row, slot = inputs["activation_mask"].nonzero(as_tuple=True)
    position = inputs["activation_positions"][row, slot]
    h, v = clean[row, position], inputs["activations"][row, slot]
    unit = v / v.norm(dim=-1, keepdim=True)
    expected = {"raw": v, "unit": unit, "match": h.norm(dim=-1, keepdim=True) * unit}[contract.norm] * contract.scale
    expected = h + expected if contract.operation == "add" else expected
    torch.testing.assert_close(written[row, position], expected, atol=1e-5, rtol=1e-4)
    if contract.markers:
        around = written[row[:, None], inputs["marker_positions"][row, slot]]  # (N, 2, d)
        torch.testing.assert_close(around, markers.expand_as(around), atol=1e-5, rtol=1e-4)


def check_gradient_checkpointing(explainer, inputs):
    explainer.add_lora(rank=2, alpha=4)
    gradients = []
    for _ in range(2):
        explainer.zero_grad()
        torch.manual_seed(0)  # GPT-2 has dropout
        explainer.train()
        explainer(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in explainer.parameters() if p.grad is not None]))
        explainer.activation_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


def test_lora_can_be_limited_to_the_attention_of_any_architecture():
    for architecture in ARCHITECTURES:
        explainer = SelfExplainerForCausalLM.from_base(tiny_model(architecture))
        explainer.add_lora(rank=2, alpha=4, target_modules="attention")
        changed = {name.partition(".lora_A")[0] for name, _ in explainer.named_parameters() if ".lora_A" in name}
        parts = [attention_and_mlp(block) for block in decoder_blocks(explainer.language_model)]
        names = {module: name for name, module in explainer.named_modules()}
        for attention, mlp in parts:
            assert len([name for name in changed if name.startswith(f"{names[attention]}.")]) in (2, 4), architecture
            assert not [name for name in changed if name.startswith(f"{names[mlp]}.")]


def check_capture(base):
    ids = torch.tensor([[1, 40, 50, 60, 70]])
    with torch.no_grad():
        hidden = base(ids, output_hidden_states=True).hidden_states
    captured = capture(base, ids, [0, 2, 3])
    torch.testing.assert_close(captured[:2], torch.stack([hidden[1], hidden[3]]))
    assert not torch.allclose(captured[2], hidden[4])  # transformers returns the last one after the final norm


def check_saving(base, tokenizer, directory):
    base.save_pretrained(directory / "base")
    tokenizer.save_pretrained(directory / "base")
    explainer = trained(directory / "base", injection=replace(ADDED, scale=20.0))
    explainer.golden_rows = rows()[:1]  # short, so that a sliding window of 8 tokens includes the vectors
    explainer.save_pretrained(directory / "saved")
    loaded = SelfExplainerForCausalLM.from_pretrained(directory / "saved", attn_implementation="eager")
    inputs = explainer.processor(rows())
    assert loaded.language_model.config._attn_implementation == "eager"
    expected = logits(explainer, inputs)
    torch.testing.assert_close(logits(loaded, inputs), expected, atol=1e-4, rtol=1e-3)
    low = SelfExplainerForCausalLM.from_pretrained(directory / "saved", dtype="bfloat16", check_injection=False)
    assert low.language_model.dtype == torch.bfloat16
    assert low.model.activation_adapter.markers.dtype == torch.float32
    assert (logits(low, inputs) - expected).abs().mean() < 0.1 * expected.std()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_explainer_around_any_base(architecture, tokenizer, tmp_path):
    for contract in (EMBEDDING, ADDED, REPLACED):
        explainer = SelfExplainerForCausalLM.from_base(tiny_model(architecture), tokenizer, contract)
        inputs = explainer.processor(rows())
        if contract is EMBEDDING:
            check_generation(explainer, inputs)
        check_read_back(explainer, inputs)
    check_gradient_checkpointing(explainer, inputs)
    base = tiny_model(architecture)
    check_capture(base)
    check_saving(base, tokenizer, tmp_path)


def test_a_base_that_transforms_its_embeddings_in_an_unsupported_way_is_refused():
    base = tiny_model("llama")
    assert embedding_site(base) == (1.0, None)

    class Squared(nn.Module):
        def forward(self, hidden):
            return hidden**2

    first = decoder_blocks(base)[0]
    square = Squared()
    first.register_forward_pre_hook(lambda m, args, kwargs: ((square(args[0]), *args[1:]), kwargs), with_kwargs=True)
    with pytest.raises(SelfExplainError, match="more than a factor, a norm and position embeddings"):
        SelfExplainerForCausalLM.from_base(base)


def test_the_transformation_of_embeddings_is_measured():
    assert embedding_site(tiny_model("granite")) == (3.0, None)
    assert embedding_site(tiny_model("gpt2")) == (1.0, None)
    factor, norm = embedding_site(tiny_model("bloom"))
    assert factor == 1.0 and isinstance(norm, nn.LayerNorm)
