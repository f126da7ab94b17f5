"""Pairs and questions from tables: pairs of one relation, options with distinct first tokens, every skip counted."""

import json
from collections import Counter

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import CorpusConfig, PairSource, QuestionSource, TableConfig
from selfexplain.groundtruth.sources import fact_pairs, read_corpus, table_pairs, table_questions
from selfexplain.groundtruth.sources.tables import read_columns
from selfexplain.groundtruth.splits import split_of

CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Spain": "Madrid", "Italy": "Rome", "Peru": "Lima", "Kenya": "Nairobi",
            "Norway": "Oslo", "Cuba": "Havana", "Egypt": "Cairo", "Greece": "Athens", "Iran": "Tehran",
            "Nepal": "Kathmandu", "Chile": "Santiago", "Poland": "Warsaw"}  # fmt: skip
OTHERS = list(CAPITALS.values())


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
            "target_new": {"str": OTHERS[i - 1]},
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


QUESTIONS = [
    {
        "subject": "numbers",
        "question": f"How much is {n} and {n + 3}?",
        "choices": [str(2 * n + 3), "one", "two", "none"],
        "answer": 0,
    }
    for n in range(10, 60, 7)
]


def test_hints_cover_all_letters_and_removing_one_gives_the_ablated_text(target, tmp_path):
    source = QuestionSource(kind="multiple_choice", path=write(tmp_path / "q.jsonl", QUESTIONS), system="Answer.")
    result = table_questions(source, target, 60, seed=0)
    assert len({item.full_text for item in result.items}) == len(result.items) > len(QUESTIONS)
    assert set(Counter(item.hinted for item in result.items)) == set("ABCD")
    for item in result.items:
        assert item.full_text.replace(item.hint, "", 1) == item.ablated_text
        assert item.answer == "A" and item.hinted in item.hint and item.ablated_text.endswith("\nAnswer:")


def test_answers_can_be_indices_letters_or_texts_and_choices_can_be_columns(target, tmp_path):
    table = tmp_path / "q.csv"
    lines = ["query,A,B,C,right", "Which is red?,blood,grass,snow,A", "Which is green?,blood,grass,snow,grass",
             "Which is white?,blood,grass,snow,2", "Which is black?,blood,grass,snow,coal", ",a,b,c,A"]  # fmt: skip
    table.write_text("\n".join(lines))
    columns = {"question": "query", "choices": "A,B,C", "answer": "right"}
    source = QuestionSource(kind="multiple_choice", path=str(table), columns=columns)
    result = table_questions(source, target, 3, seed=0)
    assert {item.question: item.answer for item in result.items} == {
        "Which is red?": "A", "Which is green?": "B", "Which is white?": "C"}  # fmt: skip
    assert result.skipped == {"the answer is not one of the choices": 1, "no question": 1}


def test_a_question_is_rendered_once_with_the_chat_template(target, tmp_path):
    source = QuestionSource(kind="multiple_choice", path=write(tmp_path / "q.jsonl", QUESTIONS), system="Be brief.")
    target.tokenizer.chat_template = (
        "<s>{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]"
        "{% if enable_thinking is false %}[no thinking]{% endif %}{% endif %}"
    )
    try:
        item = table_questions(source, target, 1, seed=0).items[0]
    finally:
        target.tokenizer.chat_template = None
    assert item.full_text.startswith("[system]Be brief.[user]How much")
    assert item.full_text.endswith(f"{item.hint}[assistant][no thinking]Answer:")
    assert target.encode(item.full_text).count(target.tokenizer.bos_token_id) == 1
    with pytest.raises(SelfExplainError, match="has no chat template"):
        table_questions(QuestionSource(kind="multiple_choice", path=source.path, chat=True), target, 1, seed=0)


def test_no_near_duplicate_crosses_splits(target, tmp_path):
    question = "Near {name}, which of the many towns that once belonged to {name} is the oldest"
    rows = [
        QUESTIONS[0] | {"question": question.format(name=name) + end} for name in OTHERS for end in ("?", " ?", " now?")
    ]
    source = QuestionSource(kind="multiple_choice", path=write(tmp_path / "q.jsonl", rows), system="")
    split = {item.question: split_of(item.group, 0) for item in table_questions(source, target, 42, seed=0).items}
    assert len(split) == len(rows) and len(set(split.values())) > 1
    assert all(len({split[row["question"]] for row in rows if name in row["question"]}) == 1 for name in OTHERS)


def test_a_corpus_is_read_up_to_its_limit_without_duplicate_texts(tmp_path):
    path = write(tmp_path / "texts.jsonl", [{"body": f"text {n // 2}"} for n in range(10)])
    assert read_corpus(path, 0, CorpusConfig(text="body", n_texts=6)).texts == ["text 0", "text 1", "text 2"]


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
        list(read_columns(TableConfig(path=str(path)), ["question", "choices", "answer"]))


def test_invalid_sources_raise_an_error(target, tmp_path, counterfact):
    with pytest.raises(SelfExplainError, match=r"lacks \{options\}"):
        fact_pairs(PairSource(kind="counterfact", path=counterfact, template="{statement}"), target, 1, 0)
    with pytest.raises(SelfExplainError, match=r"incomplete requested_rewrite.*must contain prompt"):
        bad = write(tmp_path / "bad.jsonl", [{"requested_rewrite": {"prompt": "x"}}])
        fact_pairs(PairSource(kind="counterfact", path=bad), target, 1, 0)
    with pytest.raises(SelfExplainError, match="is not a relation file"):
        (tmp_path / "bad.json").write_text('{"name": "x"}')
        fact_pairs(PairSource(kind="relations", path=str(tmp_path / "bad.json")), target, 1, 0)
    with pytest.raises(SelfExplainError, match=r"contain no \{\}"):
        table_questions(QuestionSource(path=counterfact, hints={"a": "Hint."}), target, 1, 0)
    with pytest.raises(SelfExplainError, match="maps subjekt, but this source reads only"):
        table_pairs(PairSource(path=counterfact, columns={"subjekt": "s"}), target, 1, 0)
