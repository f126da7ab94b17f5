"""Dictionaries: the features of one layer, as directions and as how strongly a residual activates each.

They come from sparse autoencoders (a directory or a release of sae-lens), from plain matrices of directions, or from
any vectors of the residual stream. A directory holds, per layer, `layer_<i>/` as sae-lens saves it, or a matrix
`layer_<i>.safetensors` or `layer_<i>.npy`; several of one layer are told apart by a suffix, `layer_<i>_<name>`.
"""

import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.target.load import Target

if TYPE_CHECKING:
    from sae_lens import SAE

BLOCK_OUTPUT = re.compile(r"(?:.+\.)?(?:layers|h|blocks)\.(\d+)(?:\.hook_resid_post)?")
# architectures in which a feature's activation depends on no other feature
ELEMENTWISE = ("standard", "jumprelu", "gated")


@dataclass(frozen=True)
class Dictionary:
    """Features of one layer.

    Attributes:
        layer: the decoder block whose output is read.
        release, sae_id: where the features come from, for the rows.
        indices: `(n_features,)` the features' own numbers, on the CPU.
        directions: `(n_features, d)` at unit norm, float32 on the CPU.
        encode: residuals `(n, d)` -> activations `(n, n_features)`; a feature is active where they are above 0.
        neuronpedia_id: `<model>/<source>` on Neuronpedia, where it is known.
    """

    layer: int
    release: str
    sae_id: str
    indices: Tensor
    directions: Tensor
    encode: Callable[[Tensor], Tensor]
    neuronpedia_id: str | None = None

    @property
    def n_features(self) -> int:
        return len(self.indices)


def of_sae(
    sae: "SAE",
    layer: int,
    release: str,
    sae_id: str,
    features: NDArray[np.int64] | None = None,
    device: torch.device | None = None,
) -> Dictionary:
    """The features of a sparse autoencoder, or those of `features` only, encoded on `device`, by default its own.

    Where activations do not depend on one another, only the wanted features are encoded, and brought to the device.
    """
    device = device or sae.W_dec.device
    indices = torch.arange(sae.cfg.d_sae) if features is None else torch.as_tensor(features)
    rows = indices.to(sae.W_dec.device)
    decoder = sae.W_dec.detach()[rows].float().cpu()
    if features is None:
        encode = sae.to(device).encode
    elif sae.cfg.architecture() in ELEMENTWISE:
        encode = narrowed(sae, rows).to(device).encode
    else:
        whole, wanted = sae.to(device), rows.to(device)

        def encode(hidden: Tensor) -> Tensor:
            return whole.encode(hidden)[:, wanted]

    return Dictionary(
        layer,
        release,
        sae_id,
        indices,
        torch.nn.functional.normalize(decoder, dim=-1),
        encode,
        sae.cfg.metadata.neuronpedia_id,
    )


def narrowed(sae: "SAE", features: Tensor) -> "SAE":
    """The same autoencoder with some of its features only."""
    axes = {"W_enc": 1, "b_dec": None}  # where features lie; elsewhere they come first
    state = {
        name: weight if axes.get(name, 0) is None else weight.index_select(axes.get(name, 0), features)
        for name, weight in sae.state_dict().items()
    }
    small = type(sae)(replace(sae.cfg, d_sae=len(features)))
    small.load_state_dict(state)
    return small.to(sae.W_dec.device).requires_grad_(False)


def of_directions(
    directions: Tensor, layer: int, release: str, sae_id: str, center: Tensor, features: NDArray[np.int64] | None = None
) -> Dictionary:
    """Features that are nothing but directions, `(n, d)`: active where the centred residual points along them.

    There is no encoder to say when such a feature is off: its activation is the projection of the residual less
    `center` `(d,)`, the mean residual of that layer, where that is positive.
    """
    indices = torch.arange(len(directions)) if features is None else torch.as_tensor(features)
    unit = torch.nn.functional.normalize(directions[indices].float().cpu(), dim=-1)
    on_device = unit.T.contiguous().to(center.device)
    return Dictionary(layer, release, sae_id, indices, unit, lambda hidden: ((hidden - center) @ on_device).relu())


def load_dictionaries(
    source: str,
    target: Target,
    layers: Sequence[int],
    *,
    sae_id: str | None = None,
    max_features: int | None = None,
    seed: int = 0,
    centers: Callable[[], dict[int, Tensor]],
) -> list[Dictionary]:
    """The dictionaries of `layers`, after checking that they were made for this target.

    Args:
        source: a directory, or a release of sae-lens (its name, or the Hub id of a repository sae-lens reads).
        sae_id: of a release, the SAE of each layer, with `{layer}` for its number: `l{layer}r_32x`.
        max_features: features of each dictionary, drawn at random by the seed; None for all.
        centers: the mean residual of each layer `(d,)`; called where there are plain matrices only.

    Raises:
        SelfExplainError: a layer without dictionary, or one that belongs to another model, layer or width.
    """
    directory = Path(source).expanduser()
    found: list[Dictionary] = []

    def draw(n_features: int, layer: int, name: str) -> NDArray[np.int64] | None:
        if max_features is None or max_features >= n_features:
            return None
        rng = np.random.default_rng([seed, layer, zlib.crc32(name.encode())])
        return np.sort(rng.choice(n_features, max_features, replace=False))

    if not directory.is_dir():
        for layer in layers:  # one after the other: whole, those of all layers may fit nowhere
            sae, name = _of_release(source, sae_id, target, layer)
            drawn = draw(sae.cfg.d_sae, layer, name)
            found.append(of_sae(sae, layer, source, name, drawn, target.model.device))
        return found
    for layer in layers:
        paths = sorted(
            path for path in directory.iterdir() if re.fullmatch(rf"layer_{layer}(_.+)?", path.name.split(".")[0])
        )
        if not paths:
            raise SelfExplainError(
                f"no dictionary of layer {layer} in {source}: expected layer_{layer}/ as sae-lens's SAE.save_model "
                f"writes it, or a matrix layer_{layer}.safetensors or layer_{layer}.npy."
            )
        for path in paths:
            if path.is_dir():
                sae = load_sae(path, target, layer)
                drawn = draw(sae.cfg.d_sae, layer, path.name)
                found.append(of_sae(sae, layer, source, path.name, drawn, target.model.device))
            else:
                matrix = load_matrix(path, target)
                drawn = draw(len(matrix), layer, path.stem)
                found.append(of_directions(matrix, layer, source, path.stem, centers()[layer], drawn))
    return found


def load_matrix(path: Path, target: Target) -> Tensor:
    """A matrix of directions `(n_features, d)` from a safetensors file with one matrix, or an npy file.

    Raises:
        SelfExplainError: no such file, more than one matrix in it, or one of another width.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".npy":
            matrices = [torch.from_numpy(np.load(path, allow_pickle=False))]
        else:
            matrices = [tensor for tensor in load_file(path).values() if tensor.ndim == 2]
    except (OSError, ValueError, SafetensorError) as error:
        raise SelfExplainError(f"{path} could not be read as a matrix of directions ({error}).") from error
    if len(matrices) != 1 or matrices[0].ndim != 2 or matrices[0].shape[1] != target.d_model:
        shapes = [tuple(matrix.shape) for matrix in matrices]
        raise SelfExplainError(
            f"{path} holds {shapes or 'no matrix'}; expected one matrix (n_features, {target.d_model}) of directions "
            f"in the residual stream of {target.name}."
        )
    if not matrices[0].isfinite().all():
        raise SelfExplainError(f"{path} holds values that are not finite.")
    return matrices[0].float()


def load_sae(path: Path, target: Target, layer: int) -> "SAE":
    """Read one SAE, to the CPU, after checking that it was made for the output of block `layer` of this target.

    Raises:
        SelfExplainError: no SAE there, or one that belongs to another model, layer or width.
    """
    from sae_lens import SAE

    try:
        config = json.loads((path / "cfg.json").read_text())
    except (OSError, ValueError) as error:
        raise SelfExplainError(
            f"no SAE at {path}: expected a directory written by sae-lens's SAE.save_model ({error})."
        ) from error
    _check(f"the SAE at {path}", config.get("d_in"), config.get("metadata", config), target, layer)
    return SAE.load_from_disk(path).requires_grad_(False)


def _of_release(release: str, sae_id: str | None, target: Target, layer: int) -> tuple["SAE", str]:
    from huggingface_hub.errors import HfHubHTTPError
    from sae_lens import SAE

    if sae_id is None:
        raise SelfExplainError(
            f"saes is {release!r}: no such directory. For a release of sae-lens say which SAE each layer has, with "
            "{layer} for its number, such as sae_id='l{layer}r_32x'."
        )
    name = sae_id.format(layer=layer)
    try:
        sae = SAE.from_pretrained(release, name)
    except (ValueError, KeyError, OSError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SelfExplainError(
            f"sae-lens could not load SAE {name!r} of release {release!r}: {reason}. Its releases are listed by "
            "sae_lens.loading.pretrained_saes_directory.get_pretrained_saes_directory()."
        ) from error
    _check(f"SAE {name!r} of {release}", sae.cfg.d_in, sae.cfg.metadata.to_dict(), target, layer)
    return sae.requires_grad_(False), name


def _check(what: str, d_in: int | None, metadata: dict[str, Any], target: Target, layer: int) -> None:
    """Hold an SAE's records against the target. What they do not say is not checked.

    Models are compared by the last part of their name, in lower case and without TransformerLens's aliases.
    """
    if d_in != target.d_model:
        raise SelfExplainError(f"{what} reads vectors of width {d_in}; {target.name} has width {target.d_model}.")
    model_name = metadata.get("model_name")
    if model_name and not _is_model(model_name, target.name):
        raise SelfExplainError(f"{what} was trained on {model_name}, not on {target.name}.")
    if hook_name := metadata.get("hook_name"):
        block_output = BLOCK_OUTPUT.fullmatch(hook_name)
        if not block_output or int(block_output[1]) != layer:
            raise SelfExplainError(
                f"{what} reads {hook_name}; expected the output of decoder block {layer}. "
                "Take the SAE of that layer (on disk: move it to the layer_<i> directory of its own)."
            )


def _is_model(recorded: str, name: str) -> bool:
    from transformer_lens.loading_from_pretrained import get_official_model_name

    def last_part(name: str) -> str:
        return PurePath(name).name.lower()

    if last_part(recorded) == last_part(name):
        return True
    try:
        return last_part(get_official_model_name(recorded)) == last_part(name)
    except ValueError:
        return False
