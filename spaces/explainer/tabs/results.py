"""The Results tab: scores on held-out questions."""

import gradio as gr

import service
from rendering.frame import introduction
from rendering.results import results
from tabs.elements import html

LEAD = (
    "Scores on held-out questions. An explanation counts only if it is better than the strongest baseline, which each "
    "table names. Where a control scores as high as the explainer, the answers do not depend on the vector."
)


def build() -> None:
    with gr.Tab("Results", id="results"):
        html(introduction(LEAD, "How often is the explainer correct?"))
        html(results(service.SHOW.results))
