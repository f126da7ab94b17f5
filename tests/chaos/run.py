"""Interrupt runs and publishing at random points, continue them, and compare with an uninterrupted run.

`python tests/chaos/run.py --points 200 --out build/chaos.json` prints and writes counts, and fails if anything
differs. Each point is a process that is killed before its n-th file operation or a short time after it, that fills a
small disk (a tmpfs, which takes root; otherwise, the n-th file operation fails as on a full disk), or whose connections
to a local Hub are dropped. The same command then runs again without interruption.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.child import Interruption, has_finished, start, wait
from chaos.compare import differences, leftovers, loss_differences
from chaos.small_disk import SmallDisk
from hub.server import Fault, Hub

STAGES = ("dataset", "train", "evaluate", "card")
PUBLISHING = "publish"
KINDS = {
    "dataset": ("kill", "disk"),
    "train": ("kill", "disk"),
    "evaluate": ("kill", "disk"),
    "card": ("kill", "disk"),
    PUBLISHING: ("kill", "drop", "kill and drop"),
}
"""Stage -> how it is interrupted."""

RECIPE = [
    "expected.disk_gb=0",
    "tasks=[activation_patching,input_ablation]", "activation_patching.n_pairs=80", "activation_patching.n_rows=100",
    "activation_patching.n_blocks=2",
    "input_ablation.n_questions=400", "input_ablation.n_rows=100", "training.epochs=1", "training.batch_size=8",
    "training.save_steps=2", "evaluation.rows_limit=4", "evaluation.n_resamples=20", "evaluation.batch_size=4",
]  # fmt: skip
"""The smallest quickstart that has all steps."""


class Chaos:
    """The uninterrupted run, and the points that are compared with it.

    Attributes:
        root: directory of all runs.
        hub: the local Hub.
        random: source of the present point.
        counts: (stage, kind, outcome) -> number of points.
        problems: what differed, one line each.
    """

    def __init__(self, root: Path, hub: Hub, seed: int) -> None:
        self.root, self.hub, self.seed, self.random = root, hub, seed, random.Random()
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.problems: list[str] = []
        self.reference = root / "reference"

    def prepare(self) -> None:
        """Run and publish without interruption, with a copy of the run before each stage."""
        started = time.monotonic()
        log = self.root / "operations.json"
        first, before = self.root / "first", self.root / "before"
        code = wait(start(first, "run", self.reference, RECIPE, snapshots=before, log=log))
        self._stop_unless(code == 0, f"the uninterrupted run ended with exit code {code}", first)
        self.operations = json.loads(log.read_text())  # stage -> number of file operations
        code = wait(start(first, "publish", self.reference, log=log))
        self._stop_unless(code == 0, f"publishing without interruption ended with exit code {code}", first)
        self.operations |= json.loads(log.read_text())
        self.published = self._repositories()
        self.n_requests = len(self.hub.log)
        seconds = time.monotonic() - started
        print(f"uninterrupted run: {seconds:.0f} s, file operations {self.operations}", flush=True)

    def point(self, number: int) -> None:
        """Interrupt one stage once, continue, and compare."""
        self.random = random.Random(f"{self.seed} {number}")
        stage = (*STAGES, PUBLISHING)[number % 5]
        kind = self.random.choice(KINDS[stage])
        place = self.root / f"point-{number}"
        try:
            interrupted = self._publish(kind, place) if stage == PUBLISHING else self._run(stage, kind, place)
            self.counts[stage, kind, "interrupted" if interrupted else "ended before the interruption"] += 1
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _run(self, stage: str, kind: str, place: Path) -> bool:
        run = place / "run" / "quickstart"
        with SmallDisk(place / "run") as disk:
            if (self.root / "before" / stage).is_dir():
                shutil.copytree(self.root / "before" / stage, run, symlinks=True)
            operation = self.random.randrange(max(1, self.operations[stage]))
            interruption = Interruption(kind, stage, operation, delay=self.random.choice((0.0, self.random.random())))
            if kind == "disk" and disk.is_mounted:
                disk.fill(leave=self.random.randrange(1, 400_000))
                interruption = None
            code = wait(start(place, "run", run, RECIPE, interruption=interruption))
            if kind == "disk":
                self._expect(code in (0, 2), f"{stage}: a full disk ended with exit code {code}", place)
            disk.free()
            self._continue(place, run, "run")
            label = f"{stage}, {kind}, operation {operation}"
            self._report(label, differences(self.reference, run))
            self._report(label, loss_differences(self.root / "first", place))
            self._report(label, leftovers(run, place / "tmp"))
        return code != 0

    def _publish(self, kind: str, place: Path) -> bool:
        self.hub.repos.clear(), self.hub.collections.clear(), self.hub.faults.clear(), self.hub.log.clear()
        faults = []
        if "drop" in kind:
            pattern = self.random.choice((".", "POST", "PUT", "commit", "create", "preupload", "GET"))
            faults = [Fault(pattern, self.random.choice(("drop", "silent")), times=self.random.randrange(1, 5))]
            self.hub.faults.extend(faults)
        stop_at = self.random.randrange(self.n_requests) if "kill" in kind else None
        process = start(place, "publish", self.reference)
        while not has_finished(process):
            if stop_at is not None and len(self.hub.log) >= stop_at:
                os.kill(process, 9)
                break
            time.sleep(0.002)
        code = wait(process)
        label = f"publish, {kind}, request {stop_at}"
        self._expect("kill" in kind or code in (0, 2), f"{label}: exit code {code}", place)
        time.sleep(0.05)  # the Hub finishes the requests that it has received
        for name, files in self._repositories().items():
            initial = {".gitattributes"} == set(files)
            self._expect(initial or files == self.published[name], f"{label}: {name} is half published", place)
        self.hub.faults.clear()
        self._continue(place, self.reference, "publish")
        self._expect(self._repositories() == self.published, f"{label}: the repositories differ", place)
        for (_, name), repo in self.hub.repos.items():
            self._expect(len(repo.commits) == 2, f"{label}: {name} has {len(repo.commits)} commits", place)
        self._expect(len(self.hub.collections) == 1, f"{label}: {len(self.hub.collections)} collections", place)
        self._report(label, leftovers(self.reference, place / "tmp"))
        return code != 0 or any(fault.used for fault in faults)

    def _continue(self, place: Path, run: Path, command: str) -> None:
        code = wait(start(place, command, run, RECIPE))
        self._expect(code == 0, f"the second {command} ended with exit code {code}", place)

    def _repositories(self) -> dict[str, dict[str, bytes]]:
        return {f"{kind} {name}": dict(repo.files) for (kind, name), repo in self.hub.repos.items()}

    def _report(self, label: str, problems: list[str]) -> None:
        self.problems += [f"{label}: {problem}" for problem in problems]

    def _stop_unless(self, holds: bool, problem: str, place: Path) -> None:
        self._expect(holds, problem, place)
        if not holds:
            sys.exit(self.problems[-1])

    def _expect(self, holds: bool, problem: str, place: Path) -> None:
        if not holds:
            output = place / "output.txt"
            tail = output.read_text(errors="replace")[-1500:] if output.is_file() else ""
            self.problems.append(f"{problem}\n{tail}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first point")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/chaos.json"))
    options = parser.parse_args()
    with directory_of_runs() as directory, Hub() as hub:
        os.environ.update(hub.environment, HF_HOME=f"{directory}/hf", TOKENIZERS_PARALLELISM="false")
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        chaos = Chaos(directory, hub, options.seed)
        chaos.prepare()
        for done, number in enumerate(range(options.first, options.first + options.points), start=1):
            chaos.point(number)
            write_report(options.out, chaos, done)
            print(f"{done}/{options.points}: {len(chaos.problems)} problems", flush=True)
    print(options.out.read_text())
    return 1 if chaos.problems else 0


@contextmanager
def directory_of_runs() -> Iterator[Path]:
    """A temporary directory. Unlike one of `tempfile`, it is not deleted when a forked process ends."""
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def write_report(path: Path, chaos: Chaos, n_points: int) -> None:
    counts = [
        {"stage": stage, "kind": kind, "outcome": outcome, "points": n}
        for (stage, kind, outcome), n in sorted(chaos.counts.items())
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"points": n_points, "counts": counts, "problems": chaos.problems}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
