"""Explainers that other projects trained: their files, read under one contract record.

A wrong contract raises no error and gives fluent nonsense, so nothing here is guessed: where the files do not settle
the contract, loading stops with a question. Layers are ours everywhere: layer i is the output of decoder block i.
"""

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors import safe_open
from torch import Tensor
from transformers import AutoTokenizer

from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor, naming
from selfexplain.modeling.repository import HUB_OPTIONS, Repository, load_base, load_lora_state
from selfexplain.tasks import free_question

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

logger = logging.getLogger(__name__)

# LatentQA renames the assistant of Llama 3.
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
FAMILIES: Mapping[str, InjectionConfig] = {
    # Li, Guo, Huang, Steinhardt, Andreas (arXiv 2511.08579): markers that are tokens of the vocabulary, MARKER_TOKENS.
    "transluce": InjectionConfig(norm="raw", family="transluce"),
    # Activation Oracles, whose operation changed on 2025-10-26; "activation_oracle" alone asks the files which it is.
    "activation_oracle_add": _ORACLE,
    "activation_oracle_replace": replace(_ORACLE, operation="replace", family="activation_oracle_replace"),
    # Natural-language autoencoders: the rest stands in nla_meta.yaml.
    "nla": InjectionConfig(norm="unit", markers=False, chat=True, family="nla"),
    "nla_community": replace(_ORACLE, template=None, family="nla_community"),
    # LatentQA (arXiv 2412.08686): the vectors replace the tokens of a first turn, the question is the next.
    "latentqa": InjectionConfig(
        site="block_output",
        norm="raw",
        placeholder=" ?",
        markers=False,
        template="{activation}" + REFLECT_TURN + "{question}",
        chat=True,
        family="latentqa",
    ),
    # SelfIE (arXiv 2403.10949): any model, untrained. It is tried at several scales: contract=replace(..., scale=5.0).
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
NAMES = (*FAMILIES, "activation_oracle")
CHANGED = date(2025, 10, 26)  # the first day on which Activation Oracles add
MARKER_TOKENS = (
    ("<|reserved_special_token_10|>", "<|reserved_special_token_11|>"),  # Llama 3
    ("<|vision_start|>", "<|vision_end|>"),  # Qwen 3
)
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
PROJECTION = re.compile(r"(?:^|\.)embed_projs\.(\d+)\.(.+)$")


@dataclass(frozen=True)
class Checkpoint(Repository):
    """A foreign checkpoint, and what its small files say; None where there is no such file."""

    model: Mapping[str, Any] | None = None  # config.json
    adapter: Mapping[str, Any] | None = None  # adapter_config.json, of peft
    oracle: Mapping[str, Any] | None = None  # ao_config.json
    sidecar: Mapping[str, Any] | None = None  # nla_meta.yaml


def read(src: str, where: Mapping[str, Any]) -> Checkpoint:
    """Fetch and parse the small files of a checkpoint, given by Hub id or directory.

    Raises:
        SelfExplainError: no checkpoint there, a damaged file, or one of our own explainers.
    """
    files = Checkpoint(src, bundled.resolve(src), where)

    def parsed(name: str) -> Mapping[str, Any] | None:
        try:
            path = files.file(name)
            if path is None:
                return None
            content = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise SelfExplainError(f"{src}: {name} cannot be read ({error}). Give a directory or a Hub id.") from error
        if not isinstance(content, Mapping):
            raise SelfExplainError(
                f"{src}: {name} holds {type(content).__name__}, not named values. Download it again."
            )
        return content

    files = replace(
        files,
        model=parsed("config.json"),
        adapter=parsed("adapter_config.json"),
        oracle=parsed("ao_config.json"),
        sidecar=parsed("nla_meta.yaml"),
    )
    if files.model is None and files.adapter is None:
        raise SelfExplainError(
            f"{src}: neither config.json nor adapter_config.json there. Give the directory or the Hub id of a "
            "checkpoint; for one inside a repository give subfolder= too."
        )
    if files.model is not None and files.model.get("model_type") == "selfexplainer":
        raise SelfExplainError(f"{src} is a self-explainer already: load it with from_pretrained.")
    return files


def recognise(files: Checkpoint) -> str:
    """The family whose files these are.

    Raises:
        SelfExplainError: no file says it; the caller must.
    """
    if files.sidecar is not None:
        return "nla"
    if files.oracle is not None:
        return "activation_oracle"
    architectures = (files.model or {}).get("architectures") or []
    if files.given.startswith("Transluce/") or any(name.startswith("Continuous") for name in architectures):
        return "transluce"
    raise SelfExplainError(
        f"{files.given}: no file says whose explainer this is (no ao_config.json, no nla_meta.yaml). Which family is "
        f"it? Pass family= one of {', '.join(NAMES)}, or contract=InjectionConfig(...) as its authors trained it."
    )


def settle(files: Checkpoint, family: str, tokenizer) -> InjectionConfig:
    """The contract of a checkpoint: its family's, with what its files say.

    Raises:
        SelfExplainError: an unknown family, or files that leave the contract open; says what to pass.
    """
    if family not in NAMES:
        raise SelfExplainError(f"family {family!r} is not known: one of {', '.join(NAMES)}.")
    try:
        if family.startswith("nla"):
            contract = _nla(files, family, tokenizer)
        elif family.startswith("activation_oracle"):
            contract = _oracle(files, family, tokenizer)
        elif family == "transluce":
            contract = _transluce(files, tokenizer)
        elif family == "latentqa":
            contract = _latentqa(files, tokenizer)
        else:
            contract = replace(FAMILIES[family], placeholder_id=_single(files, tokenizer, FAMILIES[family].placeholder))
    except SelfExplainError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise SelfExplainError(
            f"{files.given}: ao_config.json or nla_meta.yaml holds a value that cannot be ({error}). Download it "
            "again, or pass contract=."
        ) from error
    if contract.chat and family != "latentqa" and tokenizer.chat_template is None:
        raise SelfExplainError(
            f"{files.given}: {family} is asked in a user's turn, and this tokenizer has no chat template. Pass base= "
            "with the instruction-tuned model that it was trained from."
        )
    return contract


def _single(files: Checkpoint, tokenizer, text: str) -> int:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise SelfExplainError(
            f"{files.given}: the placeholder {text!r} is {len(ids)} tokens of this tokenizer; one was expected. Pass "
            "base= with the model that it was trained from, or contract= with the placeholder that was used."
        )
    return ids[0]


def _oracle(files: Checkpoint, family: str, tokenizer) -> InjectionConfig:
    """An Activation Oracle; `ao_config.json` says all but the operation."""
    said = files.oracle or {}
    if family == "activation_oracle":
        name, created = Path(files.given).name, str(said.get("created_at_utc") or "")
        if "addition" in name or "adding" in name:
            family = "activation_oracle_add"
        elif created:
            family = "activation_oracle_" + ("add" if date.fromisoformat(created[:10]) >= CHANGED else "replace")
        else:
            raise SelfExplainError(
                f"{files.given}: does this oracle add its vector to the residual stream (trained since "
                f"{CHANGED}), or replace it (before)? Neither its name nor created_at_utc in ao_config.json "
                "says. Pass family='activation_oracle_add' or family='activation_oracle_replace'."
            )
    contract = FAMILIES[family]
    template = contract.template
    if "prefix_template" in said:
        prefix = said["prefix_template"].replace("\\n", "\n")  # stored with its newlines spelt out
        prefix = prefix.replace("{special_token} * {num_positions}", "{activation}")
        if prefix.count("{activation}") != 1 or not set(re.findall(r"{(.*?)}", prefix)) <= {"layer", "activation"}:
            raise SelfExplainError(
                f"{files.given}: the prefix_template {said['prefix_template']!r} of ao_config.json has no known form. "
                "What prompt does this oracle read? Pass contract=InjectionConfig(template=...) with {layer}, "
                "{activation} and {question}."
            )
        template = prefix + "{question}"
    placeholder = said.get("special_token", contract.placeholder)
    return replace(
        contract,
        block=said.get("hook_onto_layer", contract.block),
        scale=float(said.get("steering_coefficient", contract.scale)),
        placeholder=placeholder,
        placeholder_id=_single(files, tokenizer, placeholder),
        template=template,
        layers=said.get("act_layer_combinations") or None,
    )


def _nla(files: Checkpoint, family: str, tokenizer) -> InjectionConfig:
    """A verbalizer of a natural-language autoencoder, by its sidecar `nla_meta.yaml`."""
    if files.sidecar is None:
        raise SelfExplainError(
            f"{files.given}: no nla_meta.yaml, which holds the prompt and the scale of a verbalizer. Where is it? Put "
            "it beside the weights, or pass contract=InjectionConfig(...)."
        )
    said = files.sidecar
    if said.get("role") in ("ar", "critic"):
        raise SelfExplainError(
            f"{files.given} is the half that turns text into vectors (role {said['role']}). Load its other half, "
            "role av."
        )
    extraction, tokens, templates = (said.get(key) or {} for key in ("extraction", "tokens", "prompt_templates"))
    template = templates.get("av") or templates.get("actor")
    character, token_id = tokens.get("injection_char"), tokens.get("injection_token_id")
    if template is None or template.count("{injection_char}") != 1 or character is None or token_id is None:
        raise SelfExplainError(
            f"{files.given}: nla_meta.yaml lacks tokens.injection_char, tokens.injection_token_id or "
            "prompt_templates.av with {injection_char} in it once. What prompt does it read? Pass contract=."
        )
    if _single(files, tokenizer, character) != token_id:
        raise SelfExplainError(
            f"{files.given}: {character!r} is token {_single(files, tokenizer, character)} of this tokenizer and "
            f"{token_id} in nla_meta.yaml: it was trained with another tokenizer. Pass base= with its model."
        )
    left, right = tokens.get("injection_left_neighbor_id"), tokens.get("injection_right_neighbor_id")
    layer = said.get("extraction_layer_index", extraction.get("layer_index"))
    scale = extraction.get("injection_scale")
    if family == "nla_community" or (files.adapter and said.get("kind") == "nla_dataset" and scale is None):
        contract = FAMILIES["nla_community"]
    elif "injection_scale" not in extraction:
        raise SelfExplainError(
            f"{files.given}: nla_meta.yaml has no extraction.injection_scale. To what norm was the vector brought "
            "before it replaced the embedding, or was it added after block 1? Pass family='nla_community', or "
            "contract=InjectionConfig(norm='unit', scale=...) with template and placeholder."
        )
    elif scale is None:
        contract = replace(FAMILIES["nla"], norm="raw")
    elif scale == "sqrt_d_model":
        contract = replace(FAMILIES["nla"], scale=math.sqrt(said.get("d_model") or extraction["d_model"]))
    elif isinstance(scale, int | float) and 0 < scale < math.inf:
        contract = replace(FAMILIES["nla"], scale=float(scale))
    else:
        raise SelfExplainError(
            f"{files.given}: injection_scale is {scale!r}; a positive number, null or sqrt_d_model was expected. Pass "
            "contract=."
        )
    return replace(
        contract,
        placeholder=character,
        placeholder_id=token_id,
        neighbour_ids=None if left is None or right is None else (left, right),
        template=template.format(injection_char="{activation}"),
        layers=None if layer is None else ((layer,),),
    )


def _transluce(files: Checkpoint, tokenizer) -> InjectionConfig:
    """A self-explainer of Transluce: one on features reads plain text, the others a user's turn where there is one."""
    contract = FAMILIES["transluce"]
    name = Path(files.given).name
    if "features_explain" in name:
        return replace(contract, chat=False, template="At layer {layer}, {activation} encodes ")
    if tokenizer.chat_template is None or "act_patch" in name or "input_ablation" in name:
        return replace(contract)
    raise SelfExplainError(
        f"{files.given}: was it trained on plain prompts (descriptions of features) or on a user's turns (patching, "
        "ablation)? Its tokenizer can write both. Pass contract=dataclasses.replace(FAMILIES['transluce'], chat=False) "
        "or chat=True."
    )


def _latentqa(files: Checkpoint, tokenizer) -> InjectionConfig:
    """A LatentQA decoder, whose vectors replace the tokens of "? ? ?" in a first turn of the user."""
    if not {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"} <= set(tokenizer.get_vocab()):
        raise SelfExplainError(
            f"{files.given}: LatentQA's conversation is known for Llama 3, whose turns this tokenizer does not write. "
            "What prompt was it trained on? Pass contract= with the template it was, its turns spelt out."
        )
    return replace(
        FAMILIES["latentqa"],
        placeholder_id=_single(files, tokenizer, " ?"),
        first_placeholder_id=_single(files, tokenizer, "?"),
    )


def load(
    cls: "type[SelfExplainerForCausalLM]",
    src: str | Path,
    family: str | None = None,
    contract: InjectionConfig | None = None,
    base: str | None = None,
    revision: str | None = None,
    subfolder: str = "",
    **load_kwargs,
) -> "SelfExplainerForCausalLM":
    """See `SelfExplainerForCausalLM.from_foreign`."""
    hub = {key: load_kwargs[key] for key in HUB_OPTIONS if key in load_kwargs}
    code = {"trust_remote_code": load_kwargs.get("trust_remote_code", False)}
    files = read(str(src), {"revision": revision, "subfolder": subfolder} | hub)
    whole = files.adapter is None
    name, at = _base(files, base)
    tokenizer = _tokenizer(files, name, at | hub, code)
    if contract is None:
        contract = settle(files, family or recognise(files), tokenizer)
    elif family is not None:
        contract = replace(contract, family=family)
    if contract.family == "latentqa":
        tokenizer.chat_template = REFLECT_CHAT
    if contract.markers:
        contract = replace(contract, neighbour_ids=contract.neighbour_ids or _marker_ids(files, tokenizer))
    with naming(f"{files.given} (pass base= where its base is another one)"):
        model = load_base(name, **at, **load_kwargs)
    weights = _weights(files)
    projection = _projection(files, weights, model.config.get_text_config().hidden_size)
    changed = {} if whole else _changed(model, weights)
    if changed:
        model = _fold_in(model, files, weights, changed)
    merged = bool(changed) or (whole and contract.family != "selfie")
    explainer = cls.from_base(
        model,
        injection=contract,
        adapter=None if projection is None else {"kind": "linear", "layers": list(range(len(projection)))},
        target=_target(files, model, name, projection, whole=whole and merged),
    )
    explainer.config.merged = merged
    explainer.config.base_model_name_or_path = None if whole and merged and Path(name).is_dir() else name
    explainer.config.base_model_revision = getattr(model.config, "_commit_hash", None) or at["revision"]
    explainer.processor = SelfExplainerProcessor.for_contract(tokenizer, contract, contract.chat)
    if not whole and not changed:
        _add_lora(explainer, files, weights)
    adapter = explainer.model.activation_adapter
    with torch.no_grad():
        if projection is not None:
            adapter.weight.copy_(projection.mT)
        if contract.markers:
            ids = torch.tensor(contract.neighbour_ids, device=model.device)
            adapter.markers.copy_(explainer.get_input_embeddings()(ids))
    _check(explainer, files, contract)
    logger.info("%s: %s", src, contract.describe())
    return explainer


def _base(files: Checkpoint, base: str | None) -> tuple[str, dict[str, Any]]:
    """Where the whole model lies: its name, and its revision and subfolder. A whole model is its own base."""
    if files.adapter is None:
        if base is not None:
            raise SelfExplainError(f"{files.given} is a whole model, not an adapter: leave base= out.")
        return files.given, {"revision": files.where["revision"], "subfolder": files.where["subfolder"]}
    named = base or files.adapter.get("base_model_name_or_path")
    if not named:
        raise SelfExplainError(f"{files.given}: adapter_config.json names no base model. Which is it? Pass base=.")
    return str(named), {"revision": None if base else files.adapter.get("revision"), "subfolder": ""}


def _tokenizer(files: Checkpoint, base: str, where: Mapping[str, Any], code: Mapping[str, bool]):
    """The checkpoint's own, or else its base's."""
    own = files.file("tokenizer_config.json") is not None
    name, at = (files.path, files.where) if own else (bundled.resolve(base), where)
    try:
        return AutoTokenizer.from_pretrained(name, **at, **code)
    except (OSError, ValueError) as error:
        raise SelfExplainError(
            f"{files.given}: the tokenizer of {name} cannot be loaded ({str(error).splitlines()[0]}). Pass base= with "
            "the Hub id or the directory of the model that was fine-tuned."
        ) from error


def _weights(files: Checkpoint) -> dict[str, Tensor]:
    """Weights of the adapter; of a whole model only the projections that a plain causal language model has not.

    Raises:
        SelfExplainError: no safetensors there; pickles are never opened.
    """
    if files.adapter is not None:
        if files.file(ADAPTER_WEIGHTS) is None:
            raise SelfExplainError(
                f"{files.given}: no {ADAPTER_WEIGHTS}. A pickle (adapter_model.bin) is not opened here, because "
                "that can run code: convert it to safetensors where you trust it."
            )
        return files.tensors(ADAPTER_WEIGHTS)
    index = files.file("model.safetensors.index.json")
    shards = {"model.safetensors"}
    if index is not None:
        shards = {shard for key, shard in json.loads(index.read_text())["weight_map"].items() if PROJECTION.search(key)}
    found: dict[str, Tensor] = {}
    for shard in sorted(shards):
        with safe_open(files.needed(shard), "pt") as weights:
            found |= {key: weights.get_tensor(key) for key in weights.keys() if PROJECTION.search(key)}  # noqa: SIM118
    return found


def _projection(files: Checkpoint, weights: Mapping[str, Tensor], d_explainer: int) -> Tensor | None:
    """The linear maps of a cross-model self-explainer, `(n_layers, d_explainer, d_target)`; None where widths agree.

    Transluce trains one bias-free map a target layer, and applies them only where target and explainer differ in width.
    """
    found = {match: weight for key, weight in weights.items() if (match := PROJECTION.search(key))}
    stray = [match.group(0) for match in found if match.group(2) != "weight"]
    if stray:
        raise SelfExplainError(
            f"{files.given}: {stray[0]} changes a projection whose own weight was not saved. Which projection was it "
            "trained on? Fold it in and save embed_projs.<layer>.weight."
        )
    maps = {int(match.group(1)): weight for match, weight in found.items()}
    shapes = {tuple(weight.shape) for weight in maps.values()}
    if sorted(maps) != list(range(len(maps))) or len(shapes) > 1 or any(rows != d_explainer for rows, _ in shapes):
        raise SelfExplainError(
            f"{files.given} has projections for layers {sorted(maps)} of shapes {sorted(shapes)}; one of shape "
            f"({d_explainer}, width of the target) for each of the target's layers was expected. Download it again."
        )
    if not maps or shapes == {(d_explainer, d_explainer)}:
        return None
    return torch.stack([maps[layer] for layer in range(len(maps))]).float()


def _target(
    files: Checkpoint, model: "PreTrainedModel", base: str, projection: Tensor | None, whole: bool
) -> dict[str, Any]:
    """Whose activations are read: the base's, but for a whole model, or one with projections, whose target has other
    weights than it. Only a sidecar names that one.
    """
    text = model.config.get_text_config()
    sidecar = files.sidecar or {}
    other = sidecar.get("base_checkpoint") or (sidecar.get("extraction") or {}).get("base_model")
    return {
        "model": base if projection is None and not whole else other,
        "revision": None,
        "n_layers": text.num_hidden_layers if projection is None else len(projection),
        "d_model": text.hidden_size if projection is None else projection.shape[2],
    }


def _marker_ids(files: Checkpoint, tokenizer) -> tuple[int, int]:
    """The tokens whose embeddings are the begin and the end marker."""
    vocabulary = tokenizer.get_vocab()
    for begin, end in MARKER_TOKENS:
        if begin in vocabulary and end in vocabulary:
            return vocabulary[begin], vocabulary[end]
    raise SelfExplainError(
        f"{files.given}: this tokenizer has none of the marker tokens that Transluce used "
        f"({' or '.join(begin for begin, _ in MARKER_TOKENS)}). Which tokens stand before and after the vector? Pass "
        "contract=dataclasses.replace(FAMILIES['transluce'], neighbour_ids=(begin, end))."
    )


def _changed(model: "PreTrainedModel", weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole matrices saved beside the LoRA weights, as Transluce saves embeddings and head, that are not the base's."""
    own = model.state_dict()
    beside = {name: weight for key, weight in weights.items() if (name := key.removeprefix(PEFT_PREFIX)) in own}
    return {name: weight for name, weight in beside.items() if not _same(weight.to(own[name].device), own[name])}


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal, but for what the coarser of their dtypes cannot hold."""
    return a.shape == b.shape and (torch.equal(a.to(b.dtype), b) or torch.equal(a, b.to(a.dtype)))


def _fold_in(
    model: "PreTrainedModel", files: Checkpoint, weights: Mapping[str, Tensor], changed: Mapping[str, Tensor]
) -> "PreTrainedModel":
    """The base with its changed matrices and the LoRA weights merged in: a whole model, with nothing to switch off."""
    from peft import PeftModel, get_peft_model_state_dict

    own = model.state_dict()
    for rows in {weight.shape[0] for name, weight in changed.items() if weight.shape != own[name].shape}:
        model.resize_token_embeddings(rows, mean_resizing=False)  # tokens were added
    adapted = PeftModel.from_pretrained(model, str(files.needed("adapter_config.json").parent))
    missing = sorted(set(get_peft_model_state_dict(adapted, save_embedding_layers=False)) - set(weights))
    if missing:
        raise SelfExplainError(f"{files.given}: {ADAPTER_WEIGHTS} lacks {missing[0]}. Download it again.")
    logger.info("%s: %s differ from the base's, so all is merged into one model", files.given, sorted(changed))
    return adapted.merge_and_unload()


def _add_lora(explainer: "SelfExplainerForCausalLM", files: Checkpoint, weights: Mapping[str, Tensor]) -> None:
    """Add the LoRA weights to the base, all or none: peft passes over what does not fit in silence."""
    from peft import PeftConfig

    lora = PeftConfig.from_pretrained(str(files.needed("adapter_config.json").parent))
    if lora.peft_type != "LORA":
        raise SelfExplainError(f"{files.given} is a {lora.peft_type} adapter; LoRA adapters are read.")
    lora.inference_mode, lora.modules_to_save = False, None
    own = explainer.language_model.state_dict()
    delta = {key: weight for key, weight in weights.items() if key.removeprefix(PEFT_PREFIX) not in own}
    delta = {key: weight for key, weight in delta.items() if not PROJECTION.search(key)}
    try:
        explainer.language_model.add_adapter(lora)
    except ValueError as error:
        raise SelfExplainError(
            f"{files.given} does not fit its base: {error} Pass base= with the right one."
        ) from error
    load_lora_state(explainer, delta, f"{files.given}: {ADAPTER_WEIGHTS}")
    modules = lora.target_modules
    explainer.config.lora = {
        "rank": lora.r,
        "alpha": lora.lora_alpha,
        "dropout": lora.lora_dropout,
        "target_modules": modules if isinstance(modules, str) else sorted(modules),
        "trainable_tokens": [],
        "dtype": str(next(iter(delta.values())).dtype).removeprefix("torch."),
    }


def _check(explainer: "SelfExplainerForCausalLM", files: Checkpoint, contract: InjectionConfig) -> None:
    """The layers that it reads exist, and the prompt that its template makes is the one that the contract fixes."""
    n_layers = explainer.config.target["n_layers"]
    beyond = [layer for layers in contract.layers or () for layer in layers if not 0 <= layer < n_layers]
    if beyond:
        raise SelfExplainError(
            f"{files.given} reads layer {beyond[0]}, its target has layers 0 to {n_layers - 1}. Pass the right base=."
        )
    if contract.template is not None and explainer.processor is not None:
        put = free_question.question(None, [0], contract.template)
        with naming(files.given):
            explainer.processor.encode(put.prompt, put.placeholder_offsets, put.template_spans)
