"""Gradio elements that several tabs share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

import service
from examples import Example
from limits import MAX_CHARACTERS
from rendering.html import picker
from snippets import Snippets

PICK_SCRIPT = (Path(__file__).parents[1] / "pick.js").read_text(encoding="utf-8")
ASKING: dict[str, Any] = service.ONE_AT_A_TIME | {"api_visibility": "private", "show_progress": "minimal"}
"""Settings of events that run the model."""
TEXT_BOX: dict[str, Any] = {"max_length": MAX_CHARACTERS, "lines": 1, "max_lines": 6, "submit_btn": "Ask"}


def html(value: str) -> None:
    """Add static HTML."""
    gr.HTML(value, apply_default_css=False)


def pickable(value: str = "", **options: Any) -> gr.HTML:
    """Add HTML whose buttons send a `select` event with the index of the picked one."""
    return gr.HTML(value, js_on_load=PICK_SCRIPT, apply_default_css=False, **options)


def example_buttons(examples: Sequence[Example]) -> gr.HTML:
    """Add one button per example, with its note and the first line that it does not share with the others."""
    lines = [example.text.split("\n") for example in examples]
    shared = set.intersection(*map(set, lines)) if len(lines) > 1 else set()  # lines of a chat template
    distinctive = [next((line for line in of_text if line not in shared), of_text[0]) for of_text in lines]
    notes = [example.note for example in examples]
    return pickable(picker(notes, None, "Examples", "examples", notes=distinctive))


def snippets() -> Snippets:
    """Return Python code for the explainer that is served."""
    target = service.SHOW.separate_target
    return Snippets(service.SHOW.name, target.name if target else None)


def picked(event: gr.EventData, items: Sequence[object]) -> int:
    """Return the index of the item that an event picked.

    Raises:
        gr.Error: There is no such item, because a program sent the event or the page is out of date.
    """
    index = getattr(event, "index", None)
    if type(index) is not int or not 0 <= index < len(items):
        raise gr.Error(
            "The item that was picked does not exist. Reload the page and pick again.", print_exception=False
        )
    return index


def clamp_index(index: int, items: Sequence[object]) -> int:
    """Return the index of an item. Negative indices count from the end; an index past the end means the last item."""
    return min(index, len(items) - 1) % len(items)
