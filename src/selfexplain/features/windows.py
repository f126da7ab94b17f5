"""Choose exemplar windows of features from an exemplar state, and fetch their tokens and activations."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from selfexplain.features.dictionary import Dictionary
from selfexplain.features.exemplars import ExemplarState, collect, splits
from selfexplain.features.residuals import residual_batches
from selfexplain.target.load import Target
from selfexplain.target.tokens import token_text

ENCODED_AT_ONCE = 2**27  # activations (tokens times features) per encoder call


class Exemplar(TypedDict):
    """A window of text: its tokens, decoded one by one, and the activation of one feature on each, `(n_tokens,)`."""

    tokens: list[str]
    activations: NDArray[np.float32]


@dataclass(frozen=True)
class FeatureExemplars:
    """The exemplars of one feature.

    Attributes:
        dictionary: index of the feature's dictionary.
        feature: index of the feature in its dictionary.
        density: fraction of tokens on which the feature fires.
        sets: exemplars of each split. No text is in two splits.
    """

    dictionary: int
    feature: int
    density: float
    sets: tuple[list[Exemplar], ...]


@dataclass(frozen=True)
class Window:
    """A window to fetch for one feature and split.

    Attributes:
        dictionary: index of the feature's dictionary.
        feature: index of the feature in its dictionary.
        split: split of the sequence.
        sequence: index of the sequence in the corpus.
        position: token position that the window must contain.
    """

    dictionary: int
    feature: int
    split: int
    sequence: int
    position: int


def collect_exemplars(
    target: Target,
    token_ids: Sequence[Sequence[int]],
    dictionaries: Sequence[Dictionary],
    *,
    n_top: int = 10,
    n_sampled: int = 10,
    n_random: int = 10,
    window: int = 24,
    min_active: int = 5,
    n_splits: int = 2,
    seed: int = 0,
    state: ExemplarState | None = None,
) -> tuple[list[FeatureExemplars], dict[str, int]]:
    """Collect exemplars of every feature that fires in at least `min_active` sequences of each split.

    Special tokens and attention sinks are left out of the windows.

    Args:
        target: model that reads the texts.
        token_ids: token ids of each text, including special tokens.
        dictionaries: dictionaries whose features get exemplars.
        n_top: maximum number of strongest windows per split.
        n_sampled: maximum number of windows per split from across the range of activations.
        n_random: maximum number of windows per split from other, randomly drawn sequences; most of them are inactive.
        window: maximum number of tokens per window; two thirds of them precede the token that the window is chosen for.
        min_active: number of sequences per split in which a feature must fire.
        n_splits: number of splits that texts are divided into.
        seed: seed of the random windows.
        state: state of a pass over these texts, such as the merged states of its shards, with `n_top + n_sampled`
            sampled entries; None to run the pass.

    Returns:
        The exemplars, and these counts over all dictionaries: features (`trained`), features that never fire (`dead`)
        or fire too rarely (`skipped`), tokens counted, and tokens left out.
    """
    if state is None:
        # More sampled entries than needed, because the strongest sequences may be among them.
        n_entries = n_top + n_sampled
        state = collect(target, dictionaries, token_ids, n_top=n_top, n_sampled=n_entries, n_splits=n_splits)
    chosen = choose_windows(
        state,
        dictionaries,
        token_ids,
        n_top=n_top,
        n_sampled=n_sampled,
        n_random=n_random,
        min_active=min_active,
        seed=seed,
    )
    exemplars = fetch_windows(target, token_ids, dictionaries, chosen, window)
    gathered: dict[tuple[int, int], tuple[list[Exemplar], ...]] = {}
    for chosen_window, exemplar in zip(chosen, exemplars, strict=True):
        key = chosen_window.dictionary, chosen_window.feature
        gathered.setdefault(key, tuple([] for _ in range(state.n_splits)))[chosen_window.split].append(exemplar)
    fired = state.counts.sum(1).tolist()
    counted, sinks, special = state.totals.T.tolist()
    first = _first_features(dictionaries)
    n_dead = fired.count(0)
    statistics = {
        "trained": len(fired),
        "dead": n_dead,
        "skipped": len(fired) - n_dead - len(gathered),
        "tokens_counted": sum(counted),
        "attention_sinks_left_out": sum(sinks),
        "special_tokens_left_out": sum(special),
    }
    return [
        FeatureExemplars(d, feature, fired[first[d] + feature] / counted[d], sets)
        for (d, feature), sets in gathered.items()
    ], statistics


def choose_windows(
    state: ExemplarState,
    dictionaries: Sequence[Dictionary],
    token_ids: Sequence[Sequence[int]],
    *,
    n_top: int,
    n_sampled: int,
    n_random: int,
    min_active: int,
    seed: int,
) -> list[Window]:
    """Choose windows for each feature that fires often enough: strongest, sampled and random; each sequence once.

    See `collect_exemplars` for the arguments.
    """
    rng = np.random.default_rng(seed)
    split_of = splits(token_ids, state.n_splits)
    pools = [np.flatnonzero(split_of == split) for split in range(state.n_splits)]
    tables = [(table.sequences.cpu().numpy(), table.positions.cpu().numpy()) for table in (state.top, state.sampled)]
    first, chosen = _first_features(dictionaries), []
    for feature_key in state.counts.sum(1).nonzero().squeeze(1).tolist():
        active = []
        for split in range(state.n_splits):
            key = feature_key * state.n_splits + split
            picks: dict[int, int] = {}
            for (sequences, positions), most in zip(tables, (n_top, n_top + n_sampled), strict=True):
                for sequence, position in zip(sequences[key].tolist(), positions[key].tolist(), strict=True):
                    if sequence >= 0 and len(picks) < most:
                        picks.setdefault(sequence, position)
            active.append(picks)
        if min(map(len, active)) < min_active:
            continue
        dictionary = int(np.searchsorted(first, feature_key, side="right")) - 1
        feature = feature_key - first[dictionary]
        for split, picks in enumerate(active):
            drawn = rng.choice(pools[split], min(len(pools[split]), n_random + len(picks)), replace=False)
            others = [sequence for sequence in drawn.tolist() if sequence not in picks][:n_random]
            picks |= {sequence: int(rng.integers(len(token_ids[sequence]))) for sequence in others}
            chosen += [Window(dictionary, feature, split, *pick) for pick in picks.items()]
    return chosen


@torch.no_grad()
def fetch_windows(
    target: Target,
    token_ids: Sequence[Sequence[int]],
    dictionaries: Sequence[Dictionary],
    windows: Sequence[Window],
    size: int,
) -> list[Exemplar]:
    """Run the sequences of the windows again and extract tokens and activations.

    If the text allows, two thirds of a window precede its position.

    Args:
        windows: windows to fetch.
        size: maximum number of tokens per window.
    """
    if not windows:
        return []
    columns = [(window.dictionary, window.feature, window.sequence, window.position) for window in windows]
    owners, features, sequences, positions = np.array(columns).T
    lengths = np.array([len(ids) for ids in token_ids])[sequences]
    starts = np.clip(positions - 2 * size // 3, 0, np.maximum(lengths - size, 0))
    values = np.full((len(windows), size), np.nan, np.float32)  # NaN: no token, or a token that is left out
    needed = np.unique(sequences)
    layers = sorted({dictionary.layer for dictionary in dictionaries})
    for batch in residual_batches(target, [token_ids[index] for index in needed], layers, "fetching exemplars"):
        row_of = np.full(len(token_ids), -1)
        row_of[needed[batch.sequences.numpy()]] = np.arange(len(batch.sequences))
        rows, length = row_of[sequences], batch.words.shape[1]
        for number, dictionary in enumerate(dictionaries):
            at = layers.index(dictionary.layer)
            step = max(1, ENCODED_AT_ONCE // (length * dictionary.n_features))
            for begin in range(0, len(batch.sequences), step):
                inside = np.flatnonzero((owners == number) & (rows >= begin) & (rows < begin + step))
                if not len(inside):
                    continue
                part = slice(begin, begin + step)
                activations = dictionary.encode(batch.hidden[at, part].flatten(0, 1)).float()  # (B * T, n_features)
                activations[~batch.keep[at, part].flatten()] = torch.nan
                offsets = starts[inside, None] + np.arange(size)  # (n, size)
                cells = (rows[inside, None] - begin) * length + np.minimum(offsets, length - 1)
                cut = activations[torch.from_numpy(cells), torch.from_numpy(features[inside, None])].clamp(min=0)
                values[inside] = np.where(offsets < lengths[inside, None], cut.cpu().numpy(), np.nan)
    text_of: dict[int, str] = {}
    exemplars = []
    for sequence, start, row in zip(sequences.tolist(), starts.tolist(), values, strict=True):
        kept = np.flatnonzero(~np.isnan(row))
        tokens = [token_ids[sequence][start + offset] for offset in kept.tolist()]
        text_of |= {token: token_text(target.tokenizer, token) for token in tokens if token not in text_of}
        exemplars.append(Exemplar(tokens=[text_of[token] for token in tokens], activations=row[kept]))
    return exemplars


def _first_features(dictionaries: Sequence[Dictionary]) -> list[int]:
    """The index of each dictionary's first feature in a state."""
    return list(accumulate((d.n_features for d in dictionaries), initial=0))[:-1]
