"""The injection contracts of third-party explainers, and how the files of a checkpoint complete them.

An incorrect contract raises no error and produces fluent answers that are unrelated to the vectors. So nothing is
guessed here: if the files do not determine the contract, the error asks for what is missing. Layers are counted as in
the rest of the package: layer i is the output of decoder block i.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from string import Formatter
from typing import Any

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.third_party.checkpoint import Checkpoint
from selfexplain.tasks import activation_patching, feature_description, input_ablation

# LatentQA renames the assistant of Llama 3 to "reflect".
REFLECT_CHAT = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ 'reflect' if message.role == 'assistant' else message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>reflect<|end_header_id|>\n\n{% endif %}"
)
REFLECT_TURN = (
    "<|eot_id|><|start_header_id|>reflect<|end_header_id|>\n\nSure, I've analyzed the assistant.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n"
)
_ORACLE = InjectionConfig(
    site="block_output",
    block=1,
    operation="add",
    norm="match",
    placeholder=" ?",
    markers=False,
    template="Layer: {layer}\n{activation} \n{question}",
    chat=True,
    family="activation_oracle_add",
)
CONTRACTS: Mapping[str, InjectionConfig] = {
    # Natural-language autoencoders. `nla_meta.yaml` has the prompt, the placeholder and the scale.
    "nla": InjectionConfig(norm="unit", markers=False, chat=True, family="nla"),
    "nla_community": replace(_ORACLE, template=None, family="nla_community"),
    # Activation Oracles. They added vectors from ADDING_SINCE on and replaced the residual stream before.
    "activation_oracle_add": _ORACLE,
    "activation_oracle_replace": replace(_ORACLE, operation="replace", family="activation_oracle_replace"),
    # Li, Guo, Huang, Steinhardt, Andreas (arXiv 2511.08579). The markers are tokens of the vocabulary (MARKER_TOKENS).
    "transluce": InjectionConfig(norm="raw", family="transluce"),
    # LatentQA (arXiv 2412.08686). The vectors replace the tokens of a first turn; the question is the next turn.
    "latentqa": InjectionConfig(
        site="block_output",
        norm="raw",
        placeholder=" ?",
        markers=False,
        template="{activation}" + REFLECT_TURN + "{question}",
        chat=True,
        family="latentqa",
    ),
    # SelfIE (arXiv 2403.10949). Works with any untrained model, at several scales: replace(..., scale=5.0).
    "selfie": InjectionConfig(
        site="block_input",
        block=1,
        norm="raw",
        placeholder="X",
        markers=False,
        template="What is the meaning of the word '{activation}'? The meaning of the word '{activation}' is ",
        chat=False,
        family="selfie",
    ),
}
"""Family -> contract, before the files of a checkpoint complete it."""

ADDING_SINCE = date(2025, 10, 26)
"""First day on which Activation Oracles add vectors to the residual stream."""

MARKER_TOKENS = (
    ("<|reserved_special_token_10|>", "<|reserved_special_token_11|>"),  # Llama 3
    ("<|vision_start|>", "<|vision_end|>"),  # Qwen 3
)
"""Begin and end marker of Transluce's explainers, per tokenizer."""

TRANSLUCE_TASKS = (
    ("features_explain", feature_description.TASK),
    ("act_patch", activation_patching.TASK),
    ("input_ablation", input_ablation.TASK),
)
"""Part of the name of a Transluce checkpoint -> task that it was trained on."""

CHAT_TOKENS = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}
"""Control tokens of Llama 3's chat, which LatentQA's prompt contains."""


# ---------------------------------------------------------------- one function per family


def _settle_fixed(files: Checkpoint, tokenizer, family: str) -> InjectionConfig:
    """Complete a contract that is the same for all checkpoints of a family."""
    contract = CONTRACTS[family]
    return replace(contract, placeholder_id=_placeholder_id(files, tokenizer, contract.placeholder))


def _settle_oracle_operation(files: Checkpoint, tokenizer) -> InjectionConfig:
    """Find out whether an Activation Oracle adds or replaces, from its name or its date, and complete its contract."""
    name = Path(files.name).name
    created = str((files.oracle or {}).get("created_at_utc") or "")
    if "addition" in name or "adding" in name:
        operation = "add"
    elif created:
        operation = "add" if date.fromisoformat(created[:10]) >= ADDING_SINCE else "replace"
    else:
        raise SelfExplainError(
            f"{files.name}: neither the name nor created_at_utc in ao_config.json shows whether this oracle adds its "
            f"vector to the residual stream (trained since {ADDING_SINCE}) or replaces it (trained before). Pass "
            "family='activation_oracle_add' or family='activation_oracle_replace'."
        )
    return _settle_oracle(files, tokenizer, f"activation_oracle_{operation}")


def _settle_oracle(files: Checkpoint, tokenizer, family: str) -> InjectionConfig:
    """Complete the contract of an Activation Oracle from `ao_config.json`."""
    settings = files.oracle or {}
    contract = CONTRACTS[family]
    template = contract.template
    if "prefix_template" in settings:
        template = _oracle_template(files, settings["prefix_template"])
    placeholder = settings.get("special_token", contract.placeholder)
    return replace(
        contract,
        block=settings.get("hook_onto_layer", contract.block),
        scale=float(settings.get("steering_coefficient", contract.scale)),
        placeholder=placeholder,
        placeholder_id=_placeholder_id(files, tokenizer, placeholder),
        template=template,
        layers=settings.get("act_layer_combinations") or None,
    )


def _oracle_template(files: Checkpoint, prefix_template: str) -> str:
    """Convert `prefix_template` of `ao_config.json` into the template of a contract."""
    prefix = prefix_template.replace("\\n", "\n")  # the file spells newlines out
    prefix = prefix.replace("{special_token} * {num_positions}", "{activation}")
    if prefix.count("{activation}") != 1 or not set(re.findall(r"{(.*?)}", prefix)) <= {"layer", "activation"}:
        raise SelfExplainError(
            f"{files.name}: prefix_template in ao_config.json is {prefix_template!r}, expected text with {{layer}} and "
            "'{special_token} * {num_positions}'. What prompt was this oracle trained on? Pass "
            "contract=InjectionConfig(template=...) with {layer}, {activation} and {question}."
        )
    return prefix + "{question}"


def _settle_nla(files: Checkpoint, tokenizer, community: bool = False) -> InjectionConfig:
    """Complete the contract of a natural-language autoencoder's verbalizer from its sidecar `nla_meta.yaml`."""
    sidecar = files.sidecar
    if sidecar is None:
        raise SelfExplainError(
            f"{files.name} has no nla_meta.yaml, which contains the prompt and the scale of a verbalizer. Put it "
            "next to the weights, or pass contract=InjectionConfig(...)."
        )
    if sidecar.get("role") in ("ar", "critic"):
        raise SelfExplainError(
            f"{files.name} is the half of the autoencoder that turns text into vectors (role {sidecar['role']!r}). "
            "Load the other half, role 'av'."
        )
    character, token_id, template = _nla_prompt(files, sidecar, tokenizer)
    tokens, extraction = sidecar["tokens"], sidecar.get("extraction") or {}
    left, right = tokens.get("injection_left_neighbor_id"), tokens.get("injection_right_neighbor_id")
    layer = sidecar.get("extraction_layer_index", extraction.get("layer_index"))
    return replace(
        _nla_contract(files, sidecar, community),
        placeholder=character,
        placeholder_id=token_id,
        neighbour_ids=None if left is None or right is None else (left, right),
        template=template,
        layers=None if layer is None else ((layer,),),
    )


def _nla_prompt(files: Checkpoint, sidecar: Mapping[str, Any], tokenizer) -> tuple[str, int, str]:
    """Return the placeholder, its token id and the prompt template of a sidecar."""
    tokens, templates = (sidecar.get(key) or {} for key in ("tokens", "prompt_templates"))
    template = templates.get("av") or templates.get("actor")
    character, token_id = tokens.get("injection_char"), tokens.get("injection_token_id")
    if template is None or template.count("{injection_char}") != 1 or character is None or token_id is None:
        raise SelfExplainError(
            f"{files.name}: nla_meta.yaml lacks tokens.injection_char, tokens.injection_token_id, or "
            "prompt_templates.av with exactly one {injection_char}. What prompt was this verbalizer trained on? Pass "
            "contract=InjectionConfig(...)."
        )
    if (actual := _placeholder_id(files, tokenizer, character)) != token_id:
        raise SelfExplainError(
            f"{files.name}: {character!r} is token {actual} of this tokenizer, but token {token_id} in nla_meta.yaml, "
            "so the verbalizer was trained with a different tokenizer. Pass base= with the model that it was trained "
            "from."
        )
    return character, token_id, _with_slot(template, files.name)


def _with_slot(template: str, source: str) -> str:
    """Return a prompt template of the natural-language autoencoders with this package's name for the slot."""
    try:
        fields = [(name, spec, form) for _, name, spec, form in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise SelfExplainError(
            f"{source}: the prompt template in nla_meta.yaml has braces that are not a field ({error}): "
            f"{template[:200]!r}. Double them, as in {{{{ and }}}}."
        ) from error
    if unknown := [name for name, spec, form in fields if name != "injection_char" or spec or form]:
        raise SelfExplainError(
            f"{source}: the prompt template in nla_meta.yaml has a field other than {{injection_char}}: "
            f"{{{unknown[0][:80]}}}. Double braces that belong to the text, as in {{{{ and }}}}."
        )
    return template.format(injection_char="{activation}")


def _nla_contract(files: Checkpoint, sidecar: Mapping[str, Any], community: bool) -> InjectionConfig:
    """Return the operation and the scale of a sidecar as a contract."""
    extraction = sidecar.get("extraction") or {}
    scale = extraction.get("injection_scale")
    if community or (files.adapter and sidecar.get("kind") == "nla_dataset" and scale is None):
        return CONTRACTS["nla_community"]
    if "injection_scale" not in extraction:
        raise SelfExplainError(
            f"{files.name}: nla_meta.yaml has no extraction.injection_scale. To what norm was the vector scaled before "
            "it replaced the embedding? Pass contract=InjectionConfig(norm='unit', scale=...) with template and "
            "placeholder. If the vector was added after block 1 instead, pass family='nla_community'."
        )
    if scale is None:
        return replace(CONTRACTS["nla"], norm="raw")
    if scale == "sqrt_d_model":
        return replace(CONTRACTS["nla"], scale=math.sqrt(sidecar.get("d_model") or extraction["d_model"]))
    if isinstance(scale, int | float) and 0 < scale < math.inf:
        return replace(CONTRACTS["nla"], scale=float(scale))
    raise SelfExplainError(
        f"{files.name}: extraction.injection_scale in nla_meta.yaml is {scale!r}, expected a positive number, null or "
        "sqrt_d_model. Pass contract=InjectionConfig(...)."
    )


def _settle_transluce(files: Checkpoint, tokenizer) -> InjectionConfig:
    """Complete the contract of a Transluce self-explainer.

    Those that describe features read plain text. The others read a user turn if the tokenizer has a chat template.
    """
    contract = CONTRACTS["transluce"]
    name = Path(files.name).name
    task = next((task for part, task in TRANSLUCE_TASKS if part in name), None)
    if task is not None and not task.states_outcome:
        return replace(contract, chat=False, template="At layer {layer}, {activation} encodes ")
    if task is not None or tokenizer.chat_template is None:
        return replace(contract)
    raise SelfExplainError(
        f"{files.name}: its name does not show whether it was trained on plain prompts (feature descriptions) or on "
        "user turns (patching, ablation), and its tokenizer supports both. Pass "
        "contract=dataclasses.replace(CONTRACTS['transluce'], chat=False) or chat=True, with CONTRACTS from "
        "selfexplain.modeling.third_party.contracts."
    )


def _settle_latentqa(files: Checkpoint, tokenizer) -> InjectionConfig:
    """Complete the contract of a LatentQA decoder, whose vectors replace the tokens of "? ? ?" in a first user turn."""
    if not set(tokenizer.get_vocab()) >= CHAT_TOKENS:
        raise SelfExplainError(
            f"{files.name}: the prompt of LatentQA is only known for Llama 3, and this tokenizer lacks the control "
            "tokens of Llama 3's chat. What prompt was this decoder trained on? Pass contract=InjectionConfig(...) "
            "with a template that spells out its turns."
        )
    return replace(
        CONTRACTS["latentqa"],
        placeholder_id=_placeholder_id(files, tokenizer, " ?"),
        first_placeholder_id=_placeholder_id(files, tokenizer, "?"),
    )


def _placeholder_id(files: Checkpoint, tokenizer, text: str) -> int:
    """Return the token id of a placeholder, which must be a single token."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:  # SentencePiece writes a space before a text, so the placeholder is looked up inside one
        before, whole = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in ("a", f"a{text}"))
        if whole[:-1] == before:
            ids = whole[-1:]
    if len(ids) != 1:
        raise SelfExplainError(
            f"{files.name}: the placeholder {text!r} is {len(ids)} tokens of this tokenizer, expected one. Pass base= "
            "with the model that it was trained from, or contract= with the placeholder that was used."
        )
    return ids[0]


# ---------------------------------------------------------------- the families


@dataclass(frozen=True)
class Family:
    """How checkpoints of one family are recognised and read.

    Attributes:
        settle: function of the checkpoint and its tokenizer that returns the complete contract.
        recognises: function that returns whether the files of a checkpoint show the family; None if they never do.
        chat_template: chat template that replaces the tokenizer's; None keeps the tokenizer's.
        trained: whether its whole models were trained, so that they differ from the target. If False, the model
            explains itself.
    """

    settle: Callable[[Checkpoint, Any], InjectionConfig]
    recognises: Callable[[Checkpoint], bool] | None = None
    chat_template: str | None = None
    trained: bool = True


def _is_transluce(files: Checkpoint) -> bool:
    architectures = (files.model or {}).get("architectures") or []
    return files.name.startswith("Transluce/") or any(name.startswith("Continuous") for name in architectures)


FAMILIES: Mapping[str, Family] = {
    "nla": Family(_settle_nla, lambda files: files.sidecar is not None),
    "nla_community": Family(partial(_settle_nla, community=True)),
    "activation_oracle": Family(_settle_oracle_operation, lambda files: files.oracle is not None),
    "activation_oracle_add": Family(partial(_settle_oracle, family="activation_oracle_add")),
    "activation_oracle_replace": Family(partial(_settle_oracle, family="activation_oracle_replace")),
    "transluce": Family(_settle_transluce, _is_transluce),
    "latentqa": Family(_settle_latentqa, chat_template=REFLECT_CHAT),
    "selfie": Family(partial(_settle_fixed, family="selfie"), trained=False),
}
"""Name -> family, in the order in which the files of a checkpoint are compared with them."""


def recognise(files: Checkpoint) -> str:
    """Return the name of the family that the files of a checkpoint belong to.

    Raises:
        SelfExplainError: no file shows the family, so the caller must name it.
    """
    for name, family in FAMILIES.items():
        if family.recognises is not None and family.recognises(files):
            return name
    raise SelfExplainError(
        f"{files.name}: no file shows which family this explainer belongs to (it has neither ao_config.json nor "
        f"nla_meta.yaml). Which family is it? Pass family= one of {', '.join(FAMILIES)}, or "
        "contract=InjectionConfig(...) with the contract that it was trained with."
    )


def settle(files: Checkpoint, family: str, tokenizer) -> InjectionConfig:
    """Return the contract of a checkpoint: that of its family, completed from its files.

    Args:
        files: checkpoint.
        family: key of `FAMILIES`.
        tokenizer: tokenizer of the checkpoint.

    Raises:
        SelfExplainError: the family is unknown, or the files leave the contract open; the message says what to pass.
    """
    if family not in FAMILIES:
        raise SelfExplainError(f"The family {family!r} is unknown. Pass family= one of {', '.join(FAMILIES)}.")
    try:
        contract = FAMILIES[family].settle(files, tokenizer)
    except SelfExplainError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise SelfExplainError(
            f"{files.name}: ao_config.json or nla_meta.yaml contains an invalid value ({error}). Download the file "
            "again, or pass contract=InjectionConfig(...)."
        ) from error
    if contract.chat and FAMILIES[family].chat_template is None and tokenizer.chat_template is None:
        raise SelfExplainError(
            f"{files.name}: the questions of {family} are user turns, but this tokenizer has no chat template. Pass "
            "base= with the instruction-tuned model that it was trained from."
        )
    return contract


def find_marker_ids(files: Checkpoint, tokenizer) -> tuple[int, int]:
    """Return the ids of the tokens whose embeddings are the begin and the end marker of a Transluce explainer.

    Raises:
        SelfExplainError: the tokenizer has none of the known marker tokens.
    """
    vocabulary = tokenizer.get_vocab()
    for begin, end in MARKER_TOKENS:
        if begin in vocabulary and end in vocabulary:
            return vocabulary[begin], vocabulary[end]
    raise SelfExplainError(
        f"{files.name}: this tokenizer has none of the marker tokens that Transluce used "
        f"({' or '.join(begin for begin, _ in MARKER_TOKENS)}). Which tokens are before and after the vector? Pass "
        "contract=dataclasses.replace(CONTRACTS['transluce'], neighbour_ids=(begin, end)), with CONTRACTS from "
        "selfexplain.modeling.third_party.contracts."
    )
