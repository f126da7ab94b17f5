"""Connected components of undirected graphs."""

from collections.abc import Iterable

import numpy as np


def connected_components(n_nodes: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """The component of each of `n_nodes` nodes: equal numbers mean that a path of edges connects two nodes.

    Components are numbered from 0 in the order of their first nodes.

    Args:
        edges: pairs of node indices. Repeated edges and edges from a node to itself are allowed.
    """
    from scipy.sparse import coo_array, csgraph

    if n_nodes == 0:
        return []
    i, j = np.array(list(edges), dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(n_nodes, n_nodes))
    return csgraph.connected_components(graph, directed=False)[1].tolist()
