"""Measure how much of the features of each dictionary the forms of the offline grammar can express."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from selfexplain.features.description import ABSTENTION, Classes, Description
from selfexplain.features.dictionary import Dictionary
from selfexplain.features.simulate import score
from selfexplain.features.windows import FeatureExemplars

Feature = tuple[int, int]


def measure_forms(
    features: Sequence[FeatureExemplars],
    dictionaries: Sequence[Dictionary],
    descriptions: Mapping[Feature, str],
    classes: Classes,
) -> dict[str, dict[str, dict[str, float]]]:
    """For each dictionary and form: the share of features that it describes, and the share of activity it explains.

    The explained share of a feature's activity is its squared simulator score on held-out exemplars, and features are
    weighted by their summed activations there. All features that are active often enough count.

    Args:
        features: all features with exemplars.
        dictionaries: their dictionaries.
        descriptions: (dictionary, feature) -> its offline description, for the features that have one.
        classes: token class that descriptions can name -> its tokens.

    Returns:
        Name of a dictionary -> form -> `features` and `activity`. The share of features without a description is under
        `ABSTENTION`.
    """
    counts: dict[int, int] = defaultdict(int)
    totals: dict[int, float] = defaultdict(float)
    sums: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    for feature in features:
        activity = float(sum(window["activations"].sum() for window in feature.sets[-1]))
        counts[feature.dictionary] += 1
        totals[feature.dictionary] += activity
        text = descriptions.get((feature.dictionary, feature.feature), ABSTENTION)
        description = Description.parse(text, classes)
        of_form = sums[feature.dictionary][description.form if description else ABSTENTION]
        of_form[0] += 1
        of_form[1] += activity * max(0.0, score(description, feature.sets[-1])) ** 2
    return {
        f"{dictionaries[n].release}/{dictionaries[n].sae_id}": {
            form: {"features": n_features / counts[n], "activity": explained / totals[n] if totals[n] else 0.0}
            for form, (n_features, explained) in sorted(forms.items(), key=_most_frequent_first)
        }
        for n, forms in sorted(sums.items())
    }


def _most_frequent_first(item: tuple[str, Any]) -> tuple[float, str]:
    form, (n_features, _) = item
    return -n_features, form
