"""Run a command in a forked process, and interrupt it at a file operation."""

import atexit
import errno
import json
import os
import shutil
import sys
import tempfile
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree"}


@dataclass(frozen=True)
class Interruption:
    """What happens at a file operation.

    Attributes:
        kind: "kill" for SIGKILL, "disk" for an error as on a full disk.
        stage: stage of the run in which operations are counted.
        operation: number of the operation, from 0.
        delay: seconds between the operation and SIGKILL.
    """

    kind: str
    stage: str
    operation: int
    delay: float = 0.0


class Operations:
    """Counts the file operations of Python code below a directory, by stage, and interrupts one of them."""

    def __init__(self, root: Path, interruption: Interruption | None) -> None:
        self.root, self.interruption = str(root), interruption
        self.stage = "start"
        self.counts: dict[str, int] = {}

    def __call__(self, event: str, arguments: tuple) -> None:
        if event != "open" and event not in WRITES:
            return
        path = arguments[0]
        if not isinstance(path, str | os.PathLike) or not str(path).startswith(self.root):
            return
        number = self.counts.get(self.stage, 0)
        self.counts[self.stage] = number + 1
        planned = self.interruption
        if planned and (planned.stage, planned.operation) == (self.stage, number):
            if planned.kind == "disk":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            if planned.delay == 0:
                os.kill(os.getpid(), 9)
            threading.Timer(planned.delay, os.kill, (os.getpid(), 9)).start()


def start(place: Path, command: str, run: Path, overrides=(), interruption=None, snapshots=None, log=None) -> int:
    """Fork a process that runs or publishes, and return its id.

    Args:
        place: directory for its temporary files, its output and the losses that it logs.
        command: "run" or "publish".
        run: the run directory.
        overrides: overrides of the quickstart.
        interruption: what happens to it.
        snapshots: directory for copies of the run before each stage.
        log: file for the number of file operations of each stage.
    """
    import_everything()
    (place / "tmp").mkdir(parents=True, exist_ok=True)
    process = os.fork()
    if process:
        return process
    code = 3
    try:
        output = os.open(place / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1), os.dup2(output, 2)
        os.environ["TMPDIR"], tempfile.tempdir = str(place / "tmp"), None
        operations = Operations(run, interruption)
        sys.addaudithook(operations)
        code = execute(command, run, overrides, operations, place / "losses.jsonl", snapshots)
        if log is not None:
            log.write_text(json.dumps(operations.counts))
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def import_everything() -> None:
    """Import the slow libraries once, before processes are forked."""
    import accelerate  # noqa: F401
    import huggingface_hub.hf_api  # noqa: F401
    import torch

    import selfexplain.evaluation.evaluate
    import selfexplain.groundtruth.build
    import selfexplain.modeling.modeling_selfexplainer
    import selfexplain.pipeline.driver
    import selfexplain.publishing.hub
    import selfexplain.training.train
    import selfexplain.training.trainer  # noqa: F401

    torch.set_num_threads(1)


def execute(command, run, overrides, operations, losses, snapshots) -> int:
    """Run the command; returns its exit code."""
    from selfexplain.errors import SelfExplainError

    try:
        if command == "run":
            with recording(operations, losses, run, snapshots):
                from selfexplain.pipeline.driver import run as run_recipe
                from selfexplain.runs.recipe import load_recipe

                run_recipe(load_recipe("quickstart", list(overrides)), run)
        else:
            from selfexplain.publishing import hub, hub_calls

            operations.stage = "publish"
            with mock.patch.object(hub_calls, "time", mock.Mock(sleep=lambda _: None)):
                hub.publish(run, "lab", hub.Options(), None)
    except SelfExplainError as error:
        print(f"error: {error}")
        return 2
    return 0


def recording(operations, losses, run, snapshots):
    """Follow the stages, copy the run before each of them, and record the losses that are logged."""
    from contextlib import ExitStack

    from selfexplain.runs import engine
    from selfexplain.training.trainer import SelfExplainerTrainer

    run_step, log = engine._run, SelfExplainerTrainer.log

    def followed(step, opened):
        if snapshots and not (snapshots / step.stage).exists():
            opened.save()
            shutil.copytree(run, snapshots / step.stage, ignore=shutil.ignore_patterns(".lock", "lock.json"))
        operations.stage = step.stage
        run_step(step, opened)

    def logged(self, logs, *arguments, **options):
        if "loss" in logs:
            with losses.open("a") as file:
                file.write(json.dumps([self.state.global_step, logs["loss"]]) + "\n")
        log(self, logs, *arguments, **options)

    stack = ExitStack()
    stack.enter_context(mock.patch.object(engine, "_run", followed))
    stack.enter_context(mock.patch.object(SelfExplainerTrainer, "log", logged))
    return stack


def wait(process: int) -> int:
    """Wait for a process; return its exit code, negative for a signal."""
    if process in _ended:
        return _ended.pop(process)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def has_finished(process: int) -> bool:
    """Whether a process has ended."""
    found, status = os.waitpid(process, os.WNOHANG)
    if found:
        _ended[process] = os.waitstatus_to_exitcode(status)
    return bool(found)


_ended: dict[int, int] = {}
