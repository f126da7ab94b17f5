"""Event handlers of the Features tab."""

from types import SimpleNamespace

import pytest


@pytest.fixture
def features(show):
    from tabs import features

    return features


def test_a_search_finds_features_whose_description_contains_all_words(features):
    assert "100 of 100" in features.search("")
    assert "1 of 100" in features.search("DODOMA word") and "No description" in features.search("dodoma Peru")


def test_a_feature_is_shown_with_its_description(features, show):
    assert show.features[3].description in features.show_feature(3)


def test_searches_are_limited_in_length_and_number(features, monkeypatch):
    import service

    assert "at most 80 characters" in features.search("x " * 2_000_000)
    monkeypatch.setattr(service, "SEARCH_LIMIT", service.RateLimit(n=2, seconds=60))
    visitor = SimpleNamespace(client=SimpleNamespace(host="203.0.113.11"))
    answers = [features.search("Peru", request=visitor) for _ in range(3)]
    assert ["per minute" in answer for answer in answers] == [False, False, True]


@pytest.mark.parametrize("index", [-1, 5, 10**30, "0", None, True, 1.0])
def test_picking_an_item_that_does_not_exist_is_the_fault_of_the_input(features, index):
    import gradio as gr

    from tabs.elements import picked

    with pytest.raises(gr.Error, match="The item that was picked does not exist"):
        picked(SimpleNamespace(index=index), range(5))
    assert picked(SimpleNamespace(index=4), range(5)) == 4
