"""Records: JSON files with a declared schema, one reader and one writer each."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from selfexplain.errors import SelfExplainError
from selfexplain.utils.io import write_atomically
from selfexplain.utils.parsing import parse_json


class Value(BaseModel):
    """A part of a record. It cannot be changed, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Record(Value):
    """A JSON file.

    Subclasses declare `schema_version: Literal[n] = n` as their first field. A file without a version counts as
    version 0. When a format changes, raise the number and add a migration from the previous one.

    Attributes:
        remedy: what to do when a file is missing or damaged; the last sentence of every error.
        migrations: version -> function that turns the data of that version into the data of the next one.
    """

    remedy: ClassVar[str] = "Run the recipe again to rebuild it."
    migrations: ClassVar[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file and check it.

        Raises:
            SelfExplainError: the file is missing, is not JSON, was written by a newer version of selfexplain, or does
                not have the declared schema.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise SelfExplainError(f"{path} does not exist. {cls.remedy}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise SelfExplainError(f"{path} cannot be read: {error}. {cls.remedy}") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Like `read`, from the text of a file; `source` names it in errors."""
        try:
            data = parse_json(text, source)
        except SelfExplainError as error:
            raise SelfExplainError(f"{error} {cls.remedy}") from error
        if not isinstance(data, dict):
            raise SelfExplainError(f"{source} contains a JSON {type(data).__name__}, expected an object. {cls.remedy}")
        return cls.from_data(data, source)

    @classmethod
    def from_data(cls, data: Mapping[str, Any], source: str) -> Self:
        """Check the JSON value of a file, migrating older versions; `source` names the file in errors."""
        data, current = dict(data), cls.model_fields["schema_version"].default
        version = data.get("schema_version", 0)
        if not isinstance(version, int) or isinstance(version, bool) or version > current:
            raise SelfExplainError(
                f"{source} has schema version {version!r}; this version of selfexplain reads versions up to {current}. "
                "Upgrade selfexplain, or build the file again with this version."
            )
        while version < current:
            data = cls.migrations.get(version, dict)(data)
            version += 1
        try:
            # Through JSON, so that lists become tuples as they do in a file.
            return cls.model_validate_json(json.dumps({**data, "schema_version": current}))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the top level"
            raise SelfExplainError(
                f"{source} does not have the expected form: {where}: {first['msg']}. {cls.remedy}"
            ) from error

    def to_data(self) -> dict[str, Any]:
        """The JSON value of the record; fields that are None are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_json(self, indent: int | None = 2) -> str:
        """The JSON text of the record.

        Raises:
            SelfExplainError: a number is NaN or infinite, which JSON cannot hold.
        """
        try:
            return json.dumps(self.model_dump(mode="python", exclude_none=True), indent=indent, allow_nan=False)
        except ValueError as error:
            name = type(self).__name__
            raise SelfExplainError(f"{name} cannot be written: a number in it is NaN or infinite ({error}).") from error

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        write_atomically(Path(path), self.to_json() + "\n")
