"""Find where features fire, in one pass over the corpus for all dictionaries.

For each feature and split, the pass keeps the strongest sequences and a sample across the range of activations. The
sample takes entries from log-spaced bins in turn, and from each bin those with the smallest hashes. Therefore it does
not depend on order, batching or sharding, and the states of shards merge to the same bytes in any order. Memory does
not grow with the corpus.

A hash of its tokens assigns each sequence to one split, so a description is never scored on a sequence that it was
written from.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.features.dictionary import Dictionary
from selfexplain.features.residuals import residual_batches
from selfexplain.target.load import Target

N_BINS = 24
LOWEST_BIN = -12  # bin b covers activations from 2 ** (LOWEST_BIN + b) to twice that; the outer bins are open
MERGE_AT_LEAST = 2**16  # pending entries before they are merged
LARGEST = 2**31 - 1  # largest int32


@dataclass
class Firings:
    """Up to `size` firings per key, best first. A key is a pair of feature and split.

    Attributes:
        values: activations, `(n_keys, size)`.
        sequences: indices of sequences in the corpus, `(n_keys, size)`; -1 marks unused entries.
        positions: token positions within the sequences, `(n_keys, size)`.
    """

    values: Tensor
    sequences: Tensor
    positions: Tensor

    @classmethod
    def empty(cls, n_keys: int, size: int, device: torch.device | str = "cpu") -> Self:
        """A table without entries."""
        return cls(
            torch.zeros(n_keys, size, device=device),
            torch.full((n_keys, size), -1, dtype=torch.int32, device=device),
            torch.zeros(n_keys, size, dtype=torch.int32, device=device),
        )

    def flat(self) -> list[Tensor]:
        """The used entries as columns key, value, sequence and position, `(n,)` each."""
        keys, _ = kept = (self.sequences >= 0).nonzero(as_tuple=True)
        return [keys, self.values[kept], self.sequences[kept], self.positions[kept]]


@dataclass
class ExemplarState:
    """The result of a pass over a corpus, or over a shard of it, for the features of all dictionaries.

    The state takes at most 40 bytes per feature and window: 12 bytes per entry, and a histogram.

    Attributes:
        n_splits: number of splits that sequences are divided into.
        counts: number of tokens that activate each feature, by bin, `(n_features, N_BINS)`.
        top: strongest sequences first; the key of a feature and split is `feature * n_splits + split`.
        sampled: sample across bins, with the same keys: bins in turn from strong to weak, each by ascending hash.
        totals: number of tokens counted, skipped as attention sinks, and skipped as special tokens, for each
            dictionary, `(n_dictionaries, 3)`.
    """

    n_splits: int
    counts: Tensor
    top: Firings
    sampled: Firings
    totals: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by the names that they have in a saved file."""
        return {
            "counts": self.counts,
            "totals": self.totals,
            **{f"top.{name}": tensor for name, tensor in vars(self.top).items()},
            **{f"sampled.{name}": tensor for name, tensor in vars(self.sampled).items()},
        }

    def merge(self, other: Self) -> Self:
        """The state of both corpora together. Merging shards in any order gives the same bytes.

        Raises:
            SelfExplainError: the states have different numbers of features, splits or entries.
        """
        shapes = [{name: tuple(tensor.shape) for name, tensor in state.tensors().items()} for state in (self, other)]
        if shapes[0] != shapes[1] or self.n_splits != other.n_splits:
            raise SelfExplainError(
                f"Exemplar states of different shapes cannot be merged: {shapes[0]} and {shapes[1]}. Rebuild them."
            )
        return type(self)(
            self.n_splits,
            self.counts + other.counts,
            strongest(_joined(self.top, other.top), *self.top.values.shape),
            bins_in_turn(_joined(self.sampled, other.sampled), *self.sampled.values.shape),
            self.totals + other.totals,
        )

    def split(self, sizes: Sequence[Sequence[int]]) -> list[Self]:
        """Split the state of a pass over several groups of dictionaries into one state per group.

        Args:
            sizes: number of features of each dictionary, by group, in the order of the pass.
        """
        parts, feature, dictionary = [], 0, 0
        for group in sizes:
            n = sum(group)
            keys = slice(feature * self.n_splits, (feature + n) * self.n_splits)
            top, sampled = (Firings(*(t[keys] for t in vars(table).values())) for table in (self.top, self.sampled))
            counts, totals = self.counts[feature : feature + n], self.totals[dictionary : dictionary + len(group)]
            parts.append(type(self)(self.n_splits, counts, top, sampled, totals))
            feature, dictionary = feature + n, dictionary + len(group)
        return parts

    def save(self, path: Path) -> None:
        """Write a safetensors file. Equal states give equal bytes."""
        from safetensors.torch import save_file

        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.tensors().items()}
        save_file(tensors, path, metadata={"n_splits": str(self.n_splits)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a state to the CPU.

        Raises:
            SelfExplainError: the file is missing, truncated or not an exemplar state.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                n_splits = int(file.metadata()["n_splits"])
            top, sampled = (
                Firings(*(tensors[f"{table}.{name}"] for name in ("values", "sequences", "positions")))
                for table in ("top", "sampled")
            )
            return cls(n_splits, tensors["counts"], top, sampled, tensors["totals"])
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise SelfExplainError(
                f"{path} is not an exemplar state ({error}). Delete the file and run again to rebuild it."
            ) from error

    def to(self, device: torch.device | str) -> Self:
        """A copy on another device."""
        top, sampled = (Firings(*(t.to(device) for t in vars(table).values())) for table in (self.top, self.sampled))
        return type(self)(self.n_splits, self.counts.to(device), top, sampled, self.totals.to(device))


def splits(token_ids: Sequence[Sequence[int]], n_splits: int = 2) -> NDArray[np.int64]:
    """The split of each sequence, `(n,)`. Equal sequences are in the same split."""
    return np.array([zlib.crc32(np.asarray(ids, np.int64).tobytes()) for ids in token_ids], np.int64) % n_splits


def position_hash(sequences: Tensor, positions: Tensor) -> Tensor:
    """A fixed pseudo-random number for each token of the corpus, `(n,)` int64 in [0, 2 ** 63) (splitmix64).

    Args:
        sequences: indices of sequences in the corpus, `(n,)`.
        positions: token positions, `(n,)`.
    """

    def shifted(z: Tensor, bits: int) -> Tensor:  # logical shift, as for unsigned integers
        return (z >> bits) & ((1 << (64 - bits)) - 1)

    z = (sequences.long() << 24) + positions.long() - 0x61C8864680B583EB
    z = (z ^ shifted(z, 30)) * -0x40A7B892E31B1A47
    z = (z ^ shifted(z, 27)) * -0x6B2FB644ECCEEE15
    return shifted(z ^ shifted(z, 31), 1)


def bins_of(values: Tensor) -> Tensor:
    """The bin of each positive float32, `(n,)` int64, from its binary exponent."""
    return ((values.view(torch.int32) >> 23).long() - 127 - LOWEST_BIN).clamp(0, N_BINS - 1)


def strongest(columns: list[Tensor], n_keys: int, size: int) -> Firings:
    """The `size` entries with the largest values of each key.

    Args:
        columns: key, value, sequence and position, `(n,)` each.
    """
    keys, values, sequences, _ = columns
    falling = LARGEST - values.view(torch.int32)  # positive floats have the same order as their bits
    return _table(columns, _order(sequences, keys << 32 | falling), n_keys, size)


def bins_in_turn(columns: list[Tensor], n_keys: int, size: int) -> Firings:
    """The first `size` entries of each key when its bins take turns, each bin in the order of ascending hash.

    An entry that is not selected from a part is not selected from the whole either, because further entries only move
    it back. Therefore the selections of parts can be merged.

    Args:
        columns: key, value, sequence and position, `(n,)` each.
    """
    keys, values, sequences, positions = columns
    falling_bins = N_BINS - 1 - bins_of(values)
    bin_keys = keys * N_BINS + falling_bins
    order = _order(position_hash(sequences, positions), bin_keys)
    turns = torch.empty_like(keys)
    turns[order] = _rank(bin_keys[order])
    return _table(columns, _order(keys << 32 | turns * N_BINS + falling_bins), n_keys, size)


def _joined(first: Firings, second: Firings) -> list[Tensor]:
    """The columns of the entries of both tables."""
    return [torch.cat(parts) for parts in zip(first.flat(), second.flat(), strict=True)]


def _order(*columns: Tensor) -> Tensor:
    """Indices that sort rows by the last column, then by the one before it, and so on, `(n,)`."""
    order = columns[0].argsort(stable=True)
    for column in columns[1:]:
        order = order[column.index_select(0, order).argsort(stable=True)]
    return order


def _rank(runs: Tensor) -> Tensor:
    """The index of each entry within its run of equal values, `(n,)`."""
    _, lengths = torch.unique_consecutive(runs, return_counts=True)
    starts = lengths.cumsum(0) - lengths
    return torch.arange(len(runs), device=runs.device) - starts.repeat_interleave(lengths)


def _table(columns: list[Tensor], order: Tensor, n_keys: int, size: int) -> Firings:
    """The first `size` entries of each key in the given order."""
    keys, values, sequences, positions = (column.index_select(0, order) for column in columns)
    rank = _rank(keys)
    kept = rank < size
    cells = (keys * size + rank)[kept]
    table = Firings.empty(n_keys, size, keys.device)
    table.values.view(-1)[cells] = values[kept]
    table.sequences.view(-1)[cells] = sequences[kept]
    table.positions.view(-1)[cells] = positions[kept]
    return table


@dataclass(frozen=True)
class _BatchFirings:
    """All active (token, feature) pairs of one batch.

    Attributes:
        features: feature numbers, `(n,)`.
        values: activations, `(n,)`.
        rows: rows of the batch, `(n,)`.
        positions: token positions, `(n,)`.
    """

    features: Tensor
    values: Tensor
    rows: Tensor
    positions: Tensor


class _Collector:
    """Collects the firings of one dictionary. Entries that may be kept are pending until many are merged at once."""

    def __init__(self, n_features: int, n_splits: int, n_top: int, n_sampled: int, device: torch.device):
        n_keys = n_features * n_splits
        self.n_splits = n_splits
        self.counts = torch.zeros(n_features, N_BINS, dtype=torch.int64, device=device)
        self.top = Firings.empty(n_keys, n_top, device)
        self.sampled = Firings.empty(n_keys, n_sampled, device)
        self.pending_top: list[list[Tensor]] = []
        self.pending_sampled: list[list[Tensor]] = []
        self.admitted = torch.full((n_keys, N_BINS), LARGEST, dtype=torch.int32, device=device)

    def add(self, firings: _BatchFirings, split_of: Tensor, sequence_ids: Tensor) -> None:
        """Add the firings of one batch.

        Args:
            split_of: split of each row of the batch, `(B,)`.
            sequence_ids: index in the corpus of each row of the batch, `(B,)`.
        """
        features, values, rows, positions = firings.features, firings.values, firings.rows, firings.positions
        bins, sequences = bins_of(values), sequence_ids.index_select(0, rows)
        self.counts.view(-1).index_add_(0, features * N_BINS + bins, torch.ones_like(features))
        columns = [features * self.n_splits + split_of.index_select(0, rows), values, sequences, positions.int()]
        keys = columns[0]
        cells = features * len(sequence_ids) + rows  # one entry per sequence, which is complete in this batch
        n_cells = len(self.counts) * len(sequence_ids)

        weakest = self.top.values[:, -1].index_select(0, keys)
        strong = (values >= weakest).nonzero().squeeze(1)
        scores = (values[strong].view(torch.int32).long() << 32) - positions[strong]
        strong = strong[_is_best(cells[strong], scores, n_cells)]
        self.pending_top.append([column.index_select(0, strong) for column in columns])

        hashes = position_hash(sequences, positions)
        drawn = _is_best(cells, -hashes, n_cells).nonzero().squeeze(1)
        drawn = drawn[hashes[drawn] >> 32 <= self.admitted[keys[drawn], bins[drawn]]]
        self.pending_sampled.append([column.index_select(0, drawn) for column in columns])

        if _n_entries(self.pending_top) > max(MERGE_AT_LEAST, self.top.values.numel()):
            self.merge_top()
        if _n_entries(self.pending_sampled) > max(MERGE_AT_LEAST, self.sampled.values.numel()):
            self.merge_sampled()

    def merge_top(self) -> None:
        """Merge the pending entries of `top`."""
        columns = [torch.cat(parts) for parts in zip(self.top.flat(), *self.pending_top, strict=True)]
        self.top, self.pending_top = strongest(columns, *self.top.values.shape), []

    def merge_sampled(self) -> None:
        """Merge the pending entries of `sampled`, and update which hashes each bin still admits."""
        columns = [torch.cat(parts) for parts in zip(self.sampled.flat(), *self.pending_sampled, strict=True)]
        self.sampled, self.pending_sampled = bins_in_turn(columns, *self.sampled.values.shape), []
        # A bin of a full key that already has its share of entries admits only hashes below its largest one.
        bins = bins_of(self.sampled.values)  # (n_keys, size)
        hashes = position_hash(self.sampled.sequences, self.sampled.positions) >> 32
        filled = torch.zeros_like(self.admitted).scatter_add(1, bins, torch.ones_like(bins, dtype=torch.int32))
        largest = torch.full_like(self.admitted, -1).scatter_reduce(1, bins, hashes.int(), "amax")
        last_bin = bins[:, -1:]
        due = filled.gather(1, last_bin) - 1 + (torch.arange(N_BINS, device=bins.device) >= last_bin)
        full = self.sampled.sequences[:, -1:] >= 0
        self.admitted = torch.where(full & (filled >= due), largest, LARGEST)


def _n_entries(pending: list[list[Tensor]]) -> int:
    return sum(len(columns[0]) for columns in pending)


def _is_best(cells: Tensor, scores: Tensor, n_cells: int) -> Tensor:
    """Whether each entry has the largest score of its cell, `(n,)`."""
    lowest = torch.iinfo(torch.int64).min
    best = torch.full((n_cells,), lowest, device=cells.device).scatter_reduce(0, cells, scores, "amax")
    return scores == best.index_select(0, cells)


def active_pairs(activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens, features and values of all activations `(n_tokens, n_features)` above 0, `(n,)` each."""
    firing = (activations > 0).view(-1)
    # On a CPU, numpy is four times as fast.
    cells = firing.nonzero().squeeze(1) if firing.is_cuda else torch.from_numpy(np.flatnonzero(firing.numpy()))
    tokens = cells // activations.shape[1]
    features = cells - tokens * activations.shape[1]  # cheaper than a second division
    return tokens, features, activations.view(-1).index_select(0, cells).float()


@torch.no_grad()
def collect(
    target: Target,
    dictionaries: Sequence[Dictionary],
    token_ids: Sequence[Sequence[int]],
    *,
    n_top: int,
    n_sampled: int,
    n_splits: int = 2,
    sequence_ids: Sequence[int] | None = None,
) -> ExemplarState:
    """Pass once over the corpus or a shard of it: count firings, keep the strongest ones and a sample across bins.

    Args:
        target: model that reads the texts.
        dictionaries: dictionaries whose features are counted.
        token_ids: token ids of each text, including special tokens, which are skipped like attention sinks.
        n_top: number of strongest entries to keep per feature and split.
        n_sampled: number of sampled entries to keep per feature and split.
        n_splits: number of splits that texts are divided into.
        sequence_ids: index of each text in the whole corpus; None if `token_ids` is the whole corpus.

    Raises:
        SelfExplainError: there is no text or no dictionary, or an activation is not finite.
    """
    if not token_ids or not dictionaries:
        raise SelfExplainError(
            f"{len(token_ids)} texts and {len(dictionaries)} dictionaries were given. Give at least one of each."
        )
    device = target.model.device
    split_of = torch.from_numpy(splits(token_ids, n_splits))
    ids = torch.arange(len(token_ids)) if sequence_ids is None else torch.as_tensor(sequence_ids)
    layers = sorted({dictionary.layer for dictionary in dictionaries})
    collectors = [_Collector(d.n_features, n_splits, n_top, n_sampled, device) for d in dictionaries]
    totals = torch.zeros(len(dictionaries), 3, dtype=torch.int64)
    for batch in residual_batches(target, token_ids, layers, "finding exemplars"):
        batch_splits, batch_ids = split_of[batch.sequences].to(device), ids[batch.sequences].int().to(device)
        for number, (dictionary, collector) in enumerate(zip(dictionaries, collectors, strict=True)):
            at = layers.index(dictionary.layer)
            kept = batch.keep[at].flatten().nonzero().squeeze(1)  # (n_tokens,) cells of the batch
            activations = dictionary.encode(batch.hidden[at].flatten(0, 1).index_select(0, kept))
            tokens, features, values = active_pairs(activations)
            cells, length = kept.index_select(0, tokens), batch.words.shape[1]
            collector.add(_BatchFirings(features, values, cells // length, cells % length), batch_splits, batch_ids)
            totals[number] += torch.tensor([len(kept), int(batch.sinks[at].sum()), batch.n_special])
    for collector in collectors:
        collector.merge_top()
        collector.merge_sampled()
    return ExemplarState(
        n_splits,
        torch.cat([collector.counts for collector in collectors]),
        _stacked([collector.top for collector in collectors]),
        _stacked([collector.sampled for collector in collectors]),
        totals.to(device),
    )


def _stacked(tables: Sequence[Firings]) -> Firings:
    """One table with the keys of all tables in order."""
    return Firings(*(torch.cat(columns) for columns in zip(*(vars(table).values() for table in tables), strict=True)))
