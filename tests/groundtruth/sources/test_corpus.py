"""Read corpora from files and registered generators."""

import json

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import CorpusConfig
from selfexplain.groundtruth.sources import CORPORA, Corpus, read_corpus


def test_a_corpus_is_read_up_to_its_limit_without_duplicate_texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"body": f"text {n // 2}"}) + "\n" for n in range(10)))
    assert read_corpus(str(path), 0, CorpusConfig(text="body", n_texts=6)).texts == ["text 0", "text 1", "text 2"]


def test_a_text_file_has_one_text_per_line(tmp_path):
    (tmp_path / "texts.txt").write_text("one text\n\nanother text \n")
    assert read_corpus(str(tmp_path / "texts.txt"), 0).texts == ["one text", "another text "]


def test_a_registered_corpus_is_generated_from_the_seed(monkeypatch):
    monkeypatch.setitem(CORPORA._values, "generated", lambda seed: Corpus("generated", [f"text {seed}"]))
    assert read_corpus("generated", 7).texts == ["text 7"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "cannot be read: No such file"),
        ("empty.txt", b"\n \n", "contains no text"),
        ("latin.txt", b"caf\xe9\n", "Give UTF-8 text"),
        (
            "numbers.jsonl",
            b'{"text": 3}',
            r"contains no text \(1 rows skipped: no text in column 'text' \(first: row 1\)\)",
        ),
        ("texts.pdf", b"text", r"unsupported file type, '\.pdf'"),
        ("texts.xlsx.gz", b"text", r"unsupported file type, '\.xlsx'"),
        ("names.csv", b"body\na\n", r"no column 'text'.*If it is 'body', set corpus_options\.text accordingly"),
    ],
)
def test_an_unreadable_corpus_raises_an_error(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SelfExplainError, match=message):
        read_corpus(str(tmp_path / name), 0)


def test_rows_without_text_are_skipped_and_counted_in_log_and_statistics(tmp_path, caplog):
    rows = ['{"text": "one"}', '{"text": null}', '{"text": NaN}', '{"text": 3}', '{"text": " "}', '{"text": ["a"]}',
            '{"text": "\\ud800"}', '{"body": "x"}', "null", '"two"', '{"text": "three"}']  # fmt: skip
    (tmp_path / "texts.ndjson").write_text("\n".join(rows))
    corpus = read_corpus(str(tmp_path / "texts.ndjson"), 0)
    assert corpus.texts == ["one", "two", "three"]
    assert corpus.skipped == {
        "no text in column 'text' (first: row 2)": 6,
        "no column 'text' (first: row 8)": 1,
        "not an object (first: row 9)": 1,
    }
    assert "6 rows skipped: no text in column 'text'" in caplog.text


def test_a_json_list_of_texts_is_a_corpus(tmp_path):
    (tmp_path / "texts.json").write_text('["one", null, "two"]')
    corpus = read_corpus(str(tmp_path / "texts.json"), 0)
    assert corpus.texts == ["one", "two"] and corpus.skipped == {"not an object (first: row 2)": 1}


@pytest.mark.parametrize("name", ["texts", "TEXTS.TXT", "notes.md"])
def test_text_files_may_have_any_case_or_no_suffix(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert read_corpus(str(tmp_path / name), 0).texts == ["one", "two"]
