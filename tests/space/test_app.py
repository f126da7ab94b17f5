"""Building the demo: which tabs there are, who a visitor is, and what is shown if it cannot be built."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

import app
import showcase
from selfexplain.errors import SelfExplainError


def labels(demo):
    return [part["props"].get("label") for part in demo.get_config_file()["components"] if part["type"] == "tabitem"]


def test_tabs_are_in_the_order_of_tasks(show):
    assert labels(app.build()) == ["Read", "Patch", "Map", "Remove", "Features", "Results"]


def test_the_container_of_tabs_contains_nothing_else(show):
    config = app.build().get_config_file()  # gradio counts other children too, and then shows tabs twice
    types = {part["id"]: part["type"] for part in config["components"]}
    [tabs] = [part for part in config["layout"]["children"] if types[part["id"]] == "tabs"]
    assert {types[part["id"]] for part in tabs["children"]} == {"tabitem"}


def test_there_is_no_patch_tab_without_a_block_that_starts_at_a_trained_layer(show, monkeypatch):
    import service

    monkeypatch.setattr(service, "BLOCKS", [])
    assert labels(app.build()) == ["Read", "Remove", "Features", "Results"]


def test_a_task_without_a_custom_tab_gets_a_tab_of_held_out_rows(show, monkeypatch):
    import service

    monkeypatch.setattr(service, "TASK_NAMES", ("next_sentiment", "input_ablation"))
    monkeypatch.setattr(service, "SHOW", replace(show, features=[]))
    assert labels(app.build()) == ["Remove", "Next sentiment", "Results"]


def test_a_bare_model_that_learned_one_task_gets_the_tabs_of_that_task(run):
    config = run / "explainer" / "config.json"
    fields = json.loads(config.read_text())
    learned = {"tasks": ["activation_patching"], "trained_layers": {"activation_patching": [0, 2]}}
    config.write_text(json.dumps(fields | learned))
    build = "import app, json; print(json.dumps(app.build().get_config_file(), default=str))"
    settings = os.environ | {"SELFEXPLAIN_EXPLAINER": str(run / "explainer")}
    done = subprocess.run(
        [sys.executable, "-c", build], env=settings, cwd=showcase.HERE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    parts = json.loads(done.stdout.splitlines()[-1])["components"]
    names = [part["props"].get("label") for part in parts if part["type"] == "tabitem"]
    assert names == ["Patch", "Map", "Results"]


@pytest.mark.parametrize(
    ("error", "message"),
    [(SelfExplainError("org/gone does not exist"), "org/gone does not exist"), (KeyError("inside"), "The log")],
)
def test_a_demo_that_cannot_be_built_shows_the_reason_and_the_remedy(monkeypatch, error, message):
    def broken():
        raise error

    monkeypatch.setattr(app, "build", broken)
    shown = json.dumps(app.build_or_explain().get_config_file())
    assert "could not be loaded" in shown and "HF_TOKEN" in shown and message in shown and "inside" not in shown


@pytest.mark.parametrize(
    ("header", "visitor"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("198.51.100.1, 203.0.113.7", "203.0.113.7"),  # visitors can set the first address themselves
        ("198.51.100.1, 203.0.113.7, 10.20.3.4, 100.64.1.2", "203.0.113.7"),
    ],
)
def test_the_visitor_is_the_last_address_that_is_not_a_proxy(header, visitor):
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    async def record_host(scope, receive, send):
        hosts.append(scope["client"][0])

    hosts: list[str] = []
    scope = {"type": "http", "client": ("10.16.0.1", 5), "headers": [(b"x-forwarded-for", header.encode())]}
    asyncio.run(ProxyHeadersMiddleware(record_host, app.PROXIES)(scope, None, None))
    assert hosts == [visitor]
