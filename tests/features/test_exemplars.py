"""Exemplars: one pass finds the strongest and sampled firings, shards merge exactly, windows have true activations."""

import numpy as np
import pytest
import torch

from selfexplain.errors import SelfExplainError
from selfexplain.features import exemplars
from selfexplain.features.exemplars import (
    LOWEST_BIN,
    N_BINS,
    ExemplarState,
    bins_in_turn,
    bins_of,
    collect,
    splits,
    strongest,
)
from selfexplain.features.windows import collect_exemplars
from selfexplain.target.capture import capture

SIZES = {"n_top": 3, "n_sampled": 5}


@pytest.fixture(scope="module")
def state(target, token_ids, dictionaries):
    return collect(target, dictionaries, token_ids, **SIZES)


@pytest.fixture(scope="module")
def dense(target, token_ids, dictionaries):
    """All activations of each dictionary, one array per sequence, without the special token at the beginning."""
    with torch.no_grad():
        return [
            [d.encode(capture(target.model, torch.tensor([ids]), [d.layer])[0, 0])[1:].numpy() for ids in token_ids]
            for d in dictionaries
        ]


def random_firings(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(8 * 60, generator=generator)[:n]  # a sequence occurs once per key
    values = (4 * torch.randn(n, generator=generator)).exp()
    return [cells % 8, values, (cells // 8).int(), torch.randint(30, (n,), generator=generator).int()]


def entries(table, key):
    return list(zip(*(column[key][table.sequences[key] >= 0].tolist() for column in vars(table).values()), strict=True))


def test_the_strongest_entries_are_kept_and_ties_are_broken_by_sequence():
    columns = random_firings(300)
    columns[1][:200] = 1.0
    table = strongest(columns, 8, 7)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    for key in range(8):
        best = sorted((row for row in rows if row[0] == key), key=lambda row: (-row[1], row[2]))[:7]
        assert entries(table, key) == [row[1:] for row in best]


def test_the_sample_takes_bins_in_turn_and_each_bin_by_ascending_hash():
    columns = random_firings(300)
    table = bins_in_turn(columns, 8, 20)
    hashes = exemplars.position_hash(columns[2], columns[3])
    for key in range(8):
        bins: dict[int, list] = {}
        for index in (columns[0] == key).nonzero().squeeze(1).tolist():
            bins.setdefault(int(bins_of(columns[1][[index]])), []).append(index)
        queues = [sorted(bins[b], key=lambda i: int(hashes[i])) for b in sorted(bins, reverse=True)]
        in_turn = [queue[turn] for turn in range(60) for queue in queues if turn < len(queue)][:20]
        assert entries(table, key) == [tuple(column[i].item() for column in columns[1:]) for i in in_turn]


def test_position_hashes_equal_splitmix64():
    def splitmix64(z):
        z = (z + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    tokens = [(0, 0), (1, 0), (0, 1), (123_456, 77), (2**31 - 1, 5000)]
    hashed = exemplars.position_hash(*torch.tensor(tokens).T)
    assert hashed.tolist() == [splitmix64((sequence << 24) + position) >> 1 for sequence, position in tokens]


def test_the_pass_finds_the_strongest_sequences_and_counts_every_firing(state, token_ids, dictionaries, dense):
    split_of = splits(token_ids)
    n_words = sum(map(len, dense[0]))
    assert state.totals.tolist() == [[n_words, 0, len(token_ids)]] * 2
    for number, activations in enumerate(dense):
        counts = state.counts.sum(1).numpy()[number * 48 : number * 48 + 48]
        assert np.abs(counts - sum((values > 0).sum(0) for values in activations)).max() <= 1
        peaks = np.array([values.max(0) for values in activations])  # (n_sequences, n_features)
        for feature in range(48):
            for split in (0, 1):
                best = np.sort(peaks[split_of == split, feature])[::-1][:3]
                key = (number * 48 + feature) * 2 + split
                for value, sequence, position in entries(state.top, key):
                    assert activations[sequence][position - 1, feature] == pytest.approx(value, abs=1e-4)
                values = [value for value, _, _ in entries(state.top, key)]
                assert np.allclose(values, best[best > 0], atol=1e-4)


def test_the_sample_covers_several_bins(state):
    sampled = [entries(state.sampled, key) for key in range(len(state.sampled.values))]
    for key, picks in enumerate(sampled):
        bins = {int(bins_of(torch.tensor([value]))) for value, _, _ in picks}
        assert len({sequence for _, sequence, _ in picks}) == len(picks)
        if key % 2 == 0:  # the histogram covers both splits of a feature
            possible = int((state.counts[key // 2] > 0).sum())
            assert len(bins) <= possible
    assert sum(len({int(bins_of(torch.tensor([v]))) for v, _, _ in picks}) > 1 for picks in sampled) > 20


def test_shards_merge_to_the_same_bytes_in_any_order(state, target, token_ids, dictionaries, tmp_path, monkeypatch):
    monkeypatch.setattr(exemplars, "MERGE_AT_LEAST", 50)  # several merges per shard
    shards = []
    for shard in range(4):
        numbers = range(shard, len(token_ids), 4)
        part = collect(target, dictionaries, [token_ids[n] for n in numbers], **SIZES, sequence_ids=numbers)
        part.save(tmp_path / f"{shard}")
        shards.append(ExemplarState.load(tmp_path / f"{shard}"))
    a, b, c, d = shards
    written = []
    for name, merged in {"left": a.merge(b).merge(c).merge(d), "pairs": d.merge(b).merge(c.merge(a))}.items():
        merged.save(tmp_path / name)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert (merged.counts - state.counts).abs().max() <= 1 and torch.equal(merged.totals, state.totals)
    assert (
        merged.top.sequences == state.top.sequences
    ).float().mean() > 0.99  # different batches change the last digits
    assert (merged.sampled.sequences == state.sampled.sequences).float().mean() > 0.99


def test_memory_does_not_grow_with_the_corpus(state, target, token_ids, dictionaries):
    def n_bytes(state):
        return sum(tensor.numel() * tensor.element_size() for tensor in state.tensors().values())

    small = collect(target, dictionaries, token_ids[:20], **SIZES)
    assert n_bytes(small) == n_bytes(state)
    windows = state.n_splits * (SIZES["n_top"] + SIZES["n_sampled"])
    assert n_bytes(state) <= 40 * windows * 96


def test_counts_are_a_histogram_of_activations(state, dense):
    edges = [0.0, *(2.0 ** (LOWEST_BIN + b) for b in range(1, N_BINS)), np.inf]
    for number, activations in enumerate(dense):
        values = np.concatenate(activations)
        for feature in range(48):
            fired = values[:, feature][values[:, feature] > 0]
            expected, _ = np.histogram(fired, edges)
            # Rounding can move an activation at the edge of a bin to the next bin.
            assert np.abs(state.counts[number * 48 + feature].numpy() - expected).max() <= 1


def test_attention_sinks_are_excluded_and_counted(target, token_ids, dictionaries, monkeypatch):
    def with_sinks(model, input_ids, layers, mask=None):
        hidden = capture(model, input_ids, layers, mask)
        hidden[:, :, 2] *= 300
        return hidden

    monkeypatch.setattr("selfexplain.features.residuals.capture", with_sinks)
    texts = [ids for ids in token_ids if len(ids) > 8][:60]
    state = collect(target, dictionaries, texts, **SIZES)
    assert state.totals[:, 1].tolist() == [60, 60]
    assert not ((state.top.positions == 2) & (state.top.sequences >= 0)).any()
    features, statistics = collect_exemplars(target, texts, dictionaries, window=30, min_active=1)
    assert statistics["attention_sinks_left_out"] == 120
    texts = {tuple(target.tokenizer.convert_ids_to_tokens(ids)) for ids in texts}
    for exemplar in features[0].sets[0]:
        assert any((*text[1:2], *text[3:]) == tuple(exemplar["tokens"]) for text in texts)


def test_a_damaged_or_incompatible_state_raises_an_error(state, target, token_ids, dictionaries, tmp_path):
    state.save(tmp_path / "state")
    (tmp_path / "cut").write_bytes((tmp_path / "state").read_bytes()[:-100])
    for name in ("cut", "missing"):
        with pytest.raises(SelfExplainError, match="is not an exemplar state"):
            ExemplarState.load(tmp_path / name)
    with pytest.raises(SelfExplainError, match="different shapes cannot be merged"):
        state.merge(collect(target, dictionaries[:1], token_ids[:5], **SIZES))


def test_equal_sequences_are_in_the_same_split():
    assert len(set(splits([[1, 2, 3]] * 5 + [[1, 2, 3]]))) == 1
    assert set(splits([[n] for n in range(50)])) == {0, 1}
    assert set(splits([[n] for n in range(50)], 3)) == {0, 1, 2}


def test_bins_are_powers_of_two_with_open_ends():
    values = torch.tensor([1e-9, 2.0**-12, 1.0, 1.99, 2.0, 3000.0, 1e9])
    assert bins_of(values).tolist() == [0, 0, 12, 12, 13, 23, N_BINS - 1]
