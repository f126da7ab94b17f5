"""The lowest supported versions are the ones that continuous integration tests."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_lowest_versions_are_those_of_the_package():
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lowest = dict(line.split("==") for line in (ROOT / "constraints-lowest.txt").read_text().splitlines()[1:])
    bounds = dict(match.groups() for one in requirements if (match := re.match(r"([\w-]+)>=([\d.]+)", one)))
    assert bounds == lowest and len(bounds) == len(requirements)
