"""Describe features offline with the description in the small grammar that correlates best with the activations."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from selfexplain.features.description import BUILT_IN, MAX_TOKENS, Classes, Description, clean
from selfexplain.features.windows import Exemplar

PENALTY = 0.05
"""Correlation that one more token, or "words after", must add to be worth it."""


def describe(
    exemplars: Sequence[Exemplar], classes: Classes | None = None, n: int = 1
) -> list[tuple[Description, float]]:
    """The `n` descriptions that correlate best with the activations over the concatenated exemplars, best first.

    Each extra token or modifier costs `PENALTY`, so the simpler of two similar descriptions wins. Token lists grow
    greedily by the token that increases the correlation most. Predictions are 0 or 1, so their correlation depends only
    on how many tokens a description selects and on the sum of their activations.

    Args:
        exemplars: windows with activations.
        classes: classes that descriptions may name in addition to the built-in ones: name -> its tokens.
        n: number of descriptions.

    Returns:
        Descriptions with their Pearson correlations on these exemplars (0 if the activations are constant).
    """
    classes = classes or {}
    activations = np.concatenate([exemplar["activations"] for exemplar in exemplars]).astype(np.float64)
    here = [clean(token) for exemplar in exemplars for token in exemplar["tokens"]]
    before = [text for exemplar in exemplars for text in [None, *map(clean, exemplar["tokens"][:-1])]]
    candidates = [
        (description, float(_correlation(n_selected, total, activations)))
        for after, texts in ((False, here), (True, before))
        for description, n_selected, total in _candidates(texts, activations, classes, after)
    ]
    return sorted(candidates, key=lambda candidate: candidate[1] - PENALTY * candidate[0].complexity, reverse=True)[:n]


def _candidates(
    texts: Sequence[str | None], activations: NDArray, classes: Classes, after: bool
) -> Iterator[tuple[Description, float, float]]:
    """Candidate descriptions, each with the number of tokens that it selects and the sum of their activations.

    Args:
        texts: text that a description has to name to select each token; None if no description can select it.
    """
    number = {text: n for n, text in enumerate(dict.fromkeys([None, *texts]))}
    groups = np.array([number[text] for text in texts])
    counts = np.bincount(groups, minlength=len(number))
    sums = np.bincount(groups, activations, minlength=len(number))
    names = [text or "" for text in number]
    available = np.arange(len(number)) > 0
    chosen: list[int] = []
    while len(chosen) < MAX_TOKENS and available.any():
        grown = _correlation(counts[chosen].sum() + counts, sums[chosen].sum() + sums, activations)
        chosen.append(int(np.where(available, grown, -np.inf).argmax()))
        available[chosen[-1]] = False
        yield Description(tuple(names[n] for n in chosen), after=after), counts[chosen].sum(), sums[chosen].sum()
    for name in [*BUILT_IN, *classes]:
        description = Description.of_class(name, classes, after)
        members = [n for n, text in enumerate(names) if n and description.contains(text)]
        yield description, counts[members].sum(), sums[members].sum()


def _correlation(n_selected: NDArray | float, total: NDArray | float, activations: NDArray) -> NDArray:
    """Pearson correlation of activations `(n,)` with predictions that are 1 on `n_selected` tokens and 0 elsewhere.

    Args:
        total: sum of the activations of the selected tokens.
    """
    share = n_selected / len(activations)
    spread = np.sqrt(np.clip(share * (1 - share), 0, None)) * activations.std()
    covariance = total / len(activations) - share * activations.mean()
    return np.where(spread > 0, covariance / np.where(spread > 0, spread, 1), 0.0)
