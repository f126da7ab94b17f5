"""Test `selfexplain demo` without starting a server."""

import os
import subprocess
from types import SimpleNamespace

import pytest

from selfexplain.cli import demo


@pytest.mark.parametrize("replaces", [True, False])
def test_the_demo_gets_explainer_host_and_port(invoke, monkeypatch, replaces):
    calls = []

    def run(command, env):
        calls.append((command[1], env))
        return SimpleNamespace(returncode=3)

    def execve(path, command, env):
        calls.append((command[1], env))
        raise SystemExit(3)

    monkeypatch.setattr(demo, "CAN_REPLACE_PROCESS", replaces)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "execve", execve)
    assert invoke("demo", "some/explainer", "--port", "7000").exit_code == 3
    [(script, environment)] = calls
    assert script.endswith("spaces/explainer/app.py")
    assert environment["SELFEXPLAIN_EXPLAINER"] == "some/explainer"
    assert environment["GRADIO_SERVER_NAME"] == "127.0.0.1" and environment["GRADIO_SERVER_PORT"] == "7000"


def test_the_error_for_missing_packages_contains_the_install_command(invoke, monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    result = invoke("demo")
    assert result.exit_code == 2
    assert "needs gradio and spaces, which are not installed. Run: pip install 'selfexplain[space]'" in result.stderr


def test_a_directory_without_an_explainer_is_refused(invoke, tmp_path):
    result = invoke("demo", str(tmp_path))
    assert result.exit_code == 2 and "neither a run" in result.stderr
