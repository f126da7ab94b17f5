"""Compare a run that was interrupted and continued with one that was not."""

import json
import re
from pathlib import Path

TIMES = {"manifest.json", "results.json", "README.md", "model_card.md"}
"""Names of files that contain durations, besides those in `cards/`."""


def differences(reference: Path, run: Path) -> list[str]:
    """Files that one of two runs lacks, and files whose content differs other than in durations."""
    expected, found = contents(reference), contents(run)
    missing, added = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    changed = [name for name in sorted(expected.keys() & found.keys()) if found[name] != expected[name]]
    return [
        *(f"{name} is missing" for name in missing),
        *(f"{name} is not in the uninterrupted run" for name in added),
        *(f"{name} differs" for name in changed),
    ]


def contents(run: Path) -> dict[str, bytes]:
    """Path -> content without durations."""
    return {
        path.relative_to(run).as_posix(): without_times(path, run) for path in sorted(run.rglob("*")) if path.is_file()
    }


def without_times(path: Path, run: Path) -> bytes:
    if path.name == "manifest.json" and path.parent == run:
        return _without_sizes(path)
    content = path.read_bytes().replace(str(run).encode(), b"RUN")
    if path.name in TIMES or "cards" in path.parts:
        content = re.sub(rb"\| seconds\.[^|]+\|[^|]+\|", b"", content)
        content = re.sub(rb'"seconds": (\{[^}]*\}|[\d.]+)', b"", content)
        content = re.sub(rb"[\d.,]+ (?:s|min|h|seconds?|minutes?)\b", b"", content)
    return content


def _without_sizes(manifest: Path) -> bytes:
    """Of a manifest, everything but durations and the sizes of files, some of which contain durations."""
    data = json.loads(manifest.read_text())
    for step in data["stages"].values():
        del step["seconds"]
        step["outputs"] = sorted(step["outputs"])
    return json.dumps(data, sort_keys=True).encode()


def loss_differences(reference: Path, place: Path) -> list[str]:
    """Steps whose logged loss differs from the one of the uninterrupted training."""
    expected = dict(losses(reference))
    found = losses(place)
    problems = [
        f"loss at step {step} is {loss}, not {expected.get(step)}" for step, loss in found if loss != expected.get(step)
    ]
    return problems


def losses(place: Path) -> list[tuple[int, float]]:
    path = place / "losses.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [tuple(json.loads(line)) for line in lines if line.endswith("]")]


def leftovers(run: Path, temporary: Path) -> list[str]:
    """Locks and temporary files."""
    stale = [
        path for path in run.rglob("*")
        if path.name in (".lock", "lock.json", "checkpoints", "cache", ".work") or path.suffix in (".tmp", ".partial")
    ]  # fmt: skip
    return [f"{path} is left over" for path in [*stale, *temporary.iterdir()]]
