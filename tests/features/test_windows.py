"""Exemplar windows: chosen per split, with the tokens and activations of the corpus."""

import numpy as np
import pytest
import torch

from selfexplain.features.exemplars import collect
from selfexplain.features.windows import collect_exemplars
from selfexplain.target.capture import capture


@pytest.fixture(scope="module")
def collected(target, token_ids, dictionaries):
    return collect_exemplars(target, token_ids, dictionaries, n_top=4, n_sampled=4, n_random=4, window=8, min_active=3)


@pytest.fixture(scope="module")
def dense(target, token_ids, dictionaries):
    """All activations of each dictionary, one array per sequence, without the special token at the beginning."""
    with torch.no_grad():
        return [
            [d.encode(capture(target.model, torch.tensor([ids]), [d.layer])[0, 0])[1:].numpy() for ids in token_ids]
            for d in dictionaries
        ]


def test_windows_have_the_activations_of_their_feature(target, token_ids, dictionaries, dense, collected):
    features, _ = collected
    texts = [target.tokenizer.convert_ids_to_tokens(ids)[1:] for ids in token_ids]
    for feature in features[:3]:
        for exemplar in feature.sets[0]:
            n = len(exemplar["tokens"])
            assert 0 < n <= 8 and "<s>" not in exemplar["tokens"]
            assert any(
                exemplar["tokens"] == text[start : start + n]
                and np.allclose(exemplar["activations"], values[start : start + n, feature.feature], atol=1e-4)
                for text, values in zip(texts, dense[feature.dictionary], strict=True)
                for start in range(len(text))
            )


@pytest.mark.parametrize("n_splits", [2, 3])
def test_no_text_is_in_two_splits_and_each_split_has_enough_active_windows(target, token_ids, dictionaries, n_splits):
    features, statistics = collect_exemplars(
        target, token_ids, dictionaries, n_top=4, n_sampled=4, n_random=4, window=8, min_active=3, n_splits=n_splits
    )
    texts = [
        {" ".join(e["tokens"]) for feature in features for e in feature.sets[split] if len(e["tokens"]) == 8}
        for split in range(n_splits)
    ]
    assert min(map(len, texts)) > 50 and sum(map(len, texts)) == len(set.union(*texts))
    for feature in features:
        for windows in feature.sets:
            peaks = [exemplar["activations"].max() for exemplar in windows]
            assert sum(peak > 0 for peak in peaks) >= 3 and len(peaks) <= 12
    assert statistics["trained"] == 96 == len(features) + statistics["dead"] + statistics["skipped"]


def test_a_merged_state_gives_the_same_exemplars_as_one_pass(target, token_ids, dictionaries, collected):
    state = collect(target, dictionaries, token_ids, n_top=4, n_sampled=8)
    again, statistics = collect_exemplars(
        target, token_ids, dictionaries, n_top=4, n_sampled=4, n_random=4, window=8, min_active=3, state=state
    )
    assert statistics == collected[1]
    for one, other in zip(again, collected[0], strict=True):
        assert [e["tokens"] for e in one.sets[1]] == [e["tokens"] for e in other.sets[1]]


def test_features_that_fire_too_rarely_are_skipped_and_counted(target, token_ids, dictionaries):
    features, statistics = collect_exemplars(target, token_ids[:12], dictionaries, window=8, min_active=5)
    assert statistics["skipped"] > 0
    assert len(features) == 96 - statistics["dead"] - statistics["skipped"]
