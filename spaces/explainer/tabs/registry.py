"""Registry of the tabs that belong to a task."""

from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr

from selfexplain.utils.registry import Registry


@dataclass(frozen=True)
class TaskTab:
    """The tab, or tabs, of one task.

    Attributes:
        build: Function that adds the tab to the demo and its container of tabs.
        is_available: Function that returns whether the explainer that is served can be asked.
    """

    build: Callable[[gr.Blocks, gr.Tabs], None]
    is_available: Callable[[], bool] = lambda: True


TASK_TABS: Registry[TaskTab] = Registry("tab")
"""Task -> its tab. Tasks without an entry get the tab of `tabs.held_out`."""
