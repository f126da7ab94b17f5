"""The page as a server of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(page: Path, log: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Address of `page/app.py` as long as it runs; what it prints goes to `log`."""
    settings = {"GRADIO_SERVER_NAME": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, page / "app.py"],
            env=os.environ | settings | environment,
            stdout=out,
            stderr=out,
            cwd=log.parent,
        )
    deadline = time.monotonic() + 120
    try:
        while "HTTP URL" not in log.read_text():  # its last words; it listens earlier, but has not yet seen itself
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield next(word for word in log.read_text().split() if word.startswith("http://127.0.0.1:"))
    finally:
        process.terminate()
        process.wait(20)
