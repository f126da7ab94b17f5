import gzip
import json
import os
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from fake_endpoint import FakeEndpoint
from selfexplain.errors import SelfExplainError
from selfexplain.features.describers import chat_model as language
from selfexplain.features.description import Description
from selfexplain.features.simulate import score
from selfexplain.features.windows import collect_exemplars
from selfexplain.groundtruth.builders import features as groundtruth
from selfexplain.groundtruth.config import FeatureConfig
from selfexplain.groundtruth.splits import SPLITS, split_of

DATA = Path(os.environ.get("SELFEXPLAIN_DATA", "no SELFEXPLAIN_DATA"))
COLUMNS = {"prompt", "completion", "placeholder_offsets", "activations", "activation_layers", "group", "target_model"}
COLUMNS |= {"target_revision", "layer", "feature_index", "sae_release", "sae_id", "description", "description_source"}
COLUMNS |= {"exemplars", "scoring_exemplars", "simulator_score", "density"}
ANIMALS = {"animals": {"cat", "dog", "bird"}}


@pytest.fixture(scope="module")
def built(target, corpus, tmp_path_factory):
    config = FeatureConfig(layers=(0, 2), n_features=48, k=3, n_tokens=15_000, window=10, rows_per_feature=2)
    work_dir = tmp_path_factory.mktemp("work")
    return *groundtruth.build_rows(config, target, corpus, work_dir, ANIMALS, seed=0), work_dir


def test_rows_have_the_columns_of_the_contract_and_fit_parquet(built, target):
    rows, statistics, _ = built
    assert all(row.keys() == COLUMNS for row in rows)
    assert (
        pa.Table.from_pylist(rows).num_rows == len(rows) == 2 * (statistics["described"] - statistics["between_splits"])
    )
    assert json.loads(json.dumps(statistics)) == statistics
    total = sum(statistics[name] for name in ("dead", "skipped", "described", "poorly_described"))
    assert statistics["trained"] == 96 == total


def test_a_row_asks_about_a_unit_vector_where_the_placeholder_is(built):
    for row in built[0]:
        (vector,), (offset,) = row["activations"], row["placeholder_offsets"]
        assert vector.dtype == np.float16 and np.linalg.norm(vector.astype(np.float32)) == pytest.approx(1, abs=1e-2)
        assert row["prompt"][offset:].startswith("<activation>")
        assert str(row["layer"]) in row["prompt"] and row["activation_layers"] == [row["layer"]]


def test_rows_of_a_feature_differ_in_template_only_and_share_a_group(built):
    for first, second in zip(built[0][::2], built[0][1::2], strict=True):
        assert first["prompt"] != second["prompt"]
        assert all(first[name] is second[name] for name in ("group", "description", "exemplars", "activations"))


def test_the_simulator_score_is_that_of_the_stored_text_on_the_scoring_exemplars(built):
    rows, statistics, _ = built
    for row in rows:
        description = Description.parse(row["completion"], ANIMALS)
        assert description is not None
        assert row["simulator_score"] == score(description, row["scoring_exemplars"])
    assert statistics["mean_simulator_score"] == pytest.approx(np.mean([row["simulator_score"] for row in rows]))
    assert statistics["mean_simulator_score"] > 0.3


def test_saes_trained_before_are_read_from_their_directory(built, target, corpus, tmp_path):
    rows, _, work_dir = built
    config = FeatureConfig(layers=(0, 2), saes=str(work_dir / "saes"), window=10, rows_per_feature=2)
    again, _ = groundtruth.build_rows(config, target, corpus, tmp_path, ANIMALS, seed=0)
    assert [row["completion"] for row in again] == [row["completion"] for row in rows]
    assert not list(tmp_path.iterdir())


def test_similar_features_share_a_group_without_a_giant_one(monkeypatch):
    base = torch.nn.functional.normalize(torch.randn(40, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    near = torch.nn.functional.normalize(base + 0.02 * base.roll(1, -1), dim=-1)
    groups = groundtruth.group_similar(torch.cat([base, near]), 0.9)
    assert groups[:40] == groups[40:] and len(set(groups)) == 40


def test_a_chain_of_similar_features_is_cut_where_it_is_weakest(monkeypatch):
    angles = torch.cat([torch.linspace(0, 1, 50), torch.linspace(1.3, 2.3, 50)])  # close neighbours, distant ends
    chain = torch.stack([angles.cos(), angles.sin()], dim=-1)
    monkeypatch.setattr(groundtruth, "MAX_GROUP_SHARE", 1.0)
    assert len(set(groundtruth.group_similar(chain, 0.9))) == 1
    monkeypatch.setattr(groundtruth, "MAX_GROUP_SHARE", 0.5)
    assert groundtruth.group_similar(chain, 0.9) == [0] * 50 + [1] * 50


def test_groups_do_not_depend_on_how_the_work_is_cut(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(30, 16, generator=generator).repeat(4, 1)
    vectors = torch.nn.functional.normalize(base + 0.3 * torch.randn(120, 16, generator=generator), dim=-1)
    monkeypatch.setattr(groundtruth, "MAX_GROUP_SHARE", 1.0)
    whole = groundtruth.group_similar(vectors, 0.8)
    assert 1 < len(set(whole)) < 120
    monkeypatch.setattr(groundtruth, "SIMILARITIES_AT_ONCE", 7)
    monkeypatch.setattr(groundtruth, "EDGES_AT_ONCE", 20)
    assert groundtruth.group_similar(vectors, 0.8) == whole
    cosines = vectors @ vectors.T
    assert all(whole[i] == whole[j] for i, j in (cosines > 0.9).nonzero().tolist())


def test_families_about_the_same_share_a_group():
    families = [0, 0, 0, 1, 2, 2, 3]
    concepts = ["paris", "paris", "comma", "paris", "comma", "comma", "eel"]
    assert groundtruth.concepts_of_families(families, concepts) == [*["paris"] * 4, "comma", "comma", "eel"]


def test_no_concept_is_on_two_sides():
    rng = np.random.default_rng(0)
    families, concepts = rng.integers(60, size=600).tolist(), [f"word {n}" for n in rng.integers(90, size=600)]
    groups = groundtruth.hold_apart(families, concepts, seed=3)
    sides = {name: set() for name in SPLITS}
    for concept, group, family in zip(concepts, groups, families, strict=True):
        if group is not None:
            sides[split_of(group, 3)] |= {concept, family}
    assert all(sides.values())
    assert not any(sides[a] & sides[b] for a, b in combinations(SPLITS, 2))
    assert 0 < groups.count(None) < 400


def test_what_a_description_names():
    def names(text, source=groundtruth.OFFLINE):
        return groundtruth.names(groundtruth.Candidate(text, source), ANIMALS)

    assert names("the words Cat, of") == ["cat", "of"] and names("words after the word cat") == ["cat"]
    assert names("words after animals") == ["animals"]
    assert names("the word cat", "some model") == ["the word cat"]


def test_no_training_feature_is_like_a_held_out_one_or_names_what_it_is_about():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(900, 8, generator=generator), dim=-1)
    words = [f"word {n}" for n in range(90)]
    named = [[words[n % 90], words[(7 * n + n // 90) % 90]] for n in range(900)]
    groups = [f"features-{first}" for first, _ in named]
    kept = groundtruth.keep_unseen(groups, vectors, named, 0.8, seed=3)
    assert all(group in (None, own) for group, own in zip(kept, groups, strict=True))
    sides = np.array([group and split_of(group, 3) for group in kept])
    cosines = (vectors @ vectors.T).numpy()
    for side, held_out in (("train", ("validation", "test")), ("validation", ("test",))):
        own, others = np.flatnonzero(sides == side), np.flatnonzero(np.isin(sides, held_out))
        about = {named[n][0] for n in others}
        assert len(own) and len(others) and cosines[np.ix_(own, others)].max() < 0.8
        assert not any(about & set(named[n]) for n in own)
        before = [n for n, group in enumerate(groups) if split_of(group, 3) == side]
        seen = [n for n in before if cosines[n, others].max() >= 0.8 or about & set(named[n])]
        assert set(before) - set(seen) == set(own)  # and no other was left out
    assert [g for g, own in zip(kept, groups, strict=True) if split_of(own, 3) == "test"] == [
        own for own in groups if split_of(own, 3) == "test"
    ]


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        (None, list(range(12))),
        ((3, -1), [3, 11]),
        ((0.0, 0.5, 1.0), [0, 6, 11]),
        (("8-10", 3), [8, 9, 10, 3]),
        (("0.5-0.75",), [6, 7, 8]),
        ((2, "1-3"), [2, 1, 3]),
    ],
)
def test_layers_by_number_fraction_and_range(layers, chosen):
    assert groundtruth.choose_layers(layers, 12) == chosen


@pytest.mark.parametrize("layers", [(12,), (1.5,), ("9-3",), ("all",), ("8-15",), ()])
def test_layers_that_do_not_exist_are_named(layers):
    with pytest.raises(SelfExplainError, match="layers"):
        groundtruth.choose_layers(layers, 12)


def test_similar_features_of_several_saes_share_a_group(target, corpus, trained, tmp_path):
    """Two SAEs of a layer find many features alike: they have to stay on one side of a split."""
    for name in ("layer_0", "layer_0_seed_1"):
        shutil.copytree(trained / "layer_0", tmp_path / name)
    config = FeatureConfig(layers=(0,), saes=str(tmp_path), window=10)
    rows, statistics = groundtruth.build_rows(config, target, corpus, tmp_path, {}, seed=0)
    groups = {(row["sae_id"], row["feature_index"]): row["group"] for row in rows}
    both = [index for sae_id, index in groups if sae_id == "layer_0" and ("layer_0_seed_1", index) in groups]
    assert statistics["trained"] == 96 and len(both) > 30
    assert all(groups["layer_0", index] == groups["layer_0_seed_1", index] for index in both)


def test_several_saes_a_layer_are_trained_where_the_settings_say_so(target, corpus, tmp_path):
    config = FeatureConfig(layers=(0,), n_saes=2, n_features=12, k=2, n_tokens=600, window=10, min_correlation=-1.0)
    rows, statistics = groundtruth.build_rows(config, target, corpus, tmp_path, {}, seed=0)
    assert {row["sae_id"] for row in rows} == {"layer_0", "layer_0_seed_1"} and statistics["trained"] == 24


def test_the_best_of_several_candidates_is_chosen_apart_from_where_it_is_scored(target, corpus, trained, tmp_path):
    config = FeatureConfig(layers=(0,), saes=str(trained), window=10, n_candidates=4, scores=("detection", "fuzzing"))
    rows, statistics = groundtruth.build_rows(config, target, corpus, tmp_path, ANIMALS, seed=0)
    assert statistics["choosing"]["scored"] > statistics["scoring"]["scored"] >= len(rows) > 10
    assert 0.5 < statistics["detection"]["mean"] <= 1 and 0.5 < statistics["fuzzing"]["mean"] <= 1
    token_ids = groundtruth.tokenize(target, corpus, config.max_text_tokens)
    dictionaries = groundtruth.find_dictionaries(config, target, token_ids, [0], tmp_path, 0)
    features, _ = collect_exemplars(target, token_ids, dictionaries, window=10, n_splits=3, seed=0)
    found, _ = groundtruth.write_candidates(config, dictionaries, features, None, tmp_path, ANIMALS, 0)
    by_index = {(row["feature_index"]): row for row in rows}
    dropped = between = 0
    for feature, candidates in zip(features, found, strict=True):
        assert len(candidates) == 4
        choosing = {c.text: score(Description.parse(c.text, ANIMALS), feature.sets[1]) for c in candidates}
        best = max(candidates, key=lambda c: choosing[c.text] - c.cost)
        if choosing[best.text] < config.min_correlation:
            assert feature.feature not in by_index
            dropped += 1
            continue
        row = by_index.pop(feature.feature, None)
        if row is None:  # its family is on another side
            between += 1
            continue
        assert row["description"] == best.text
        assert row["simulator_score"] == score(Description.parse(row["description"], ANIMALS), feature.sets[2])
    assert dropped == statistics["poorly_described"] > 0
    assert not by_index and between == statistics["between_splits"]


def test_a_chat_model_describes_and_simulates_and_the_best_writer_is_kept(target, corpus, trained, tmp_path):
    """One writer that always says the same, one that looks: the second is kept wherever it foretells more."""

    def reply(system, user):
        if system == language.DESCRIBE:
            return "DESCRIPTION: nothing at all" if len(user) % 2 else "I do not know."
        description = user.splitlines()[0].removeprefix("Description: ")
        parsed = Description.parse(description)
        tokens = [json.loads(line.partition(": ")[2]) for line in user.split("Tokens:\n")[1].splitlines()]
        hits = parsed.matches(tokens) if parsed else np.zeros(len(tokens), bool)
        return json.dumps({str(number): 10 for number in (np.flatnonzero(hits) + 1).tolist()})

    with FakeEndpoint(reply) as fake:
        settings = {"descriptions": ("endpoint", "offline"), "simulator": "endpoint", "endpoint": fake.url}
        config = FeatureConfig(
            layers=(0,),
            saes=str(trained),
            max_features=8,
            window=10,
            n_top=3,
            n_sampled=3,
            n_random=2,
            min_active=3,
            endpoint_model="m",
            **settings,
        )
        rows, statistics = groundtruth.build_rows(config, target, corpus, tmp_path, {}, seed=0)
        n_asked = len(fake.asked)
        again, _ = groundtruth.build_rows(config, target, corpus, tmp_path, {}, seed=0)
    assert len(fake.asked) == n_asked and [row["description"] for row in again] == [row["description"] for row in rows]
    assert statistics["endpoint"]["asked"] == statistics["trained"] - statistics["dead"] - statistics["skipped"]
    assert statistics["endpoint"]["unread"] > 0 and statistics["choosing"]["constant"] > 0
    sources = Counter(row["description_source"] for row in rows)
    assert sources["selfexplain offline describer"] > len(rows) / 2
    for row in rows:
        parsed = Description.parse(row["description"])
        assert row["simulator_score"] == pytest.approx(score(parsed, row["scoring_exemplars"]))


def test_descriptions_of_an_export_are_taken_and_not_scored_by_who_cannot_read_them(target, corpus, trained, tmp_path):
    folder = tmp_path / "0/explanations"
    folder.mkdir(parents=True)
    records = [{"index": str(n), "layer": "0-x", "description": f"things like number {n}"} for n in range(0, 48, 2)]
    (folder / "batch-0.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    export = {"descriptions": ("neuronpedia",), "neuronpedia": str(tmp_path / "{layer}")}
    config = FeatureConfig(layers=(0,), saes=str(trained), window=10, **export)
    rows, statistics = groundtruth.build_rows(config, target, corpus, tmp_path, {}, seed=0)
    assert statistics["neuronpedia"]["layer_0"]["missing"] == 24
    assert statistics["scoring"]["unscored"] == statistics["described"] >= len(rows) > 5
    for row in rows:
        assert row["description"] == f"things like number {row['feature_index']}"
        assert row["simulator_score"] is None and row["description_source"] == "Neuronpedia"
    assert pa.Table.from_pylist(rows).num_rows == len(rows)


def test_a_plain_matrix_of_directions_gives_rows_as_well(target, corpus, tmp_path):
    np.save(tmp_path / "layer_1.npy", np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32))
    config = FeatureConfig(layers=(1,), saes=str(tmp_path), window=10, min_correlation=-1.0, rows_per_feature=1)
    rows, _ = groundtruth.build_rows(config, target, corpus, tmp_path, {}, seed=0)
    assert len(rows) == 5 and {row["sae_id"] for row in rows} == {"layer_1"}
    assert all(0.2 < row["density"] < 0.8 for row in rows)


def test_texts_are_cut_and_repeated_ones_dropped(target):
    texts = ["the cat sees a dog", "the cat sees a dog", "the cat sees", "a dog"]
    assert [len(ids) for ids in groundtruth.tokenize(target, texts, 4)] == [4, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows_per_feature": 99},
        {"layers": (7,)},
        {"saes": "/nowhere"},
        {"n_saes": 0},
        {"n_candidates": 0},
        {"descriptions": ()},
        {"descriptions": ("endpoint",)},
        {"simulator": "endpoint", "endpoint": "http://127.0.0.1:1/v1"},
        {"descriptions": ("offline", "neuronpedia")},
    ],
)
def test_bad_settings_are_named(wrong, target, corpus, tmp_path):
    with pytest.raises(SelfExplainError):
        groundtruth.build_rows(FeatureConfig(**wrong), target, corpus, tmp_path, {}, seed=0)
    with pytest.raises(SelfExplainError, match="corpus is empty"):
        groundtruth.build_rows(FeatureConfig(), target, [], tmp_path, {}, seed=0)


@pytest.mark.skipif(not (DATA / "models/stories3M-hf").is_dir(), reason=f"no real model and stories under {DATA}")
def test_descriptions_of_a_real_models_features_predict_held_out_text(tmp_path):
    from selfexplain.target.load import load_target

    lines = (DATA / "text/stories.jsonl").read_text().splitlines()[:250]
    target = load_target(str(DATA / "models/stories3M-hf"))
    config = FeatureConfig(layers=(1,), n_features=64, n_tokens=15_000, max_text_tokens=128)
    _, statistics = groundtruth.build_rows(
        config, target, [json.loads(line)["text"] for line in lines], tmp_path, {}, 0
    )
    assert statistics["described"] > 40
    assert statistics["mean_simulator_score"] > 0.5
