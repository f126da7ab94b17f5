"""Measure how long `import selfexplain` and `selfexplain --help` take, in processor time.

    python benchmarks/imports.py

Prints the minimum of several runs, each in a new process, minus the time of an empty program. Targets: 0.3 s for the
import and 1 s for the help.
"""

import os
import subprocess
import sys

RUNS = 5
PROGRAMS = {
    "import selfexplain": ("import selfexplain", 0.3),
    "selfexplain --help": (
        "from selfexplain.cli import app; app(['--help'])",
        1.0,
    ),
    "load_recipe": ("import selfexplain; selfexplain.load_recipe('tiny')", 1.0),
}


def cpu_seconds(code: str) -> float:
    """Processor time of the fastest of several runs; unlike the clock, it excludes other processes."""

    def once() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    return min(once() for _ in range(RUNS))


def main() -> None:
    empty = cpu_seconds("pass")
    for name, (code, target) in PROGRAMS.items():
        print(f"{name}: {cpu_seconds(code) - empty:.2f} s (target {target:g} s)")


if __name__ == "__main__":
    main()
