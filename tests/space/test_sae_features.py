"""SAE features and their exemplars."""

from sae_features import MAX_TEXTS, exemplar_texts, read_features, restore_spaces


def row(index, score, texts=("a b",)):
    return {"layer": 1, "sae_id": "sae", "feature_index": index, "activations": [[1.0, 2.0]], "description": "x",
            "simulator_score": score,
            "exemplars": [{"tokens": [text], "activations": [1.0]} for text in texts]}  # fmt: skip


def test_each_feature_is_read_once_and_the_highest_score_comes_first():
    features = read_features([row(7, 0.2), row(7, 0.9), row(3, 0.5)])
    assert [(feature.index, feature.simulator_score) for feature in features] == [(3, 0.5), (7, 0.2)]
    assert features[0].vector == (1.0, 2.0)


def test_exemplar_texts_are_distinct_and_limited():
    features = read_features([row(n, 0.5, (f"text {n}", "shared")) for n in range(300)])
    texts = exemplar_texts(features)
    assert len(texts) == len(set(texts)) == MAX_TEXTS
    assert exemplar_texts(features[:2]) == ["text 0", "shared", "text 1"]


def test_spaces_that_sentencepiece_drops_are_restored():
    assert restore_spaces(["She", "looked"]) == ["She", " looked"]
    assert restore_spaces(["She", " looked", "."]) == ["She", " looked", "."]
