"""Run the demo as a server process."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 120


@contextmanager
def serving(directory: Path, log: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Serve `directory/app.py` inside the block.

    Args:
        directory: files of the demo.
        log: file for everything that the server prints.
        environment: additional environment variables.

    Yields:
        The address of the server.
    """
    settings = {"GRADIO_SERVER_NAME": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, directory / "app.py"],
            env=os.environ | settings | environment,
            stdout=out,
            stderr=out,
            cwd=log.parent,
        )
    deadline = time.monotonic() + START_SECONDS
    try:
        while "HTTP URL" not in log.read_text():  # printed last, after the server has reached itself
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield next(word for word in log.read_text().split() if word.startswith("http://127.0.0.1:"))
    finally:
        process.terminate()
        process.wait(20)
