"""HTML of the list of features."""

from rendering.features import feature_list


def test_features_are_buttons_with_their_index(show):
    html = feature_list([(3, show.features[3]), (5, show.features[5])], 5, 100)
    assert "2 of 100" in html and 'data-pick="3" aria-pressed="false"' in html
    assert 'data-pick="5" aria-pressed="true"' in html and f"feature {show.features[5].index}" in html


def test_a_search_without_matches_shows_a_message():
    assert "No description contains" in feature_list([], None, 100)
