"""Vectors belong to the call that they were given to: threads, nested calls, checkpoints, copies, compiled models."""

import copy
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.utils.checkpoint import checkpoint

from battery import tiny_model
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.target.blocks import decoder_blocks

IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])
SITES = [("llama", "embedding"), ("bloom", "embedding"), ("llama", "block_input"), ("llama", "block_output")]


def explainer_of(architecture="llama", site="block_output", **options):
    contract = InjectionConfig(site=site, block=2 if site != "embedding" else 0)
    return SelfExplainerForCausalLM.from_base(tiny_model(architecture), injection=contract, **options)


def inputs_of(seed, position=2):
    return {
        "input_ids": IDS,
        "activations": torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(seed)),
        "activation_mask": torch.tensor([[True]]),
        "activation_layers": torch.tensor([[1]]),
        "activation_positions": torch.tensor([[position]]),
        "marker_positions": torch.tensor([[[position - 1, position + 1]]]),
    }


@torch.no_grad()
def logits(model, **inputs):
    return model(**inputs).logits


def meeting(explainer, n):
    """Make each forward pass wait at block 0 until `n` threads are there."""
    barrier = threading.Barrier(n, timeout=60)

    def wait(module, args):
        barrier.wait()

    return decoder_blocks(explainer.language_model)[0].register_forward_pre_hook(wait)


def together(explainer, *calls):
    """The results of calls in threads, all of which reach block 0 before any continues."""
    handle = meeting(explainer, len(calls))
    with ThreadPoolExecutor(len(calls)) as pool:
        results = [future.result() for future in [pool.submit(call) for call in calls]]
    handle.remove()
    return results


@pytest.mark.parametrize(("architecture", "site"), SITES)
def test_threads_write_their_own_vectors(architecture, site):
    explainer = explainer_of(architecture, site)
    inputs = [inputs_of(0), inputs_of(1, position=3), {"input_ids": IDS}]
    expected = [logits(explainer, **one) for one in inputs]
    for actual, alone in zip(
        together(explainer, *(partial(logits, explainer, **one) for one in inputs)), expected, strict=True
    ):
        assert torch.equal(actual, alone)


@pytest.mark.parametrize(("architecture", "site"), SITES)
def test_nested_calls_and_exceptions_leave_nothing_behind(architecture, site):
    explainer = explainer_of(architecture, site)
    outer, inner = inputs_of(0), inputs_of(1)
    alone = [logits(explainer, **one) for one in (outer, inner, {"input_ids": IDS})]
    nested = []

    def call_again(module, args):
        handle.remove()
        nested.extend(logits(explainer, **one) for one in (inner, {"input_ids": IDS}))

    handle = decoder_blocks(explainer.language_model)[1].register_forward_pre_hook(call_again)
    assert torch.equal(logits(explainer, **outer), alone[0])
    assert torch.equal(nested[0], alone[1]) and torch.equal(nested[1], alone[2])

    def fail(module, args):
        raise KeyError("stop")

    handle = decoder_blocks(explainer.language_model)[1].register_forward_pre_hook(fail)
    with pytest.raises(KeyError, match="stop"):
        explainer(**outer)
    handle.remove()
    assert torch.equal(logits(explainer.language_model, input_ids=IDS), alone[2])


def test_explainers_that_share_a_base_write_only_their_own_vectors():
    base = tiny_model("llama")
    contracts = [InjectionConfig(site="block_output", block=block, markers=False) for block in (1, 2)]
    first = SelfExplainerForCausalLM.from_base(base, injection=contracts[0])
    expected = logits(first, **inputs_of(0))
    SelfExplainerForCausalLM.from_base(base, injection=contracts[1])
    assert torch.equal(logits(first, **inputs_of(0)), expected)


class _Loop(nn.Module):
    """Runs a block under checkpointing with its hooks inside, as models with their own code do."""

    def __init__(self, block):
        super().__init__()
        self.block = block
        self._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    def forward(self, hidden, **kwargs):
        return self._gradient_checkpointing_func(partial(self.block.__call__, **kwargs), hidden)


def _checkpointed(explainer, kind):
    if kind == "transformers":
        explainer.train()
        explainer.activation_checkpointing_enable()
        return
    blocks = decoder_blocks(explainer.language_model)
    for index, block in enumerate(blocks):
        blocks[index] = CheckpointWrapper(block) if kind == "torch" else _Loop(block)


@pytest.mark.parametrize("kind", ["transformers", "torch", "inside"])
@pytest.mark.parametrize("site", ["embedding", "block_input", "block_output"])
def test_recomputation_writes_the_vectors_of_its_own_forward_pass(kind, site):
    """Two forward passes before one backward pass, which runs in a different thread."""

    def gradients(explainer):
        first, second = (explainer(**inputs_of(seed), labels=IDS).loss for seed in (0, 1))
        with torch.no_grad():
            explainer(**inputs_of(2))
        thread = threading.Thread(target=(first + 2 * second).backward)
        thread.start()
        thread.join()
        return [parameter.grad for parameter in explainer.parameters()]

    expected = gradients(explainer_of(site=site))
    explainer = explainer_of(site=site)
    _checkpointed(explainer, kind)
    for actual, gradient in zip(gradients(explainer), expected, strict=True):
        torch.testing.assert_close(actual, gradient)


def test_replicas_in_threads_write_their_own_vectors():
    """As `DataParallel` makes them; it needs several GPUs."""
    explainer = explainer_of()
    replicas = [replica_of(explainer) for _ in range(2)]
    inputs = [inputs_of(0), inputs_of(1)]
    expected = [logits(explainer, **one) for one in inputs]
    meeting(replicas[0], 2)  # replicas share the hooks
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda pair: logits(pair[0], **pair[1]), zip(replicas, inputs, strict=True)))
    assert all(torch.equal(one, other) for one, other in zip(results, expected, strict=True))


def replica_of(module):
    """A replica on the CPU, built as `torch.nn.parallel.replicate` does it on GPUs, with the same parameters."""
    replica = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        setattr(replica, name, replica_of(child))
    for name, parameter in module._parameters.items():
        setattr(replica, name, parameter)
    return replica


@pytest.mark.parametrize(("architecture", "site"), SITES)
@pytest.mark.parametrize("how", ["deepcopy", "save"])
def test_a_copy_is_independent_and_equal(architecture, site, how):
    explainer = explainer_of(architecture, site)
    explainer.add_lora(rank=2, alpha=4)
    explainer(**inputs_of(0), labels=IDS).loss.backward()  # leaves no tensors that cannot be copied
    expected = logits(explainer, **inputs_of(1))
    if how == "deepcopy":
        twin = copy.deepcopy(explainer)
    else:
        file = io.BytesIO()
        torch.save(explainer, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    with torch.no_grad():
        explainer.model.activation_adapter.markers.zero_()
        for parameter in explainer.language_model.parameters():
            parameter.zero_()
    assert torch.equal(logits(twin, **inputs_of(1)), expected)
    assert not torch.equal(logits(twin, **inputs_of(2)), expected)


@pytest.mark.parametrize("site", ["embedding", "block_input", "block_output"])
def test_a_compiled_explainer_gives_the_same_logits(site):
    """Decoding steps, which have no vectors, compile into one graph."""
    explainer = explainer_of(site=site)
    with torch.no_grad():
        decode = torch.compile(explainer.forward, backend="eager", fullgraph=True)
        assert torch.equal(decode(input_ids=IDS).logits, logits(explainer, input_ids=IDS))
        whole = torch.compile(explainer.forward, backend="eager")
        for inputs in (inputs_of(0), inputs_of(1), {"input_ids": IDS}):
            assert torch.equal(whole(**inputs).logits, logits(explainer, **inputs))
        expected = logits(explainer, **inputs_of(1))
        for block in decoder_blocks(explainer.language_model):
            block.compile(backend="eager")
        assert torch.equal(logits(explainer, input_ids=IDS), logits(whole, input_ids=IDS))
        assert torch.equal(logits(explainer, **inputs_of(1)), expected)
