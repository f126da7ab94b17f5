"""The Read tab: pick a token and a layer, and ask what the vector there encodes."""

import gradio as gr

import service
from asking.text import check_text
from examples import FeatureExample
from limits import MAX_TOKENS
from rendering.frame import introduction, legend
from rendering.html import error_box, picker, token_picker, waiting
from rendering.trial import description_trial
from selfexplain import SelfExplainError
from selfexplain.tasks.feature_description import TASK
from tabs.elements import ASKING, TEXT_BOX, clamp_index, example_buttons, html, pickable, picked, snippets
from tabs.registry import TASK_TABS, TaskTab

LEAD = (
    "Pick a token and a layer. The explainer gets the vector of the target’s residual stream at that point, without "
    "the text, and describes what it encodes."
)
LEGEND = (
    "Shading: similarity of each token to the picked one at the picked layer. Below: the explainer’s description of "
    "the picked token at every layer."
)


def read(text: str, layer: int, token: int, request: gr.Request = None) -> tuple[int, str, str, str]:  # type: ignore
    """Return the picked token, and HTML of the tokens, of the layers and of the answer."""
    try:
        tokens = check_text(service.SHOW, text)
    except SelfExplainError as error:
        return token, "", "", error_box(str(error))
    token = clamp_index(token, tokens)
    try:
        service.admit(request)
        trial = service.ask_feature(text, layer, token)
    except Exception as error:
        shades, by_layer, answer = (), (), error_box(service.error_message(error))
    else:
        shades, by_layer = trial.shades, trial.by_layer
        answer = description_trial(trial, snippets().feature(text, layer, token))
    names, at_layer = [str(each) for each in service.LAYERS], service.LAYERS.index(layer)
    return (
        token,
        token_picker(tokens, token, "Text", shades),
        picker(names, at_layer, "Layer: pick one", "layers", notes=by_layer),
        answer,
    )


def nearest_layer(layer: int) -> int:
    """Return the layer closest to `layer` that the explainer was trained on."""
    return min(service.LAYERS, key=lambda each: abs(each - layer))


def build(demo: gr.Blocks, tabs: gr.Tabs) -> None:
    examples = service.SHOW.examples_of(TASK.name, FeatureExample)
    with gr.Tab("Read", id="read"):
        html(introduction(LEAD, TASK.short_question))
        chosen = example_buttons(examples)
        text = gr.Textbox(examples[0].text, label="Text that the target reads", **TEXT_BOX)
        layer, token = gr.State(nearest_layer(examples[0].layer)), gr.State(examples[0].token)
        tokens = pickable(elem_id="read-tokens")
        html(legend(LEGEND))
        layers = pickable(elem_id="read-layers")
        answer = pickable(waiting(), elem_id="read-answer")
    outputs = [token, tokens, layers, answer]

    def on_example(event: gr.EventData, request: gr.Request):
        example = examples[picked(event, examples)]
        layer = nearest_layer(example.layer)
        return example.text, layer, *read(example.text, layer, example.token, request)

    def on_text(text: str, layer: int, request: gr.Request):
        return read(text, layer, -1, request)

    def on_token(text: str, layer: int, event: gr.EventData, request: gr.Request):
        return read(text, layer, picked(event, range(MAX_TOKENS)), request)

    def on_layer(text: str, token: int, event: gr.EventData, request: gr.Request):
        layer = service.LAYERS[picked(event, service.LAYERS)]
        return layer, *read(text, layer, token, request)

    chosen.select(on_example, None, [text, layer, *outputs], **ASKING)
    text.submit(on_text, [text, layer], outputs, **ASKING)
    tokens.select(on_token, [text, layer], outputs, **ASKING)
    layers.select(on_layer, [text, token], [layer, *outputs], **ASKING)
    demo.load(read, [text, layer, token], outputs, **ASKING)


TASK_TABS.register(TASK.name, TaskTab(build, lambda: bool(service.LAYERS)))
