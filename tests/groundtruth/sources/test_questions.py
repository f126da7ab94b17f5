"""Multiple-choice questions with hints, from tables."""

import json
from collections import Counter

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import QuestionSource
from selfexplain.groundtruth.sources import table_questions
from selfexplain.groundtruth.splits import split_of

SUBJECTS = ["Paris", "Tokyo", "Madrid", "Rome", "Lima", "Nairobi", "Oslo", "Havana", "Cairo", "Athens", "Tehran",
            "Kathmandu", "Santiago", "Warsaw"]  # fmt: skip
QUESTIONS = [
    {
        "subject": "numbers",
        "question": f"How much is {n} and {n + 3}?",
        "choices": [str(2 * n + 3), "one", "two", "none"],
        "answer": 0,
    }
    for n in range(10, 60, 7)
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


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
        QUESTIONS[0] | {"question": question.format(name=name) + end}
        for name in SUBJECTS
        for end in ("?", " ?", " now?")
    ]
    source = QuestionSource(kind="multiple_choice", path=write(tmp_path / "q.jsonl", rows), system="")
    split = {item.question: split_of(item.group, 0) for item in table_questions(source, target, 42, seed=0).items}
    assert len(split) == len(rows) and len(set(split.values())) > 1
    assert all(len({split[row["question"]] for row in rows if name in row["question"]}) == 1 for name in SUBJECTS)


def test_invalid_hints_raise_an_error(target):
    with pytest.raises(SelfExplainError, match=r"contain no \{\}"):
        table_questions(QuestionSource(hints={"a": "Hint."}), target, 1, 0)
    with pytest.raises(SelfExplainError, match=r"source\.hints is empty"):
        table_questions(QuestionSource(hints={}), target, 1, 0)
