"""The model class: generation with vectors, injection at every site, LoRA weights, and refusal of invalid input."""

import json
import warnings
from copy import deepcopy

import pytest
import torch
from transformers import AutoModelForCausalLM

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.target.blocks import decoder_blocks
from selfexplain.tasks import feature_description
from selfexplain.tasks.question import PLACEHOLDER, Question, fill

CONTRACTS = [
    InjectionConfig(),
    InjectionConfig(norm="raw", markers=False),
    InjectionConfig(site="block_output", block=1, operation="add"),
    InjectionConfig(site="block_output", block=2, norm="unit", scale=2.0),
]


def name_of(contract):
    return f"{contract.site}-{contract.operation}-{contract.norm}"


@pytest.fixture(params=CONTRACTS, ids=name_of)
def explainer(request, target):
    return SelfExplainerForCausalLM.from_base(deepcopy(target.model), target.tokenizer, request.param)


def row(question: Question, *vectors, layer=1):
    return {
        "prompt": question.prompt,
        "placeholder_offsets": question.placeholder_offsets,
        "activations": list(vectors),
        "activation_layers": [layer] * len(vectors),
    }


def vectors(n, d=32, seed=0):
    return list(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def questions():
    """Three rows of different length: two vectors, one, none."""
    a, b, c = vectors(3)
    return [
        row(fill("Compare {activation} with the capital {activation} of France.\n"), a, b),
        row(feature_description.question(1), c),
        row(Question("What is the capital of Japan?\n")),
    ]


def generate(explainer, rows, **options):
    inputs = explainer.processor(rows)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0} | options
    return explainer.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]


def test_generate_equals_generate_without_cache(explainer):
    assert torch.equal(generate(explainer, questions()), generate(explainer, questions(), use_cache=False))


def test_left_padding_does_not_change_answers(explainer):
    together = generate(explainer, questions())
    alone = torch.cat([generate(explainer, [one]) for one in questions()])
    assert torch.equal(together, alone)


def test_beams_and_return_sequences_use_the_vectors_of_their_row(explainer):
    rows = questions()
    together = generate(explainer, rows, num_beams=3, num_return_sequences=2)
    alone = torch.cat([generate(explainer, [one], num_beams=3, num_return_sequences=2) for one in rows])
    assert torch.equal(together, alone)


def test_logits_depend_on_the_vector(explainer):
    first, other = vectors(2)
    inputs = [explainer.processor([row(feature_description.question(1), v)]) for v in (first, other)]
    with torch.no_grad():
        a, b = (explainer(**batch).logits[0, -1] for batch in inputs)
    assert (a - b).abs().max() > 1e-4


@pytest.mark.parametrize("contract", CONTRACTS, ids=name_of)
def test_the_injected_vector_is_that_of_the_contract(target, contract):
    explainer = SelfExplainerForCausalLM.from_base(deepcopy(target.model), target.tokenizer, contract)
    (v,) = vectors(1)
    inputs = explainer.processor([row(feature_description.question(1), v)])
    position = inputs["activation_positions"][0, 0].item()
    captured = {}
    blocks = decoder_blocks(explainer.language_model)
    if contract.site == "embedding":
        blocks[0].register_forward_pre_hook(lambda module, args, kwargs: captured.update(x=args[0]), with_kwargs=True)
    else:
        blocks[contract.block + 1].register_forward_pre_hook(
            lambda module, args, kwargs: captured.update(x=args[0]), with_kwargs=True
        )
    clean = {name: value for name, value in inputs.items() if name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        explainer(**inputs)
        written = captured["x"][0, position].clone()
        if contract.markers:  # with the markers but without the vector
            embeddings = explainer.get_input_embeddings()(inputs["input_ids"]).clone()
            embeddings[0, position - 1], embeddings[0, position + 1] = explainer.model.activation_adapter.markers
            explainer(inputs_embeds=embeddings, attention_mask=clean["attention_mask"])
        else:
            explainer(**clean)
    residual = captured["x"][0, position]
    unit = v / v.norm()
    expected = {"raw": v, "unit": unit, "match": residual.norm() * unit}[contract.norm] * contract.scale
    expected = residual + expected if contract.operation == "add" else expected
    torch.testing.assert_close(written, expected, atol=1e-5, rtol=1e-5)


def test_a_zero_vector_is_accepted(explainer):
    assert generate(explainer, [row(feature_description.question(1), torch.zeros(32))]).shape == (1, 6)


def test_a_placeholder_in_a_text_is_not_a_slot(explainer):
    (v,) = vectors(1)
    question = fill("Text <<<{text}>>> and {activation}.\n", text=f"a {PLACEHOLDER} b")
    inputs = explainer.processor([row(question, v)])
    assert inputs["activation_mask"].sum() == 1
    before = explainer.processor.tokenizer(f"Text <<<a {PLACEHOLDER} b>>> and ")["input_ids"]
    assert inputs["activation_positions"][0, 0] == len(before) + explainer.processor.markers


# peft still reads the deprecated name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_alone_loads_the_lora_weights(target_dir, tmp_path):
    from peft import PeftModel

    explainer = SelfExplainerForCausalLM.from_base(str(target_dir), lora={"rank": 4, "alpha": 8})
    for parameter in explainer.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    explainer.config.base_model_name_or_path = "org/base"
    explainer.save_pretrained(tmp_path / "saved")
    assert (
        json.loads((tmp_path / "saved" / "lora" / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "org/base"
    )
    alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(target_dir), tmp_path / "saved" / "lora")
    ids = torch.tensor([[1, 40, 50, 60]])
    with torch.no_grad():
        torch.testing.assert_close(alone(input_ids=ids).logits, explainer(input_ids=ids).logits)


def test_capture_switches_the_lora_weights_off(target_dir):
    explainer = SelfExplainerForCausalLM.from_base(str(target_dir), lora={"rank": 4, "alpha": 8})
    for parameter in explainer.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    text = "The capital of France is"
    plain = AutoModelForCausalLM.from_pretrained(target_dir)
    ids = explainer.processor.tokenizer(text, return_tensors="pt")["input_ids"]
    hidden = plain(ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(explainer.capture(text, [0, 2]), torch.cat([hidden[1], hidden[3]]))


def test_each_method_asks_its_task(target):
    explainer = SelfExplainerForCausalLM.from_base(deepcopy(target.model), target.tokenizer)
    (v,) = vectors(1)
    text = "The capital of France is"
    feature = explainer.explain_feature(v, layer=1)
    patch = explainer.explain_patch(text, v, layers=range(2), position=-1)
    ablation = explainer.explain_ablation(text, remove="of France")
    assert [e.task for e in (feature, patch, ablation)] == [
        "feature_description", "activation_patching", "input_ablation",
    ]  # fmt: skip
    assert 0 < feature.confidence < 1 and feature.parsed
    # The answers of random weights cannot be parsed as outcomes.
    assert [(e.parsed, e.changed, e.confidence) for e in (patch, ablation)] == [(False, None, 0), (False, None, 0)]


def test_gpt2_gets_lora_weights_without_a_warning(tokenizer):
    from battery import tiny_model

    explainer = SelfExplainerForCausalLM.from_base(tiny_model("gpt2"), tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer.add_lora(rank=2, alpha=4)
    assert explainer.language_model.peft_config["default"].fan_in_fan_out
    ids = torch.tensor([[1, 40, 50, 60]])
    with torch.no_grad():
        before = explainer(input_ids=ids).logits
        for name, parameter in explainer.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        assert not torch.allclose(explainer(input_ids=ids).logits, before)
        with explainer.as_target() as base:
            torch.testing.assert_close(base(input_ids=ids).logits, before)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda e: e.explain_feature(torch.ones(31), layer=1), r"shape \(31,\) was given"),
        (lambda e: e.explain_feature(torch.full((32,), torch.nan), layer=1), "NaN or infinity"),
        (lambda e: e.explain_feature(torch.ones(32), layer=4), r"[Ll]ayers \[4\] .* 0 to 3"),
        (lambda e: e.explain_patch("", torch.ones(32), [0], 0), "text is empty"),
        (lambda e: e.explain_patch("a b", torch.ones(32), [0], 99), "Position 99 was given"),
        (lambda e: e.explain_ablation("a " * 600), "holds 256"),
        (lambda e: e.explain_ablation("a b", remove="c"), "occurs 0 times"),
        (lambda e: e.answer([row(feature_description.question(0))]), "0 activations .* for 1 placeholders"),
        (lambda e: e.processor([]), "(?i)no rows"),
        (lambda e: e(input_ids=torch.ones(1, 3, dtype=torch.long), activations=torch.zeros(1, 1, 8)), "width 8"),
    ],
)  # fmt: skip
def test_invalid_input_is_refused(target, ask, message):
    explainer = SelfExplainerForCausalLM.from_base(deepcopy(target.model), target.tokenizer)
    with pytest.raises(SelfExplainError, match=message):
        ask(explainer)


def test_a_contract_with_a_nonexistent_block_is_refused(target):
    with pytest.raises(SelfExplainError, match="blocks 0 to 3"):
        SelfExplainerForCausalLM.from_base(
            target.model, target.tokenizer, InjectionConfig(site="block_output", block=4)
        )
