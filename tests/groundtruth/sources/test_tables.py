"""Read the rows of tables."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import TableConfig
from selfexplain.groundtruth.sources.tables import read_columns, read_rows
from selfexplain.groundtruth.sources.values import Skips

ROWS = [{"question": "Which?", "n": 1}, {"question": "Who?", "n": 2}]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    path = tmp_path / f"table.{suffix}"
    if suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        path.write_text({
            "jsonl": "\n".join(map(json.dumps, ROWS)) + "\n\n",
            "json": json.dumps(ROWS),
            "csv": "question,n\nWhich?,1\nWho?,2\n",
        }[suffix])  # fmt: skip
    rows = [row for _, row in read_rows(TableConfig(path=str(path)), Skips())]
    assert rows == ([{**row, "n": str(row["n"])} for row in ROWS] if suffix == "csv" else ROWS)


def test_columns_are_renamed_and_missing_optional_columns_are_left_out(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(ROWS))
    table = TableConfig(path=str(path), columns={"text": "question"})
    assert list(read_columns(table, ["text"], ["topic"], Skips())) == [(1, {"text": "Which?"}), (2, {"text": "Who?"})]
    with pytest.raises(SelfExplainError, match=r"maps text, but this source reads only the columns question"):
        list(read_columns(table, ["question"], [], Skips()))


def test_a_table_without_a_path_raises_an_error():
    with pytest.raises(SelfExplainError, match=r"source\.path is not set"):
        list(read_rows(TableConfig(), Skips()))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "does not exist"),
        ("broken.jsonl", '{"question": 1, "choices": [], "answer": 0}\n{', "line 2 is not valid JSON"),
        ("list.jsonl", "[1]", "JSON list, expected an object"),
        ("names.jsonl", '{"questions": "?", "choices": [], "answer": 0}', "no column 'question'.*If it is 'questions'"),
        ("latin.csv", b"question,choices,answer\n\xe9,a,b", "UTF-8"),
        ("table.xlsx", "", "unsupported file type"),
    ],
)
def test_unreadable_tables_raise_an_error(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SelfExplainError, match=message):
        list(read_columns(TableConfig(path=str(path)), ["question", "choices", "answer"], [], Skips()))


def test_subset_split_and_revision_of_a_hub_dataset_reach_datasets(monkeypatch):
    calls = []

    def load_dataset(*arguments, **options):
        calls.append((arguments, options))
        return iter(ROWS)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    table = TableConfig(path="org/name", subset="physics", split="test", revision="abc")
    assert [row for _, row in read_rows(table, Skips())] == ROWS
    assert calls == [(("org/name", "physics"), {"split": "test", "revision": "abc", "streaming": True})]
