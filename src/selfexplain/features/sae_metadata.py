"""Read the metadata of sparse autoencoders: the model, the place in the model, and the processing of the inputs."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from torch import nn

from selfexplain.errors import SelfExplainError
from selfexplain.target.blocks import decoder_blocks
from selfexplain.target.load import Target

_BLOCK = re.compile(r"(?:.+\.)?(?:layers|h|blocks)\.(\d+)(?:\.(.+))?")
_OUTPUT_NAMES = (None, "hook_resid_post", "hook_out", "output")
_INPUT_NAMES = ("hook_resid_pre", "hook_in", "input")
_SNAPSHOT = re.compile(r"models--(.+?)--(.+?)/snapshots/[0-9a-f]+/?$")


def check_metadata(
    what: str, d_in: int | None, metadata: Mapping[str, Any], target: Target, layer: int, trained_on: str | None = None
) -> None:
    """Compare the metadata of an SAE with the target. Missing metadata is not checked.

    Models are compared by the last part of their name, in lower case and with TransformerLens aliases resolved. The
    name of a directory in the cache of the Hub is the id of its repository.

    Args:
        what: subject of error messages.
        d_in: width of the SAE.
        trained_on: name of the model that the SAE may record instead of the target.

    Raises:
        SelfExplainError: the SAE belongs to a different model, layer, site or width.
    """
    if d_in != target.d_model:
        raise SelfExplainError(
            f"{what} has width {d_in}, but {target.name} has width {target.d_model}. Choose a matching SAE."
        )
    model_name = metadata.get("model_name")
    names = [target.name, *([trained_on] if trained_on else [])]
    if model_name and not any(_is_model(model_name, name) for name in names):
        raise SelfExplainError(
            f"{what} was trained on {model_name}, not on {target.name}. Choose a matching SAE. If you want "
            "to use its features on this model, such as those of a base on its instruct model, set "
            f"feature_description.saes_trained_on={model_name}."
        )
    if hook_name := metadata.get("hook_name"):
        _check_place(what, hook_name, layer)


def is_centered(metadata: Mapping[str, Any], target: Target) -> bool:
    """Whether an SAE expects residuals whose mean over their dimensions is subtracted.

    TransformerLens centres the weights that write to the residual stream if `center_writing_weights` is set and the
    model normalises with LayerNorm. Its residual stream is then that of the original model minus the mean.
    """
    options = metadata.get("model_from_pretrained_kwargs") or {}
    if not options.get("center_writing_weights"):
        return False
    return any(isinstance(module, nn.LayerNorm) for module in decoder_blocks(target.model)[0].modules())


def number_in_id(sae_id: str, layer: int) -> int:
    """The number for `{layer}` in the id of an SAE: that of the block whose input is the layer for `hook_resid_pre`."""
    return layer + 1 if any(name in sae_id for name in _INPUT_NAMES[:2]) else layer


def _check_place(what: str, hook_name: str, layer: int) -> None:
    match = _BLOCK.fullmatch(hook_name)
    site = match[2] if match else None
    expected = f"expected the output of decoder block {layer}"
    if not match or site not in (*_OUTPUT_NAMES, *_INPUT_NAMES):
        raise SelfExplainError(
            f"{what} encodes {hook_name}, which is not the residual stream between two blocks; {expected}. Features of "
            "attention, MLP and other sites are not supported. Choose an SAE of the residual stream."
        )
    encoded = int(match[1]) - (site in _INPUT_NAMES)
    if encoded != layer:
        place = f"the output of block {encoded}" if encoded >= 0 else "the embeddings, before block 0"
        raise SelfExplainError(
            f"{what} encodes {hook_name}, which is {place}; {expected}. Choose the SAE of that layer. In a directory, "
            "SAEs of layer i belong into layer_<i>."
        )


def _is_model(recorded: str, name: str) -> bool:
    """Whether a recorded model name and the name of the target mean the same model."""
    from transformer_lens.loading_from_pretrained import get_official_model_name

    def last_part(name: str) -> str:
        snapshot = _SNAPSHOT.search(name)
        return (snapshot[2] if snapshot else PurePath(name).name).lower()

    if last_part(recorded) == last_part(name):
        return True
    try:
        return last_part(get_official_model_name(recorded)) == last_part(name)
    except ValueError:
        return False
