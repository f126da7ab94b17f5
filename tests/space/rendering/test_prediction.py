"""HTML of rows of a predictions file."""

from rendering.prediction import prediction, prediction_list
from selfexplain.evaluation.predictions import Prediction

HOSTILE = "<script>alert(1)</script>"


def row(**fields):
    values = {"row": 0, "group": "g", "prompt": "Which\nmood?\n", "completion": "joy", "confidence": 0.6,
              "answers": {"majority": True, "explainer": "fear", "zero_vector": "", "own_system": "calm"}}  # fmt: skip
    return Prediction(**values | fields)


def test_a_row_shows_question_answer_confidence_truth_and_the_other_systems():
    html = prediction(row())
    assert "Which\nmood?" in html and "Confidence 60%" in html
    assert html.index("fear") < html.index("joy") < html.index("control: zero vector")
    order = [html.index(name) for name in ("control: zero vector", "baseline: majority", "own system")]
    assert order == sorted(order) and "no answer" in html and "<td>changed</td>" in html


def test_a_row_without_an_answer_of_the_explainer_is_marked():
    assert html_answer(prediction(row(answers={}))) == "no answer"


def html_answer(html):
    return html.partition('<p class="answer">')[2].partition("<")[0]


def test_rows_are_listed_by_question_and_true_answer():
    html = prediction_list([row(), row(prompt="Other?")], 1)
    assert html.count("<button") == 2 and "<span>Which mood?</span><small>joy</small>" in html


def test_texts_of_models_and_data_are_escaped():
    hostile = row(prompt=HOSTILE, completion=HOSTILE, answers={HOSTILE: HOSTILE, "explainer": HOSTILE})
    html = prediction(hostile) + prediction_list([hostile], 0)
    assert "<script" not in html and html.count("&lt;script&gt;") == 8
