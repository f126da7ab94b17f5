"""Test the options, errors and log messages that all commands share."""

import logging
import subprocess
import sys

import pytest

import selfexplain
from selfexplain.cli.common import show_log
from selfexplain.errors import SelfExplainError


def test_help_loads_no_heavy_module():
    code = (
        "import sys\nfrom selfexplain.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "print('heavy:', {'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "recipes" in shown and shown.endswith("heavy: set()\n")


def test_version(invoke):
    assert invoke("--version").stdout.strip() == selfexplain.__version__


def test_invalid_input_is_one_line_on_stderr_and_exit_code_2(invoke):
    result = invoke("run", "quickstart", "sead=1")
    assert result.exit_code == 2
    expected = "error: quickstart: recipe key 'sead' does not exist. Did you mean 'seed'?"
    assert result.stderr.strip() == expected
    assert result.stdout == ""


def test_debug_shows_the_traceback(invoke):
    assert isinstance(invoke("run", "none", "--debug").exception, SelfExplainError)


def test_ctrl_c_is_one_line_and_exit_code_130(invoke, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("selfexplain.pipeline.driver.run", stop)
    result = invoke("run", "quickstart")
    assert result.exit_code == 130
    assert result.stderr.strip() == "stopped; run the same command again to continue"


@pytest.mark.parametrize(("rank", "level"), [("0", logging.INFO), ("1", logging.ERROR)])
def test_only_the_main_process_shows_progress(monkeypatch, rank, level):
    package = logging.getLogger("selfexplain")
    monkeypatch.setattr(package, "handlers", [])
    monkeypatch.setattr(package, "level", package.level)
    monkeypatch.setenv("RANK", rank)
    show_log()
    assert package.level == level and len(package.handlers) == 1
