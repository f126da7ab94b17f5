"""Synthetic rows of the three tasks, and datasets made from them."""

import numpy as np
import pytest

from evaluation_data import write_dataset
from selfexplain.groundtruth.statistics import DatasetStatistics
from selfexplain.tasks.activation_patching import question as patching_question
from selfexplain.tasks.feature_description import question as feature_question
from selfexplain.tasks.input_ablation import question as ablation_question
from selfexplain.tasks.outcome import Outcome, render

DESCRIPTIONS = ("the word red", "the word blue")


@pytest.fixture
def patching_rows():
    """64 rows: 16 groups in each of two blocks, two rows per group; subject tokens change in 3 of 4 groups."""
    rng = np.random.default_rng(0)
    rows = []
    for block in ([0, 1], [2, 3]):
        for group in range(16):
            for token_type in ("subject", "other"):
                question = patching_question("a b c", block, 1, "b")
                changed = (token_type == "subject") == (group % 4 > 0)
                rows.append(
                    {
                        "prompt": question.prompt,
                        "placeholder_offsets": list(question.placeholder_offsets),
                        "activations": rng.normal(size=(1, 8)).astype(np.float16),
                        "activation_layers": block[-1:],
                        "completion": render(Outcome(changed, f"city{group}")),
                        "group": f"fact{group}",
                        "layers": block,
                        "token_type": token_type,
                        "changed": changed,
                    }
                )
    return rows


@pytest.fixture
def ablation_rows():
    """20 rows without vectors; the output changes if the topic is rivers."""
    rows = []
    for index in range(20):
        topic = "rivers" if index % 2 else "metals"
        changed = topic == "rivers"
        question = ablation_question(f"Question {index} about {topic}. Hint: The answer is B")
        rows.append(
            {
                "prompt": question.prompt,
                "placeholder_offsets": [],
                "activations": np.empty((0, 0)),
                "activation_layers": [],
                "completion": render(Outcome(changed, "A" if changed else "B")),
                "group": f"question{index}",
                "topic": topic,
                "hint_style": "direct",
                "changed": changed,
            }
        )
    return rows


@pytest.fixture
def feature_rows():
    """6 rows whose descriptions, "the word red" and "the word blue", predict the windows exactly."""
    rng = np.random.default_rng(1)
    question = feature_question(layer=1)
    words = ("red", "blue")
    return [
        {
            "prompt": question.prompt,
            "placeholder_offsets": list(question.placeholder_offsets),
            "activations": rng.normal(size=(1, 8)).astype(np.float16),
            "activation_layers": [1],
            "completion": DESCRIPTIONS[index % 2],
            "group": f"feature{index}",
            "scoring_exemplars": [
                {"tokens": ["a", words[index % 2], "b"], "activations": [0.0, 2.0, 0.0]},
                {"tokens": ["a", words[1 - index % 2], "b"], "activations": [0.0, 0.0, 0.0]},
            ],
        }
        for index in range(6)
    ]


@pytest.fixture
def datasets_of(tmp_path, patching_rows, ablation_rows, feature_rows):
    """Function from names of tasks to their datasets."""
    datasets = {
        "feature_description": write_dataset(
            tmp_path / "feature_description",
            feature_rows,
            statistics=DatasetStatistics(classes={"warm colours": ["red", "orange"]}),
        ),
        "activation_patching": write_dataset(tmp_path / "activation_patching", patching_rows),
        "input_ablation": write_dataset(tmp_path / "input_ablation", ablation_rows),
    }
    return lambda *tasks: {task: datasets[task] for task in tasks}
