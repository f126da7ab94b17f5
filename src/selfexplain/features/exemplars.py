"""Where features fire: one pass over the corpus for all layers and features, then the token windows it picked.

Kept per feature and split: the `top` strongest sequences, and per fixed log-spaced bin of activation those of smallest
hash, a sample that neither order nor batching changes. Memory does not grow with the corpus. A sequence belongs to one
split, by a hash of its tokens, so nothing a description was written from is ever used to score it.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from selfexplain.features.saes import residual_batches
from selfexplain.target.load import Target

if TYPE_CHECKING:
    from sae_lens import SAE

N_SPLITS = 2  # 0: descriptions are written from it, 1: they are scored on it
N_BINS = 24
MERGE_AT_LEAST = 2**16
LOWEST_BIN = -12  # bin b holds activations from 2 ** (LOWEST_BIN + b) up to twice that; the outer bins are open


class Exemplar(TypedDict):
    """A window of text: its tokens as decoded one by one, and one feature's activation at each."""

    tokens: list[str]
    activations: NDArray[np.float32]


@dataclass(frozen=True)
class FeatureExemplars:
    """What one feature did on the corpus. `density` is the fraction of tokens it fires on."""

    layer: int
    feature: int
    density: float
    exemplars: list[Exemplar]
    scoring_exemplars: list[Exemplar]


class Smallest:
    """The `size` entries of smallest score per key, at most one of each sequence, whatever order they come in.

    Entries that can still win are buffered and merged many at a time: `keys`, `scores`, `sequences` and `positions`
    are parallel `(n,)` arrays sorted by key, then score.
    """

    def __init__(self, size: int, n_keys: int):
        self.size = size
        self.keys, self.sequences, self.positions = (np.empty(0, np.int64) for _ in range(3))
        self.scores = np.empty(0)
        self._worst = np.full(n_keys, np.inf)  # a score above this cannot win any more
        self._buffer: list[list[NDArray]] = []

    def add(self, keys: NDArray, scores: NDArray, sequences: NDArray, positions: NDArray) -> None:
        self._buffer.append(_take([keys, scores, sequences, positions], scores <= self._worst[keys]))
        if sum(len(columns[0]) for columns in self._buffer) > max(len(self.keys), MERGE_AT_LEAST):
            self._merge()

    def _merge(self) -> None:
        kept = [self.keys, self.scores, self.sequences, self.positions]
        columns = [np.concatenate(parts) for parts in zip(kept, *self._buffer, strict=True)]
        columns = _take(columns, np.lexsort((columns[3], columns[1], columns[2], columns[0])))
        new = np.ones(len(columns[0]), bool)  # the best of its key and sequence
        new[1:] = (columns[0][1:] != columns[0][:-1]) | (columns[2][1:] != columns[2][:-1])
        columns = _take(columns, new)
        columns = _take(columns, np.lexsort((columns[3], columns[2], columns[1], columns[0])))
        rank = np.arange(len(columns[0])) - np.searchsorted(columns[0], columns[0])  # within the key
        last = rank == self.size - 1
        self._worst[columns[0][last]] = columns[1][last]
        self.keys, self.scores, self.sequences, self.positions = _take(columns, rank < self.size)
        self._buffer = []

    def of(self, key: int) -> list[tuple[int, int]]:
        """The entries of a key as (sequence, position), smallest score first."""
        if self._buffer:
            self._merge()
        entries = slice(*np.searchsorted(self.keys, [key, key + 1]))
        return list(zip(self.sequences[entries].tolist(), self.positions[entries].tolist(), strict=True))


def _take(columns: list[NDArray], index: NDArray) -> list[NDArray]:
    return [column[index] for column in columns]


@dataclass
class Firings:
    """What the pass keeps of one layer.

    Attributes:
        counts: `(n_features,)` tokens each feature fires on.
        top: keyed by feature and split, scored by the negative activation.
        sampled: keyed by feature, split and bin, scored by the hash.
    """

    counts: NDArray[np.int64]
    top: Smallest
    sampled: Smallest
    n_tokens: int = 0

    def active(self, feature: int, split: int, n_top: int, n_sampled: int) -> list[tuple[int, int]]:
        """Windows that fire, as (sequence, position), each sequence once: the strongest, then bins in turn."""
        key = feature * N_SPLITS + split
        bins = [self.sampled.of(key * N_BINS + activation_bin) for activation_bin in reversed(range(N_BINS))]
        in_turn = [pick for turn in zip_longest(*bins) for pick in turn if pick]
        chosen = dict(self.top.of(key)[:n_top])
        for sequence, position in in_turn:
            if len(chosen) == n_top + n_sampled:
                break
            chosen.setdefault(sequence, position)
        return list(chosen.items())


def splits(token_ids: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """The split each sequence belongs to, `(n,)`: equal texts land in the same one."""
    return np.array([zlib.crc32(np.asarray(ids, np.int64).tobytes()) for ids in token_ids]) % N_SPLITS


def position_hash(sequences: NDArray, positions: NDArray) -> NDArray[np.float64]:
    """A fixed pseudo-random number in [0, 1) per token of the corpus (splitmix64)."""
    z = (sequences.astype(np.uint64) << np.uint64(24)) + positions.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) / 2.0**53


@torch.no_grad()
def find_firings(
    target: Target, token_ids: Sequence[Sequence[int]], saes: Mapping[int, "SAE"], n_top: int, n_sampled: int
) -> dict[int, Firings]:
    """Pass once over the corpus; per layer, count firings and keep the strongest and a sample across bins.

    Args:
        token_ids: the corpus, special tokens included; they are never counted nor kept.
        n_top, n_sampled: how many windows of each kind a feature may be asked for later.
    """
    split_of = splits(token_ids)
    found = {
        layer: Firings(
            np.zeros(sae.cfg.d_sae, np.int64),
            Smallest(n_top, sae.cfg.d_sae * N_SPLITS),
            Smallest(n_sampled, sae.cfg.d_sae * N_SPLITS * N_BINS),
        )
        for layer, sae in saes.items()
    }
    for batch in residual_batches(target, token_ids, list(saes), "finding exemplars"):
        rows, positions = (index.numpy() for index in batch.keep.nonzero(as_tuple=True))
        sequences = batch.sequences.numpy()[rows]
        keep = batch.keep.to(batch.hidden.device)
        for (layer, sae), hidden in zip(saes.items(), batch.hidden, strict=True):
            activations = sae.encode(hidden[keep]).relu().cpu()  # (n, n_features)
            tokens, features = (index.numpy() for index in activations.nonzero(as_tuple=True))
            values = activations.numpy()[tokens, features].astype(np.float64)
            where = sequences[tokens], positions[tokens]
            keys = features * N_SPLITS + split_of[where[0]]
            bins = np.clip(np.floor(np.log2(values)).astype(np.int64) - LOWEST_BIN, 0, N_BINS - 1)
            firings = found[layer]
            firings.counts += np.bincount(features, minlength=len(firings.counts))
            firings.n_tokens += len(rows)
            firings.top.add(keys, -values, *where)
            firings.sampled.add(keys * N_BINS + bins, position_hash(*where), *where)
    return found


def collect_exemplars(
    target: Target,
    token_ids: Sequence[Sequence[int]],
    saes: Mapping[int, "SAE"],
    *,
    n_top: int = 10,
    n_sampled: int = 10,
    n_random: int = 10,
    window: int = 24,
    min_active: int = 5,
    seed: int = 0,
) -> tuple[list[FeatureExemplars], dict[str, int]]:
    """Exemplars of every feature that fires in at least `min_active` sequences of each split.

    Each of the two sets holds up to `n_top` strongest windows, `n_sampled` from across the bins and `n_random` windows
    of other sequences drawn blindly, mostly inactive. A window has up to `window` tokens, two thirds of them before the
    token it was picked for; special tokens are left out.

    Returns:
        The exemplars, and how many features there are (`trained`), never fire (`dead`) or fire too rarely (`skipped`).
    """
    found = find_firings(target, token_ids, saes, n_top, n_sampled)
    rng = np.random.default_rng(seed)
    special = set(target.tokenizer.all_special_ids)
    split_of = splits(token_ids)
    pools = [np.flatnonzero(split_of == split) for split in range(N_SPLITS)]
    statistics = {"trained": 0, "dead": 0, "skipped": 0}
    wanted: list[tuple[int, int, int]] = []  # layer, feature, split of each window
    places: list[tuple[int, int]] = []  # sequence, position of each window
    for layer, firings in found.items():
        statistics["trained"] += len(firings.counts)
        statistics["dead"] += int((firings.counts == 0).sum())
        for feature in np.flatnonzero(firings.counts).tolist():
            active = [firings.active(feature, split, n_top, n_sampled) for split in range(N_SPLITS)]
            if min(map(len, active)) < min_active:
                statistics["skipped"] += 1
                continue
            for split, picks in enumerate(active):
                drawn = rng.choice(pools[split], min(len(pools[split]), n_random + len(picks)), replace=False)
                others = [index for index in drawn.tolist() if index not in dict(picks)][:n_random]
                picks = picks + [(index, int(rng.integers(len(token_ids[index])))) for index in others]
                places += picks
                wanted += [(layer, feature, split)] * len(picks)
    windows = fetch_windows(target, token_ids, saes, wanted, places, window)
    text_of = {token: target.tokenizer.decode([token]) for token in {token for ids in token_ids for token in ids}}
    gathered: dict[tuple[int, int], tuple[list[Exemplar], list[Exemplar]]] = {}
    for (layer, feature, split), (sequence, _), (start, values) in zip(wanted, places, windows, strict=True):
        ids = token_ids[sequence][start : start + window]
        kept = [index for index, token in enumerate(ids) if token not in special]
        exemplar = Exemplar(tokens=[text_of[ids[index]] for index in kept], activations=values[kept])
        gathered.setdefault((layer, feature), ([], []))[split].append(exemplar)
    return [
        FeatureExemplars(layer, feature, float(found[layer].counts[feature] / found[layer].n_tokens), *both)
        for (layer, feature), both in gathered.items()
    ], statistics


@torch.no_grad()
def fetch_windows(
    target: Target,
    token_ids: Sequence[Sequence[int]],
    saes: Mapping[int, "SAE"],
    wanted: Sequence[tuple[int, ...]],
    places: Sequence[tuple[int, int]],
    window: int,
) -> list[tuple[int, NDArray[np.float32]]]:
    """Run the sequences that hold a wanted window again; return each window's start and activations `(window,)`.

    Args:
        wanted: (layer, feature, ...) of each window.
        places: (sequence, position) of each window; the position lies two thirds into it, where the text allows.
    """
    if not places:
        return []
    layers, features = np.array(wanted)[:, :2].T
    sequences, positions = np.array(places).T
    lengths = np.array([len(ids) for ids in token_ids])[sequences]
    starts = np.clip(positions - 2 * window // 3, 0, np.maximum(lengths - window, 0))
    values = np.zeros((len(places), window), np.float32)
    needed = np.unique(sequences)
    for batch in residual_batches(target, [token_ids[index] for index in needed], list(saes), "fetching exemplars"):
        batch_sequences = needed[batch.sequences.numpy()]  # (B,)
        row_of = np.full(len(token_ids), -1)
        row_of[batch_sequences] = np.arange(len(batch_sequences))
        in_batch = row_of[sequences] >= 0
        length = batch.keep.shape[1]
        for (layer, sae), hidden in zip(saes.items(), batch.hidden, strict=True):
            inside = np.flatnonzero((layers == layer) & in_batch)
            activations = sae.encode(hidden).relu().cpu().numpy()  # (B, T, n_features)
            rows = row_of[sequences[inside]]
            columns = np.minimum(starts[inside, None] + np.arange(window), length - 1)  # (n, window)
            values[inside] = activations[rows[:, None], columns, features[inside, None]]
    return list(zip(starts.tolist(), values, strict=True))
