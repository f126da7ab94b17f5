"""Baselines see training rows and questions, never the truth of the row they predict."""

import numpy as np

from selfexplain.evaluation.baselines import lookup_rule, majority, nearest_neighbour


def test_lookup_rule_learns_its_cells(patching_rows, ablation_rows):
    rule = lookup_rule("activation_patching", patching_rows, patching_rows)
    assert rule == [row["token_type"] == "subject" for row in patching_rows]
    assert lookup_rule("input_ablation", ablation_rows, ablation_rows) == [row["changed"] for row in ablation_rows]


def test_a_cell_in_balance_gets_either_label(patching_rows):
    rows = [
        {**row, "token_type": f"type {cell}", "changed": changed}
        for cell in range(40)
        for row, changed in zip(patching_rows[:2], (True, False), strict=True)
    ]
    told = lookup_rule("activation_patching", rows, rows)
    assert 10 <= sum(told[::2]) <= 30 and told[::2] == told[1::2]  # one for all of a cell, not the same for all cells


def test_lookup_rule_does_not_read_the_answer(patching_rows):
    blind = [{key: row[key] for key in ("token_type", "layers")} for row in patching_rows]
    assert lookup_rule("activation_patching", patching_rows, blind) == lookup_rule(
        "activation_patching", patching_rows, patching_rows
    )


def test_an_empty_cell_takes_the_majority(patching_rows):
    train = [row for row in patching_rows if row["changed"]]
    unseen = [{**patching_rows[0], "token_type": "never seen"}]
    assert lookup_rule("activation_patching", train, unseen) == majority(train, unseen) == [True]


def test_majority_is_constant(ablation_rows):
    train = [row for row in ablation_rows if not row["changed"]] + ablation_rows[:3]
    assert majority(train, ablation_rows) == [False] * 20


def test_nearest_by_direction_not_by_length(patching_rows):
    # Twice the vector with a little noise points to its own row; a long vector of another direction does not.
    train = [{**row, "completion": str(index)} for index, row in enumerate(patching_rows)]
    train.append({**train[0], "activations": np.full((1, 8), 100.0), "completion": "long"})
    test = [{**row, "activations": 2 * row["activations"] + np.float16(0.01)} for row in patching_rows]
    assert nearest_neighbour(train, test) == [str(index) for index in range(len(test))]


def test_nearest_by_text_weighs_rare_words():
    def row(prompt):
        return {"prompt": prompt, "activations": [], "completion": prompt}

    train = [row("what is the zinc"), row("what is the river and the lake"), row("what is the river nile")]
    assert nearest_neighbour(train, [row("the nile, the what"), row("Zinc?"), row("lake or river")]) == [
        "what is the river nile",
        "what is the zinc",
        "what is the river and the lake",
    ]
