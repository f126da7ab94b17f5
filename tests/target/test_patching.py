"""Resumed patches equal full forward passes on every architecture; invalid patches raise clear errors."""

import logging

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from battery import ARCHITECTURES, tiny_model
from selfexplain.errors import SelfExplainError
from selfexplain.target import resume, sweep
from selfexplain.target.blocks import attention_and_mlp, decoder_blocks
from selfexplain.target.capture import capture
from selfexplain.target.load import Target
from selfexplain.target.patching import Patch, _Patches, run_patches

ONE_NAN = torch.ones(32).index_fill(0, torch.tensor(7), float("nan"))


def sensitive_target(architecture, tokenizer, dtype=torch.float32):
    """A random target with large weights, so that patches change its output."""
    model = tiny_model(architecture)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(3)
    return Target(model.to(dtype), tokenizer, architecture)


def prompts_of(*lengths):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 500, (n,), generator=generator).tolist() for n in lengths]


def patches_for(lengths, d=32):
    """Patches at one or two layers, counted from either end, at a middle token, the last token and two tokens."""
    generator = torch.Generator().manual_seed(2)
    return [
        Patch(prompt, layers, positions, torch.randn(len(positions), d, generator=generator))
        for prompt in range(len(lengths))
        for layers in ((0,), (1, 2), (-1,))
        for positions in ((5,), (-1,), (2, 6))
    ]


def reference_log_probs(target, ids, patch, site, operation):
    """Next-token log-probabilities from one full forward pass with plain hooks, independent of the sweep engine."""

    def hook(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        for position, vector in zip(patch.positions, patch.vectors, strict=True):
            hidden[0, position] = vector + (hidden[0, position] if operation == "add" else 0)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handles = []
    for layer in patch.layers:
        block = decoder_blocks(target.model)[layer]
        module = block if site == "residual" else attention_and_mlp(block)[site == "mlp"]
        if target.model.config.model_type == "bloom" and site != "residual":
            # The attention and the MLP of BLOOM add the residual stream themselves.
            module = module.dense if site == "attention" else module.dense_4h_to_h
        handles.append(module.register_forward_hook(hook))
    try:
        with torch.no_grad():
            return target.model(torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_resumed_patches_equal_full_forward_passes(architecture, tokenizer):
    lengths = (20, 23, 9)  # longer than the sliding windows of 8, padded together
    target, prompts, patches = sensitive_target(architecture, tokenizer), prompts_of(*lengths), patches_for(lengths)
    for site, operation in (("residual", "replace"), ("residual", "add"), ("attention", "replace"), ("mlp", "add")):
        results = run_patches(target, prompts, patches, site, operation)
        assert results.method == "resumed" and results.check.sampled == 16 and results.check.flip_rate == 0
        n_changed = 0
        for index, patch in enumerate(patches):
            n_changed += int(results.ids[index] != results.clean_ids[patch.prompt])
            if index % 2:
                continue
            expected = reference_log_probs(target, prompts[patch.prompt], patch, site, operation)
            assert results.ids[index] == expected.argmax()
            assert results.log_probs[index] == pytest.approx(expected.max().item(), abs=1e-4)
        assert n_changed > 2


def test_results_are_next_tokens_log_probabilities_and_kl_divergences(tokenizer):
    target, (ids,) = sensitive_target("llama", tokenizer), prompts_of(12)
    patch = Patch(0, (1,), (4,), torch.randn(1, 32))
    results = run_patches(target, [ids], [patch])
    with torch.no_grad():
        clean = target.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    patched = reference_log_probs(target, ids, patch, "residual", "replace")
    assert results.clean_ids[0] == clean.argmax()
    assert results.clean_log_probs[0] == pytest.approx(clean.max().item(), abs=1e-4)
    assert results.kept_log_probs[0] == pytest.approx(patched[clean.argmax()].item(), abs=1e-4)
    assert results.kl[0] == pytest.approx((clean.exp() * (clean - patched)).sum().item(), abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "falcon", "bloom"])
@pytest.mark.parametrize("site", ["residual", "attention", "mlp"])
def test_patching_an_activation_with_itself_changes_nothing(architecture, site, tokenizer):
    target, prompts = sensitive_target(architecture, tokenizer), prompts_of(12, 12)
    outputs = resume.clean_run(target.model, prompts, range(4), site).outputs
    sites = [(i, layer, position) for i in range(2) for layer in range(4) for position in (0, 7, 11)]
    same = [Patch(i, (layer,), (position,), outputs[layer][i, position, None]) for i, layer, position in sites]
    zeros = [Patch(i, (layer,), (position,), torch.zeros(1, 32)) for i, layer, position in sites]
    for patches, operation in ((same, "replace"), (zeros, "add")):
        results = run_patches(target, prompts, patches, site, operation)
        owners = [patch.prompt for patch in patches]
        assert torch.equal(results.ids, results.clean_ids[owners])
        assert torch.equal(results.log_probs, results.clean_log_probs[owners])
        assert not results.kl.any()


def test_writing_back_captured_activations_changes_nothing(tokenizer):
    target, (ids,) = sensitive_target("llama", tokenizer), prompts_of(12)
    hidden = capture(target.model, torch.tensor([ids]), range(4))
    patches = [Patch(0, (layer,), (p,), hidden[layer, 0, p, None]) for layer in range(4) for p in range(12)]
    results = run_patches(target, [ids], patches)
    assert not results.kl.any() and (results.log_probs == results.clean_log_probs[0]).all()
    moved = [Patch(0, patch.layers, patch.positions, patch.vectors + 1e-3) for patch in patches]
    assert run_patches(target, [ids], moved).kl.any()


@pytest.mark.parametrize("site", ["attention", "mlp"])
def test_writing_zeros_and_adding_clean_outputs_change_the_output(site, tokenizer):
    """Only the other way round would these patches change nothing."""
    target, (ids,) = sensitive_target("llama", tokenizer), prompts_of(12)
    outputs = resume.clean_run(target.model, [ids], range(4), site).outputs
    for operation, vector in (("replace", torch.zeros(1, 32)), ("add", outputs[2][0, 11, None])):
        patch = Patch(0, (2,), (11,), vector)
        results = run_patches(target, [ids], [patch], site, operation)
        expected = reference_log_probs(target, ids, patch, site, operation)
        assert results.log_probs[0] == pytest.approx(expected.max().item(), abs=1e-4)
        assert results.kl[0] > 0


def test_a_patch_that_changes_only_one_of_its_positions_or_layers_is_run(tokenizer):
    target, (ids,) = sensitive_target("llama", tokenizer), prompts_of(12)
    outputs = resume.clean_run(target.model, [ids], range(4)).outputs
    two_positions = Patch(0, (1,), (5, 8), torch.stack([outputs[1][0, 5] + 1, outputs[1][0, 8]]))
    second_layer, first_layer = (Patch(0, (1, 2), (8,), outputs[same][0, 8, None]) for same in (1, 2))
    patches = [two_positions, second_layer, first_layer]
    results = run_patches(target, [ids], patches)
    for index, patch in enumerate(patches):
        expected = reference_log_probs(target, ids, patch, "residual", "replace")
        assert results.log_probs[index] == pytest.approx(expected.max().item(), abs=1e-4)
    assert (results.kl > 0).all()


@pytest.mark.parametrize("site", ["residual", "attention", "mlp"])
def test_a_single_late_layer_is_patched_without_running_the_earlier_ones(site, tokenizer):
    target, (ids,) = sensitive_target("llama", tokenizer), prompts_of(12)
    patch = Patch(0, (3,), (5,), torch.randn(1, 32, generator=torch.Generator().manual_seed(0)))
    results = run_patches(target, [ids], [patch], site)
    expected = reference_log_probs(target, ids, patch, site, "replace")
    assert results.method == "resumed" and results.ids[0] == expected.argmax()
    assert results.log_probs[0] == pytest.approx(expected.max().item(), abs=1e-4)


def test_only_patches_that_write_the_clean_values_bit_by_bit_are_idle(tokenizer):
    target, prompts = sensitive_target("llama", tokenizer), prompts_of(12, 9)
    blocks = decoder_blocks(target.model)
    clean = resume.clean_run(target.model, prompts, [1, 2])
    same = clean.outputs[1][1, 5]
    one_component = same.index_fill(0, torch.tensor(3), 0.5)
    patches = [
        Patch(1, (1,), (5,), same[None]),
        Patch(1, (1,), (5,), one_component[None]),
        Patch(0, (1,), (5,), same[None]),
        Patch(1, (1,), (5,), same.double()[None] * (1 + 1e-12)),  # rounded to the same values
        Patch(1, (1,), (5, 6), torch.stack([same, clean.outputs[1][1, 6]])),
        Patch(1, (1,), (6, 5), torch.stack([one_component, same])),
    ]
    work = _Patches(target, prompts, patches, {n: blocks[n] for n in (1, 2)}, "residual", "replace")
    rows = torch.tensor([patch.prompt for patch in patches])
    assert work.idle(clean, rows, range(6)).tolist() == [True, False, False, True, True, False]


def test_layers_and_positions_are_a_set_counted_from_either_end(tokenizer):
    target, (ids,) = sensitive_target("llama", tokenizer), prompts_of(12)
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    written = [
        Patch(0, (1, 3), (0, 5), vectors),
        Patch(0, (3, 1), (0, 5), vectors),
        Patch(0, (-1, 1, 3, -3), (-12, -7), vectors),
        Patch(0, (1, 3), (5, 0), vectors.flip(0)),
    ]
    results = run_patches(target, [ids], written, operation="add")
    expected = reference_log_probs(target, ids, written[0], "residual", "add")
    torch.testing.assert_close(results.log_probs, expected.max().expand(4), atol=1e-4, rtol=0)
    assert results.method == "resumed"


def test_the_first_patched_layer_is_the_smallest_one_in_a_deep_model(tokenizer):
    """A set of Python integers is not sorted from 8 on."""
    config = {"num_hidden_layers": 9, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=512, pad_token_id=0, num_key_value_heads=2, **config)).eval()
    target, (ids,) = Target(model, tokenizer, "deep"), prompts_of(6)
    patch = Patch(0, (1, 8), (3,), torch.ones(1, 16))
    results = run_patches(target, [ids], [patch])
    expected = reference_log_probs(target, ids, patch, "residual", "replace")
    assert results.method == "resumed"
    assert results.log_probs[0] == pytest.approx(expected.max().item(), abs=1e-5)


def test_full_forward_passes_reuse_nothing_of_the_clean_run(tokenizer, monkeypatch):
    target, lengths = sensitive_target("llama", tokenizer), (12, 9)
    prompts, patches = prompts_of(*lengths), patches_for(lengths)

    def refuse(module, forward):
        raise RuntimeError("blocks cannot be replaced")

    monkeypatch.setattr(resume, "_replaced_forward", refuse)
    for site in ("residual", "mlp"):
        results = run_patches(target, prompts, patches, site)
        assert results.method == "hooks"
        for index in range(0, len(patches), 4):
            expected = reference_log_probs(target, prompts[patches[index].prompt], patches[index], site, "replace")
            assert results.log_probs[index] == pytest.approx(expected.max().item(), abs=1e-4)


def test_progress_of_patches_is_shown_if_it_has_a_label(tokenizer, capsys):
    target, (ids,) = sensitive_target("llama", tokenizer), prompts_of(6)
    run_patches(target, [ids], [Patch(0, (1,), (3,), torch.ones(1, 32))], progress="patching")
    assert "patching: 100%" in capsys.readouterr().err


def test_a_model_that_cannot_resume_falls_back_to_full_forward_passes_with_one_warning(tokenizer, monkeypatch, caplog):
    target, lengths = sensitive_target("llama", tokenizer), (12, 9)
    prompts, patches = prompts_of(*lengths), patches_for(lengths)
    expected = run_patches(target, prompts, patches)
    prefix = resume._prefix

    def corrupt_prefix(clean, rows, start, after):
        cache = prefix(clean, rows, start, after)
        for layer in cache.layers:
            layer.values = layer.values + 1
        return cache

    monkeypatch.setattr(resume, "_prefix", corrupt_prefix)
    with caplog.at_level(logging.WARNING):
        results = run_patches(target, prompts, patches)
    assert results.method == "hooks" and results.check.max_difference > 1e-3
    assert [record.message for record in caplog.records if "not exact here" in record.message] == [caplog.messages[0]]
    assert torch.equal(results.ids, expected.ids)
    torch.testing.assert_close(results.kl, expected.kl, atol=1e-5, rtol=1e-4)


def test_near_ties_in_bfloat16_are_recomputed_in_float32(tokenizer, monkeypatch):
    lengths = (20, 23)
    prompts, patches = prompts_of(*lengths), patches_for(lengths)
    target = sensitive_target("qwen3", tokenizer, torch.bfloat16)
    weights = {name: p.clone() for name, p in target.model.named_parameters()}
    results = run_patches(target, prompts, patches)
    assert target.model.dtype == torch.bfloat16
    assert all(
        torch.equal(p, weights[name]) and p.dtype == torch.bfloat16 for name, p in target.model.named_parameters()
    )
    assert 0 < results.check.near_ties <= len(patches) and 0 <= results.check.flip_rate <= 1
    assert results.method == "resumed" and results.check.max_difference < 1e-3
    monkeypatch.setattr(sweep, "NEAR_TIE", 0)
    without_recomputing = run_patches(target, prompts, patches)
    exact = Target(target.model.float(), tokenizer, "the same weights")
    truth = run_patches(exact, prompts, patches)
    assert (results.ids == truth.ids).sum() >= (without_recomputing.ids == truth.ids).sum()
    assert (results.ids == truth.ids).float().mean() > 0.95


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (Patch(1, (0,), (0,), torch.zeros(1, 32)), "on prompt 1, but 1 prompts"),
        (Patch(0, (4,), (0,), torch.zeros(1, 32)), "model has layers 0 to 3"),
        (Patch(0, (), (0,), torch.zeros(1, 32)), "model has layers 0 to 3"),
        (Patch(0, (0,), (12,), torch.zeros(1, 32)), "tokens 0 to 11"),
        (Patch(0, (0,), (), torch.zeros(0, 32)), "tokens 0 to 11"),
        (Patch(0, (0,), (3, -9), torch.zeros(2, 32)), "each at most once"),
        (Patch(0, (0,), (3,), torch.zeros(1, 31)), r"expected \(1, 32\)"),
        (Patch(0, (0,), (3,), torch.full((1, 32), float("nan"))), "Patch 0 has a vector that is not finite"),
        (Patch(0, (0,), (3,), ONE_NAN[None]), "Patch 0 has a vector that is not finite"),
        (Patch(0, (0,), (3,), torch.full((1, 32), 1e39, dtype=torch.float64)), "not finite in torch.float32"),
    ],
)
def test_an_invalid_patch_raises_an_error(patch, message, tokenizer):
    with pytest.raises(SelfExplainError, match=message):
        run_patches(sensitive_target("llama", tokenizer), prompts_of(12), [patch])


def test_the_error_names_the_patch_whose_vector_is_not_finite(tokenizer):
    finite = torch.ones(2, 32)
    patches = [Patch(0, (0,), (3, 4), finite), Patch(0, (0,), (2, 5), torch.stack([finite[0], ONE_NAN]))]
    with pytest.raises(SelfExplainError, match="Patch 1 has a vector that is not finite"):
        run_patches(sensitive_target("llama", tokenizer), prompts_of(12), patches)


def test_invalid_prompts_and_logits_raise_an_error(tokenizer):
    target = sensitive_target("llama", tokenizer)
    for prompts, message in (([[]], "Prompt 0 has 0 tokens"), ([[5], [7] * 129], "Prompt 1 has 129 tokens")):
        with pytest.raises(SelfExplainError, match=message):
            run_patches(target, prompts, [])
    target.model.lm_head.weight.data[3] = float("nan")
    with pytest.raises(SelfExplainError, match="logits of llama are not finite"):
        run_patches(target, [[5, 6]], [])


def test_without_patches_only_clean_outputs_are_returned(tokenizer):
    results = run_patches(sensitive_target("llama", tokenizer), prompts_of(5, 6), [])
    assert len(results.ids) == 0 and len(results.clean_ids) == 2
