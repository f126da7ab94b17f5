"""The code of docs/publish.md runs as it stands. Its Python runs in the fresh process of test_client.py."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selfexplain.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "publish.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def in_reach(hub_with_run, finished, real_space, tmp_path, monkeypatch):
    """The run lies where the page says, and its organisation exists."""
    hub_with_run.roles["my-lab"] = "admin"
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    return hub_with_run


def test_commands(in_reach):
    assert len(COMMANDS) >= 5
    for command in COMMANDS:
        hub = in_reach
        hub.log.clear()
        program, *arguments = shlex.split(command)
        assert program == "selfexplain"
        shown = CliRunner().invoke(app, arguments)
        assert shown.exit_code == 0, f"{command}\n{shown.output}"
        ours = {name: repo for (_, name), repo in hub.repos.items() if name.startswith("my-lab/")}
        if "--dry-run" in command:
            assert hub.log == [] and not ours
        elif "--revision draft" in command:
            assert all("draft" in repo.refs for repo in ours.values()) and not hub.writes("/commit/main")
        elif "--create-pr" in command:
            assert hub.writes() == []  # main is what the run is
        elif "publish" in command:
            assert hub.writes("my-lab") and len(ours) == 6
    for name in re.findall(r"`(my-lab/[\w.-]+)`", PAGE.split("## Load")[0]):
        assert any(known == name for _, known in in_reach.repos), name


def test_python_ran_in_the_fresh_process(seen):
    assert seen["page"].count("\n") >= 3
