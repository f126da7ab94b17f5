"""Load an explainer that another project trained."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from selfexplain import bundled
from selfexplain.errors import SelfExplainError, prefix_errors
from selfexplain.modeling.base import hub_options, load_base
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
from selfexplain.modeling.third_party import weights as reading
from selfexplain.modeling.third_party.checkpoint import Checkpoint, read_checkpoint
from selfexplain.modeling.third_party.contracts import FAMILIES, find_marker_ids, recognise, settle
from selfexplain.target.tokenizer_files import load_tokenizer
from selfexplain.tasks import free_question

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

logger = logging.getLogger(__name__)


def load_third_party(
    cls: "type[SelfExplainerForCausalLM]",
    source: str | Path,
    family: str | None = None,
    contract: InjectionConfig | None = None,
    base: str | None = None,
    revision: str | None = None,
    subfolder: str = "",
    **options,
) -> "SelfExplainerForCausalLM":
    """Load a third-party checkpoint as an explainer. See `SelfExplainerForCausalLM.from_third_party`."""
    hub = hub_options(options)
    files = read_checkpoint(str(source), {"revision": revision, "subfolder": subfolder, **hub})
    name, location = _locate_base(files, base)
    tokenizer = _load_tokenizer(files, name, location | hub, options.get("trust_remote_code", False))
    contract = _choose_contract(files, tokenizer, family, contract)
    with prefix_errors(f"{files.name} (if its base is a different model, pass base=)"):
        model = load_base(name, **location, **options)
    explainer = _build(cls, files, model, name, contract)
    explainer.config.base_model_revision = getattr(model.config, "_commit_hash", None) or location["revision"]
    explainer.processor = SelfExplainerProcessor.for_contract(tokenizer, contract)
    _check(explainer, files, contract)
    logger.info("%s: %s", source, contract.describe())
    return explainer


def _locate_base(files: Checkpoint, base: str | None) -> tuple[str, dict[str, Any]]:
    """Return the name of the base, and its revision and subfolder. A whole model is its own base."""
    if files.adapter is None:
        if base is not None:
            raise SelfExplainError(f"{files.name} is a whole model, not an adapter, so base= does not apply. Omit it.")
        return files.name, {"revision": files.location["revision"], "subfolder": files.location["subfolder"]}
    name = base or files.adapter.get("base_model_name_or_path")
    if not name:
        raise SelfExplainError(
            f"{files.name}: adapter_config.json does not name a base model. Pass base= with the model that the adapter "
            "was trained from."
        )
    return str(name), {"revision": None if base else files.adapter.get("revision"), "subfolder": ""}


def _load_tokenizer(files: Checkpoint, base: str, location: Mapping[str, Any], trust_remote_code: bool):
    """Load the tokenizer of the checkpoint, or that of its base if the checkpoint has none."""
    has_tokenizer = files.find("tokenizer_config.json") is not None
    name, location = (files.path, files.location) if has_tokenizer else (bundled.resolve(base), location)
    with prefix_errors(f"{files.name} (if its base is a different model, pass base=)"):
        return load_tokenizer(name, name, trust_remote_code, **location)


def _choose_contract(
    files: Checkpoint, tokenizer, family: str | None, contract: InjectionConfig | None
) -> InjectionConfig:
    """Return the contract that the caller passed, or else the one that the files settle, with its marker tokens.

    The chat template of the tokenizer is replaced if the family has its own.
    """
    if contract is None:
        contract = settle(files, family or recognise(files), tokenizer)
    elif family is not None:
        contract = replace(contract, family=family)
    if contract.family in FAMILIES and FAMILIES[contract.family].chat_template is not None:
        tokenizer.chat_template = FAMILIES[contract.family].chat_template
    if contract.markers and contract.neighbour_ids is None:
        contract = replace(contract, neighbour_ids=find_marker_ids(files, tokenizer))
    return contract


def _build(
    cls: "type[SelfExplainerForCausalLM]",
    files: Checkpoint,
    model: "PreTrainedModel",
    base: str,
    contract: InjectionConfig,
) -> "SelfExplainerForCausalLM":
    """Build the explainer around its loaded base, with the weights of the checkpoint.

    Args:
        cls: class of the explainer.
        files: checkpoint.
        model: loaded base, or the whole model.
        base: name of the base.
        contract: injection contract, with `neighbour_ids` if it has markers.
    """
    weights = reading.read_weights(files)
    projection = reading.read_projection(files, weights, model.config.get_text_config().hidden_size)
    is_whole = files.adapter is None
    changed = {} if is_whole else reading.changed_matrices(model, weights)
    if changed:
        model = reading.merge_into_base(model, files, weights, changed)
    is_trained = contract.family not in FAMILIES or FAMILIES[contract.family].trained
    merged = bool(changed) or (is_whole and is_trained)
    explainer = cls.from_base(
        model,
        injection=contract,
        adapter=None if projection is None else {"kind": "linear", "layers": list(range(len(projection)))},
        target=_target(files, model, base, projection, is_whole and is_trained),
    )
    explainer.config.merged = merged
    explainer.base_weights.as_named = not changed
    explainer.config.base_model_name_or_path = None if is_whole and merged and Path(base).is_dir() else base
    if not is_whole and not changed:
        reading.add_lora(explainer, files, weights)
    adapter = explainer.model.activation_adapter
    with torch.no_grad():
        if projection is not None:
            adapter.weight.copy_(projection.mT)
        if contract.markers:
            marker_ids = torch.tensor(contract.neighbour_ids, device=model.device)
            adapter.markers.copy_(explainer.get_input_embeddings()(marker_ids))
    return explainer


def _target(
    files: Checkpoint, model: "PreTrainedModel", base: str, projection: "Tensor | None", has_other_weights: bool
) -> dict[str, Any]:
    """Describe the model whose activations the explainer reads.

    It is the base, unless the explainer is a trained whole model (which has other weights than its target) or has
    projections. Only a sidecar names the target in those cases.
    """
    text = model.config.get_text_config()
    sidecar = files.sidecar or {}
    other = sidecar.get("base_checkpoint") or (sidecar.get("extraction") or {}).get("base_model")
    return {
        "model": base if projection is None and not has_other_weights else other,
        "revision": None,
        "n_layers": text.num_hidden_layers if projection is None else len(projection),
        "d_model": text.hidden_size if projection is None else projection.shape[2],
    }


def _check(explainer: "SelfExplainerForCausalLM", files: Checkpoint, contract: InjectionConfig) -> None:
    """Check that the layers of the contract exist, and that its template produces the prompt that it fixes."""
    n_layers = explainer.config.target["n_layers"]
    beyond = [layer for layers in contract.layers or () for layer in layers if not 0 <= layer < n_layers]
    if beyond:
        raise SelfExplainError(
            f"{files.name} reads layer {beyond[0]}, but its target has layers 0 to {n_layers - 1}. Pass base= with the "
            "model that it was trained from."
        )
    if contract.template is not None and explainer.processor is not None:
        question = free_question.question(None, [0], contract.template)
        with prefix_errors(files.name):
            explainer.processor.encode(question.prompt, question.placeholder_offsets, question.template_spans)
