"""Serve the demo: ask an explainer about its target, and compare each answer with a control and with a measurement.

`python app.py` starts the server. The variable SELFEXPLAIN_EXPLAINER names the explainer: a Hub id or a run directory.
Gradio reads the address from GRADIO_SERVER_NAME and GRADIO_SERVER_PORT.
"""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import spaces  # isort: skip  # noqa: F401  (before torch: on ZeroGPU it replaces CUDA)

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from guard import guarded
from limits import MAX_SESSIONS, return_free_memory
from rendering.frame import footer, header, load_failure
from selfexplain import SelfExplainError
from selfexplain.tasks import TASKS

logger = logging.getLogger(__name__)

PROXIES = "127.0.0.0/8,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7"
"""Addresses that count as proxies: the private ones. The visitor is the last other address in X-Forwarded-For. With
"*", uvicorn would take the first address, which visitors can set themselves."""

TITLE = "Ask a model about itself"
BUILD_FAILED = "The demo could not be built. The log of the server has the details."
THEME = gr.themes.Base(
    primary_hue="blue",
    neutral_hue="stone",
    font=("ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"),
    font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
)
LAUNCH: dict[str, Any] = {
    "theme": THEME,
    "css": (Path(__file__).parent / "style.css").read_text(encoding="utf-8"),
    "footer_links": ["api"],
    "mcp_server": True,
    "show_error": False,
    "ssr_mode": False,
    "run_history": False,
    "enable_monitoring": False,
    "state_session_capacity": MAX_SESSIONS,
    "max_file_size": "1kb",  # the demo accepts no files
    "app_kwargs": {"lifespan": guarded},
}


def build() -> gr.Blocks:
    """Load the explainer and build the demo.

    Raises:
        SelfExplainError: The explainer cannot be loaded.
    """
    import service
    from endpoints import ENDPOINTS
    from tabs import ablation, features, held_out, patch, read, results  # noqa: F401  (they register their tabs)
    from tabs.registry import TASK_TABS

    with gr.Blocks(title=TITLE, analytics_enabled=False) as demo:
        gr.HTML(header(service.SHOW), apply_default_css=False)
        with gr.Tabs() as all_tabs:
            for task in _in_order_of_tables(service.TASK_NAMES):
                if task not in TASK_TABS:
                    held_out.build(task)
                elif TASK_TABS[task].is_available():
                    TASK_TABS[task].build(demo, all_tabs)
            if service.SHOW.features:
                features.build(demo)
            results.build()
        gr.HTML(footer(service.SHOW), apply_default_css=False)
        for task, endpoint in ENDPOINTS.items():
            if task in service.TASK_NAMES:
                gr.api(endpoint, api_name=endpoint.__name__, **service.ONE_AT_A_TIME)
    return demo.queue(max_size=128)


def _in_order_of_tables(tasks: Sequence[str]) -> list[str]:
    """Return tasks in the order of all tables and cards, followed by tasks that are not installed."""
    return [task for task in TASKS if task in tasks] + [task for task in tasks if task not in TASKS]


def build_or_explain() -> gr.Blocks:
    """Build the demo, or a page that says why it could not be built and what to do."""
    try:
        return build()
    except SelfExplainError as error:
        message = str(error)
    except Exception:
        logger.exception("the demo could not be built")
        message = BUILD_FAILED
    with gr.Blocks(title=TITLE, analytics_enabled=False) as demo:
        gr.HTML(load_failure(message), apply_default_css=False)
    return demo


if __name__ == "__main__":
    if "SPACE_ID" in os.environ:
        os.environ.setdefault("FORWARDED_ALLOW_IPS", PROXIES)
    return_free_memory()
    demo = build_or_explain()
    demo.launch(**LAUNCH)
