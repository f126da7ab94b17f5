"""Run the steps of a run in order, record what is done, and continue after an interruption.

The engine does not depend on what the steps do. `manifest.json` is rewritten atomically before and after every step.
"""

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfexplain.errors import SelfExplainError
from selfexplain.runs.manifest import RunManifest, StepRecord
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.runs.versions import library_versions
from selfexplain.utils.formatting import format_duration
from selfexplain.utils.hashing import fingerprint
from selfexplain.utils.io import is_disk_full
from selfexplain.utils.processes import process_state
from selfexplain.version import __version__

logger = logging.getLogger(__name__)

_OTHER_DIRECTORY = "Give a different directory with output_dir=DIR"


@dataclass(frozen=True)
class Step:
    """One resumable piece of a run.

    Attributes:
        name: unique name; the part before the first "/" is the stage that the step belongs to.
        inputs: what the result depends on in addition to the steps before it, as JSON values.
        outputs: files and directories, relative to the run directory, that belong to this step alone.
        action: function that does the work. After an interruption it is called again and finds the outputs as they
            were left. It may return revisions (`RunManifest.revisions`) to record in the manifest.
        after: names of the steps whose results this step reads.
        amends: files of other steps that this step rewrites.
        shared: whether all processes of `accelerate launch` take part; only the main process runs the other steps.
    """

    name: str
    inputs: Mapping[str, Any]
    outputs: tuple[str, ...]
    action: Callable[[], Mapping[str, str] | None]
    after: tuple[str, ...] = ()
    amends: tuple[str, ...] = ()
    shared: bool = False

    @property
    def stage(self) -> str:
        return self.name.partition("/")[0]


class OpenRun:
    """A run directory and its manifest, which changes while steps run.

    Attributes:
        manifest: the latest state; `save` writes it.
    """

    def __init__(self, directory: RunDirectory, manifest: RunManifest) -> None:
        self.directory = directory
        self.manifest = manifest

    @property
    def root(self) -> Path:
        return self.directory.root

    @property
    def steps(self) -> Mapping[str, StepRecord]:
        return self.manifest.steps

    def update(self, name: str, **changes: Any) -> None:
        """Change fields of a step's record."""
        self._replace({**self.steps, name: self.steps[name].model_copy(update=changes)})

    def start_again(self, step: Step, input_hash: str) -> None:
        """Record that a step starts from the beginning; steps that read its results are no longer done."""
        self.forget_readers(step.name)
        record = StepRecord(input_hash=input_hash, after=step.after, amends=step.amends)
        self._replace({**self.steps, step.name: record})

    def forget(self, name: str) -> None:
        """Remove a step's record if there is one."""
        self._replace({other: record for other, record in self.steps.items() if other != name})

    def forget_readers(self, name: str) -> None:
        """Remove the records of all steps that read the results of a step, directly or through other steps."""
        for other in [other for other, record in self.steps.items() if name in record.after]:
            if other in self.steps:
                self.forget(other)
                self.forget_readers(other)

    def set_sizes(self, sizes: Mapping[str, int]) -> None:
        """Change the recorded sizes of files, in the records of the steps that wrote them."""
        for name, record in self.steps.items():
            known = {file: size for file, size in sizes.items() if file in record.outputs}
            if known:
                self.update(name, outputs={**record.outputs, **known})

    def add_revisions(self, revisions: Mapping[str, str]) -> None:
        merged = {**self.manifest.revisions, **revisions}
        self.manifest = self.manifest.model_copy(update={"revisions": merged})

    def save(self) -> None:
        self.manifest.write(self.directory.manifest_path)

    def _replace(self, steps: dict[str, StepRecord]) -> None:
        self.manifest = self.manifest.model_copy(update={"stages": steps})


def create_run_directory(run_dir: Path) -> RunDirectory:
    """Create a run directory if it does not exist.

    Raises:
        SelfExplainError: it cannot be created, holds files but not a run, or has a symbolic link to files outside of
            it. Nothing in it is changed.
    """
    directory = RunDirectory(run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(run_dir, os.W_OK):
            raise PermissionError(errno.EACCES, "not writable")
        is_empty = directory.is_empty
    except OSError as error:
        raise SelfExplainError(
            f"{run_dir} cannot be used as a run directory: {error.strerror}. {_OTHER_DIRECTORY}."
        ) from error
    if not (directory.is_run or is_empty):
        raise SelfExplainError(
            f"{run_dir} contains files but not a run (there is no manifest.json). {_OTHER_DIRECTORY}."
        )
    directory.check_links()
    return directory


def open_run(run_dir: Path, identity: dict[str, str], seed: int, revisions: Mapping[str, str] | None = None) -> OpenRun:
    """Open a run directory. If it is empty or does not exist, create it; no manifest is written yet.

    Args:
        run_dir: the directory.
        identity: what distinguishes this run from others (`RunManifest.identity`).
        seed: seed of the run.
        revisions: revisions that the run uses; they replace the ones in the manifest.

    Raises:
        SelfExplainError: the directory cannot be used (`create_run_directory`), holds a different run, or its manifest
            cannot be read. Nothing in it is changed.
    """
    directory = create_run_directory(run_dir)
    if directory.is_run:
        manifest = directory.read_manifest()
    else:
        manifest = RunManifest(identity=identity, seed=seed, versions=library_versions())
    if manifest.identity != identity:
        raise SelfExplainError(
            f"{run_dir} contains a different run ({_describe(manifest.identity)}) from the one that was requested "
            f"({_describe(identity)}). {_OTHER_DIRECTORY}."
        )
    changes = {"seed": seed, "versions": library_versions(), "revisions": dict(revisions or {})}
    return OpenRun(directory, manifest.model_copy(update=changes))


def _describe(identity: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in identity.items())


def execute(steps: Sequence[Step], run: OpenRun) -> None:
    """Run the steps that are not done.

    A step is done if the manifest lists it as done, its input hash has not changed and its files are complete. An
    interrupted step is called again and continues from the files it left. A step whose inputs changed or whose files
    are damaged starts from the beginning, and so do the steps that read its results.

    Raises:
        SelfExplainError: the disk is full, or the files of a step are not inside the run directory.
    """
    if process_state().process_index:
        return _assist(steps)
    for step in steps:
        for name in (*step.outputs, *step.amends):
            run.directory.file(name)  # raises if it is outside of the run directory
    hashes: dict[str, str] = {}
    for number, step in enumerate(steps, start=1):
        upstream = {name: hashes[name] for name in step.after}
        hashes[step.name] = fingerprint({"inputs": step.inputs, "after": upstream, "version": __version__})
        title = f"[{number}/{len(steps)}] {step.name}"
        if not _prepare(step, hashes[step.name], run, title):
            _announce(step, "skip")
            continue
        _announce(step, "run")
        try:
            _run(step, run)
        except Exception as error:
            if is_disk_full(error):
                raise SelfExplainError(
                    f"Step {step.name}: no space left on the disk of {run.root}. Free some space and run the same "
                    "command again. Finished work is kept."
                ) from error
            raise
        logger.info("%s: done in %s", title, format_duration(run.steps[step.name].seconds))


def forget_removed(steps: Sequence[Step], run: OpenRun) -> None:
    """Forget steps that the recipe no longer has, if they are unfinished or rewrote the results of other steps.

    `execute` will rebuild the rewritten results, and the files of the removed steps are deleted. All other results
    stay, so that a finished step that returns to the recipe is still done.

    Args:
        steps: all steps of the recipe.
        run: the run.
    """
    names = {step.name for step in steps}
    removed = {
        name: record
        for name, record in run.steps.items()
        if name not in names and (not record.is_done or record.amends)
    }
    for name, record in removed.items():
        logger.info("%s: removed, because the recipe no longer has this step", name)
        for file in record.outputs if record.amends else ():
            run.directory.file(file).unlink(missing_ok=True)
        run.forget(name)
    rewritten = {file for record in removed.values() for file in record.amends}
    for name in [name for name, record in run.steps.items() if rewritten & set(record.outputs)]:
        run.forget(name)
        run.forget_readers(name)
    if removed:
        run.save()


def _assist(steps: Sequence[Step]) -> None:
    """What a process does that is not the main one: run shared steps when the main process reaches them."""
    for step in steps:
        if step.shared and _announce(step, "wait") == "run":
            step.action()


def _announce(step: Step, decision: str) -> str:
    """Send the main process's decision about a shared step to the other processes; return that decision."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([decision])[0] if step.shared else decision


def _prepare(step: Step, input_hash: str, run: OpenRun, title: str) -> bool:
    """Decide whether a step has to run, log the reason, and delete results that are out of date."""
    record = run.steps.get(step.name)
    if record is None or record.input_hash != input_hash:
        logger.info(title)
    elif not record.is_done:
        logger.info("%s: continuing", title)
        return True
    elif _is_complete(record, run.root):
        logger.info("%s: already done (%s), inputs unchanged", title, format_duration(record.seconds))
        return False
    else:
        logger.warning("%s: running again, because files of it are missing or truncated", title)
    _delete_outputs(step, run.directory)
    run.start_again(step, input_hash)
    return True


def _run(step: Step, run: OpenRun) -> None:
    run.update(step.name, status="running")
    run.set_sizes(dict.fromkeys(step.amends, 0))  # until the step is done, the files that it rewrites may be shorter
    run.save()
    before, started = run.steps[step.name].seconds, time.monotonic()
    status, outputs = "stopped", run.steps[step.name].outputs
    try:
        run.add_revisions(step.action() or {})
        outputs = {run.directory.relative(file): file.stat().st_size for file in _files(step.outputs, run.root)}
        amended = {name: run.root / name for name in step.amends}
        run.set_sizes({name: file.stat().st_size for name, file in amended.items() if file.is_file()})
        status = "done"
    finally:
        seconds = round(before + time.monotonic() - started, 1)
        run.update(step.name, status=status, seconds=seconds, outputs=outputs)
        run.save()


def _files(outputs: Iterable[str], root: Path) -> list[Path]:
    """The files of a step, without training checkpoints."""
    paths = [root / output for output in outputs]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return sorted(file for file in files if "checkpoint" not in str(file.relative_to(root)))


def _is_complete(record: StepRecord, root: Path) -> bool:
    paths = {root / name: size for name, size in record.outputs.items()}
    return all(path.is_file() and size in (0, path.stat().st_size) for path, size in paths.items())


def _delete_outputs(step: Step, run: RunDirectory) -> None:
    for path in (run.file(output) for output in step.outputs):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
