"""Records of a publishing plan: files, repositories and the plan itself."""

import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfexplain.publishing.names import Names
from selfexplain.runs.recipe import Recipe

Kind = Literal["model", "dataset", "space"]


@dataclass(frozen=True)
class PublishedFile:
    """A local file and its place in a repository.

    Attributes:
        path: path in the repository.
        source: the local file.
        written_from: the file of the run that `source` was converted from, if any; errors name it.
    """

    path: str
    source: Path
    written_from: Path | None = None

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.source.stat().st_size

    @property
    def origin(self) -> Path:
        """The file to correct if this one is refused."""
        return self.written_from or self.source


@dataclass(frozen=True)
class PublishedRepository:
    """The intended content of one repository.

    Attributes:
        kind: type of the repository on the Hub.
        id: repository id, `org/name`.
        title: description of the content, for the list that the command prints.
        files: the files to publish.
        owned: patterns of paths that only this run writes. Files on the Hub that match a pattern and are not in
            `files` are deleted.
    """

    kind: Kind
    id: str
    title: str
    files: tuple[PublishedFile, ...]
    owned: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Size of all files in bytes."""
        return sum(file.size for file in self.files)

    def owns(self, path: str) -> bool:
        """Whether only this run writes the path."""
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.owned)


@dataclass(frozen=True)
class PublishingPlan:
    """All repositories of a run, in the order in which they are pushed.

    Attributes:
        recipe: the recipe of the run, with public names.
        names: repository ids.
        repositories: what to push.
    """

    recipe: Recipe
    names: Names
    repositories: tuple[PublishedRepository, ...]


def files_below(directory: Path) -> list[tuple[str, Path]]:
    """All files below a directory, sorted: relative POSIX path and path. Empty if there is no such directory."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [(path.relative_to(directory).as_posix(), path) for path in sorted(files)]
