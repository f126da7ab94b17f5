"""Checkpoints in the formats of other projects, and the reference logits that their contracts define."""

import json
from pathlib import Path

import torch
import yaml
from peft import PeftModel

from battery import tiny_model
from selfexplain.tasks import free_question

LLAMA_3 = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
RESERVED = [f"<|reserved_special_token_{n}|>" for n in (10, 11, 12)]
CHAT = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QUESTION = "What is the capital of Spain?"
VERBALIZER_TEMPLATE = "Say in {{tags}} what it means: <concept>{injection_char}</concept>"


def vectors(n, d=32):
    """`n` vectors of width `d`."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(5)) * 3


# ---------------------------------------------------------------- files


def oracle_config(**changes):
    """`ao_config.json` of an Activation Oracle."""
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
        "an_unknown_key": 1,
    } | changes


def write_oracle_config(directory: Path, **changes) -> None:
    (directory / "ao_config.json").write_text(json.dumps(oracle_config(**changes)))


def sidecar(tokenizer, **changes):
    """`nla_meta.yaml` of a natural-language autoencoder's verbalizer."""
    ids = chat_ids(tokenizer, VERBALIZER_TEMPLATE.format(injection_char="㈎"))
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
        "prompt_templates": {"av": VERBALIZER_TEMPLATE, "ar": "{explanation}"},
        "an_unknown_key": 1,
    } | changes


def write_sidecar(directory: Path, content) -> None:
    (directory / "nla_meta.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))


# ---------------------------------------------------------------- token ids and logits


def chat_ids(tokenizer, text, **options):
    """Token ids of a user turn."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, **options
    )
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


def positions_of(ids, token):
    """Positions of a token id."""
    return [position for position, each in enumerate(ids) if each == token]


def explainer_inputs(explainer, question, activations, layers):
    """The model inputs that `ask` builds."""
    asked = free_question.question(question, layers, explainer.config.injection["template"])
    row = {
        "prompt": asked.prompt,
        "placeholder_offsets": asked.placeholder_offsets,
        "template_spans": asked.template_spans,
        "activations": [activations[n] for n in asked.vectors],
        "activation_layers": [layers[n] for n in asked.vectors],
    }
    return explainer.processor([row])


@torch.no_grad()
def explainer_logits(explainer, question, activations, layers):
    """Token ids and logits of an explainer."""
    batch = explainer_inputs(explainer, question, activations, layers)
    return batch["input_ids"][0].tolist(), explainer(**batch).logits[0]


@torch.no_grad()
def reference_logits(model, ids, activations, slots, block, write, site="output"):
    """Logits of a bare model in which a plain hook sets the residual stream h at each slot to `write(h, v)`."""

    def change(hidden):
        hidden = hidden.clone()
        for slot, vector in zip(slots, activations, strict=True):
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


def peft_model(architecture, directory):
    """A tiny model with the adapter of a directory, as peft loads it."""
    return PeftModel.from_pretrained(tiny_model(architecture), directory).eval()
