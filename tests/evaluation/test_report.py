"""Tables say what results.json says."""

from selfexplain.evaluation.report import markdown


def test_markdown_has_a_row_a_system_and_no_cell_for_what_does_not_apply():
    score = {"value": 0.5, "ci95": [0.4, 0.6]}
    result = {
        "n_test": 7,
        "n_groups": 3,
        "scores": {
            "explainer": {"exact_match": score, "has_changed_macro_f1": score, "content_match": score},
            "lookup_rule": {"has_changed_macro_f1": {"value": 0.25, "ci95": [0.2, 0.3]}},
        },
    }
    lines = markdown({"tasks": {"activation_patching": result}}).splitlines()
    assert lines[0] == "**Activation patching**: 7 held-out rows in 3 groups"
    assert lines[2] == "| system | exact match | has changed macro F1 | content match |"
    assert lines[4:6] == [
        "| explainer | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] |",
        "| lookup rule |  | 0.250 [0.200, 0.300] |  |",
    ]
