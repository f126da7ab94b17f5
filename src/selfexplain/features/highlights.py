"""Select and mark what a reader of exemplars sees: active windows, highlighted tokens, activation levels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from selfexplain.features.windows import Exemplar

ACTIVE = 0.1  # a window is active if its peak exceeds this fraction of the feature's largest activation
HIGHLIGHTED = 0.3  # a token is highlighted if it reaches this fraction of the window's largest activation
MAX_LEVEL = 10  # activations are shown and predicted as integers from 0 to this


def active_windows(exemplars: Sequence[Exemplar]) -> NDArray[np.bool_]:
    """Whether the feature is active in each window, `(n,)`."""
    peaks = np.array([np.max(exemplar["activations"], initial=0.0) for exemplar in exemplars])
    return peaks > ACTIVE * peaks.max(initial=0.0)


def highlights(exemplar: Exemplar) -> NDArray[np.bool_]:
    """Whether the feature is active on each token, relative to the window's peak, `(n_tokens,)`."""
    activations = np.asarray(exemplar["activations"])
    return (activations > 0) & (activations >= HIGHLIGHTED * activations.max(initial=0.0))


def levels(exemplars: Sequence[Exemplar]) -> list[NDArray[np.int64]]:
    """Activations as integers from 0 to `MAX_LEVEL`; the strongest activation of all windows gets `MAX_LEVEL`."""
    peak = max((float(np.max(exemplar["activations"], initial=0.0)) for exemplar in exemplars), default=0.0) or 1.0
    return [
        np.ceil(np.asarray(exemplar["activations"]) / peak * MAX_LEVEL).clip(0, MAX_LEVEL).astype(np.int64)
        for exemplar in exemplars
    ]


def highlighted_text(tokens: Sequence[str], highlighted: NDArray[np.bool_]) -> str:
    """The text with << and >> around each run of highlighted tokens."""
    pieces, inside = [], False
    for token, mark in zip(tokens, highlighted.tolist(), strict=True):
        if mark != inside:
            pieces.append("<<" if mark else ">>")
        pieces.append(token)
        inside = mark
    return "".join(pieces) + ">>" * inside
