"""HTML of the map."""

from asking.trial import PatchMap
from rendering.patch_map import patch_map


def test_the_map_states_how_well_probabilities_rank_the_cells():
    result = PatchMap(("a", "b"), ((0, 1), (2, 3)), ((0.9, 0.2), (0.1, 0.2)), ((True, False), (False, False)))
    html = patch_map(result)
    assert "changes in 1 of 4 cells" in html and "In 100% of all pairs" in html
    assert html.count("<button") == 8 and 'aria-label="a, layers 0 to 1: 90% probability of a change"' in html
    assert 'aria-label="a, layers 0 to 1: changes"' in html and 'aria-label="b, layers 2 to 3: unchanged"' in html


def test_equal_probabilities_count_half():
    result = PatchMap(("a", "b"), ((0,),), ((0.5,), (0.5,)), ((True,), (False,)))
    assert "In 50% of all pairs" in patch_map(result)


def test_without_both_kinds_of_cells_the_map_states_the_mean_probability():
    html = patch_map(PatchMap(("a", "b"), ((0,),), ((0.9,), (0.7,)), ((False,), (False,))))
    assert "changes in 0 of 2 cells" in html and "mean predicted probability of a change is 80%" in html
