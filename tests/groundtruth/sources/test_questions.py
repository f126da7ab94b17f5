"""Multiple-choice questions with hints, from tables."""

import json
import re
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
    assert result.skipped == {
        "the answer is not one of the choices (first: row 4)": 1,
        "no question (first: row 5)": 1,
    }


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


def shown(item):
    """The letters and options that a prompt shows."""
    return dict(re.findall(r"^([A-Z])\. (.+)$", item.full_text, re.MULTILINE))


def read(tmp_path, target, rows, n=200, **options):
    path = write(tmp_path / "q.jsonl", rows)
    return table_questions(QuestionSource(kind="multiple_choice", path=path, **options), target, n, seed=0)


TEXTS = ["blood", "grass", "snow", "coal"]
COLOURS = ["red", "green", "white", "black"]
ARC = {"question": "question", "choices": "choices", "answer": "answerKey"}


def mmlu(i):
    return {"question": f"Which is {COLOURS[i]}?", "subject": "colours", "choices": TEXTS, "answer": i}


def arc(i):
    letters = "ABCD" if i % 2 else "1234"
    return {
        "id": f"Mercury_{i}",
        "question": f"Which is {COLOURS[i]}?",
        "choices": {"text": TEXTS, "label": list(letters)},
        "answerKey": letters[i],
    }


def hellaswag(i):
    return {
        "ind": i,
        "activity_label": "Naming",
        "ctx_a": "",
        "ctx_b": "",
        "ctx": f"Which is {COLOURS[i]}?",
        "endings": TEXTS,
        "source_id": "x",
        "split": "val",
        "label": str(i),
    }


def commonsense_qa(i):
    return {
        "id": f"{i}",
        "question": f"Which is {COLOURS[i]}?",
        "question_concept": COLOURS[i],
        "choices": {"label": list("ABCDE"), "text": [*TEXTS, "nothing"]},
        "answerKey": "ABCD"[i],
    }


def truthful_qa(i):
    texts = [TEXTS[i], *(text for text in TEXTS if text != TEXTS[i])]
    return {
        "question": f"Which is {COLOURS[i]}?",
        "mc1_targets": {"choices": texts, "labels": [1, 0, 0, 0]},
        "mc2_targets": {"choices": texts, "labels": [1, 1, 0, 0]},
    }


def gpqa(i):
    wrong = [text for text in TEXTS if text != TEXTS[i]]
    return {
        "Question": f"Which is {COLOURS[i]}?",
        "Correct Answer": TEXTS[i],
        **{f"Incorrect Answer {n}": text for n, text in enumerate(wrong, start=1)},
        "Subdomain": "Colours",
    }


@pytest.mark.parametrize(
    ("row", "columns", "topic"),
    [
        (mmlu, {}, "colours"),
        (arc, {"answer": "answerKey"}, ""),
        (
            hellaswag,
            {"question": "ctx", "choices": "endings", "answer": "label", "subject": "activity_label"},
            "Naming",
        ),
        (commonsense_qa, {"answer": "answerKey"}, ""),
        (truthful_qa, {"choices": "mc1_targets"}, ""),
        (truthful_qa, {"choices": "mc1_targets", "answer": "mc1_targets"}, ""),
        (
            gpqa,
            {
                "question": "Question",
                "choices": "Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3",
                "answer": "Correct Answer",
                "subject": "Subdomain",
            },
            "Colours",
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_published_schemas_give_the_correct_letter(target, tmp_path, row, columns, topic, suffix):
    import pyarrow
    import pyarrow.parquet

    rows = [row(i) for i in range(4)]
    if suffix == "jsonl":
        write(tmp_path / "q.jsonl", rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "q.parquet")
    source = QuestionSource(kind="multiple_choice", path=str(tmp_path / f"q.{suffix}"), columns=columns)
    result = table_questions(source, target, 4, seed=0)
    assert not result.skipped and len(result.items) == 4
    for item in result.items:
        options = shown(item)
        colour = COLOURS.index(item.question.removeprefix("Which is ").removesuffix("?"))
        assert options[item.answer] == TEXTS[colour] and item.topic == topic
        assert set(options.values()) - {"nothing"} == set(TEXTS) and tuple(options) == item.choices


@pytest.mark.parametrize("make", [truthful_qa, gpqa])
def test_options_are_shuffled_if_the_table_always_has_the_correct_one_first(target, tmp_path, make):
    rows = [make(i % 4) | {("Question" if make is gpqa else "question"): f"Question {i}?"} for i in range(40)]
    columns = {"choices": "mc1_targets"}
    if make is gpqa:
        incorrect = ",".join(f"Incorrect Answer {n}" for n in (1, 2, 3))
        columns = {"question": "Question", "choices": f"Correct Answer,{incorrect}", "answer": "Correct Answer"}
    items = read(tmp_path, target, rows, 40, columns=columns).items
    assert set(Counter(item.answer for item in items)) == set("ABCD")
    assert read(tmp_path, target, rows, 40, columns=columns).items == items


@pytest.mark.parametrize(
    ("n", "words"), [(2, "A or B"), (3, "A, B, or C"), (4, "A, B, C, or D"), (5, "A, B, C, D, or E")]
)
def test_the_system_prompt_names_the_letters_of_the_question(target, tmp_path, n, words):
    row = {"question": "Which?", "choices": [f"thing {i}" for i in range(n)], "answer": 0}
    (item,) = read(tmp_path, target, [row], 1).items
    assert f"the answer letter ({words}) and nothing else" in item.full_text and f"one of {words}." in item.ablated_text
    (item,) = read(tmp_path, target, [row], 1, system="{x} {letters} {}").items
    assert item.full_text.startswith(f"{{x}} {words} {{}}")


def test_braces_in_hints_are_kept(target, tmp_path):
    (item,) = read(tmp_path, target, [mmlu(0)], 1, hints={"a": "{see} {{}} or {0}: {}"}).items
    assert item.hint == f"\n{{see}} {{{item.hinted}}} or {{0}}: {item.hinted}"


MISSING = [None, float("nan"), "", " ", "\ud800", {}, []]


@pytest.mark.parametrize(
    ("field", "reason", "values"),
    [
        ("question", "no question", [*MISSING, 3, True]),
        ("answer", "no answer", [None, float("nan"), "", " "]),
        ("answer", "the answer is not one of the choices", [4, -1, "E", "ink", "\ud800", {}, [], [0, 0, 1], True, 1.5]),
        ("choices", "no choices", [None, float("nan"), "", " "]),
        ("choices", "a choice is empty or not text", [["a", None], ["a", ""], ["a", float("nan")], [["a"], "b"]]),
        ("choices", "the choices are not a list of texts", [3, "blood", "['a' 'b']", {"text": "a"}, True, "[1,"]),
        ("choices", "fewer than 2 or more than 26 choices", [[], ["a"], {}, [str(i) for i in range(27)]]),
        ("choices", "not one label per choice", [{"text": ["a", "b"], "label": ["A"]}]),
        ("choices", "not exactly one correct choice", [{"choices": ["a", "b"], "labels": [1, 1]}]),
    ],
)
def test_unusable_values_are_skipped_and_counted(target, tmp_path, field, reason, values):
    rows = [mmlu(0), mmlu(1), *(mmlu(2) | {field: value} for value in values)]
    result = read(tmp_path, target, rows)
    assert result.skipped == {f"{reason} (first: row 3)": len(values)}
    assert {item.answer for item in result.items} == {"A", "B"}
    assert not any("None" in item.full_text or "nan" in item.full_text for item in result.items)


def test_a_missing_subject_is_an_empty_topic(target, tmp_path):
    rows = [mmlu(i) | {"subject": value} for i, value in enumerate([None, float("nan"), ["x"]])]
    assert {item.topic for item in read(tmp_path, target, rows).items} == {""}


def test_choices_in_columns_end_with_the_last_cell_that_is_not_empty(target, tmp_path):
    rows = ["question,A,B,C,D,answer", "Which is red?,blood,grass,,,A", "Which is green?,blood,grass,snow,,B",
            "Which is white?,blood,,snow,coal,C", "Which is black?,blood,grass,snow,coal,D"]  # fmt: skip
    (tmp_path / "q.csv").write_text("\n".join(rows))
    source = QuestionSource(kind="multiple_choice", path=str(tmp_path / "q.csv"), columns={"choices": "A,B,C,D"})
    result = table_questions(source, target, 3, seed=0)
    answers = {item.question: shown(item)[item.answer] for item in result.items}
    assert answers == {"Which is red?": "blood", "Which is green?": "grass", "Which is black?": "coal"}
    assert result.skipped == {"a choice is empty or not text (first: row 3)": 1}


def test_a_table_without_answers_is_refused_with_the_nearest_column(target, tmp_path):
    with pytest.raises(SelfExplainError, match=r"no column 'answer'.*If it is 'answerKey'"):
        read(tmp_path, target, [arc(i) for i in range(4)])
