"""The HTML of the page."""

import re

import pages
from pages import Code
from questions import PatchMap, Said, Trial

HOSTILE = "<script>alert(1)</script>${alert(2)}{{x}}"
SCORE = {"value": 0.5, "ci95": [0.4, 0.6]}


def trial(**changes):
    said = Said("The most likely output would change to <<<x>>>.", True, "x", 0.5, correct=True)
    given = {"explanation": said, "control": said, "prompt": "?", "before": "y", "after": "x"}
    return Trial(**({"task": "activation_patching", "control_from": "there"} | given | changes))


def test_what_visitors_and_models_write_is_escaped():
    said = Said(HOSTILE, True, HOSTILE, 0.5, correct=False)
    html = pages.trial(trial(explanation=said, control=said, prompt=HOSTILE, after=HOSTILE), HOSTILE)
    html += pages.tokens([HOSTILE], 0, "Text") + pages.error(HOSTILE) + pages.picker([HOSTILE], None, HOSTILE)
    assert "<script" not in html and html.count("&lt;script&gt;") >= 7


def test_tokens_are_real_buttons_with_one_in_the_order_of_tabs():
    html = pages.tokens(["a", " b", "\n"], 1, "Text", [0.1, 1, 0])
    assert re.findall(r'aria-pressed="(\w+)" tabindex="(-?\d)"', html) == [
        ("false", "-1"),
        ("true", "0"),
        ("false", "-1"),
    ]
    assert 'role="toolbar" aria-label="Text: pick a token"' in html and "↵" in html


def test_the_verdict_names_what_the_control_shows():
    wrong = Said("", True, "z", 0.5, correct=False)
    assert "read from the vector" in pages.trial(trial(control=wrong), "")
    assert "the text alone" in pages.trial(trial(), "")
    assert "wrong here, and so is the control" in pages.trial(trial(explanation=wrong, control=wrong), "")


def test_the_map_is_judged_against_chance():
    found = PatchMap(("a", "b"), ((0, 1), (2, 3)), ((0.9, 0.2), (0.1, 0.2)), ((True, False), (False, False)))
    html = pages.patch_map(found)
    assert "changes in 1 of 4 cells" in html and "in 100 % of such pairs" in html
    assert html.count("<button") == 8 and 'aria-label="a, layers 0 to 1: change 90 % likely"' in html
    assert "90 % likely, on average" in pages.patch_map(PatchMap(("a",), ((0,),), ((0.9,),), ((False,),)))


def test_results_show_every_system_with_its_interval(show):
    html = pages.results(show.results)
    for task, result in show.results["tasks"].items():
        assert pages.TASKS[task] in html
        for system in result["scores"]:
            assert f'<tr class="{system}">' in html
    score = show.results["tasks"]["activation_patching"]["scores"]["explainer"]["content_match"]
    assert f"{score['value']:.2f} <small>[{score['ci95'][0]:.2f}, {score['ci95'][1]:.2f}]" in html
    assert "Who explains whom" not in html and "how many training rows" not in html


def test_calibration_is_drawn_where_the_results_have_it(show):
    task = next(iter(show.results["tasks"].values()))
    calibration = {"curve": [[0.1, 0.0], [1.0, 0.4]], "risk": 0.4, "correct": "exact match", "ece": 0.02,
                   "ece_uncalibrated": 0.2}  # fmt: skip
    html = pages.results({"tasks": {"feature_description": task | {"calibration": calibration}}})
    assert html.count("<polyline") == 2 and "Calibration error 0.020" in html


def test_who_explains_whom_and_from_how_many_rows(show):
    def means(role):
        return [{"role": role, "share": share, "n_train": int(4000 * share)} | SCORE for share in (0.25, 1.0)]

    difference = {"difference": 0.12, "ci95": [0.05, 0.2], "p_value": 0.01}
    compared = {
        "headline": "content_match",
        "scores": {
            "content_match": [
                {"target": target, "explainer": explainer, "share": share} | SCORE | {"value": value}
                for target, explainer, value in (("a", "a", 0.9), ("a", "b", 0.6), ("b", "a", 0.5), ("b", "b", 0.8))
                for share in (0.25, 1.0)
            ]
        },
        "means": {"content_match": means("self") + means("other") + means("nearest_neighbour")},
        "differences": {
            "content_match": [
                {"first": ["self", 0.25], "second": ["other", 1.0]} | difference | {"difference": 0.77},
                {"first": ["self", 1.0], "second": ["other", 1.0]} | difference,
            ]
        },
    }
    html = pages.results(show.results | {"comparison": {"tasks": {"activation_patching": compared}}})
    assert re.findall(r'class="own">([\d.]+)', html) == ["0.90", "0.80"]
    assert "Itself less another model, the mean over all models: 0.12 [0.05, 0.20], p = 0.01" in html
    assert html.count("Itself less another model") == 1
    assert html.count("<polyline") - pages.results(show.results).count("<polyline") == 3 and "4,000" in html


def test_python_of_every_answer_runs(show, capsys):
    code = Code(show.name)
    text, source = "The capital of France is", "The capital of Peru is"
    question = show.examples["ablation"][0]
    for snippet in (
        code.feature(text, 1, 5),
        code.patch(text, source, (0, 1), 4, 4),
        code.ablation(question["text"], question["remove"]),
        code.direction(show.features[0]),
    ):
        exec(snippet, {})
        assert capsys.readouterr().out.strip()
