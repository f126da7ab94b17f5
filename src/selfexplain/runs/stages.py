"""The stage engine: run steps in order, remember what is done, continue after a kill.

It knows nothing of what the steps do. A run directory holds their outputs and `manifest.json`, which is rewritten
atomically around every step.
"""

import errno
import logging
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from selfexplain import __version__
from selfexplain.errors import SelfExplainError
from selfexplain.utils.formatting import format_duration
from selfexplain.utils.hashing import fingerprint
from selfexplain.utils.io import is_disk_full, write_json
from selfexplain.utils.processes import process_state

logger = logging.getLogger(__name__)

_LIBRARIES = ("torch", "transformers", "peft", "trl", "datasets", "sae-lens", "numpy")


@dataclass(frozen=True)
class Step:
    """One resumable piece of a run.

    Attributes:
        inputs: what the result depends on besides the steps before it, as JSON values.
        outputs: files and directories of the run directory that belong to this step alone.
        action: does the work; called again after a kill, with the outputs as they were left.
        after: names of the steps whose results this one reads.
        amends: files of other steps that this one rewrites.
        shared: under `accelerate launch` all processes take part; the main one alone does what is not shared.
    """

    name: str
    inputs: Mapping[str, Any]
    outputs: tuple[str, ...]
    action: Callable[[], object]
    after: tuple[str, ...] = ()
    amends: tuple[str, ...] = ()
    shared: bool = False


@dataclass
class Record:
    """What the manifest says of a step.

    Attributes:
        outputs: the files it wrote, once it is done, with their sizes in bytes.
        after, amends: as of the step.
    """

    input_hash: str
    status: Literal["running", "stopped", "done"] = "running"
    seconds: float = 0.0
    outputs: dict[str, int] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    amends: tuple[str, ...] = ()


@dataclass
class Manifest:
    """Which run a directory holds, and how far it is.

    Attributes:
        identity: what makes two runs different ones, such as the names of recipe and models.
        revisions: the commits of the Hub that the run is about, and the SHA-256 of what has none (`revisions.pin`).
    """

    identity: dict[str, str]
    seed: int
    versions: dict[str, str]
    schema_version: Literal[1] = 1
    revisions: dict[str, str] = field(default_factory=dict)
    stages: dict[str, Record] = field(default_factory=dict)

    def write(self, run_dir: Path) -> None:
        write_json(run_dir / "manifest.json", asdict(self))


def open_run(run_dir: Path, identity: dict[str, str], seed: int) -> Manifest:
    """The manifest of a run directory; a new one, not yet written, where the directory is empty or is made.

    Raises:
        SelfExplainError: the directory cannot be made, holds another run or files that are no run, or its manifest is
            corrupt. Nothing in it is touched.
    """
    path = run_dir / "manifest.json"
    elsewhere = "Give another directory with output_dir=DIR"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(run_dir, os.W_OK):
            raise PermissionError(errno.EACCES, "not writable")
        if not path.exists():
            if any(entry.suffix != ".tmp" for entry in run_dir.iterdir()):
                raise SelfExplainError(f"{run_dir} holds files but no run (no manifest.json). {elsewhere}.")
            return Manifest(identity, seed, library_versions())
        manifest = TypeAdapter(Manifest).validate_json(path.read_bytes())
    except OSError as error:
        raise SelfExplainError(
            f"{run_dir} cannot be used as a run directory: {error.strerror}. {elsewhere}."
        ) from error
    except ValidationError as error:
        raise SelfExplainError(
            f"{path} is corrupt. {elsewhere}, or delete {run_dir} to start again from nothing."
        ) from error
    if manifest.identity != identity:
        there, given = (
            ", ".join(f"{key} {value}" for key, value in run.items()) for run in (manifest.identity, identity)
        )
        raise SelfExplainError(f"{run_dir} holds another run: {there}; given: {given}. {elsewhere}.")
    manifest.seed, manifest.versions = seed, library_versions()
    return manifest


def execute(steps: Sequence[Step], run_dir: Path, manifest: Manifest) -> None:
    """Run the steps that are not done.

    A step is done when the manifest says so, its input hash is unchanged and its files are still there in full. A
    step that was stopped is called again on what it left; one whose inputs changed, or whose files were damaged, starts
    from nothing, and so do the steps that read its results.

    Raises:
        SelfExplainError: the disk is full.
    """
    if process_state().process_index:
        return _help(steps)
    hashes: dict[str, str] = {}
    for number, step in enumerate(steps, start=1):
        upstream = {name: hashes[name] for name in step.after}
        hashes[step.name] = fingerprint({"inputs": step.inputs, "after": upstream, "version": __version__})
        title = f"[{number}/{len(steps)}] {step.name}"
        record = manifest.stages.get(step.name)
        if record is None or record.input_hash != hashes[step.name]:
            logger.info(title)
            record = None
        elif record.status != "done":
            logger.info("%s: continues", title)
        elif _intact(record, run_dir):
            logger.info("%s: done before (%s), inputs unchanged", title, format_duration(record.seconds))
            _announce(step, "skip")
            continue
        else:
            logger.warning("%s: made anew, because its files are missing or cut short", title)
            record = None
        if record is None:
            _forget_readers(manifest, step.name)
            _clear(step, run_dir)
            record = Record(hashes[step.name], after=step.after, amends=step.amends)
            manifest.stages[step.name] = record
        _announce(step, "run")
        try:
            _run(step, record, run_dir, manifest)
        except Exception as error:
            if is_disk_full(error):
                raise SelfExplainError(
                    f"{step.name}: no space left on the disk of {run_dir}. Free some and run the same command again; "
                    "what is done is kept."
                ) from error
            raise
        logger.info("%s: done in %s", title, format_duration(record.seconds))


def forget_removed(steps: Sequence[Step], run_dir: Path, manifest: Manifest) -> None:
    """Forget steps that the recipe has no longer, where they were not finished or rewrote other steps' results.

    Those results are made anew when `execute` comes to them, and what belongs to them is deleted. All else stays, and a
    finished step that comes back is found done.

    Args:
        steps: all steps of the recipe.
    """
    known = {step.name for step in steps}
    removed = {
        name: record
        for name, record in manifest.stages.items()
        if name not in known and (record.status != "done" or record.amends)
    }
    for name, record in removed.items():
        logger.info("%s: forgotten, because the recipe has this step no longer", name)
        for file in record.outputs if record.amends else ():
            (run_dir / file).unlink(missing_ok=True)
        del manifest.stages[name]
    rewritten = {file for record in removed.values() for file in record.amends}
    for name in [name for name, record in manifest.stages.items() if rewritten & set(record.outputs)]:
        manifest.stages.pop(name, None)
        _forget_readers(manifest, name)
    if removed:
        manifest.write(run_dir)


def _help(steps: Sequence[Step]) -> None:
    """The part of a process that is not the main one: shared steps, when the main one comes to them."""
    for step in steps:
        if step.shared and _announce(step, "wait") == "run":
            step.action()


def _announce(step: Step, decision: str) -> str:
    """The main process tells the others what becomes of a shared step; returns what it said."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([decision])[0] if step.shared else decision


def library_versions() -> dict[str, str]:
    """Versions of Python, this package and what its results depend on."""
    versions = {"python": platform.python_version(), "selfexplain": __version__}
    if commit := _source_commit():
        versions["selfexplain commit"] = commit
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _source_commit() -> str | None:
    """The commit of the checkout that runs, with `-dirty` where it was changed; None for an installed package."""
    checkout = Path(__file__).parents[3]
    if not (checkout / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def _run(step: Step, record: Record, run_dir: Path, manifest: Manifest) -> None:
    record.status = "running"
    for earlier in manifest.stages.values():  # what this step rewrites may be shorter until it is done
        earlier.outputs |= dict.fromkeys(set(step.amends) & set(earlier.outputs), 0)
    manifest.write(run_dir)
    before, started = record.seconds, time.monotonic()
    try:
        step.action()
        record.status = "done"
        record.outputs = {str(file.relative_to(run_dir)): file.stat().st_size for file in _files(step.outputs, run_dir)}
        for earlier in manifest.stages.values():
            amended = set(step.amends) & set(earlier.outputs)
            earlier.outputs |= {name: (run_dir / name).stat().st_size for name in amended}
    except BaseException:
        record.status = "stopped"
        raise
    finally:
        record.seconds = round(before + time.monotonic() - started, 1)
        manifest.write(run_dir)


def _forget_readers(manifest: Manifest, name: str) -> None:
    """Steps that read what is made anew start from nothing too, now or whenever they are asked for."""
    for other in [other for other, record in manifest.stages.items() if name in record.after]:
        if manifest.stages.pop(other, None):
            _forget_readers(manifest, other)


def _files(outputs: Iterable[str], run_dir: Path) -> list[Path]:
    paths = [run_dir / output for output in outputs]
    found = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return sorted(file for file in found if "checkpoint" not in str(file.relative_to(run_dir)))


def _intact(record: Record, run_dir: Path) -> bool:
    paths = {run_dir / name: size for name, size in record.outputs.items()}
    return all(path.is_file() and size in (0, path.stat().st_size) for path, size in paths.items())


def _clear(step: Step, run_dir: Path) -> None:
    for path in (run_dir / output for output in step.outputs):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
