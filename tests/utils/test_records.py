"""Test records: JSON files with a schema and a version."""

import json
from typing import ClassVar, Literal

import pytest
from pydantic import ValidationError

from selfexplain.errors import SelfExplainError
from selfexplain.utils.records import Record, Value


class Part(Value):
    name: str


class Example(Record):
    remedy: ClassVar[str] = "Make it again."
    migrations: ClassVar = {1: lambda data: {"size": data["n"]}}

    schema_version: Literal[2] = 2
    size: int
    parts: tuple[Part, ...] = ()
    note: str | None = None
    share: float = 0.0


def test_a_record_reads_back_equal_and_leaves_out_none(tmp_path):
    example = Example(size=3, parts=(Part(name="é"),))
    example.write(tmp_path / "x.json")
    assert Example.read(tmp_path / "x.json") == example
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == {"schema_version": 2, "size": 3, "parts": [{"name": "é"}], "share": 0.0}
    assert text.endswith("}\n")


def test_older_versions_are_migrated():
    assert Example.parse('{"schema_version": 1, "n": 5}', "x.json") == Example(size=5)
    assert Example.parse('{"n": 5}', "x.json") == Example(size=5)  # without a version: version 0


@pytest.mark.parametrize("version", ["3", "true", '"2"', "2.0"])
def test_other_versions_are_refused(version):
    with pytest.raises(SelfExplainError, match=r"x\.json has schema version .* reads versions up to 2\. Upgrade"):
        Example.parse(f'{{"schema_version": {version}, "size": 1}}', "x.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "contains a JSON list, expected an object"),
        ('{"schema_version": 2}', "expected form: size: Field required"),
        ('{"schema_version": 2, "size": "many"}', "expected form: size: Input should be a valid integer"),
        ('{"schema_version": 2, "size": 1, "parts": [{}]}', r"expected form: parts\.0\.name"),
        ('{"schema_version": 2, "size": 1, "sise": 2}', "expected form: sise: Extra inputs"),
    ],
)
def test_damaged_files_are_refused_with_a_remedy(text, words):
    with pytest.raises(SelfExplainError, match=rf"x\.json.*{words}.*Make it again\."):
        Example.parse(text, "x.json")


def test_missing_and_unreadable_files_are_refused_with_a_remedy(tmp_path):
    with pytest.raises(SelfExplainError, match=r"none\.json does not exist\. Make it again\."):
        Example.read(tmp_path / "none.json")
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")
    with pytest.raises(SelfExplainError, match=r"cannot be read.*Make it again\."):
        Example.read(tmp_path / "x.json")


def test_numbers_that_json_cannot_represent_are_refused():
    with pytest.raises(SelfExplainError, match="Example cannot be written: a number in it is NaN or infinite"):
        Example(size=1, share=float("nan")).to_json()


def test_a_record_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Example(size=1).size = 2
