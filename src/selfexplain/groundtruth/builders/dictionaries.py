"""Prepare the features to describe: choose layers, tokenize the corpus, and train or load dictionaries."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.features.dictionary import Dictionary, load_dictionaries
from selfexplain.features.exemplars import ExemplarState, collect
from selfexplain.features.saes import sample_activations, train_saes
from selfexplain.groundtruth.config import FeatureConfig
from selfexplain.target.capture import check_layers
from selfexplain.target.load import Target
from selfexplain.target.tokens import added_tokens

LayerSpec = int | float | str


def choose_layers(layers: Sequence[LayerSpec] | None, n_layers: int) -> list[int]:
    """Indices of the requested layers, each once.

    Args:
        layers: indices, fractions of the depth from 0.0 (first layer) to 1.0 (last layer), or ranges of either such as
            "8-15"; None for all layers.
        n_layers: number of layers of the target.

    Raises:
        SelfExplainError: a layer does not exist, or a range is not valid.
    """
    requested = range(n_layers) if layers is None else [n for spec in layers for n in _layers_of(spec, n_layers)]
    return list(dict.fromkeys(check_layers(requested, n_layers)))


def _layers_of(spec: LayerSpec, n_layers: int) -> list[int]:
    if not isinstance(spec, str):
        return [_layer_index(spec, n_layers)]
    match = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", spec)
    ends = [float(end) if "." in end else int(end) for end in match.groups()] if match else []
    first, last = (_layer_index(end, n_layers) for end in ends) if ends else (0, -1)
    if last < first:
        raise SelfExplainError(f"layers contains {spec!r}. Expected a range such as '8-15' or '0.25-0.75'.")
    return list(range(first, last + 1))


def _layer_index(value: int | float, n_layers: int) -> int:
    if isinstance(value, int):
        return value
    if not 0 <= value <= 1:
        raise SelfExplainError(f"layers contains {value}. Expected a fraction of the depth from 0.0 to 1.0.")
    return round(value * (n_layers - 1))


def corpus_token_ids(target: Target, corpus: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of the distinct texts, including special tokens, each truncated to `max_tokens`.

    Repeated texts are dropped, because they would fill the strongest exemplars with copies of one window.
    """
    max_tokens = min(max_tokens, target.context_length)
    before, _ = added_tokens(target.tokenizer)
    encoded = target.tokenizer(list(dict.fromkeys(corpus)), add_special_tokens=False)["input_ids"]
    return [list(ids) for ids in dict.fromkeys(tuple([*before, *ids][:max_tokens]) for ids in encoded) if ids]


def train_dictionaries(
    config: FeatureConfig,
    target: Target,
    token_ids: Sequence[Sequence[int]],
    layers: Sequence[int],
    work_dir: Path,
    seed: int,
) -> None:
    """Train the SAEs of these layers and write them to `work_dir/saes`, unless the settings name existing SAEs.

    Files that an earlier training with other settings left there are deleted.
    """
    if config.saes is None:
        shutil.rmtree(work_dir / "saes", ignore_errors=True)
        names = ("n_saes", "n_features", "k", "n_tokens", "learning_rate")
        settings = {name: getattr(config, name) for name in names}
        train_saes(target, token_ids, layers, work_dir / "saes", **settings, seed=seed)


def find_dictionaries(
    config: FeatureConfig,
    target: Target,
    token_ids: Sequence[Sequence[int]],
    layers: Sequence[int],
    work_dir: Path,
    seed: int,
) -> list[Dictionary]:
    """Load the dictionaries that the settings name, or the SAEs that were trained in `work_dir/saes`."""

    @cache
    def centers() -> dict[int, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        activations = sample_activations(target, token_ids, layers, config.n_tokens, generator)
        return dict(zip(layers, activations.mean(1).to(target.model.device), strict=True))

    dictionaries = load_dictionaries(
        config.saes or str(work_dir / "saes"),
        target,
        layers,
        sae_id=config.sae_id,
        max_features=config.max_features,
        seed=seed,
        trained_on=config.saes_trained_on,
        centers=centers,
    )
    if config.saes:
        return dictionaries
    return [replace(dictionary, release=f"trained on {target.name}") for dictionary in dictionaries]


def collect_shard(
    config: FeatureConfig,
    target: Target,
    token_ids: Sequence[Sequence[int]],
    dictionaries: Sequence[Dictionary],
    shard: int,
    n_shards: int,
) -> ExemplarState:
    """Collect exemplars from every `n_shards`-th text, starting with text number `shard`.

    Merging the states of all shards gives the state of the whole corpus.
    """
    return collect(
        target,
        dictionaries,
        token_ids[shard::n_shards],
        n_top=config.n_top,
        n_sampled=config.n_top + config.n_sampled,  # more than needed, because the strongest may be among them
        n_splits=n_exemplar_sets(config),
        sequence_ids=range(shard, len(token_ids), n_shards),
    )


def has_several_candidates(config: FeatureConfig) -> bool:
    """Whether features get several candidate descriptions, from which the best one is chosen."""
    return len(config.descriptions) > 1 or config.n_candidates > 1


def n_exemplar_sets(config: FeatureConfig) -> int:
    """Number of exemplar sets per feature: one to write from, one to score on, and one to choose on if needed."""
    return 3 if has_several_candidates(config) else 2
