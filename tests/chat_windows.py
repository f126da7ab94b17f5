"""Windows of a feature that is active on cats, and a fake chat model that simulates it."""

import json
import re

import numpy as np

from selfexplain.features import chat_simulator
from selfexplain.features.describers import chat_model

WINDOWS = [
    {"tokens": ["The", " cat", " sat", "."], "activations": np.array([0, 8.0, 1.0, 0], np.float32)},
    {"tokens": [" a", " cat", "\n"], "activations": np.array([0, 4.0, 3.0], np.float32)},
    {"tokens": [" no", "thing", " here"], "activations": np.zeros(3, np.float32)},
    {"tokens": [" more", " of", " it"], "activations": np.zeros(3, np.float32)},
]


def cat_expert(system, user):
    """Reply to every kind of request as if the feature were active on cats."""
    if system == chat_model.DESCRIBE:
        return "DESCRIPTION: cats"
    if system == chat_simulator.SIMULATE:
        return json.dumps({number: 9 for number, token in re.findall(r'^(\d+): "(.*)"$', user, re.M) if "cat" in token})
    texts = user.split("\n\n")[1:]
    pattern = "<< cat" if system == chat_simulator.FUZZ else "cat"
    return json.dumps([int(pattern in text) for text in texts])
