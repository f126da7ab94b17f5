"""Baselines learn from training rows and never read the ground truth of the row that they predict."""

import numpy as np

from selfexplain.evaluation.baselines import majority, nearest_neighbour


def text_row(prompt):
    return {"prompt": prompt, "activations": [], "completion": prompt}


def test_majority_predicts_one_label(ablation_rows):
    train = [row for row in ablation_rows if not row["changed"]] + ablation_rows[:3]
    assert majority(train, ablation_rows) == [False] * 20


def test_nearest_neighbour_compares_directions_and_not_lengths(patching_rows):
    # Twice the vector with a little noise is nearest to its own row; a long vector of another direction is not.
    train = [{**row, "completion": str(index)} for index, row in enumerate(patching_rows)]
    train.append({**train[0], "activations": np.full((1, 8), 100.0), "completion": "long"})
    test = [{**row, "activations": 2 * row["activations"] + np.float16(0.01)} for row in patching_rows]
    assert nearest_neighbour(train, test) == [str(index) for index in range(len(test))]


def test_nearest_neighbour_by_text_gives_rare_words_more_weight():
    train = [
        text_row("what is the zinc"),
        text_row("what is the river and the lake"),
        text_row("what is the river nile"),
    ]
    test = [text_row("the nile, the what"), text_row("Zinc?"), text_row("lake or river")]
    assert nearest_neighbour(train, test) == [
        "what is the river nile",
        "what is the zinc",
        "what is the river and the lake",
    ]


def test_single_characters_are_words():
    assert nearest_neighbour([text_row("answer A"), text_row("answer B")], [text_row("B?")]) == ["answer B"]


def test_the_first_of_equally_similar_prompts_is_chosen():
    """Word order does not count, so all training prompts are equally similar, up to float errors."""
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    train = [text_row(" ".join(words[shift:] + words[:shift])) for shift in range(7)]
    assert nearest_neighbour(train, [text_row("seven two one")]) == [train[0]["prompt"]]
    assert nearest_neighbour(train, [text_row("unknown words")]) == [train[0]["prompt"]]
