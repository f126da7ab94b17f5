"""A disk that can be filled: a tmpfs where that is permitted, otherwise an ordinary directory."""

import shutil
import subprocess
from pathlib import Path

BYTES = 64 * 2**20


class SmallDisk:
    """Mount a tmpfs inside the `with` block.

    Attributes:
        is_mounted: whether the directory is a separate disk.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.is_mounted = False

    def __enter__(self) -> "SmallDisk":
        self.directory.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={BYTES}", "tmpfs", str(self.directory)]
        self.is_mounted = (
            subprocess.run(command, capture_output=True).returncode == 0 if shutil.which("mount") else False
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self.directory)], check=True)

    def fill(self, leave: int) -> None:
        """Write a file that leaves this number of bytes free."""
        with (self.directory / "filler").open("wb") as file:
            file.write(b"\0" * max(0, shutil.disk_usage(self.directory).free - leave))

    def free(self) -> None:
        """Delete that file."""
        (self.directory / "filler").unlink(missing_ok=True)
