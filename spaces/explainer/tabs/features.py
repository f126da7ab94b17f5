"""The Features tab: search held-out SAE features, and compare descriptions of them."""

import gradio as gr

import service
from rendering.features import feature_list
from rendering.frame import introduction
from rendering.html import waiting
from rendering.trial import feature_trial
from tabs.elements import ASKING, html, pickable, snippets

LEAD = (
    "Directions that a sparse autoencoder found in the target, from the test split. Compare the explainer’s "
    "description with the control, the ground-truth description and the texts that activate the feature."
)


def search(words: str, picked: int | None = None) -> str:
    """Return HTML of the features whose ground-truth description and layer contain all the words."""
    wanted = words.lower().split()
    matches = [
        (index, feature)
        for index, feature in enumerate(service.SHOW.features)
        if all(word in f"{feature.description} layer {feature.layer}".lower() for word in wanted)
    ]
    return feature_list(matches, picked, len(service.SHOW.features))


def show_feature(index: int, request: gr.Request = None) -> str:  # type: ignore
    """Return HTML of a feature."""

    def answer() -> str:
        service.admit(request)
        feature = service.SHOW.features[index]
        return feature_trial(feature, service.ask_direction(index), snippets().direction(feature))

    return service.html_or_error(answer)


def build(demo: gr.Blocks) -> None:
    with gr.Tab("Features", id="features"):
        html(introduction(LEAD, "What do SAE features stand for?"))
        with gr.Row(elem_id="browser"):
            with gr.Column(scale=2, min_width=240):
                words = gr.Textbox(label="Search descriptions", placeholder="Greece or layer 4", max_length=80)
                matches = pickable(search("", 0), elem_id="feature-list")
            with gr.Column(scale=5, min_width=300):
                view = pickable(waiting(), elem_id="feature-view")

    def on_feature(words: str, event: gr.EventData, request: gr.Request):
        return search(words, event.index), show_feature(event.index, request)

    def on_load(request: gr.Request):
        return show_feature(0, request)

    words.input(search, words, matches, queue=False, api_visibility="private", show_progress="hidden")
    matches.select(on_feature, words, [matches, view], **ASKING)
    demo.load(on_load, None, view, **ASKING)
