"""The tab of a task that has no custom tab: browse held-out rows with the answers from the predictions file."""

import gradio as gr

import service
from rendering.frame import introduction, task_title
from rendering.html import status
from rendering.prediction import prediction, prediction_list
from selfexplain.utils.formatting import format_name
from tabs.elements import html, pickable, picked

MAX_ROWS = 100
LEAD = "Pick a question from the test split. The answers are from the evaluation of this explainer."


def build(task: str) -> None:
    name = format_name(task)
    rows = service.SHOW.files.predictions(task)[:MAX_ROWS]
    with gr.Tab(name[:1].upper() + name[1:], id=task):
        html(introduction(LEAD, task_title(task)))
        if not rows:
            html(status(f"There are no predictions for {name}. Evaluate the explainer to see held-out rows here."))
            return
        with gr.Row(elem_classes="held-out"):
            with gr.Column(scale=2, min_width=240):
                chosen = pickable(prediction_list(rows, 0), elem_id=f"{task}-rows")
            with gr.Column(scale=5, min_width=300):
                view = pickable(prediction(rows[0]), elem_id=f"{task}-view")

    def on_row(event: gr.EventData):
        index = picked(event, rows)
        return prediction_list(rows, index), prediction(rows[index])

    chosen.select(on_row, None, [chosen, view], api_visibility="private", show_progress="hidden")
