"""The tabs: one question each, with what it takes to ask it by clicking."""

import re
from pathlib import Path
from typing import Any

import gradio as gr

import pages
import questions
from limits import MAX_CHARACTERS
from pages import Code
from selfexplain import SelfExplainError
from service import (
    BLOCKS,
    LAYERS,
    MAP_COST,
    ONE_AT_A_TIME,
    SHOW,
    admit,
    ask_ablation,
    ask_direction,
    ask_feature,
    ask_map,
    ask_patch,
    shown,
)

PICK = (Path(__file__).parent / "pick.js").read_text(encoding="utf-8")
ASKING: dict[str, Any] = ONE_AT_A_TIME | {"api_visibility": "private", "show_progress": "minimal"}
BOX: dict[str, Any] = {"max_length": MAX_CHARACTERS, "lines": 1, "max_lines": 6, "submit_btn": "Ask"}
CODE = Code(SHOW.name, SHOW.foreign and SHOW.foreign.name)


def pick(value: str = "", **kwargs: Any) -> gr.HTML:
    """HTML whose buttons tell which of them was picked."""
    return gr.HTML(value, js_on_load=PICK, apply_default_css=False, **kwargs)


def lead(html: str) -> None:
    gr.HTML(f'<p class="lead">{html}</p>', apply_default_css=False)


def examples(task: str) -> gr.HTML:
    chosen = SHOW.examples[task]
    lines = [each["text"].split("\n") for each in chosen]
    frame = set.intersection(*map(set, lines)) if len(lines) > 1 else set()  # a chat template is the same in all
    own = [next((line for line in of_text if line not in frame), of_text[0]) for of_text in lines]
    return pick(pages.picker([each["note"] for each in chosen], None, "Examples", "examples", notes=own))


# ---------------------------------------------------------------- read a token


def in_range(token: int, tokens: list[str]) -> int:
    """The index of a token, counted from the end where negative; the last one where the text has become shorter."""
    return min(token, len(tokens) - 1) % len(tokens)


def read(text: str, layer: int, token: int, request: gr.Request = None) -> tuple[int, str, str, str]:  # type: ignore
    """Token picked, and HTML of the tokens, of the layers and of the answer."""
    try:
        tokens = questions.check_text(SHOW, text)
    except SelfExplainError as error:
        return token, "", "", pages.error(str(error))
    token = in_range(token, tokens)
    shades: tuple[float, ...] = ()
    by_layer: tuple[str, ...] = ()

    def answer() -> str:
        nonlocal shades, by_layer
        admit(request)
        found = ask_feature(text, layer, token)
        shades, by_layer = found.shades, found.by_layer
        return pages.trial(found, CODE.feature(text, layer, token))

    html = shown(answer)
    return (
        token,
        pages.tokens(tokens, token, "Text", shades),
        pages.picker([str(each) for each in LAYERS], LAYERS.index(layer), "Layer: pick one", "layers", notes=by_layer),
        html,
    )


def nearest(layer: int) -> int:
    """The layer that the explainer reads, and that is nearest to this one."""
    return min(LAYERS, key=lambda each: abs(each - layer))


def read_tab(demo: gr.Blocks) -> None:
    lead("Pick a token and a layer. The explainer gets the one vector that the target holds there, never the text, "
         "and says what it stands for.")  # fmt: skip
    first = SHOW.examples["feature"][0]
    chosen = examples("feature")
    text = gr.Textbox(first["text"], label="Text that the target reads", **BOX)
    layer, token = gr.State(nearest(first["layer"])), gr.State(first["token"])
    tokens = pick(elem_id="read-tokens")
    gr.HTML('<p class="legend">Shade: how much of the picked vector the target holds at each token. Below, what the '
            "explainer says of the picked token at every layer.</p>", apply_default_css=False)  # fmt: skip
    layers = pick(elem_id="read-layers")
    answer = pick(pages.waiting(), elem_id="read-answer")
    outputs = [token, tokens, layers, answer]

    def on_example(event: gr.EventData, request: gr.Request):
        example = SHOW.examples["feature"][event.index]
        layer = nearest(example["layer"])
        return example["text"], layer, *read(example["text"], layer, example["token"], request)

    def on_text(text: str, layer: int, request: gr.Request):
        return read(text, layer, -1, request)

    def on_token(text: str, layer: int, event: gr.EventData, request: gr.Request):
        return read(text, layer, event.index, request)

    def on_layer(text: str, token: int, event: gr.EventData, request: gr.Request):
        return LAYERS[event.index], *read(text, LAYERS[event.index], token, request)

    chosen.select(on_example, None, [text, layer, *outputs], **ASKING)
    text.submit(on_text, [text, layer], outputs, **ASKING)
    tokens.select(on_token, [text, layer], outputs, **ASKING)
    layers.select(on_layer, [text, token], [layer, *outputs], **ASKING)
    demo.load(read, [text, layer, token], outputs, **ASKING)


# ---------------------------------------------------------------- patch a token, and the map of all patches


def patch(
    text: str, source: str, block: int, token: int, source_token: int, request: gr.Request = None  # type: ignore
) -> tuple[int, int, str, str, str, str]:  # fmt: skip
    """Tokens picked, and HTML of both texts, of the blocks of layers and of the answer."""
    try:
        tokens, source_tokens = (questions.check_text(SHOW, each) for each in (text, source))
    except SelfExplainError as error:
        return token, source_token, "", "", "", pages.error(str(error))
    token, source_token = in_range(token, tokens), in_range(source_token, source_tokens)

    def answer() -> str:
        admit(request)
        found = ask_patch(text, source, BLOCKS[block], token, source_token)
        return pages.trial(found, CODE.patch(text, source, BLOCKS[block], token, source_token))

    return (
        token,
        source_token,
        pages.tokens(tokens, token, "Text that is patched"),
        pages.tokens(source_tokens, source_token, "Text that the vector is taken from"),
        pages.picker([f"{each[0]}–{each[-1]}" for each in BLOCKS], block, "Layers: pick a block", "blocks"),
        shown(answer),
    )


def patch_map(text: str, source: str, source_token: int, request: gr.Request = None) -> str:  # type: ignore
    """HTML of the map of all patches."""

    def answer() -> str:
        admit(request, MAP_COST)
        return pages.patch_map(ask_map(text, source, source_token))

    return shown(answer)


def block_of(layers: list[int]) -> int:
    """The number of the block that the first of these layers is in, of those on the page; else the first."""
    return next((index for index, block in enumerate(BLOCKS) if layers[0] in block), 0)


def patch_tabs(demo: gr.Blocks, tabs: gr.Tabs) -> None:
    first = SHOW.examples["patch"][0]
    with gr.Tab("Patch", id="patch"):
        lead("Take what the target holds at a token of one text and put it in the place of what it holds at a token of "
             "another. The explainer says beforehand what the target will answer then.")  # fmt: skip
        chosen = examples("patch")
        with gr.Row():
            with gr.Column():
                text = gr.Textbox(first["text"], label="Text that is patched", **BOX)
                tokens = pick(elem_id="patch-tokens")
            with gr.Column():
                source = gr.Textbox(first["source"], label="Text that the vector is taken from", **BOX)
                source_tokens = pick(elem_id="source-tokens")
        block = gr.State(block_of(first["layers"]))
        token, source_token = gr.State(first["token"]), gr.State(first["source_token"])
        layers = pick(elem_id="patch-layers")
        answer = pick(pages.waiting(), elem_id="patch-answer")
    with gr.Tab("Map", id="map"):
        lead("Where does a patch matter at all? Every token and every block of layers of the two texts in "
             "<em>Patch</em>, foretold by the explainer and run on the target.")  # fmt: skip
        run = gr.Button("Ask and run every cell", variant="primary", elem_id="map-run")
        grid = pick(elem_id="map-view")
    outputs = [token, source_token, tokens, source_tokens, layers, answer]

    def on_example(event: gr.EventData, request: gr.Request):
        example = SHOW.examples["patch"][event.index]
        texts, at = (example["text"], example["source"]), block_of(example["layers"])
        return *texts, at, *patch(*texts, at, example["token"], example["source_token"], request)

    def on_token(text: str, source: str, block: int, source_token: int, event: gr.EventData, request: gr.Request):
        return patch(text, source, block, event.index, source_token, request)

    def on_source_token(text: str, source: str, block: int, token: int, event: gr.EventData, request: gr.Request):
        return patch(text, source, block, token, event.index, request)

    def on_block(text: str, source: str, token: int, source_token: int, event: gr.EventData, request: gr.Request):
        return event.index, *patch(text, source, event.index, token, source_token, request)

    def on_cell(text: str, source: str, source_token: int, event: gr.EventData, request: gr.Request):
        at, which = divmod(event.index, len(BLOCKS))
        if len(SHOW.tokens(text)) == len(SHOW.tokens(source)):
            source_token = at
        return gr.Tabs(selected="patch"), which, *patch(text, source, which, at, source_token, request)

    chosen.select(on_example, None, [text, source, block, *outputs], **ASKING)
    tokens.select(on_token, [text, source, block, source_token], outputs, **ASKING)
    source_tokens.select(on_source_token, [text, source, block, token], outputs, **ASKING)
    layers.select(on_block, [text, source, token, source_token], [block, *outputs], **ASKING)
    asked = [text.submit, source.submit, demo.load]
    gr.on(asked, patch, [text, source, block, token, source_token], outputs, **ASKING)
    run.click(pages.running, None, grid, queue=False, api_visibility="private").then(
        patch_map, [text, source, source_token], grid, **ASKING
    )
    grid.select(on_cell, [text, source, source_token], [tabs, block, *outputs], **ASKING)


# ---------------------------------------------------------------- remove a part


def parts_of(text: str, own: str = "") -> list[str]:
    """The lines of a text, each with the line break before it; `own`, the part of an example, is one whatever it is.

    In a chat template the line of a hint goes on with what ends the turn, and a hint may have several lines.
    """
    if own and text.count(own) == 1:
        before, after = text.split(own)
        return [*parts_of(before), own, *parts_of(after)]
    return [part for part in re.split(r"(?=\n)", text) if part]


def part_of(example: dict[str, Any]) -> int:
    """The number of the part that an example removes."""
    return parts_of(example["text"], example["remove"]).index(example["remove"])


def ablate(text: str, own: str, part: int, request: gr.Request = None) -> tuple[int, str, str]:  # type: ignore
    """Part picked, and HTML of the parts and of the answer."""
    try:
        questions.check_text(SHOW, text)
    except SelfExplainError as error:
        return part, "", pages.error(str(error))
    parts = parts_of(text, own)
    part = min(part, len(parts) - 1)

    def answer() -> str:
        admit(request)
        return pages.trial(ask_ablation(text, parts[part]), CODE.ablation(text, parts[part]))

    names = [questions.visible(each.strip()) for each in parts]
    return part, pages.picker(names, part, "Line to remove: pick one", "parts"), shown(answer)


def ablation_tab(demo: gr.Blocks) -> None:
    lead("Would the target answer differently without a line of what it read? No vector goes in: the explainer reads "
         "what the target reads, and has to know how the target reads it.")  # fmt: skip
    first = SHOW.examples["ablation"][0]
    chosen = examples("ablation")
    text = gr.Textbox(first["text"], label="Text that the target reads", **BOX)
    own, part = gr.State(first["remove"]), gr.State(part_of(first))
    gr.HTML('<p class="legend">Pick the line to remove.</p>', apply_default_css=False)
    parts = pick(elem_id="parts")
    answer = pick(pages.waiting(), elem_id="ablation-answer")
    outputs = [part, parts, answer]

    def on_example(event: gr.EventData, request: gr.Request):
        example = SHOW.examples["ablation"][event.index]
        given = example["text"], example["remove"]
        return *given, *ablate(*given, part_of(example), request)

    def on_part(text: str, own: str, event: gr.EventData, request: gr.Request):
        return ablate(text, own, event.index, request)

    chosen.select(on_example, None, [text, own, *outputs], **ASKING)
    parts.select(on_part, [text, own], outputs, **ASKING)
    gr.on([text.submit, demo.load], ablate, [text, own, part], outputs, **ASKING)


# ---------------------------------------------------------------- features


def search(words: str, picked: int | None = None) -> str:
    """HTML of the features whose description has all the words."""
    wanted = words.lower().split()
    found = [
        (index, feature)
        for index, feature in enumerate(SHOW.features)
        if all(word in f"{feature.description} layer {feature.layer}".lower() for word in wanted)
    ]
    return pages.feature_list(found, picked, len(SHOW.features))


def feature(index: int, request: gr.Request = None) -> str:  # type: ignore
    """HTML of a feature."""

    def answer() -> str:
        admit(request)
        return pages.feature(SHOW.features[index], ask_direction(index), CODE.direction(SHOW.features[index]))

    return shown(answer)


def features_tab(demo: gr.Blocks) -> None:
    lead("Directions that a sparse autoencoder found in the target, held out when the explainer was trained: what it "
         "says of each, beside the true description and the texts that decide.")  # fmt: skip
    with gr.Row(elem_id="browser"):
        with gr.Column(scale=2, min_width=240):
            words = gr.Textbox(label="Search descriptions", placeholder="Greece, or: layer 4", max_length=80)
            found = pick(search("", 0), elem_id="feature-list")
        with gr.Column(scale=5, min_width=300):
            view = pick(pages.waiting(), elem_id="feature-view")

    def on_feature(words: str, event: gr.EventData, request: gr.Request):
        return search(words, event.index), feature(event.index, request)

    def on_load(request: gr.Request):
        return feature(0, request)

    words.input(search, words, found, queue=False, api_visibility="private", show_progress="hidden")
    found.select(on_feature, words, [found, view], **ASKING)
    demo.load(on_load, None, view, **ASKING)


# ---------------------------------------------------------------- results


def results_tab() -> None:
    lead(
        "How often it is right on questions that it never saw, beside every control that could explain the score away."
    )
    gr.HTML(pages.results(SHOW.results), apply_default_css=False)
