"""The out-of-distribution test sets of feature description: activations and differences between activations."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import load_dataset

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.build import build
from selfexplain.groundtruth.builders.activations import activation_vectors, difference_vectors, vector_rows
from selfexplain.groundtruth.builders.dictionaries import corpus_token_ids
from selfexplain.groundtruth.config import FeatureConfig, PairSource
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.sources import Corpus, Pair, Prompt, fact_pairs
from selfexplain.groundtruth.splits import SPLITS, split_of
from selfexplain.target.capture import capture

CONFIG = FeatureConfig(layers=(1, 3), n_tokens=2000, window=12, n_random=3, n_activations=7)


@pytest.fixture
def corpus(target):
    rng = random.Random(0)
    words = sorted(word for token in target.tokenizer.get_vocab() if (word := token.removeprefix("Ġ")).isalpha())
    return [" ".join(rng.choices(words, k=rng.randint(6, 15))) for _ in range(80)]


@pytest.fixture
def token_ids(target, corpus):
    return corpus_token_ids(target, corpus, 256)


def unit(vector):
    return vector / np.linalg.norm(vector)


def test_a_row_is_about_an_activation_of_the_corpus(target, corpus, token_ids, tmp_path):
    vectors = activation_vectors(CONFIG, target, token_ids, [1, 3], seed=0)
    rows, counts = vector_rows(CONFIG, target, token_ids, vectors, tmp_path, {}, seed=0)
    assert len(rows) == counts["rows"] == counts["vectors"] == 14 and {row["layer"] for row in rows} == {1, 3}
    ids = target.tokenizer(corpus)["input_ids"]
    hidden = {
        layer: torch.cat([capture(target.model, torch.tensor([text]), [layer])[0, 0, 1:] for text in ids])
        for layer in (1, 3)
    }
    for row in rows:
        known = torch.nn.functional.normalize(hidden[row["layer"]], dim=-1)
        vector = torch.from_numpy(row["activations"][0]).float()
        assert (known @ vector).max() == pytest.approx(1, abs=1e-3)
        assert row["sae_release"] == "activations of tiny-random" and row["group"].startswith("activations-")
        assert row["exemplars"] and row["scoring_exemplars"]
    again = activation_vectors(CONFIG, target, token_ids, [1, 3], seed=0)
    assert again.groups == vectors.groups and again.vectors.equal(vectors.vectors)


def test_fewer_tokens_than_requested_are_reported(target, token_ids, caplog):
    few = [ids[:4] for ids in token_ids[:3]]  # <s> and three words each
    vectors = activation_vectors(CONFIG, target, few, [1], seed=0)
    assert len(vectors.groups) == vectors.vectors.shape[1] == 7 and not caplog.records
    vectors = activation_vectors(replace(CONFIG, n_activations=12), target, few, [1], seed=0)
    assert len(vectors.groups) == vectors.vectors.shape[1] == 9
    assert "found 9 of 12 requested tokens" in caplog.text


def test_a_row_is_about_the_difference_between_two_prompts(target, token_ids, tmp_path):
    def prompt(subject):
        text = f"The capital of {subject} is"
        return Prompt(text, f"capital: {subject}", (15, 15 + len(subject)), len(text))

    pairs = [Pair(prompt("France"), prompt("Japan")), Pair(prompt("Spain"), prompt("Rome"))]
    vectors = difference_vectors(CONFIG, target, pairs, token_ids, [1, 3], seed=0)
    rows, _ = vector_rows(CONFIG, target, token_ids, vectors, tmp_path, {}, seed=0)
    groups = {"differences-capital: France", "differences-capital: Spain"}
    assert len(rows) == 4 and {row["group"] for row in rows} == groups
    for row in rows:
        pair = pairs[row["feature_index"]]
        clean, source = (
            capture(target.model, torch.tensor([target.encode(p.text)]), [row["layer"]])[0, 0, -1].numpy()
            for p in (pair.clean, pair.source)
        )
        assert np.allclose(row["activations"][0], unit(clean - source), atol=2e-3)
    with pytest.raises(SelfExplainError, match="There are no counterfactual pairs"):
        difference_vectors(CONFIG, target, [], token_ids, [1, 3], seed=0)


def test_a_build_adds_both_sets_without_changing_the_splits(target, corpus, relations, tmp_path):
    np.save(tmp_path / "layer_1.npy", np.random.default_rng(0).normal(size=(120, target.d_model)).astype(np.float32))
    pairs = PairSource(kind="relations", path=str(relations), n_options=0)
    settings = {"layers": (1,), "saes": str(tmp_path), "n_tokens": 2000, "window": 12, "rows_per_feature": 2}
    settings |= {"min_correlation": -1.0, "pairs": pairs}
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "activations.parquet").write_text("from a dataset with other settings")
    for name, sets in (("plain", {}), ("sets", {"n_activations": 6, "n_differences": 5})):
        config = FeatureConfig(**settings, **sets)
        build("feature_description", config, target, Corpus("file", corpus), tmp_path / name, seed=0)
    for split in SPLITS:
        plain, extended = (tmp_path / name / f"{split}.parquet" for name in ("plain", "sets"))
        assert plain.read_bytes() == extended.read_bytes()
    assert not (tmp_path / "plain" / "activations.parquet").exists()

    counts = DatasetDirectory(tmp_path / "sets").statistics().out_of_distribution
    facts = {f"differences-{pair.clean.group}" for pair in fact_pairs(pairs, target, 40, 0).items}
    known = {row["group"] for split in SPLITS for row in read_rows(tmp_path / "sets" / f"{split}.parquet")}
    for name in ("activations", "differences"):
        rows = load_dataset(str(tmp_path / "sets"), name, split="test", cache_dir=str(tmp_path / "cache"))
        assert len(rows) == counts[name]["rows"] == counts[name]["vectors"] > 0  # one per vector
        assert not known & set(rows["group"])
        assert np.linalg.norm(rows[0]["activations"][0]) == pytest.approx(1, abs=1e-2)
    assert set(rows["group"]) <= facts
    assert {split_of(group.removeprefix("differences-"), 0) for group in rows["group"]} == {"test"}


def test_a_set_without_pairs_raises_an_error(target, corpus, tmp_path):
    np.save(tmp_path / "layer_1.npy", np.random.default_rng(0).normal(size=(120, target.d_model)).astype(np.float32))
    settings = {"layers": (1,), "saes": str(tmp_path), "n_differences": 5}
    for kind, message in (("corpus", "no counterfactual pairs"), ("transluce", "rows are complete")):
        config = FeatureConfig(**settings, pairs=PairSource(kind=kind))
        with pytest.raises(SelfExplainError, match=message):
            build("feature_description", config, target, Corpus("file", corpus), tmp_path / "data", seed=0)
