"""Connected components of undirected graphs."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def connected_components(n_nodes: int, edges: NDArray[np.int64] | Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """The component of each node, `(n_nodes,)`: two nodes have the same number if a path of edges connects them.

    Components are numbered from 0 in the order of their first nodes.

    Args:
        edges: pairs of node indices, `(n_edges, 2)`. Repeated edges and edges from a node to itself are allowed.
    """
    from scipy.sparse import coo_array, csgraph

    array = edges if isinstance(edges, np.ndarray) else np.array(list(edges), dtype=np.int64)
    i, j = array.reshape(-1, 2).T
    if n_nodes == 0:
        return np.zeros(0, np.int64)
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(n_nodes, n_nodes))
    return csgraph.connected_components(graph, directed=False)[1].astype(np.int64)
