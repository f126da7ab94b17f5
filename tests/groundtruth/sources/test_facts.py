"""Pairs of facts: one relation and split, options with distinct first tokens, every skip counted."""

import json

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import PairSource
from selfexplain.groundtruth.sources import fact_pairs, table_pairs
from selfexplain.groundtruth.splits import split_of

CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Spain": "Madrid", "Italy": "Rome", "Peru": "Lima", "Kenya": "Nairobi",
            "Norway": "Oslo", "Cuba": "Havana", "Egypt": "Cairo", "Greece": "Athens", "Iran": "Tehran",
            "Nepal": "Kathmandu", "Chile": "Santiago", "Poland": "Warsaw"}  # fmt: skip
ANSWERS = list(CAPITALS.values())


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def counterfact(tmp_path):
    records = [
        {
            "prompt": "The capital of {} is",
            "subject": subject,
            "target_true": {"str": answer},
            "target_new": {"str": ANSWERS[i - 1]},
        }
        for i, (subject, answer) in enumerate(CAPITALS.items())
    ]
    return write(tmp_path / "counterfact.jsonl", [{"requested_rewrite": record} for record in records])


def test_counterfact_pairs_differ_only_in_subject_and_answer(target, counterfact):
    result = fact_pairs(PairSource(kind="counterfact", path=counterfact), target, 40, seed=0)
    assert len(result.items) == 40
    for pair in result.items:
        begin, end = pair.clean.subject
        other_begin, other_end = pair.source.subject
        subject, other = pair.clean.text[begin:end], pair.source.text[other_begin:other_end]
        assert subject != other and pair.clean.text[:begin] == pair.source.text[:other_begin]
        assert pair.clean.text[end:] == pair.source.text[other_end:]
        assert pair.options[:2] == (CAPITALS[subject], CAPITALS[other]) and len(set(pair.options)) == 5
        assert pair.clean.text[: pair.clean.statement_end] == f"The capital of {subject} is"
        assert split_of(pair.clean.group, 0) == split_of(pair.source.group, 0)
        firsts = {target.tokenizer(f"x {option}")["input_ids"][2] for option in pair.options}
        assert len(firsts) == 5


def test_relation_files_and_tables_give_the_same_facts(target, relations, tmp_path):
    rows = [
        {"relation": table["name"], "prompt": table["prompt_templates"][0], **sample}
        for file in sorted(relations.glob("*.json"))
        for table in [json.loads(file.read_text())]
        for sample in table["samples"]
    ]
    flat = write(tmp_path / "flat.jsonl", rows)
    config = {"kind": "relations", "n_options": 0}
    of_files = fact_pairs(PairSource(path=str(relations), **config), target, 50, seed=1).items
    assert fact_pairs(PairSource(path=flat, **config), target, 50, seed=1).items == of_files
    assert all(pair.options == () and pair.clean.text.endswith(" is") for pair in of_files)


def test_ready_made_pairs_are_checked_and_every_skip_is_counted(target, tmp_path):
    def row(clean, source, subject, source_subject, **columns):
        return {
            "clean_prompt": clean,
            "source_prompt": source,
            "subject": subject,
            "source_subject": source_subject,
        } | columns

    rows = [
        row("Tom likes the", "Ann likes the", "Tom", "Ann", group="likes", options=["dog", "cat"]),
        row("Tom likes the", "Ann likes the", "Tim", "Ann", group="likes"),
        row("Tom likes the", "Tom likes the", "Tom", "Tom", group="likes"),
        row("Tom " * 300, "Ann " * 300, "Tom", "Ann", group="likes"),
    ]
    result = table_pairs(PairSource(kind="pairs", path=write(tmp_path / "pairs.jsonl", rows)), target, 10, seed=0)
    assert [pair.options for pair in result.items] == [("dog", "cat")]
    assert result.skipped == {
        "the subject does not occur in the prompt": 1,
        "both prompts are the same": 1,
        "longer than the context": 1,
    }
    names = ["Tom", "Ann", "Sue", "Bob", "Jim", "Kay", "Eve", "Max", "Leo", "Zoe"]
    rows = [row(f"{a} ran", f"{b} ran", a, b) for a in names for b in names if a != b]
    result = table_pairs(PairSource(kind="pairs", path=write(tmp_path / "names.jsonl", rows)), target, 200, seed=0)
    assert len(result.items) + result.skipped["the two subjects are in different splits"] == 90
    assert 0 < len(result.items) < 90
    assert all(split_of(pair.clean.group, 0) == split_of(pair.source.group, 0) for pair in result.items)


def test_invalid_sources_raise_an_error(target, tmp_path, counterfact):
    with pytest.raises(SelfExplainError, match=r"lacks \{options\}"):
        fact_pairs(PairSource(kind="counterfact", path=counterfact, template="{statement}"), target, 1, 0)
    relation = tmp_path / "relation.json"
    relation.write_text('{"name": "x"}')
    with pytest.raises(SelfExplainError, match="is not a relation file"):
        fact_pairs(PairSource(kind="relations", path=str(relation)), target, 1, 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SelfExplainError, match="contains no JSON file"):
        fact_pairs(PairSource(kind="relations", path=str(tmp_path / "empty")), target, 1, 0)


def test_a_template_with_two_statements_is_refused(target, counterfact):
    source = PairSource(kind="counterfact", path=counterfact, template="{statement} {options} {statement}")
    with pytest.raises(SelfExplainError, match=r"contains \{statement\} more than once"):
        fact_pairs(source, target, 1, 0)


@pytest.mark.parametrize("path", ["/", "many"])
def test_large_directories_are_no_relations(target, tmp_path, monkeypatch, path):
    from selfexplain.utils import hashing

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hashing, "MAX_DIRECTORY_ENTRIES", 50)
    for n in range(26):
        (tmp_path / "many" / str(n)).mkdir(parents=True)
        (tmp_path / "many" / str(n) / "x.json").write_text("{}")
    with pytest.raises(SelfExplainError, match="more than 50 files and directories"):
        fact_pairs(PairSource(kind="relations", path=path), target, 1, 0)


def test_facts_without_a_counterpart_are_skipped_and_counted(target, tmp_path):
    rows = [
        {"relation": "capital", "prompt": "The capital of {} is", "subject": "France", "object": "Paris"},
        {"relation": "capital", "prompt": "The capital of {} is", "subject": "France", "object": "Lyon"},
        {"relation": "capital", "prompt": "The capital of {} is", "subject": "", "object": "Rome"},
    ]
    source = PairSource(kind="relations", path=write(tmp_path / "facts.jsonl", rows), n_options=0)
    result = fact_pairs(source, target, 5, seed=0)
    assert result.items == []
    assert result.skipped == {
        "the subject occurred before with a different answer": 1,
        "no subject or no answer (first: row 3)": 1,
        "no fact of the same relation and split has an answer that begins with a different token": 1,
    }


MISSING = [None, float("nan"), "", " ", "\ud800", ["x"], {"x": 1}, True]


@pytest.mark.parametrize("field", ["prompt", "subject", "target_true"])
def test_incomplete_records_of_counterfact_are_skipped(target, tmp_path, field):
    record = {"prompt": "{} is in", "subject": "Paris", "target_true": {"str": "France"}, "target_new": {"str": "Peru"}}
    records = [record | {field: value if field == "prompt" else {"str": value}} for value in MISSING]
    records += [{name: value for name, value in record.items() if name != field}, None, "no JSON", []]
    rows = [{"requested_rewrite": record | {"target_new": None}}, *({"requested_rewrite": r} for r in records)]
    result = fact_pairs(PairSource(kind="counterfact", path=write(tmp_path / "facts.jsonl", rows)), target, 5, 0)
    incomplete = "requested_rewrite has no prompt, subject, target_true.str and target_new.str"
    expected = {
        "prompt": {f"{incomplete} (first: row 2)": 12},
        "subject": {"no subject or no answer (first: row 2)": 9, f"{incomplete} (first: row 11)": 3},
    }
    skipped = {reason: count for reason, count in result.skipped.items() if "first:" in reason}
    assert skipped == expected["subject" if field == "target_true" else field]


@pytest.mark.parametrize("field", ["relation", "prompt", "subject", "object"])
def test_incomplete_facts_of_a_table_are_skipped(target, tmp_path, field):
    fact = {"relation": "capital", "prompt": "The capital of {} is", "subject": "France", "object": "Paris"}
    rows = [fact, *(fact | {field: value} for value in MISSING), fact | {"subject": 3, "object": 4.5}]
    result = fact_pairs(PairSource(kind="relations", path=write(tmp_path / "facts.jsonl", rows)), target, 5, 0)
    reason = "no relation or no prompt" if field in ("relation", "prompt") else "no subject or no answer"
    assert result.skipped[f"{reason} (first: row 2)"] == len(MISSING)


def test_incomplete_samples_of_a_relation_file_are_skipped(target, tmp_path):
    samples = [{"subject": "France", "object": "Paris"}, {"subject": None, "object": "Rome"}, None, {"subject": "x"}]
    relation = {"name": "capital", "prompt_templates": ["The capital of {} is", None], "samples": samples}
    (tmp_path / "Capital.JSON").write_text(json.dumps(relation))
    for path in (tmp_path, tmp_path / "Capital.JSON"):
        result = fact_pairs(PairSource(kind="relations", path=str(path)), target, 5, 0)
        assert result.skipped["no subject or no answer (first: sample 2 of Capital.JSON)"] == 3
        assert result.skipped["a prompt template is not text (first: Capital.JSON)"] == 1


def test_a_json_list_of_facts_is_a_table(target, tmp_path):
    facts = [{"relation": "capital", "prompt": "The capital of {} is", "subject": s, "object": o}
             for s, o in CAPITALS.items()]  # fmt: skip
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    lines = write(tmp_path / "facts.jsonl", facts)
    of_list, of_lines = (
        fact_pairs(PairSource(kind="relations", path=str(path), n_options=0), target, 9, 0).items
        for path in (tmp_path / "facts.json", lines)
    )
    assert len(of_list) == 9 and of_list == of_lines


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("clean_prompt", "no text in clean_prompt or source_prompt"),
        ("source_prompt", "no text in clean_prompt or source_prompt"),
        ("subject", "no text in subject or source_subject"),
        ("source_subject", "no text in subject or source_subject"),
        ("options", "options are not a list of texts"),
    ],
)
def test_incomplete_pairs_are_skipped(target, tmp_path, field, reason):
    row = {"clean_prompt": "Tom ran", "source_prompt": "Ann ran", "subject": "Tom", "source_subject": "Ann"}
    row |= {"group": "g", "options": ["dog", "cat"]}
    missing = [["dog", None], 3, {"a": 1}] if field == "options" else MISSING
    rows = [row, *(row | {field: value} for value in missing)]
    result = table_pairs(PairSource(kind="pairs", path=write(tmp_path / "pairs.jsonl", rows)), target, 99, 0)
    assert len(result.items) == 1 and result.skipped == {f"{reason} (first: row 2)": len(missing)}


def test_options_may_be_null_or_text(target, tmp_path):
    row = {"clean_prompt": "Tom ran", "source_prompt": "Ann ran", "subject": "Tom", "source_subject": "Ann"}
    given = [None, "dog, cat", '["dog", "cat"]', [1, 2]]
    rows = [row | {"group": "g", "options": options} for options in given]
    result = table_pairs(PairSource(kind="pairs", path=write(tmp_path / "pairs.jsonl", rows)), target, 99, 0)
    assert [pair.options for pair in result.items] == [(), ("dog", "cat"), ("dog", "cat"), ("1", "2")]
