import numpy as np
import pytest

from selfexplain.utils.graphs import connected_components


@pytest.mark.parametrize("as_array", [False, True])
def test_nodes_on_a_path_share_a_component_and_components_are_numbered_by_first_node(as_array):
    edges = [(4, 1), (1, 4), (2, 2), (5, 4), (0, 3)]
    components = connected_components(6, np.array(edges) if as_array else edges)
    assert components.tolist() == [0, 1, 2, 0, 1, 1]


def test_without_edges_every_node_is_its_own_component():
    assert connected_components(3, []).tolist() == [0, 1, 2]
    assert connected_components(0, []).tolist() == []
