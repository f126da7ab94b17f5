"""The Remove tab: pick a line of a text, and ask how the target's answer changes without it."""

import re

import gradio as gr

import service
from asking.text import check_text, visible
from examples import AblationExample
from limits import MAX_CHARACTERS
from rendering.frame import introduction, legend
from rendering.html import error_box, picker, waiting
from rendering.trial import ablation_trial
from selfexplain import SelfExplainError
from selfexplain.tasks.input_ablation import TASK
from tabs.elements import ASKING, TEXT_BOX, example_buttons, html, pickable, picked, snippets
from tabs.registry import TASK_TABS, TaskTab

LEAD = (
    "Would the target answer differently without one line of its input? This question contains no vector. The "
    "explainer reads the text and predicts how the target uses that line."
)


def parts_of(text: str, example_part: str = "") -> list[str]:
    """Split a text into lines, each with the line break before it.

    Args:
        text: The text.
        example_part: The part that an example removes. It stays in one piece, because a hint may have several lines,
            and in a chat template the line of a hint continues with the end of the turn.
    """
    if example_part and text.count(example_part) == 1:
        before, after = text.split(example_part)
        return [*parts_of(before), example_part, *parts_of(after)]
    return [part for part in re.split(r"(?=\n)", text) if part]


def part_of(example: AblationExample) -> int:
    """Return the index of the part that an example removes."""
    return parts_of(example.text, example.remove).index(example.remove)


def ablate(text: str, example_part: str, part: int, request: gr.Request = None) -> tuple[int, str, str]:  # type: ignore
    """Return the picked part, and HTML of the parts and of the answer."""
    try:
        check_text(service.SHOW, text)
    except SelfExplainError as error:
        return part, "", error_box(str(error))
    parts = parts_of(text, example_part)
    part = min(part, len(parts) - 1)

    def answer() -> str:
        service.admit(request)
        trial = service.ask_ablation(text, parts[part])
        return ablation_trial(trial, snippets().ablation(text, parts[part]))

    names = [visible(each.strip()) for each in parts]
    return part, picker(names, part, "Line to remove: pick one", "parts"), service.html_or_error(answer)


def build(demo: gr.Blocks, tabs: gr.Tabs) -> None:
    examples = service.SHOW.examples_of(TASK.name, AblationExample)
    with gr.Tab("Remove", id="ablate"):
        html(introduction(LEAD, TASK.short_question))
        chosen = example_buttons(examples)
        text = gr.Textbox(examples[0].text, label="Text that the target reads", **TEXT_BOX)
        example_part, part = gr.State(examples[0].remove), gr.State(part_of(examples[0]))
        html(legend("Pick the line to remove."))
        parts = pickable(elem_id="parts")
        answer = pickable(waiting(), elem_id="ablation-answer")
    outputs = [part, parts, answer]

    def on_example(event: gr.EventData, request: gr.Request):
        example = examples[picked(event, examples)]
        fields = example.text, example.remove
        return *fields, *ablate(*fields, part_of(example), request)

    def on_part(text: str, example_part: str, event: gr.EventData, request: gr.Request):
        return ablate(text, example_part, picked(event, range(MAX_CHARACTERS)), request)

    chosen.select(on_example, None, [text, example_part, *outputs], **ASKING)
    parts.select(on_part, [text, example_part], outputs, **ASKING)
    gr.on([text.submit, demo.load], ablate, [text, example_part, part], outputs, **ASKING)


TASK_TABS.register(TASK.name, TaskTab(build))
