"""Where features fire: one pass over the corpus for all dictionaries, of which little is kept.

Kept per feature and split: the strongest sequences, and a sample from across the range of activations. The sample takes
log-spaced bins in turn and from each the windows of smallest hash, so neither order nor batching nor sharding changes
it, and states of shards merge to the same bytes in any order. Memory does not grow with the corpus.

A sequence belongs to one split, by a hash of its tokens, so nothing a description was written from ever scores it.
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
LOWEST_BIN = -12  # bin b holds activations from 2 ** (LOWEST_BIN + b) up to twice that; the outer bins are open
MERGE_AT_LEAST = 2**16
NEVER = 2**31 - 1


@dataclass
class Places:
    """Where each key's features fired, best first: `(n_keys, size)` each; a sequence of -1 where there are fewer."""

    values: Tensor
    sequences: Tensor
    positions: Tensor

    @classmethod
    def empty(cls, n_keys: int, size: int, device: torch.device | str = "cpu") -> Self:
        return cls(
            torch.zeros(n_keys, size, device=device),
            torch.full((n_keys, size), -1, dtype=torch.int32, device=device),
            torch.zeros(n_keys, size, dtype=torch.int32, device=device),
        )

    def flat(self) -> list[Tensor]:
        """The entries as parallel `(n,)` columns: key, value, sequence, position."""
        keys, _ = kept = (self.sequences >= 0).nonzero(as_tuple=True)
        return [keys, self.values[kept], self.sequences[kept], self.positions[kept]]


@dataclass
class ExemplarState:
    """What a pass over a corpus, or over a shard of it, keeps of `n_features` features, those of all dictionaries.

    At most 40 bytes a feature and window: 12 bytes an entry, and a histogram.

    Attributes:
        n_splits: parts that sequences are divided into.
        counts: `(n_features, N_BINS)` tokens that activate each feature, by bin.
        top: keys `feature * n_splits + split`, strongest sequences first.
        sampled: the same keys; the bins in turn, strong ones first, each by rising hash.
        totals: `(n_dictionaries, 3)` tokens counted, left out as attention sinks, left out as special.
    """

    n_splits: int
    counts: Tensor
    top: Places
    sampled: Places
    totals: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {
            "counts": self.counts,
            "totals": self.totals,
            **{f"top.{name}": tensor for name, tensor in vars(self.top).items()},
            **{f"sampled.{name}": tensor for name, tensor in vars(self.sampled).items()},
        }

    def merge(self, other: Self) -> Self:
        """Both together; associative, commutative, and the same to the byte however shards are paired.

        Raises:
            SelfExplainError: states of other features or other sizes.
        """
        shapes = [{name: tuple(tensor.shape) for name, tensor in state.tensors().items()} for state in (self, other)]
        if shapes[0] != shapes[1] or self.n_splits != other.n_splits:
            raise SelfExplainError(f"exemplar states of different shape cannot be merged: {shapes[0]} and {shapes[1]}.")
        return type(self)(
            self.n_splits,
            self.counts + other.counts,
            strongest(_joined(self.top, other.top), *self.top.values.shape),
            bins_in_turn(_joined(self.sampled, other.sampled), *self.sampled.values.shape),
            self.totals + other.totals,
        )

    def split(self, sizes: Sequence[Sequence[int]]) -> list[Self]:
        """The states of several lots of dictionaries that one pass was made for, as passes of their own give them.

        Args:
            sizes: the features of each dictionary, by lot, in the order of the pass.
        """
        parts, feature, dictionary = [], 0, 0
        for lot in sizes:
            n = sum(lot)
            keys = slice(feature * self.n_splits, (feature + n) * self.n_splits)
            top, sampled = (Places(*(t[keys] for t in vars(table).values())) for table in (self.top, self.sampled))
            counts, totals = self.counts[feature : feature + n], self.totals[dictionary : dictionary + len(lot)]
            parts.append(type(self)(self.n_splits, counts, top, sampled, totals))
            feature, dictionary = feature + n, dictionary + len(lot)
        return parts

    def save(self, path: Path) -> None:
        """Write a safetensors file; equal states give equal bytes."""
        from safetensors.torch import save_file

        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.tensors().items()}
        save_file(tensors, path, metadata={"n_splits": str(self.n_splits)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a state back, on the CPU.

        Raises:
            SelfExplainError: the file is missing, cut off or something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                n_splits = int(file.metadata()["n_splits"])
            top, sampled = (
                Places(*(tensors[f"{table}.{name}"] for name in ("values", "sequences", "positions")))
                for table in ("top", "sampled")
            )
            return cls(n_splits, tensors["counts"], top, sampled, tensors["totals"])
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise SelfExplainError(
                f"{path} is no exemplar state ({error}). Delete it to have it made again."
            ) from error

    def to(self, device: torch.device | str) -> Self:
        top, sampled = (Places(*(t.to(device) for t in vars(table).values())) for table in (self.top, self.sampled))
        return type(self)(self.n_splits, self.counts.to(device), top, sampled, self.totals.to(device))

    def quantiles(self, q: Sequence[float]) -> Tensor:
        """Quantiles of each feature's activations where it fires, `(n_features, len(q))`; NaN where it never does.

        Read from the histogram, log-linear within a bin: right to within the bin, a factor of two.
        """
        below = self.counts.cumsum(1).double()  # (n_features, N_BINS)
        total = below[:, -1:]
        wanted = torch.tensor(q, dtype=torch.float64, device=total.device) * total  # (n_features, n_q)
        bins = torch.searchsorted(below, wanted.contiguous()).clamp(max=N_BINS - 1)
        inside = (wanted - (below - self.counts).gather(1, bins)) / self.counts.gather(1, bins).clamp(min=1)
        values = torch.exp2(LOWEST_BIN + bins + inside)
        return values.masked_fill(total == 0, torch.nan)


def splits(token_ids: Sequence[Sequence[int]], n_splits: int = 2) -> NDArray[np.int64]:
    """The split each sequence belongs to, `(n,)`: equal texts land in the same one."""
    return np.array([zlib.crc32(np.asarray(ids, np.int64).tobytes()) for ids in token_ids], np.int64) % n_splits


def position_hash(sequences: Tensor, positions: Tensor) -> Tensor:
    """A fixed pseudo-random number per token of the corpus, int64 in [0, 2 ** 63) (splitmix64)."""

    def shifted(z: Tensor, bits: int) -> Tensor:  # without the sign, as for unsigned integers
        return (z >> bits) & ((1 << (64 - bits)) - 1)

    z = (sequences.long() << 24) + positions.long() - 0x61C8864680B583EB
    z = (z ^ shifted(z, 30)) * -0x40A7B892E31B1A47
    z = (z ^ shifted(z, 27)) * -0x6B2FB644ECCEEE15
    return shifted(z ^ shifted(z, 31), 1)


def bins_of(values: Tensor) -> Tensor:
    """The bin of each positive float32, `(n,)` int64: its binary exponent."""
    return ((values.view(torch.int32) >> 23).long() - 127 - LOWEST_BIN).clamp(0, N_BINS - 1)


def strongest(columns: list[Tensor], n_keys: int, size: int) -> Places:
    """The `size` entries of largest value per key. `columns`: key, value, sequence, position, `(n,)` each."""
    keys, values, sequences, _ = columns
    falling = NEVER - values.view(torch.int32)  # floats above 0 order as their bits do
    return _table(columns, _order(sequences, keys << 32 | falling), n_keys, size)


def bins_in_turn(columns: list[Tensor], n_keys: int, size: int) -> Places:
    """The `size` entries per key that taking its bins in turn gives, each bin by rising hash.

    What is left out of one part is left out of the whole: more entries only push it back. So this merges.
    """
    keys, values, sequences, positions = columns
    falling_bins = N_BINS - 1 - bins_of(values)
    bin_keys = keys * N_BINS + falling_bins
    order = _order(position_hash(sequences, positions), bin_keys)
    turns = torch.empty_like(keys)
    turns[order] = _rank(bin_keys[order])
    return _table(columns, _order(keys << 32 | turns * N_BINS + falling_bins), n_keys, size)


def _joined(first: Places, second: Places) -> list[Tensor]:
    return [torch.cat(parts) for parts in zip(first.flat(), second.flat(), strict=True)]


def _order(*columns: Tensor) -> Tensor:
    """Indices that sort by the last column, then by the one before it, ..."""
    order = columns[0].argsort(stable=True)
    for column in columns[1:]:
        order = order[column.index_select(0, order).argsort(stable=True)]
    return order


def _rank(runs: Tensor) -> Tensor:
    """The place of each entry within its run of equal values, `(n,)`."""
    _, lengths = torch.unique_consecutive(runs, return_counts=True)
    starts = lengths.cumsum(0) - lengths
    return torch.arange(len(runs), device=runs.device) - starts.repeat_interleave(lengths)


def _table(columns: list[Tensor], order: Tensor, n_keys: int, size: int) -> Places:
    keys, values, sequences, positions = (column.index_select(0, order) for column in columns)
    rank = _rank(keys)
    kept = rank < size
    cells = (keys * size + rank)[kept]
    table = Places.empty(n_keys, size, keys.device)
    table.values.view(-1)[cells] = values[kept]
    table.sequences.view(-1)[cells] = sequences[kept]
    table.positions.view(-1)[cells] = positions[kept]
    return table


@dataclass(frozen=True)
class _Firings:
    """Active (token, feature) pairs of one batch, `(n,)` each; `rows` are those of the batch."""

    features: Tensor
    values: Tensor
    rows: Tensor
    positions: Tensor


class _Collector:
    """Takes in the firings of one dictionary. What can still win waits, and is merged many at a time."""

    def __init__(self, n_features: int, n_splits: int, n_top: int, n_sampled: int, device: torch.device):
        n_keys = n_features * n_splits
        self.n_splits = n_splits
        self.counts = torch.zeros(n_features, N_BINS, dtype=torch.int64, device=device)
        self.top = Places.empty(n_keys, n_top, device)
        self.sampled = Places.empty(n_keys, n_sampled, device)
        self.waiting_top: list[list[Tensor]] = []
        self.waiting_sampled: list[list[Tensor]] = []
        self.admitted = torch.full((n_keys, N_BINS), NEVER, dtype=torch.int32, device=device)

    def add(self, firings: _Firings, split_of: Tensor, sequence_ids: Tensor) -> None:
        """`split_of` and `sequence_ids` `(B,)`: the split and the number in the corpus of each row of the batch."""
        features, values, rows, positions = firings.features, firings.values, firings.rows, firings.positions
        bins, sequences = bins_of(values), sequence_ids.index_select(0, rows)
        self.counts.view(-1).index_add_(0, features * N_BINS + bins, torch.ones_like(features))
        columns = [features * self.n_splits + split_of.index_select(0, rows), values, sequences, positions.int()]
        keys = columns[0]
        cells = features * len(sequence_ids) + rows  # a sequence enters once, and is in this batch as a whole
        n_cells = len(self.counts) * len(sequence_ids)

        weakest = self.top.values[:, -1].index_select(0, keys)
        strong = (values >= weakest).nonzero().squeeze(1)
        scores = (values[strong].view(torch.int32).long() << 32) - positions[strong]
        strong = strong[_is_best(cells[strong], scores, n_cells)]
        self.waiting_top.append([column.index_select(0, strong) for column in columns])

        hashes = position_hash(sequences, positions)
        drawn = _is_best(cells, -hashes, n_cells).nonzero().squeeze(1)
        drawn = drawn[hashes[drawn] >> 32 <= self.admitted[keys[drawn], bins[drawn]]]
        self.waiting_sampled.append([column.index_select(0, drawn) for column in columns])

        if _n_entries(self.waiting_top) > max(MERGE_AT_LEAST, self.top.values.numel()):
            self.merge_top()
        if _n_entries(self.waiting_sampled) > max(MERGE_AT_LEAST, self.sampled.values.numel()):
            self.merge_sampled()

    def merge_top(self) -> None:
        columns = [torch.cat(parts) for parts in zip(self.top.flat(), *self.waiting_top, strict=True)]
        self.top, self.waiting_top = strongest(columns, *self.top.values.shape), []

    def merge_sampled(self) -> None:
        columns = [torch.cat(parts) for parts in zip(self.sampled.flat(), *self.waiting_sampled, strict=True)]
        self.sampled, self.waiting_sampled = bins_in_turn(columns, *self.sampled.values.shape), []
        # What a full key's bins still take: less than their largest hash, once they have the entries they are due.
        bins = bins_of(self.sampled.values)  # (n_keys, size)
        hashes = position_hash(self.sampled.sequences, self.sampled.positions) >> 32
        filled = torch.zeros_like(self.admitted).scatter_add(1, bins, torch.ones_like(bins, dtype=torch.int32))
        largest = torch.full_like(self.admitted, -1).scatter_reduce(1, bins, hashes.int(), "amax")
        last_bin = bins[:, -1:]
        due = filled.gather(1, last_bin) - 1 + (torch.arange(N_BINS, device=bins.device) >= last_bin)
        full = self.sampled.sequences[:, -1:] >= 0
        self.admitted = torch.where(full & (filled >= due), largest, NEVER)


def _n_entries(waiting: list[list[Tensor]]) -> int:
    return sum(len(columns[0]) for columns in waiting)


def _is_best(cells: Tensor, scores: Tensor, n_cells: int) -> Tensor:
    """Which entries have the largest score of their cell, `(n,)`."""
    lowest = torch.iinfo(torch.int64).min
    best = torch.full((n_cells,), lowest, device=cells.device).scatter_reduce(0, cells, scores, "amax")
    return scores == best.index_select(0, cells)


def active(activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where activations `(n_tokens, n_features)` are above 0, and what they are: tokens, features, values `(n,)`."""
    firing = (activations > 0).view(-1)
    # on a CPU numpy is four times as fast
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
    """Pass once over the corpus, or a shard of it; count firings and keep the strongest and a sample across bins.

    Args:
        token_ids: texts, special tokens included; they are never kept, nor are attention sinks.
        n_top, n_sampled: entries kept per feature and split.
        sequence_ids: the texts' numbers in the whole corpus; None where this is all of it.

    Raises:
        SelfExplainError: no text, or an activation that is not finite.
    """
    if not token_ids or not dictionaries:
        raise SelfExplainError(f"{len(token_ids)} texts and {len(dictionaries)} dictionaries given: at least one each.")
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
            kept = batch.keep[at].flatten().nonzero().squeeze(1)  # (n_tokens,) places in the batch
            activations = dictionary.encode(batch.hidden[at].flatten(0, 1).index_select(0, kept))
            tokens, features, values = active(activations)
            places, length = kept.index_select(0, tokens), batch.words.shape[1]
            collector.add(_Firings(features, values, places // length, places % length), batch_splits, batch_ids)
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


def _stacked(tables: Sequence[Places]) -> Places:
    return Places(*(torch.cat(columns) for columns in zip(*(vars(table).values() for table in tables), strict=True)))
