"""Interventions in one thread do not change what other threads compute with the same model."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from accelerate import cpu_offload

from battery import ARCHITECTURES, tiny_model
from selfexplain.target.ablation import Variant, possible_answers, run_variants
from selfexplain.target.blocks import decoder_blocks, embedding_site
from selfexplain.target.capture import capture
from selfexplain.target.lens import logit_lens
from selfexplain.target.load import Target
from selfexplain.target.nexttoken import possible_next_tokens
from selfexplain.target.patching import Patch, run_patches
from selfexplain.target.precision import in_float32
from selfexplain.target.private_copy import private_copy

IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_private_copy_shares_weights_and_no_modules(architecture):
    model = tiny_model(architecture)
    expected, twin = logits(model), private_copy(model)
    assert torch.equal(logits(twin), expected)
    pairs = zip(model.named_parameters(), twin.named_parameters(), strict=True)
    assert all(name == other and one is two for (name, one), (other, two) in pairs)
    assert {id(module) for module in model.modules()}.isdisjoint(id(module) for module in twin.modules())
    decoder_blocks(twin)[1].register_forward_hook(lambda module, args, output: (_ for _ in ()).throw(KeyError))
    twin.train()
    assert torch.equal(logits(model), expected) and not model.training
    with pytest.raises(KeyError):
        logits(twin)


def test_hooks_of_the_original_and_of_accelerate_run_on_the_copy():
    model = tiny_model("llama")
    expected = logits(model)
    cpu_offload(model, torch.device("cpu"))  # replaces each `forward` by a function of its module
    twin, seen = private_copy(model), []
    decoder_blocks(twin)[2].mlp.register_forward_hook(lambda module, args, output: seen.append(module))
    assert torch.equal(logits(twin), expected) and seen == [decoder_blocks(twin)[2].mlp]
    decoder_blocks(model)[0].register_forward_hook(lambda module, args, output: 0 * output)
    assert not torch.equal(logits(private_copy(model)), expected)


def test_float32_in_a_copy_leaves_the_weights_of_the_model():
    model = tiny_model("llama").bfloat16()
    before, exact = logits(model), logits(tiny_model("llama").bfloat16().float())
    twin = private_copy(model)

    def run_the_model_too(module, args):
        assert torch.equal(logits(model), before)

    decoder_blocks(twin)[1].register_forward_pre_hook(run_the_model_too)
    with in_float32(twin):
        torch.testing.assert_close(logits(twin), exact, atol=1e-5, rtol=1e-4)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    "read",
    [
        lambda target: list(logit_lens(target, torch.zeros(2, 32))),
        lambda target: possible_next_tokens(target, [1, 40, 50]),
        lambda target: possible_answers(target, "The capital", ["Paris", "Rome"]),
    ],
)
def test_readers_leave_the_model_of_other_threads(read, tokenizer):
    target = Target(tiny_model("llama").bfloat16(), tokenizer, name="tiny")
    target.model.lm_head.weight.data.zero_()  # all tokens are equally likely, so float32 decides
    last, seen = target.model.model.layers[-1], []
    linear = last.self_attn.q_proj
    linear.register_forward_hook(lambda *_: seen.append((linear.weight.dtype, len(last._forward_hooks))))
    read(target)
    assert set(seen) == {(torch.bfloat16, 0)}


def test_threads_may_capture_patch_and_ablate_at_once(tokenizer):
    """While another thread runs the model itself. All meet at block 0 in each forward pass until they are done."""
    target = Target(tiny_model("llama"), tokenizer, "tiny")
    patch = Patch(0, (1, 2), (3,), torch.ones(1, 32))
    calls = [
        lambda: capture(target.model, IDS, [0, 2]),
        lambda: capture(target.model, IDS + 1, [1, 2]),
        lambda: run_patches(target, [IDS[0].tolist()], [patch]).log_probs,
        lambda: run_variants(target, [IDS[0].tolist()], [Variant(0, (1, 40, 60))]).log_probs,
        lambda: torch.tensor(embedding_site(target.model)[0]),
        lambda: logits(target.model),
    ]
    expected = [call() for call in calls]
    turn = threading.Condition()

    def switch(module, args):
        with turn:  # lets the other threads run, which the interpreter does only every 5 ms otherwise
            turn.notify_all()
            turn.wait(timeout=0.002)

    for block in decoder_blocks(target.model):
        block.register_forward_pre_hook(switch)
    with ThreadPoolExecutor(len(calls)) as pool:
        for _ in range(3):
            results = [future.result() for future in [pool.submit(call) for call in calls]]
            for actual, alone in zip(results, expected, strict=True):
                torch.testing.assert_close(actual, alone)
