"""Download the common tests of the installed version of transformers from the package index.

They are in the source distribution only, not in the wheel. Usage: python fetch.py DIRECTORY
"""

import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

PACKAGE = "transformers_tests"


def fetch(directory: Path) -> Path:
    """Extract the tests into a package `transformers_tests` inside a directory, unless it is there already.

    Args:
        directory: directory to create.

    Returns:
        The directory that contains the package, one per version of transformers.
    """
    name = f"transformers-{version('transformers')}"
    root = directory / name
    if root.is_dir():
        return root
    directory.mkdir(parents=True, exist_ok=True)
    requirement = name.replace("-", "==", 1)
    options = ["--no-deps", "--no-binary", "transformers", "--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "-d", directory, requirement], check=True)
    archive = directory / f"{name}.tar.gz"
    unpacked = directory / "unpacked"
    with tarfile.open(archive) as tar:
        tar.extractall(
            unpacked, [m for m in tar.getmembers() if m.name.startswith(f"{name}/tests/test_")], filter="data"
        )
    (unpacked / name / "tests").rename(unpacked / name / PACKAGE)
    (unpacked / name / PACKAGE / "__init__.py").touch()
    (unpacked / name).rename(root)
    shutil.rmtree(unpacked)
    archive.unlink()
    return root


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1]).resolve()))
