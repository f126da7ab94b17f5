"""The Features tab: search held-out SAE features, and compare descriptions of them."""

import gradio as gr

import service
from limits import MAX_SEARCH_CHARACTERS
from rendering.features import feature_list
from rendering.frame import introduction
from rendering.html import waiting
from rendering.trial import feature_trial
from selfexplain import SelfExplainError
from tabs.elements import ASKING, html, pickable, picked, snippets

LEAD = (
    "Directions that a sparse autoencoder found in the target, from the test split. Compare the explainer’s "
    "description with the control, the ground-truth description and the texts that activate the feature."
)


def search(words: str, chosen: int | None = None, request: gr.Request = None) -> str:  # type: ignore
    """Return HTML of the features whose ground-truth description and layer contain all the words."""
    return service.html_or_error(lambda: _matches(words, chosen, request))


def _matches(words: str, chosen: int | None, request: gr.Request | None) -> str:
    service.admit(request, limit=service.SEARCH_LIMIT)
    if not isinstance(words, str) or len(words) > MAX_SEARCH_CHARACTERS:
        raise SelfExplainError(f"Search for words of at most {MAX_SEARCH_CHARACTERS} characters in total.")
    wanted = words.lower().split()
    matches = [
        (index, feature)
        for index, feature in enumerate(service.SHOW.features)
        if all(word in f"{feature.description} layer {feature.layer}".lower() for word in wanted)
    ]
    return feature_list(matches, chosen, len(service.SHOW.features))


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
                words = gr.Textbox(
                    label="Search descriptions", placeholder="Greece or layer 4", max_length=MAX_SEARCH_CHARACTERS
                )
                matches = pickable(search("", 0), elem_id="feature-list")
            with gr.Column(scale=5, min_width=300):
                view = pickable(waiting(), elem_id="feature-view")

    def on_feature(words: str, event: gr.EventData, request: gr.Request):
        index = picked(event, service.SHOW.features)
        return search(words, index), show_feature(index, request)

    def on_load(request: gr.Request):
        return show_feature(0, request)

    def on_words(words: str, request: gr.Request):
        return search(words, request=request)

    words.input(on_words, words, matches, queue=False, api_visibility="private", show_progress="hidden")
    matches.select(on_feature, words, [matches, view], **ASKING)
    demo.load(on_load, None, view, **ASKING)
