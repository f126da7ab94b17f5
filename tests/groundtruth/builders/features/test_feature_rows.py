"""Rows of feature description: their columns, vectors, groups and scores."""

import gzip
import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fake_endpoint import FakeEndpoint
from selfexplain.errors import SelfExplainError
from selfexplain.features.describers import chat_model
from selfexplain.features.description import ABSTENTION, Description
from selfexplain.features.simulate import score
from selfexplain.features.windows import collect_exemplars
from selfexplain.groundtruth.builders.descriptions import OFFLINE, Candidate, write_candidates
from selfexplain.groundtruth.builders.dictionaries import corpus_token_ids, find_dictionaries
from selfexplain.groundtruth.builders.feature_rows import build_rows, named_words
from selfexplain.groundtruth.config import FeatureConfig

DATA = Path(os.environ.get("SELFEXPLAIN_DATA", "no SELFEXPLAIN_DATA"))
COLUMNS = {"prompt", "completion", "placeholder_offsets", "activations", "activation_layers", "group", "target_model"}
COLUMNS |= {"target_revision", "layer", "feature_index", "sae_release", "sae_id", "description", "description_source"}
COLUMNS |= {"exemplars", "scoring_exemplars", "simulator_score", "density"}
ANIMALS = {"animals": {"cat", "dog", "bird"}}


@pytest.fixture(scope="module")
def built(target, corpus, tmp_path_factory):
    config = FeatureConfig(layers=(0, 2), n_features=48, k=3, n_tokens=15_000, window=10, rows_per_feature=2)
    work_dir = tmp_path_factory.mktemp("work")
    return *build_rows(config, target, corpus, work_dir, ANIMALS, seed=0), work_dir


def test_rows_have_the_columns_of_the_task_and_convert_to_arrow(built, target):
    rows, statistics, _ = built
    assert all(row.keys() == COLUMNS for row in rows)
    assert (
        pa.Table.from_pylist(rows).num_rows == len(rows) == 2 * (statistics["described"] - statistics["between_splits"])
    )
    assert json.loads(json.dumps(statistics)) == statistics
    total = sum(statistics[name] for name in ("dead", "skipped", "described", "poorly_described"))
    assert statistics["trained"] == 96 == total


def test_a_row_asks_about_a_unit_vector_at_the_placeholder(built):
    for row in built[0]:
        (vector,), (offset,) = row["activations"], row["placeholder_offsets"]
        assert vector.dtype == np.float16 and np.linalg.norm(vector.astype(np.float32)) == pytest.approx(1, abs=1e-2)
        assert row["prompt"][offset:].startswith("<activation>")
        assert str(row["layer"]) in row["prompt"] and row["activation_layers"] == [row["layer"]]


def test_rows_of_a_feature_differ_only_in_their_wording_and_share_a_group(built):
    for first, second in zip(built[0][::2], built[0][1::2], strict=True):
        assert first["prompt"] != second["prompt"]
        assert all(first[name] is second[name] for name in ("group", "description", "exemplars", "activations"))


def test_the_simulator_score_is_that_of_the_description_on_the_scoring_exemplars(built):
    rows, statistics, _ = built
    for row in rows:
        description = Description.parse(row["completion"], ANIMALS)
        assert description is not None
        assert row["simulator_score"] == score(description, row["scoring_exemplars"])
    assert statistics["mean_simulator_score"] == pytest.approx(np.mean([row["simulator_score"] for row in rows]))


def test_existing_saes_are_read_from_their_directory(built, target, corpus, tmp_path):
    rows, _, work_dir = built
    config = FeatureConfig(layers=(0, 2), saes=str(work_dir / "saes"), window=10, rows_per_feature=2)
    again, _ = build_rows(config, target, corpus, tmp_path, ANIMALS, seed=0)
    assert [row["completion"] for row in again] == [row["completion"] for row in rows]
    assert not list(tmp_path.iterdir())


def test_the_words_in_a_description_are_listed_with_its_subject_first():
    def names(text, source=OFFLINE):
        return named_words(Candidate(text, source), ANIMALS)

    assert names("the words Cat, of") == ["cat", "of"] and names("words after the word cat") == ["cat"]
    assert names("words after animals") == ["animals"]
    assert names("the word cat", "some model") == ["the word cat"]


def test_similar_features_of_several_saes_share_a_group(target, corpus, trained, tmp_path):
    """Two SAEs of a layer find many equal features, which must not be in two splits."""
    for name in ("layer_0", "layer_0_seed_1"):
        shutil.copytree(trained / "layer_0", tmp_path / name)
    config = FeatureConfig(layers=(0,), saes=str(tmp_path), window=10)
    rows, statistics = build_rows(config, target, corpus, tmp_path, {}, seed=0)
    groups = {(row["sae_id"], row["feature_index"]): row["group"] for row in rows}
    both = [index for sae_id, index in groups if sae_id == "layer_0" and ("layer_0_seed_1", index) in groups]
    assert statistics["trained"] == 96 and len(both) > 30
    assert all(groups["layer_0", index] == groups["layer_0_seed_1", index] for index in both)


def test_several_saes_per_layer_are_trained_if_requested(target, corpus, tmp_path):
    config = FeatureConfig(layers=(0,), n_saes=2, n_features=12, k=2, n_tokens=600, window=10, min_correlation=-1.0)
    rows, statistics = build_rows(config, target, corpus, tmp_path, {}, seed=0)
    assert {row["sae_id"] for row in rows} == {"layer_0", "layer_0_seed_1"} and statistics["trained"] == 24
    rows, _ = build_rows(replace(config, n_saes=1), target, corpus, tmp_path, {}, seed=0)
    assert {row["sae_id"] for row in rows} == {"layer_0"}  # SAEs of earlier settings are not used


def test_the_best_candidate_is_chosen_and_scored_on_different_exemplars(target, corpus, trained, tmp_path):
    config = FeatureConfig(layers=(0,), saes=str(trained), window=10, n_candidates=4, scores=("detection", "fuzzing"))
    rows, statistics = build_rows(config, target, corpus, tmp_path, ANIMALS, seed=0)
    assert statistics["choosing"]["scored"] > statistics["scoring"]["scored"] >= len(rows) > 10
    for name in ("detection", "fuzzing"):
        assert statistics[name]["scored"] == statistics["described"] and 0 <= statistics[name]["mean"] <= 1
    token_ids = corpus_token_ids(target, corpus, config.max_text_tokens)
    dictionaries = find_dictionaries(config, target, token_ids, [0], tmp_path, 0)
    features, _ = collect_exemplars(target, token_ids, dictionaries, window=10, n_splits=3, seed=0)
    written, _ = write_candidates(config, dictionaries, features, None, tmp_path, ANIMALS, 0)
    by_index = {row["feature_index"]: row for row in rows}
    dropped = between = 0
    for feature, candidates in zip(features, written, strict=True):
        assert len(candidates) == 4
        choosing = {c.text: score(Description.parse(c.text, ANIMALS), feature.sets[1]) for c in candidates}
        best = max(candidates, key=lambda c: choosing[c.text] - c.cost)
        if choosing[best.text] < config.min_correlation:
            assert feature.feature not in by_index
            dropped += 1
            continue
        row = by_index.pop(feature.feature, None)
        if row is None:  # its family is in a different split
            between += 1
            continue
        assert row["description"] == best.text
        assert row["simulator_score"] == score(Description.parse(row["description"], ANIMALS), feature.sets[2])
    assert dropped == statistics["poorly_described"] > 0
    assert not by_index and between == statistics["between_splits"]


def test_the_better_of_two_describers_is_kept_with_a_chat_model_as_simulator(target, corpus, trained, tmp_path):
    """One describer always returns the same description. The offline describer is kept wherever it predicts better."""

    def reply(system, user):
        if system == chat_model.DESCRIBE:
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
        rows, statistics = build_rows(config, target, corpus, tmp_path, {}, seed=0)
        n_requests = len(fake.requests)
        again, _ = build_rows(config, target, corpus, tmp_path, {}, seed=0)
    # Unreadable replies are not cached.
    assert len(fake.requests) == n_requests + statistics["endpoint"]["unread"]
    assert [row["description"] for row in again] == [row["description"] for row in rows]
    assert statistics["endpoint"]["asked"] == statistics["trained"] - statistics["dead"] - statistics["skipped"]
    assert statistics["endpoint"]["unread"] > 0 and statistics["choosing"]["constant"] > 0
    sources = Counter(row["description_source"] for row in rows)
    assert sources[OFFLINE] > 0
    assert all(row["description_source"] == OFFLINE for row in rows if row["simulator_score"] > 0)
    for row in rows:
        parsed = Description.parse(row["description"])
        assert row["simulator_score"] == pytest.approx(score(parsed, row["scoring_exemplars"]))


def test_descriptions_of_an_export_are_used_and_not_scored_by_the_offline_simulator(target, corpus, trained, tmp_path):
    folder = tmp_path / "0/explanations"
    folder.mkdir(parents=True)
    records = [{"index": str(n), "layer": "0-x", "description": f"things like number {n}"} for n in range(0, 48, 2)]
    (folder / "batch-0.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    export = {"descriptions": ("neuronpedia",), "neuronpedia": str(tmp_path / "{layer}")}
    config = FeatureConfig(layers=(0,), saes=str(trained), window=10, **export)
    rows, statistics = build_rows(config, target, corpus, tmp_path, {}, seed=0)
    assert statistics["neuronpedia"]["layer_0"]["missing"] == 24
    assert statistics["scoring"]["unscored"] == statistics["described"] >= len(rows) > 5
    for row in rows:
        assert row["description"] == f"things like number {row['feature_index']}"
        assert row["simulator_score"] is None and row["description_source"] == "Neuronpedia"
    assert pa.Table.from_pylist(rows).num_rows == len(rows)


def test_a_matrix_of_directions_gives_rows(target, corpus, tmp_path):
    np.save(tmp_path / "layer_1.npy", np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32))
    config = FeatureConfig(layers=(1,), saes=str(tmp_path), window=10, min_correlation=-1.0, rows_per_feature=1)
    rows, _ = build_rows(config, target, corpus, tmp_path, {}, seed=0)
    assert len(rows) == 5 and {row["sae_id"] for row in rows} == {"layer_1"}
    assert all(0.2 < row["density"] < 0.8 for row in rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows_per_feature": 99}, "rows_per_feature is 99. Expected a number from 1 to 4"),
        ({"layers": (7,)}, "layer"),
        ({"saes": "/nowhere"}, "/nowhere"),
        ({"n_saes": 0}, "n_saes"),
        ({"n_candidates": 0}, "n_candidates is 0 .* at least one candidate and one describer"),
        ({"descriptions": ()}, "descriptions is .* at least one candidate and one describer"),
        ({"descriptions": ("endpoint",)}, "endpoint is None and endpoint_model is None"),
        ({"simulator": "endpoint", "endpoint": "http://127.0.0.1:1/v1"}, "endpoint_model is None"),
        ({"descriptions": ("offline", "neuronpedia")}, "several candidate descriptions .*Set simulator=endpoint"),
    ],
)
def test_invalid_settings_raise_an_error(settings, message, target, corpus, tmp_path):
    with pytest.raises(SelfExplainError, match=message):
        build_rows(FeatureConfig(**settings), target, corpus, tmp_path, {}, seed=0)


def test_an_empty_corpus_raises_an_error(target, tmp_path):
    with pytest.raises(SelfExplainError, match="The corpus is empty"):
        build_rows(FeatureConfig(), target, [], tmp_path, {}, seed=0)


def test_a_higher_group_cosine_leaves_out_fewer_features(built, target, corpus, tmp_path):
    """Fewer pairs of features count as similar, so fewer features are too similar to one in another split."""
    _, statistics, work_dir = built
    settings = {"layers": (0, 2), "saes": str(work_dir / "saes"), "window": 10, "rows_per_feature": 2}
    strict, _ = build_rows(FeatureConfig(**settings, group_cosine=0.3), target, corpus, tmp_path, ANIMALS, seed=0)
    loose, counts = build_rows(FeatureConfig(**settings, group_cosine=1.0), target, corpus, tmp_path, ANIMALS, seed=0)
    assert len(strict) < len(loose)
    assert counts["between_splits"] <= statistics["between_splits"]


@pytest.mark.skipif(not (DATA / "models/stories3M-hf").is_dir(), reason=f"no real model and stories under {DATA}")
def test_descriptions_of_a_real_models_features_predict_held_out_text(tmp_path):
    from selfexplain.target.load import load_target

    lines = (DATA / "text/stories.jsonl").read_text().splitlines()[:250]
    target = load_target(str(DATA / "models/stories3M-hf"))
    config = FeatureConfig(layers=(1,), n_features=64, n_tokens=15_000, max_text_tokens=128)
    _, statistics = build_rows(config, target, [json.loads(line)["text"] for line in lines], tmp_path, {}, 0)
    assert statistics["described"] > 40
    assert statistics["mean_simulator_score"] > 0.5


def test_features_that_cannot_be_expressed_are_kept_as_such(target, corpus, trained, tmp_path):
    config = FeatureConfig(layers=(0,), saes=str(trained), window=10, min_correlation=0.9, n_inexpressible=7)
    rows, statistics = build_rows(config, target, corpus, tmp_path, ANIMALS, seed=0)
    abstentions = [row for row in rows if row["completion"] == ABSTENTION]
    assert len(abstentions) == statistics["inexpressible_kept"] == 7 < statistics["inexpressible"]
    assert len({row["group"] for row in abstentions}) > 1
    assert all(row["simulator_score"] is None for row in abstentions)
    without, _ = build_rows(replace(config, n_inexpressible=0), target, corpus, tmp_path, ANIMALS, seed=0)
    described = {row["feature_index"]: row["completion"] for row in rows if row["completion"] != ABSTENTION}
    assert described and {row["feature_index"]: row["completion"] for row in without}.items() >= described.items()


def test_dense_features_are_left_out(target, corpus, trained, tmp_path):
    config = FeatureConfig(layers=(0,), saes=str(trained), window=10, min_correlation=-1.0)
    rows, _ = build_rows(config, target, corpus, tmp_path, {}, seed=0)
    limit = float(np.median([row["density"] for row in rows]))
    sparse, statistics = build_rows(replace(config, max_density=limit), target, corpus, tmp_path, {}, seed=0)
    assert max(row["density"] for row in sparse) <= limit and statistics["too_dense"] > 5


def test_the_report_of_forms_counts_all_active_features(built):
    _, statistics, _ = built
    assert set(statistics["forms"]) == {f"trained on local/tiny-llama/layer_{n}" for n in (0, 2)}
    for forms in statistics["forms"].values():
        assert sum(form["features"] for form in forms.values()) == pytest.approx(1)
        assert 0.2 < sum(form["activity"] for form in forms.values()) < 1
        assert forms.get(ABSTENTION, {"activity": 0})["activity"] == 0
