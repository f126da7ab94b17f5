"""A function that runs the command line inside the test process."""

import pytest
from typer.testing import CliRunner

from selfexplain.cli import app


@pytest.fixture
def invoke():
    return lambda *arguments: CliRunner().invoke(app, arguments)
