"""Event handlers of the Features tab."""

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
