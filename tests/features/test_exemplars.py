import numpy as np
import pytest
import torch

from selfexplain.features import exemplars
from selfexplain.features.exemplars import Smallest, collect_exemplars, find_firings, splits
from selfexplain.target.capture import capture


@pytest.fixture(scope="module")
def collected(target, token_ids, saes):
    return collect_exemplars(target, token_ids, saes[0], n_top=4, n_sampled=4, n_random=4, window=8, min_active=3)


def dense(target, token_ids, sae, layer):
    """Every activation, sequence by sequence: what the one pass must agree with."""
    with torch.no_grad():
        return [sae.encode(capture(target.model, torch.tensor([ids]), [layer])[0, 0]).numpy() for ids in token_ids]


def test_smallest_keeps_the_best_of_each_sequence_in_whatever_order_they_come(monkeypatch):
    monkeypatch.setattr(exemplars, "MERGE_AT_LEAST", 20)
    rng = np.random.default_rng(0)
    entries = rng.integers(0, 5, 400), rng.random(400), rng.integers(0, 30, 400), np.arange(400)
    whole, parts = Smallest(3, 5), Smallest(3, 5)
    whole.add(*entries)
    for chunk in np.array_split(rng.permutation(400), 7):
        parts.add(*(column[chunk] for column in entries))
    for key in range(5):
        best = {}
        for k, _score, sequence, position in sorted(zip(*entries, strict=True), key=lambda entry: entry[1]):
            if k == key:
                best.setdefault(int(sequence), int(position))
        assert whole.of(key) == parts.of(key) == list(best.items())[:3]
    assert len(whole.keys) == 15


def test_the_pass_finds_the_strongest_sequences_and_counts_every_firing(target, token_ids, saes):
    sae = saes[0][2]
    firings = find_firings(target, token_ids, saes[0], 3, 3)[2]
    activations = [values[1:] for values in dense(target, token_ids, sae, 2)]  # without the first, special token
    assert firings.n_tokens == sum(map(len, activations))
    assert np.abs(firings.counts - sum((values > 0).sum(0) for values in activations)).max() <= 1
    peaks = np.array([values.max(0) for values in activations])  # (n_sequences, n_features)
    split_of = splits(token_ids)
    for feature in range(10):
        for split in (0, 1):
            best = np.sort(peaks[split_of == split, feature])[::-1][:3]
            found = [activations[seq][pos - 1, feature] for seq, pos in firings.top.of(feature * 2 + split)]
            assert np.allclose(found, best[best > 0], atol=1e-4)


def test_windows_hold_the_features_own_activations(target, token_ids, saes, collected):
    features, _ = collected
    feature = features[0]
    texts = [target.tokenizer.convert_ids_to_tokens(ids) for ids in token_ids]
    activations = dense(target, token_ids, saes[0][feature.layer], feature.layer)
    for exemplar in feature.exemplars:
        n = len(exemplar["tokens"])
        assert 0 < n <= 8 and "<s>" not in exemplar["tokens"]
        assert any(
            exemplar["tokens"] == text[start : start + n]
            and np.allclose(exemplar["activations"], values[start : start + n, feature.feature], atol=1e-4)
            for text, values in zip(texts, activations, strict=True)
            for start in range(len(text))
        )


def test_no_text_is_in_both_sets_and_both_hold_active_and_inactive_windows(target, token_ids, saes, collected):
    features, statistics = collected
    both = [
        {
            " ".join(exemplar["tokens"])
            for feature in features
            for exemplar in getattr(feature, name)
            if len(exemplar["tokens"]) == 8
        }
        for name in ("exemplars", "scoring_exemplars")
    ]
    assert len(both[0]) > 50 and not both[0] & both[1]
    for feature in features:
        for windows in (feature.exemplars, feature.scoring_exemplars):
            peaks = [exemplar["activations"].max() for exemplar in windows]
            assert sum(peak > 0 for peak in peaks) >= 3 and len(peaks) <= 12
    assert statistics["trained"] == 96 == len(features) + statistics["dead"] + statistics["skipped"]


def test_a_feature_that_fires_too_rarely_is_skipped_and_counted(target, token_ids, saes):
    features, statistics = collect_exemplars(target, token_ids[:12], saes[0], window=8, min_active=5)
    assert statistics["skipped"] > 0
    assert len(features) == 96 - statistics["dead"] - statistics["skipped"]


def test_equal_texts_share_a_split():
    assert len(set(splits([[1, 2, 3]] * 5 + [[1, 2, 3]]))) == 1
    assert set(splits([[n] for n in range(50)])) == {0, 1}
