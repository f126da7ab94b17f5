"""Other projects' explainers load under the contract that they were trained with.

Every family's formula is written down here once more, with plain hooks on the bare model, and must give equal logits.
"""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from battery import tiny_model
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.modeling.third_party import load as foreign
from selfexplain.tasks import free_question

LLAMA_3 = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
RESERVED = [f"<|reserved_special_token_{n}|>" for n in (10, 11, 12)]
CHAT = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QUESTION = "What is the capital of Spain?"


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE that writes Llama 3's turns; `?` and ` ?` are one token each, and so is the mark ㈎."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", *LLAMA_3, *RESERVED]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(
        ["The capital of Spain is Madrid ? ? ? ? Layer: 1 What does the word mean ? ?"] * 3, trainer
    )
    bpe.add_tokens([AddedToken("㈎", normalized=False)])
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=[*LLAMA_3, *RESERVED],
        chat_template=CHAT,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture
def base(tokenizer, tmp_path):
    """Saves a tiny random model of an architecture, with the tokenizer, as its authors would; returns the directory."""

    def save(architecture, name="base"):
        tiny_model(architecture).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def adapter(base, tmp_path):
    """Trains nothing, but saves a LoRA adapter that matters, as peft does; returns its directory."""

    def save(architecture, name, change=lambda model: None, save_embedding_layers=False, **options):
        model = tiny_model(architecture)
        model.config._name_or_path = model.name_or_path = str(base(architecture))
        change(model)
        torch.manual_seed(1)
        peft = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear", **options))
        for parameter_name, parameter in peft.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.1)
        peft.save_pretrained(tmp_path / name, save_embedding_layers=save_embedding_layers)
        return tmp_path / name

    return save


def vectors(n, d=32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(5)) * 3


def inputs(explainer, question, given, layers):
    """What `ask` gives to the model."""
    put = free_question.question(question, layers, explainer.config.injection["template"])
    row = {"prompt": put.prompt, "placeholder_offsets": put.placeholder_offsets, "template_spans": put.template_spans}
    return explainer.processor(
        [row | {"activations": [given[n] for n in put.vectors], "activation_layers": [layers[n] for n in put.vectors]}]
    )


@torch.no_grad()
def ours(explainer, question, given, layers):
    """Token ids and logits."""
    batch = inputs(explainer, question, given, layers)
    return batch["input_ids"][0].tolist(), explainer(**batch).logits[0]


@torch.no_grad()
def theirs(model, ids, given, slots, block, write, site="output"):
    """Logits of a bare model, with `write(h, v)` instead of the residual stream h at the slots."""

    def change(hidden):
        hidden = hidden.clone()
        for slot, vector in zip(slots, given, strict=True):
            hidden[0, slot] = write(hidden[0, slot], vector)
        return hidden

    layers = (model.get_base_model() if isinstance(model, PeftModel) else model).model.layers
    if site == "output":
        handle = layers[block].register_forward_hook(lambda module, args, out: change(out))
    else:
        handle = layers[block].register_forward_pre_hook(lambda module, args: (change(args[0]), *args[1:]))
    try:
        return model(torch.tensor([ids])).logits[0]
    finally:
        handle.remove()


def where(ids, token):
    return [position for position, each in enumerate(ids) if each == token]


def chat_ids(tokenizer, text, **options):
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, **options
    )
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


def peft_model(architecture, directory):
    return PeftModel.from_pretrained(tiny_model(architecture), directory).eval()


def assert_same(explainer, question, given, layers, ids, logits, tmp_path):
    """Ours is theirs, what `ask` says too, and all of it still when it is saved in our own form and loaded again."""
    our_ids, our_logits = ours(explainer, question, given, layers)
    assert our_ids == ids
    torch.testing.assert_close(our_logits, logits, atol=1e-5, rtol=0)
    said = explainer.ask(question, given, layers, max_new_tokens=1)
    first = explainer.processor.tokenizer.decode(logits[-1].argmax(), skip_special_tokens=True)
    assert said.text == first.strip()
    explainer.save_pretrained(tmp_path / "saved")
    again = SelfExplainerForCausalLM.from_pretrained(tmp_path / "saved")
    assert again.config.injection == explainer.config.injection
    again_ids, again_logits = ours(again, question, given, layers)
    assert again_ids == ids
    torch.testing.assert_close(again_logits, our_logits, atol=1e-6, rtol=0)


# ---------------------------------------------------------------- Activation Oracles


def oracle_config(**said):
    return {
        "schema_version": 1,
        "special_token": " ?",
        "prefix_template": "Layer: {layer}\\n{special_token} * {num_positions} \\n",
        "model_name": "someone/else",
        "hook_onto_layer": 1,
        "steering_coefficient": 1.0,
        "layer_combinations": [[25], [50]],
        "act_layer_combinations": [[1], [2]],
        "generation_kwargs": {"do_sample": False},
        "a_key_of_tomorrow": 1,
    } | said


def oracle_logits(architecture, directory, tokenizer, given, layers, operation, scale=1.0):
    """Layer-major vectors, at one block of placeholders a layer; by default added with the norm of what is there."""
    counts = {layer: list(layers).count(layer) for layer in layers}
    text = "".join(f"Layer: {layer}\n" + " ?" * n + " \n" for layer, n in counts.items()) + QUESTION
    ids = chat_ids(tokenizer, text)
    (slot,) = tokenizer(" ?", add_special_tokens=False)["input_ids"]

    def write(h, v):
        matched = scale * h.norm() * v / v.norm()
        return h + matched if operation == "add" else matched

    slots = where(ids, slot)[: len(given)]
    return ids, theirs(peft_model(architecture, directory), ids, given, slots, 1, write)


@pytest.mark.parametrize(
    ("name", "said", "operation"),
    [
        ("oracle", {"created_at_utc": "2025-12-01T08:00:00+00:00"}, "add"),
        ("oracle", {"created_at_utc": "2025-10-01T08:00:00+00:00", "steering_coefficient": 2.0}, "replace"),
        ("oracle_addition", {"created_at_utc": "2025-10-01T08:00:00+00:00"}, "add"),
    ],
    ids=["since", "before", "by_name"],
)
def test_activation_oracle(adapter, tokenizer, tmp_path, name, said, operation):
    directory = adapter("qwen3", name)
    (directory / "ao_config.json").write_text(json.dumps(oracle_config(**said)))
    explainer = SelfExplainerForCausalLM.from_foreign(directory)
    scale = said.get("steering_coefficient", 1.0)
    assert explainer.config.injection["operation"] == operation
    assert explainer.config.injection["layers"] == ((1,), (2,))
    ids, logits = oracle_logits("qwen3", directory, tokenizer, vectors(3), [2, 2, 2], operation, scale)
    assert_same(explainer, QUESTION, vectors(3), [2, 2, 2], ids, logits, tmp_path)


def test_activation_oracle_of_several_layers(adapter, tokenizer, tmp_path):
    directory = adapter("llama", "oracle")
    said = oracle_config(act_layer_combinations=[[0, 2, 3]], created_at_utc="2026-01-01T00:00:00+00:00")
    (directory / "ao_config.json").write_text(json.dumps(said))
    explainer = SelfExplainerForCausalLM.from_foreign(str(directory))
    layers = [0, 0, 2, 2, 3, 3]
    ids, logits = oracle_logits("llama", directory, tokenizer, vectors(6), layers, "add")
    assert_same(explainer, QUESTION, vectors(6), layers, ids, logits, tmp_path)


@pytest.mark.parametrize("operation", ["add", "replace"])
def test_activation_oracle_without_a_config(adapter, tokenizer, tmp_path, operation):
    directory = adapter("llama", "someones_lora")
    with pytest.raises(SelfExplainError, match="Which family is it"):
        SelfExplainerForCausalLM.from_foreign(directory)
    with pytest.raises(SelfExplainError, match=r"add its vector .* or replace it"):
        SelfExplainerForCausalLM.from_foreign(directory, family="activation_oracle")
    explainer = SelfExplainerForCausalLM.from_foreign(directory, family=f"activation_oracle_{operation}")
    ids, logits = oracle_logits("llama", directory, tokenizer, vectors(2), [1, 1], operation)
    assert_same(explainer, QUESTION, vectors(2), [1, 1], ids, logits, tmp_path)


def test_activation_oracle_with_an_unknown_prompt_is_refused(adapter):
    directory = adapter("llama", "oracle_addition")
    (directory / "ao_config.json").write_text(json.dumps(oracle_config(prefix_template="{layers}: {acts}")))
    with pytest.raises(SelfExplainError, match="What prompt does this oracle read"):
        SelfExplainerForCausalLM.from_foreign(directory)


# ---------------------------------------------------------------- natural-language autoencoders

AV_TEMPLATE = "Say in {{tags}} what it means: <concept>{injection_char}</concept>"


def sidecar(tokenizer, **said):
    ids = chat_ids(tokenizer, AV_TEMPLATE.format(injection_char="㈎"))
    (mark,) = tokenizer("㈎", add_special_tokens=False)["input_ids"]
    position = ids.index(mark)
    return {
        "schema_version": 2,
        "kind": "nla_model",
        "role": "av",
        "base_checkpoint": "someone/base",
        "d_model": 32,
        "extraction_layer_index": 2,
        "extraction": {"injection_scale": 150.0, "mse_scale": "sqrt_d_model"},
        "tokens": {
            "injection_char": "㈎",
            "injection_token_id": mark,
            "injection_left_neighbor_id": ids[position - 1],
            "injection_right_neighbor_id": ids[position + 1],
        },
        "prompt_templates": {"av": AV_TEMPLATE, "ar": "{explanation}"},
        "a_key_of_tomorrow": 1,
    } | said


def write_sidecar(directory, content):
    (directory / "nla_meta.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))


@pytest.mark.parametrize(
    ("architecture", "scale"),
    [("llama", 150.0), ("llama", None), ("gemma2", "sqrt_d_model"), ("gemma3_text", 80)],
)
def test_nla_verbalizer(base, tokenizer, tmp_path, architecture, scale):
    directory = base(architecture, "nla-av")
    said = sidecar(tokenizer, extraction={"injection_scale": scale})
    said["prompt_templates"] = {"actor": AV_TEMPLATE}  # the other spelling
    write_sidecar(directory, said)
    explainer = SelfExplainerForCausalLM.from_foreign(directory)
    assert explainer.config.injection["layers"] == ((2,),)
    assert explainer.config.target["model"] == "someone/base"

    # The vector stands where the embedding has already been scaled, and is not scaled itself.
    ids = chat_ids(tokenizer, AV_TEMPLATE.format(injection_char="㈎"))
    slots = where(ids, said["tokens"]["injection_token_id"])
    length = {None: None, "sqrt_d_model": math.sqrt(32)}.get(scale, scale)
    model = tiny_model(architecture)
    logits = theirs(
        model, ids, vectors(1), slots, 0, lambda h, v: v if length is None else length * v / v.norm(), site="input"
    )
    assert_same(explainer, None, vectors(1), [2], ids, logits, tmp_path)


def test_nla_community_adapter(adapter, tokenizer, tmp_path):
    directory = adapter("qwen3", "easy-nla")
    said = sidecar(tokenizer, kind="nla_dataset", extraction={"d_model": 32, "layer_index": 2})
    del said["d_model"], said["extraction_layer_index"], said["role"]
    write_sidecar(directory, said)
    explainer = SelfExplainerForCausalLM.from_foreign(directory)
    ids = chat_ids(tokenizer, AV_TEMPLATE.format(injection_char="㈎"))
    slots = where(ids, said["tokens"]["injection_token_id"])
    logits = theirs(peft_model("qwen3", directory), ids, vectors(1), slots, 1, lambda h, v: h + h.norm() * v / v.norm())
    assert_same(explainer, None, vectors(1), [2], ids, logits, tmp_path)


@pytest.mark.parametrize(
    ("change", "question"),
    [
        ({"extraction": {}}, "To what norm was the vector brought"),
        ({"extraction": {"injection_scale": "big"}}, "a positive number, null or sqrt_d_model"),
        ({"role": "critic"}, "Load its other half"),
        ({"prompt_templates": {"ar": "{explanation}"}}, "What prompt does it read"),
        ({"tokens": {"injection_char": "㈎", "injection_token_id": 3}}, "trained with another tokenizer"),
    ],
    ids=["scale", "scale_value", "role", "prompt", "token"],
)
def test_nla_sidecar_that_leaves_something_open_is_refused(base, tokenizer, change, question):
    directory = base("llama", "nla-av")
    write_sidecar(directory, sidecar(tokenizer, **change))
    with pytest.raises(SelfExplainError, match=question):
        SelfExplainerForCausalLM.from_foreign(directory)


def test_nla_slot_between_other_tokens_is_refused(base, tokenizer):
    directory = base("llama", "nla-av")
    said = sidecar(tokenizer)
    said["tokens"]["injection_left_neighbor_id"] += 1
    write_sidecar(directory, said)
    with pytest.raises(SelfExplainError, match="stands between tokens"):
        SelfExplainerForCausalLM.from_foreign(directory)


# ---------------------------------------------------------------- Transluce


def marked(tokenizer, prompt):
    """Ids of a plain prompt, with begin marker, placeholder and end marker spelt out; and where the placeholder is."""
    begin, end, slot = RESERVED
    ids = tokenizer(prompt.format(f"{begin}{slot}{end}"))["input_ids"]
    return ids, where(ids, tokenizer.convert_tokens_to_ids(slot))


def with_our_slot(ids, slots, tokenizer):
    """The slot's own token is never read, so ours is any: a question mark."""
    (mark,) = tokenizer("?", add_special_tokens=False)["input_ids"]
    return [mark if position in slots else each for position, each in enumerate(ids)]


def test_transluce_whole_model(base, tokenizer, tmp_path):
    directory = base("llama", "features_explain_llama_llama")
    with pytest.raises(SelfExplainError, match="Which family is it"):
        SelfExplainerForCausalLM.from_foreign(directory)
    explainer = SelfExplainerForCausalLM.from_foreign(directory, family="transluce")
    ids, slots = marked(tokenizer, "At layer 2, {} encodes ")
    logits = theirs(tiny_model("llama"), ids, vectors(1), slots, 0, lambda h, v: v, site="input")
    assert_same(explainer, None, vectors(1), [2], with_our_slot(ids, slots, tokenizer), logits, tmp_path)


def test_transluce_architecture_is_recognised(base):
    directory = base("llama", "features_explain_llama_llama")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"architectures": ["ContinuousLlama"]}))
    explainer = SelfExplainerForCausalLM.from_foreign(directory)
    assert explainer.config.injection["family"] == "transluce"


def test_transluce_projection_a_layer(base, tokenizer, tmp_path):
    directory = base("llama", "features_explain_wide_llama")
    weights = load_file(directory / "model.safetensors")
    maps = torch.randn(6, 32, 24, generator=torch.Generator().manual_seed(2))
    weights |= {f"embed_projs.{layer}.weight": each.contiguous() for layer, each in enumerate(maps)}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    explainer = SelfExplainerForCausalLM.from_foreign(directory, family="transluce")
    assert (explainer.config.target["n_layers"], explainer.config.target["d_model"]) == (6, 24)
    ids, slots = marked(tokenizer, "At layer 5, {} encodes ")
    given = vectors(1, d=24)
    logits = theirs(tiny_model("llama"), ids, given, slots, 0, lambda h, v: maps[5] @ v, site="input")
    assert_same(explainer, None, given, [5], with_our_slot(ids, slots, tokenizer), logits, tmp_path)


def train_embeddings(model):
    torch.manual_seed(3)
    model.get_input_embeddings().weight.data += 0.1 * torch.randn_like(model.get_input_embeddings().weight)
    model.get_output_embeddings().weight.data += 0.1


def add_tokens(model):
    torch.manual_seed(3)
    model.resize_token_embeddings(520, mean_resizing=False)


@pytest.mark.parametrize(
    ("change", "merged"),
    [(lambda model: None, False), (train_embeddings, True), (add_tokens, True)],
    ids=["untouched", "trained", "resized"],
)
def test_transluce_adapter_with_embeddings_and_head(adapter, tokenizer, tmp_path, change, merged):
    directory = adapter("qwen3", "features_explain_qwen3_qwen3", change, save_embedding_layers=True)
    assert any("embed_tokens" in key for key in load_file(directory / "adapter_model.safetensors"))
    explainer = SelfExplainerForCausalLM.from_foreign(directory, family="transluce")
    assert explainer.config.merged == merged
    model = tiny_model("qwen3")
    change(model)
    model = PeftModel.from_pretrained(model, directory).eval()
    ids, slots = marked(tokenizer, "At layer 1, {} encodes ")
    logits = theirs(model, ids, vectors(1), slots, 0, lambda h, v: v, site="input")
    assert_same(explainer, None, vectors(1), [1], with_our_slot(ids, slots, tokenizer), logits, tmp_path)
    assert (tmp_path / "saved" / "lora").exists() != merged


def test_transluce_embeddings_saved_coarser_are_the_bases(adapter):
    directory = adapter("qwen3", "features_explain_qwen3_qwen3", save_embedding_layers=True)
    weights = load_file(directory / "adapter_model.safetensors")
    coarse = {key: w if "lora" in key else w.bfloat16() for key, w in weights.items()}
    save_file(coarse, directory / "adapter_model.safetensors")
    explainer = SelfExplainerForCausalLM.from_foreign(directory, family="transluce")
    assert not explainer.config.merged
    ours, theirs = explainer.get_input_embeddings().weight, tiny_model("qwen3").get_input_embeddings().weight
    assert torch.equal(ours, theirs)


def test_transluce_prompt_that_may_be_chat_or_plain_is_asked_for(base):
    directory = base("llama", "renamed")
    with pytest.raises(SelfExplainError, match=r"plain prompts .* or on a user's turns"):
        SelfExplainerForCausalLM.from_foreign(directory, family="transluce")
    contract = replace(foreign.FAMILIES["transluce"], chat=False)
    assert not SelfExplainerForCausalLM.from_foreign(directory, contract=contract).processor.chat


def test_transluce_markers_unknown_to_the_tokenizer_are_asked_for(tokenizer, base):
    directory = base("llama", "features_explain")
    text = (directory / "tokenizer.json").read_text().replace("reserved_special_token", "another_token")
    (directory / "tokenizer.json").write_text(text)
    settings = (directory / "tokenizer_config.json").read_text().replace("reserved_special_token", "another_token")
    (directory / "tokenizer_config.json").write_text(settings)
    with pytest.raises(SelfExplainError, match="Which tokens stand before and after"):
        SelfExplainerForCausalLM.from_foreign(directory, family="transluce")
    contract = replace(foreign.FAMILIES["transluce"], neighbour_ids=(7, 8), chat=False)
    explainer = SelfExplainerForCausalLM.from_foreign(directory, contract=contract)
    rows = tiny_model("llama").get_input_embeddings().weight[[7, 8]]
    torch.testing.assert_close(explainer.model.activation_adapter.markers.data, rows.data)


# ---------------------------------------------------------------- LatentQA, SelfIE


def test_latentqa(adapter, tokenizer, tmp_path):
    directory = adapter("llama", "latentqa")
    explainer = SelfExplainerForCausalLM.from_foreign(directory, family="latentqa")
    given = vectors(3)
    # The placeholders are the user's first words, trimmed: the first of them has no space before it.
    conversation = ("user", "? ? ?"), ("reflect", "Sure, I've analyzed the assistant."), ("user", QUESTION)
    text = "<s>" + "".join(
        f"<|start_header_id|>{who}<|end_header_id|>\n\n{what}<|eot_id|>" for who, what in conversation
    )
    ids = tokenizer(text + "<|start_header_id|>reflect<|end_header_id|>\n\n", add_special_tokens=False)["input_ids"]
    first = len(tokenizer("<s><|start_header_id|>user<|end_header_id|>\n\n", add_special_tokens=False)["input_ids"])
    slots = list(range(first, first + 3))
    assert tokenizer.decode([ids[slot] for slot in slots]) == "? ? ?"
    logits = theirs(peft_model("llama", directory), ids, given, slots, 0, lambda h, v: v)
    assert_same(explainer, QUESTION, given, [2, 2, 2], ids, logits, tmp_path)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_selfie(base, tokenizer, tmp_path, scale):
    contract = replace(foreign.FAMILIES["selfie"], scale=scale)
    explainer = SelfExplainerForCausalLM.from_foreign(base("llama"), family="selfie", contract=contract)
    pieces = ["What is the meaning of the word '", "'? The meaning of the word '", "' is "]
    encoded = [tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in pieces]
    (slot,) = tokenizer("X", add_special_tokens=False)["input_ids"]
    ids = [1, *encoded[0], slot, *encoded[1], slot, *encoded[2]]
    given = vectors(1)
    logits = theirs(tiny_model("llama"), ids, [given[0]] * 2, where(ids, slot), 1, lambda h, v: scale * v, site="input")
    assert_same(explainer, None, given, [2], ids, logits, tmp_path)


# ---------------------------------------------------------------- what is told wins; what is wrong is refused


def test_explicit_contract_wins(adapter):
    directory = adapter("llama", "oracle_addition")
    (directory / "ao_config.json").write_text(json.dumps(oracle_config()))
    contract = InjectionConfig(site="block_output", block=2, norm="unit", scale=3.0, markers=False)
    explainer = SelfExplainerForCausalLM.from_foreign(directory, contract=contract)
    assert explainer.model.injection == contract


def test_base_can_be_told(adapter, base, tmp_path):
    directory = adapter("llama", "oracle_addition")
    settings = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": "/nowhere/at/all"})
    )
    with pytest.raises(SelfExplainError, match="base="):
        SelfExplainerForCausalLM.from_foreign(directory, family="activation_oracle")
    explainer = SelfExplainerForCausalLM.from_foreign(directory, family="activation_oracle", base=str(base("llama")))
    assert explainer.config.base_model_name_or_path == str(tmp_path / "base")


def test_lora_of_another_model_is_refused(adapter, base):
    directory = adapter("llama", "oracle_addition")
    other = base("gpt2", "other")
    with pytest.raises(SelfExplainError):
        SelfExplainerForCausalLM.from_foreign(directory, family="activation_oracle", base=str(other))


def test_lora_with_a_weight_missing_is_refused(adapter):
    directory = adapter("llama", "oracle_addition")
    weights = load_file(directory / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, directory / "adapter_model.safetensors")
    with pytest.raises(SelfExplainError, match="lacks"):
        SelfExplainerForCausalLM.from_foreign(directory, family="activation_oracle")


def test_pickled_weights_are_not_opened(adapter):
    directory = adapter("llama", "oracle_addition")
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(SelfExplainError, match=r"adapter_model\.bin.* is not opened"):
        SelfExplainerForCausalLM.from_foreign(directory, family="activation_oracle")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "oracle"}, "is not known: one of transluce"),
        ({"family": "nla"}, "Where is it"),
        ({"family": "selfie", "base": "selfexplain/tiny"}, "leave base= out"),
    ],
)
def test_what_cannot_be_is_refused(base, options, message):
    with pytest.raises(SelfExplainError, match=message):
        SelfExplainerForCausalLM.from_foreign(base("llama"), **options)


JSON = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["av", "injection_scale", "injection_char"]), st.text(), max_size=2),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@drawn(data=st.data())
def test_damaged_values_settle_nothing_or_a_contract(tokenizer, data):
    oracle = oracle_config(created_at_utc="2026-01-01T00:00:00+00:00")
    family, said = data.draw(st.sampled_from([("activation_oracle", oracle), ("nla", sidecar(tokenizer))]))
    where = data.draw(st.sampled_from([said, *(value for value in said.values() if isinstance(value, dict))]))
    where[data.draw(st.sampled_from(sorted(where)))] = data.draw(JSON)
    files = foreign.Checkpoint("theirs", "theirs", {}, oracle=said, sidecar=said)
    try:
        contract = foreign.settle(files, family, tokenizer)
    except SelfExplainError as error:
        assert str(error).startswith("theirs")
    else:
        assert isinstance(contract, InjectionConfig)


def test_nothing_there_is_refused(tmp_path):
    with pytest.raises(SelfExplainError, match=r"neither config\.json nor adapter_config\.json"):
        SelfExplainerForCausalLM.from_foreign(tmp_path)


def test_hub_id_and_directory_give_the_same(adapter, base, tokenizer, tmp_path):
    directory = adapter("llama", "oracle_addition")
    (directory / "ao_config.json").write_text(json.dumps(oracle_config()))
    cached = tmp_path / "cache" / "models--someone--oracle_addition"
    shutil.copytree(directory, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    by_id = SelfExplainerForCausalLM.from_foreign("someone/oracle_addition", cache_dir=tmp_path / "cache")
    by_directory = SelfExplainerForCausalLM.from_foreign(directory)
    assert by_id.config.injection == by_directory.config.injection
    logits = [ours(each, QUESTION, vectors(2), [1, 1])[1] for each in (by_id, by_directory)]
    assert torch.equal(*logits)


def test_our_own_is_sent_to_from_pretrained():
    with pytest.raises(SelfExplainError, match="load it with from_pretrained"):
        SelfExplainerForCausalLM.from_foreign("selfexplain/tiny-selfexplainer")


def test_the_contract_is_told(base, caplog):
    caplog.set_level("INFO", logger="selfexplain")
    SelfExplainerForCausalLM.from_foreign(base("llama"), family="selfie")
    assert "selfie: v at the input of block 1" in caplog.text


def test_the_tutorial_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[3] / "docs" / "foreign_explainers.md").read_text()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(block, names)
    assert names["again"].config.injection["family"] == "activation_oracle_replace"
    assert names["answer"].injection["operation"] == "add"
