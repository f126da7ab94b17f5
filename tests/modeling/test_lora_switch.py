"""The target is the base without LoRA weights in one thread, while other threads use the explainer."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from battery import tiny_model
from selfexplain import AblationQuery
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])
HINTED = "Question: Is it Rome or Oslo?\nHint: The answer is Rome.\nAnswer:"


def adapted(tokenizer=None, architecture="llama", **lora):
    explainer = SelfExplainerForCausalLM.from_base(tiny_model(architecture), tokenizer)
    explainer.add_lora(rank=2, alpha=8, **lora)
    for name, parameter in explainer.named_parameters():
        if "lora_" in name or "trainable_tokens" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    return explainer


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("lora", [{}, {"trainable_tokens": [40, 50]}])
def test_lora_is_off_for_one_thread_only(lora):
    explainer = adapted(**lora)
    on, off = logits(explainer), logits(tiny_model("llama"))
    inside, done = threading.Event(), threading.Event()

    def target():
        with explainer.as_target() as base:
            first = logits(base)
            inside.set()
            assert done.wait(60)
            return first, logits(base), logits(explainer.language_model)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(target)
        assert inside.wait(60)
        assert torch.equal(logits(explainer), on)
        with explainer.as_target() as base:
            assert torch.equal(logits(base), off)
        assert torch.equal(logits(explainer), on)
        done.set()
        assert all(torch.equal(result, off) for result in future.result())
    assert torch.equal(logits(explainer), on)
    layers = [module for module in explainer.modules() if isinstance(module, BaseTunerLayer)]
    assert layers and all(layer._disable_adapters is False for layer in layers)


def test_switching_lora_off_survives_errors_and_changes_nothing_else():
    explainer = adapted()
    on = logits(explainer)
    frozen = next(parameter for name, parameter in explainer.named_parameters() if "lora_A" in name)
    frozen.requires_grad = False
    with pytest.raises(KeyError, match="stop"), explainer.as_target(), explainer.as_target():
        raise KeyError("stop")
    assert torch.equal(logits(explainer), on) and not frozen.requires_grad
    explainer.disable_adapters()
    with explainer.as_target() as base:
        off = logits(base)
    assert torch.equal(logits(explainer), off)  # peft's own switch keeps its state
    explainer.enable_adapters()
    assert torch.equal(logits(explainer), on)


def test_a_copy_from_inside_has_its_lora_weights_on():
    explainer = adapted()
    on = logits(explainer)
    with explainer.as_target():
        copies = [copy.deepcopy(explainer), pickle.loads(pickle.dumps(explainer))]
    for twin in copies:
        assert torch.equal(logits(twin), on)
        with twin.as_target() as base:
            assert torch.equal(logits(base), logits(tiny_model("llama")))
        assert torch.equal(logits(twin), on)


def test_explaining_and_verifying_in_threads_gives_the_results_of_one_thread(tokenizer):
    explainer = adapted(tokenizer)
    explainer.config.target |= {"model": None}
    row = {"prompt": "The capital", "placeholder_offsets": [], "activations": [], "activation_layers": []}
    calls = [
        lambda: explainer.answer([row], max_new_tokens=8)[0].log_prob,
        lambda: explainer.capture("The capital of France", [1, 2]).sum().item(),
        lambda: explainer.verify(explainer.explain([AblationQuery(HINTED)])[0]).clean_output,
        lambda: logits(explainer).sum().item(),
    ]
    expected = [call() for call in calls]

    def let_others_run(module, args):
        threading.Event().wait(0.0005)

    for block in explainer.language_model.model.layers:
        block.register_forward_pre_hook(let_others_run)
    with ThreadPoolExecutor(len(calls)) as pool:
        for _ in range(3):
            assert [future.result() for future in [pool.submit(call) for call in calls]] == expected


# ---------------------------------------------------------------- peft


def test_methods_of_peft_find_the_lora_weights_of_the_base():
    explainer = adapted()
    on = logits(explainer)
    assert explainer.active_adapters() == ["default"] and set(explainer.peft_config) == {"default"}
    assert any("lora_A" in name for name in explainer.get_adapter_state_dict())
    explainer.disable_adapters()
    assert torch.equal(logits(explainer), logits(tiny_model("llama")))
    explainer.enable_adapters()
    explainer.set_adapter("default")
    assert torch.equal(logits(explainer), on)


LORA = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")


@pytest.mark.parametrize(
    "add",
    [
        lambda explainer: get_peft_model(explainer, copy.deepcopy(LORA)),
        lambda explainer: get_peft_model(explainer, copy.deepcopy(LORA), adapter_name="second"),
        lambda explainer: get_peft_model(explainer, copy.deepcopy(LORA), mixed=True),
        lambda explainer: explainer.add_adapter(copy.deepcopy(LORA), "second"),
        lambda explainer: explainer.load_adapter("directory"),
    ],
)
@pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT for a second time")
@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")
def test_a_second_adapter_over_lora_weights_is_refused(add):
    explainer = adapted()
    on = logits(explainer)
    with pytest.raises(SelfExplainError, match="A second adapter was given to an explainer that has LoRA weights"):
        add(explainer)
    assert torch.equal(logits(explainer), on) and list(explainer.peft_config) == ["default"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_around_an_explainer_without_lora_weights_is_exact():
    explainer = SelfExplainerForCausalLM.from_base(tiny_model("llama"))
    assert not hasattr(explainer, "peft_config")
    before = logits(explainer)
    wrapped = get_peft_model(explainer, copy.deepcopy(LORA))
    assert torch.equal(logits(wrapped), before)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    assert not torch.equal(logits(wrapped), before)
    with explainer.as_target() as base:
        assert torch.equal(logits(base), before)
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped), before)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT for a second time")
def test_virtual_tokens_are_refused(lora):
    explainer = adapted() if lora else SelfExplainerForCausalLM.from_base(tiny_model("llama"))
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(SelfExplainError, match="puts virtual tokens before the prompt"):
        get_peft_model(explainer, config)


@pytest.mark.parametrize("lora", [{}, {"trainable_tokens": [5, 40]}])
def test_without_its_adapter_an_explainer_is_its_base(lora, tmp_path):
    explainer = adapted(**lora)
    expected = tiny_model("llama")
    assert not torch.allclose(explainer(input_ids=IDS).logits, expected(input_ids=IDS).logits)
    with pytest.raises(ValueError, match="not present"):
        explainer.delete_adapter("other")
    explainer.delete_adapter("default")
    assert torch.equal(explainer(input_ids=IDS).logits, expected(input_ids=IDS).logits)
    assert explainer.language_model.state_dict().keys() == expected.state_dict().keys()
    assert explainer.config.lora is None and not hasattr(explainer, "peft_config")
    explainer.add_lora(rank=2, alpha=8)
    assert explainer.active_adapters() == ["default"]
