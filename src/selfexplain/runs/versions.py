"""Versions of the software that results depend on."""

import platform
import shutil
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from selfexplain.version import __version__

_LIBRARIES = ("torch", "transformers", "peft", "trl", "datasets", "sae-lens", "numpy")


def library_versions() -> dict[str, str]:
    """Versions of Python, of this package (with its commit, in a checkout) and of the libraries it depends on."""
    versions = {"python": platform.python_version(), "selfexplain": __version__}
    if commit := _source_commit():
        versions["selfexplain commit"] = commit
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _source_commit() -> str | None:
    """The commit of the checkout that runs, with `-dirty` if files were changed; None for an installed package."""
    checkout = Path(__file__).parents[3]
    if not (checkout / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
