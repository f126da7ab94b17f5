"""The report of forms weights features by their activity."""

from types import SimpleNamespace

import numpy as np
import pytest

from selfexplain.features.description import ABSTENTION
from selfexplain.features.windows import FeatureExemplars
from selfexplain.groundtruth.builders.description_forms import measure_forms


def feature(number, activations):
    window = {"tokens": ["cat", "dog", "a", "b"], "activations": np.array(activations, np.float32)}
    return FeatureExemplars(0, number, 0.1, ([], [window]))


def test_shares_of_features_and_of_activity():
    features = [feature(0, [3, 0, 0, 0]), feature(1, [0, 1, 0, 0]), feature(2, [0, 0, 1, 1]), feature(3, [1, 1, 0, 0])]
    descriptions = {(0, 0): "the word cat", (0, 1): "the word a", (0, 3): "animals"}
    classes = {"animals": {"cat", "dog"}}
    report = measure_forms(features, [SimpleNamespace(release="r", sae_id="s")], descriptions, classes)
    # "the word cat" and "animals" fit exactly; the negative correlation of "the word a" explains nothing.
    assert report == {
        "r/s": {
            "token": {"features": 0.5, "activity": pytest.approx(3 / 8)},
            ABSTENTION: {"features": 0.25, "activity": 0.0},
            "class": {"features": 0.25, "activity": pytest.approx(2 / 8)},
        }
    }
