"""Dictionaries: the features of one layer, as unit directions with an encoder that gives their activations.

Dictionaries are made from sparse autoencoders (a directory or a release of sae-lens), from matrices of directions, or
from arbitrary vectors of the residual stream. A directory contains, for each layer, `layer_<i>/` in the format of
sae-lens, or a matrix `layer_<i>.safetensors` or `layer_<i>.npy`. Several dictionaries of one layer have different
suffixes: `layer_<i>_<name>`.
"""

import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.features.sae_metadata import check_metadata, is_centered, number_in_id
from selfexplain.target.load import Target
from selfexplain.utils.names import local_path

if TYPE_CHECKING:
    from sae_lens import SAE

# Architectures in which the activation of a feature does not depend on other features.
ELEMENTWISE = ("standard", "jumprelu", "gated")


@dataclass(frozen=True)
class Dictionary:
    """Features of one layer.

    Attributes:
        layer: decoder block whose output is encoded.
        release: release or directory that the features come from; recorded in dataset rows.
        sae_id: name of the SAE or matrix within the release; recorded in dataset rows.
        indices: number of each feature in the SAE or matrix, `(n_features,)`, on the CPU.
        directions: unit directions, `(n_features, d)` float32, on the CPU.
        encode: function from residuals `(n, d)` to activations `(n, n_features)`. A feature is active where its
            activation is above 0.
        neuronpedia_id: `<model>/<source>` on Neuronpedia; None if unknown.
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


def dictionary_from_sae(
    sae: "SAE",
    layer: int,
    release: str,
    sae_id: str,
    features: NDArray[np.int64] | None = None,
    device: torch.device | None = None,
    centered: bool = False,
) -> Dictionary:
    """A dictionary of the features of a sparse autoencoder.

    If activations do not depend on other features, only the selected features are moved to the device and encoded.

    Args:
        sae: sparse autoencoder.
        layer: decoder block whose output it encodes.
        release: see `Dictionary`.
        sae_id: see `Dictionary`.
        features: numbers of the features to select, `(n_features,)`; None for all.
        device: device to encode on; None for the device of the SAE.
        centered: whether the mean of each residual over its dimensions is subtracted before it is encoded.
    """
    device = device or sae.W_dec.device
    indices = torch.arange(sae.cfg.d_sae) if features is None else torch.as_tensor(features)
    rows = indices.to(sae.W_dec.device)
    decoder = sae.W_dec.detach()[rows].float().cpu()
    if features is None:
        encode = sae.to(device).encode
    elif sae.cfg.architecture() in ELEMENTWISE:
        encode = select_features(sae, rows).to(device).encode
    else:
        full_sae, selected = sae.to(device), rows.to(device)

        def encode(hidden: Tensor) -> Tensor:
            return full_sae.encode(hidden)[:, selected]

    if centered:
        encode = _encode_centered(encode)
    return Dictionary(
        layer,
        release,
        sae_id,
        indices,
        torch.nn.functional.normalize(decoder, dim=-1),
        encode,
        sae.cfg.metadata.neuronpedia_id,
    )


def _encode_centered(encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda hidden: encode(hidden - hidden.mean(-1, keepdim=True))


def select_features(sae: "SAE", features: Tensor) -> "SAE":
    """A copy of the autoencoder that has only the given features, `(n_features,)`."""
    axes = {"W_enc": 1, "b_dec": None}  # axis of the features; 0 for all other parameters
    state = {
        name: weight if axes.get(name, 0) is None else weight.index_select(axes.get(name, 0), features)
        for name, weight in sae.state_dict().items()
    }
    small = type(sae)(replace(sae.cfg, d_sae=len(features)))
    small.load_state_dict(state)
    return small.to(sae.W_dec.device).requires_grad_(False)


def dictionary_from_directions(
    directions: Tensor, layer: int, release: str, sae_id: str, center: Tensor, features: NDArray[np.int64] | None = None
) -> Dictionary:
    """A dictionary of directions without an encoder.

    The activation of such a feature is the positive part of the projection of the centred residual on its direction.

    Args:
        directions: directions of any norm, `(n, d)`.
        layer: decoder block whose output they belong to.
        release: see `Dictionary`.
        sae_id: see `Dictionary`.
        center: mean residual of the layer, `(d,)`.
        features: rows of `directions` to select, `(n_features,)`; None for all.
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
    trained_on: str | None = None,
    centers: Callable[[], dict[int, Tensor]],
) -> list[Dictionary]:
    """Load the dictionaries of `layers` and check that they were made for this target.

    Args:
        source: directory or release of sae-lens (its name, or the Hub id of a repository that sae-lens can read).
        target: model that the dictionaries belong to.
        layers: decoder blocks.
        sae_id: name of the SAE of each layer in a release, with `{layer}` for its number, such as `l{layer}r_32x`. In
            names with `hook_resid_pre`, it is replaced by the number of the block, which is one higher.
        max_features: number of features to draw at random from each dictionary; None for all.
        seed: seed of the random draw.
        trained_on: name of the model that the SAEs record, if it is not the target, such as the base of an instruct
            model.
        centers: function that returns the mean residual `(d,)` of each layer. It is called only for matrices.

    Raises:
        SelfExplainError: a layer has no dictionary, or a dictionary belongs to a different model, layer or width.
    """
    directory = local_path(source)
    if not directory.is_dir():
        return [
            _from_release(source, sae_id, target, layer, max_features, seed, trained_on)
            for layer in layers  # one at a time, because the full SAEs of all layers may not fit into memory
        ]
    dictionaries: list[Dictionary] = []
    for layer in layers:
        paths = sorted(
            path for path in directory.iterdir() if re.fullmatch(rf"layer_{layer}(_.+)?", path.name.split(".")[0])
        )
        if not paths:
            raise SelfExplainError(
                f"{source} contains no dictionary of layer {layer}. Expected layer_{layer}/ as written by "
                f"SAE.save_model of sae-lens, or a matrix layer_{layer}.safetensors or layer_{layer}.npy."
            )
        for path in paths:
            if path.is_dir():
                sae = load_sae(path, target, layer, trained_on)
                drawn = _draw_features(sae.cfg.d_sae, max_features, seed, layer, path.name)
                about = sae, layer, source, path.name, drawn, target.model.device
                dictionaries.append(dictionary_from_sae(*about, is_centered(sae.cfg.metadata.to_dict(), target)))
            else:
                matrix, name = load_matrix(path, target), path.stem
                drawn = _draw_features(len(matrix), max_features, seed, layer, name)
                dictionaries.append(dictionary_from_directions(matrix, layer, source, name, centers()[layer], drawn))
    return dictionaries


def _draw_features(
    n_features: int, max_features: int | None, seed: int, layer: int, name: str
) -> NDArray[np.int64] | None:
    """A random sample of feature numbers in ascending order, `(max_features,)`; None to use all features."""
    if max_features is None or max_features >= n_features:
        return None
    rng = np.random.default_rng([seed, layer, zlib.crc32(name.encode())])
    return np.sort(rng.choice(n_features, max_features, replace=False))


def load_matrix(path: Path, target: Target) -> Tensor:
    """Read a matrix of directions `(n_features, d)` from an npy file or a safetensors file with a single matrix.

    Raises:
        SelfExplainError: the file cannot be read, does not contain exactly one matrix of the target's width, or has
            values that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".npy":
            matrices = [torch.from_numpy(np.load(path, allow_pickle=False))]
        else:
            matrices = [tensor for tensor in load_file(path).values() if tensor.ndim == 2]
    except (OSError, ValueError, SafetensorError) as error:
        raise SelfExplainError(
            f"{path} cannot be read as a matrix of directions ({error}). Give an npy or safetensors file."
        ) from error
    if len(matrices) != 1 or matrices[0].ndim != 2 or matrices[0].shape[1] != target.d_model:
        shapes = [tuple(matrix.shape) for matrix in matrices]
        raise SelfExplainError(
            f"{path} contains {shapes or 'no matrix'}; expected one matrix (n_features, {target.d_model}) of "
            f"directions in the residual stream of {target.name}."
        )
    if not matrices[0].isfinite().all():
        raise SelfExplainError(f"{path} contains values that are not finite. Remove the rows with such values.")
    return matrices[0].float()


def load_sae(path: Path, target: Target, layer: int, trained_on: str | None = None) -> "SAE":
    """Load one SAE to the CPU and check that it was made for the output of block `layer` of this target.

    Args:
        trained_on: see `load_dictionaries`.

    Raises:
        SelfExplainError: the directory contains no SAE, or one of a different model, layer or width.
    """
    from sae_lens import SAE

    try:
        config = json.loads((path / "cfg.json").read_text())
    except (OSError, ValueError) as error:
        raise SelfExplainError(
            f"{path} contains no SAE ({error}). Expected a directory written by SAE.save_model of sae-lens."
        ) from error
    check_metadata(f"The SAE in {path}", config.get("d_in"), config.get("metadata", config), target, layer, trained_on)
    return SAE.load_from_disk(path).requires_grad_(False)


def _from_release(
    release: str,
    sae_id: str | None,
    target: Target,
    layer: int,
    max_features: int | None,
    seed: int,
    trained_on: str | None,
) -> Dictionary:
    """Load the dictionary of one layer from a release of sae-lens."""
    from huggingface_hub.errors import HfHubHTTPError
    from sae_lens import SAE

    if sae_id is None:
        raise SelfExplainError(
            f"saes is {release!r}, which is not a directory. For a release of sae-lens, set sae_id to the name of the "
            "SAE of each layer, with {layer} for the layer's number, such as sae_id='l{layer}r_32x'."
        )
    name = sae_id.replace("{layer}", str(number_in_id(sae_id, layer)))
    try:
        sae = SAE.from_pretrained(release, name)
    except (ValueError, KeyError, OSError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SelfExplainError(
            f"sae-lens could not load SAE {name!r} of release {release!r}: {reason}. "
            "sae_lens.loading.pretrained_saes_directory.get_pretrained_saes_directory() lists all releases."
        ) from error
    metadata = sae.cfg.metadata.to_dict()
    check_metadata(f"SAE {name!r} of {release}", sae.cfg.d_in, metadata, target, layer, trained_on)
    drawn = _draw_features(sae.cfg.d_sae, max_features, seed, layer, name)
    about = sae.requires_grad_(False), layer, release, name, drawn, target.model.device
    return dictionary_from_sae(*about, is_centered(metadata, target))
