"""The Patch tab, which moves one vector from a text to a different one, and the Map tab with all such patches."""

import gradio as gr

import service
from asking.text import check_text
from examples import PatchExample
from limits import MAX_MAP_TOKENS, MAX_TOKENS
from rendering.frame import introduction
from rendering.html import error_box, picker, status, token_picker, waiting
from rendering.patch_map import patch_map as render_map
from rendering.trial import patch_trial
from selfexplain import SelfExplainError
from selfexplain.tasks.activation_patching import TASK
from tabs.elements import ASKING, TEXT_BOX, clamp_index, example_buttons, html, pickable, picked, snippets
from tabs.registry import TASK_TABS, TaskTab

TARGET_LABEL, SOURCE_LABEL = "Text that is patched", "Source text, which the vector comes from"
LEAD = (
    "The vector at a token of the source text replaces the vector at a token of the other text. The explainer predicts "
    "the target’s output, and then the patch is run."
)
MAP_LEAD = (
    "Every cell is one patch: a token and a block of layers, with the two texts of the <em>Patch</em> tab. The "
    "explainer predicts each patch, and each patch is run on the target."
)


def patch(
    text: str, source: str, block: int, token: int, source_token: int, request: gr.Request = None  # type: ignore
) -> tuple[int, int, str, str, str, str]:  # fmt: skip
    """Return the picked tokens, and HTML of both texts, of the blocks of layers and of the answer."""
    try:
        tokens, source_tokens = (check_text(service.SHOW, each) for each in (text, source))
    except SelfExplainError as error:
        return token, source_token, "", "", "", error_box(str(error))
    token, source_token = clamp_index(token, tokens), clamp_index(source_token, source_tokens)
    layers = service.BLOCKS[block]

    def answer() -> str:
        service.admit(request)
        trial = service.ask_patch(text, source, layers, token, source_token)
        return patch_trial(trial, snippets().patch(text, source, layers, token, source_token))

    names = [f"{each[0]}–{each[-1]}" for each in service.BLOCKS]
    return (
        token,
        source_token,
        token_picker(tokens, token, TARGET_LABEL),
        token_picker(source_tokens, source_token, SOURCE_LABEL),
        picker(names, block, "Layers: pick a block", "blocks"),
        service.html_or_error(answer),
    )


def patch_map(text: str, source: str, source_token: int, request: gr.Request = None) -> str:  # type: ignore
    """Return HTML of the map of all patches."""

    def answer() -> str:
        service.admit(request, service.MAP_COST)
        return render_map(service.ask_map(text, source, source_token))

    return service.html_or_error(answer)


def _have_equally_many_tokens(text: str, source: str) -> bool:
    """Return whether two texts have the same number of tokens; False if one is not valid, which `patch` reports."""
    try:
        return len(check_text(service.SHOW, text)) == len(check_text(service.SHOW, source))
    except SelfExplainError:
        return False


def running() -> str:
    return status("Asking the explainer and running every patch. This takes a few seconds …")


def block_of(layers: tuple[int, ...]) -> int:
    """Return the index of the block that contains the first of these layers, or 0 if none does."""
    return next((index for index, block in enumerate(service.BLOCKS) if layers[0] in block), 0)


def build(demo: gr.Blocks, tabs: gr.Tabs) -> None:
    first = service.SHOW.examples_of(TASK.name, PatchExample)[0]
    with gr.Tab("Patch", id="patch"):
        html(introduction(LEAD, TASK.short_question))
        chosen = example_buttons(service.SHOW.examples[TASK.name])
        block = gr.State(block_of(first.layers))
        token, source_token = gr.State(first.token), gr.State(first.source_token)
        with gr.Row():
            with gr.Column():
                text = gr.Textbox(first.text, label=TARGET_LABEL, **TEXT_BOX)
                tokens = pickable(elem_id="patch-tokens")
            with gr.Column():
                source = gr.Textbox(first.source, label=SOURCE_LABEL, **TEXT_BOX)
                source_tokens = pickable(elem_id="source-tokens")
        layers = pickable(elem_id="patch-layers")
        answer = pickable(waiting(), elem_id="patch-answer")
    texts = [text, source]
    outputs = [token, source_token, tokens, source_tokens, layers, answer]
    _connect_patch(demo, chosen, texts, block, outputs)
    _build_map(tabs, texts, block, outputs)


def _connect_patch(demo: gr.Blocks, chosen: gr.HTML, texts: list, block: gr.State, outputs: list) -> None:
    """Connect the events of the Patch tab."""
    token, source_token, tokens, source_tokens, layers, _ = outputs
    examples = service.SHOW.examples_of(TASK.name, PatchExample)

    def on_example(event: gr.EventData, request: gr.Request):
        example = examples[picked(event, examples)]
        texts, block = (example.text, example.source), block_of(example.layers)
        return *texts, block, *patch(*texts, block, example.token, example.source_token, request)

    def on_token(text: str, source: str, block: int, source_token: int, event: gr.EventData, request: gr.Request):
        return patch(text, source, block, picked(event, range(MAX_TOKENS)), source_token, request)

    def on_source_token(text: str, source: str, block: int, token: int, event: gr.EventData, request: gr.Request):
        return patch(text, source, block, token, picked(event, range(MAX_TOKENS)), request)

    def on_block(text: str, source: str, token: int, source_token: int, event: gr.EventData, request: gr.Request):
        block = picked(event, service.BLOCKS)
        return block, *patch(text, source, block, token, source_token, request)

    chosen.select(on_example, None, [*texts, block, *outputs], **ASKING)
    tokens.select(on_token, [*texts, block, source_token], outputs, **ASKING)
    source_tokens.select(on_source_token, [*texts, block, token], outputs, **ASKING)
    layers.select(on_block, [*texts, token, source_token], [block, *outputs], **ASKING)
    submitted = [text.submit for text in texts]
    gr.on([*submitted, demo.load], patch, [*texts, block, token, source_token], outputs, **ASKING)


def _build_map(tabs: gr.Tabs, texts: list, block: gr.State, outputs: list) -> None:
    """Add the Map tab, whose cells open in the Patch tab."""
    source_token = outputs[1]
    with gr.Tab("Map", id="map"):
        html(introduction(MAP_LEAD, "Which patches change the output?"))
        run = gr.Button("Predict and run all patches", variant="primary", elem_id="map-run")
        grid = pickable(elem_id="map-view")

    def on_cell(text: str, source: str, source_token: int, event: gr.EventData, request: gr.Request):
        cells = range(MAX_MAP_TOKENS * len(service.BLOCKS))
        token, block = divmod(picked(event, cells), len(service.BLOCKS))
        if _have_equally_many_tokens(text, source):
            source_token = token
        return gr.Tabs(selected="patch"), block, *patch(text, source, block, token, source_token, request)

    run.click(running, None, grid, queue=False, api_visibility="private").then(
        patch_map, [*texts, source_token], grid, **ASKING
    )
    grid.select(on_cell, [*texts, source_token], [tabs, block, *outputs], **ASKING)


TASK_TABS.register(TASK.name, TaskTab(build, lambda: bool(service.BLOCKS)))
