"""A page to ask an explainer about its target: each answer stands beside a control and beside what really happens.

`python app.py` serves it; `SELFEXPLAIN_EXPLAINER` names a Hub id or a run directory. Gradio decides where it
listens: `GRADIO_SERVER_NAME`, `GRADIO_SERVER_PORT`.
"""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import spaces  # isort: skip  # noqa: F401  (before torch: on ZeroGPU it takes the place of CUDA)

import logging
from pathlib import Path
from typing import Any

import gradio as gr

import pages
from limits import MAX_SESSIONS, return_free_memory
from selfexplain import SelfExplainError

logger = logging.getLogger(__name__)

PROXIES = "127.0.0.0/8,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7"
"""Addresses taken for proxies, the private ones: a visitor is the last other address in X-Forwarded-For.
With "*" uvicorn would take the first, which a visitor can write there himself."""

BROKEN = "Something went wrong when this page was built; the log says what."
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
    "max_file_size": "1kb",  # nothing here takes files
}


def build() -> gr.Blocks:
    """The page, which loads the explainer.

    Raises:
        SelfExplainError: no explainer could be loaded.
    """
    import service
    import tabs

    with gr.Blocks(title="Ask a model about itself", analytics_enabled=False) as demo:
        gr.HTML(pages.header(service.SHOW), apply_default_css=False)
        with gr.Tabs() as all_tabs:
            if "feature_description" in service.TASKS and service.LAYERS:
                with gr.Tab("Read", id="read"):
                    tabs.read_tab(demo)
            if "activation_patching" in service.TASKS and service.BLOCKS:
                tabs.patch_tabs(demo, all_tabs)
            if "input_ablation" in service.TASKS:
                with gr.Tab("Remove", id="ablate"):
                    tabs.ablation_tab(demo)
            if service.SHOW.features:
                with gr.Tab("Features", id="features"):
                    tabs.features_tab(demo)
            with gr.Tab("Results", id="results"):
                tabs.results_tab()
        gr.HTML(pages.footer(service.SHOW), apply_default_css=False)
        for task, endpoint in service.ENDPOINTS.items():
            if task in service.TASKS:
                gr.api(endpoint, api_name=endpoint.__name__, **service.ONE_AT_A_TIME)
    return demo.queue(max_size=128)


def page() -> gr.Blocks:
    """The page, or what stands in its place where it could not be built: what happened, and what to do."""
    try:
        return build()
    except SelfExplainError as error:
        message = str(error)
    except Exception:
        logger.exception("the page could not be built")
        message = BROKEN
    with gr.Blocks(title="Ask a model about itself", analytics_enabled=False) as demo:
        gr.HTML(pages.problem(message), apply_default_css=False)
    return demo


if __name__ == "__main__":
    if "SPACE_ID" in os.environ:
        os.environ.setdefault("FORWARDED_ALLOW_IPS", PROXIES)
    return_free_memory()
    demo = page()
    demo.launch(**LAUNCH)
