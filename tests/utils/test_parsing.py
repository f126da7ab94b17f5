"""Test the reader of YAML and JSON from strangers: plain values, and an error for everything else."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.utils.parsing import MAX_CHARACTERS, parse_json, parse_yaml, read_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
MERGE_BOMB = "a0: &a0 {k: v}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: [1, 2.5, 1e-3, x, true, null, ~, '']", {"a": [1, 2.5, 0.001, "x", True, None, None, ""]}),
        ("date: 2026-01-31\nsign: =", {"date": "2026-01-31", "sign": "="}),
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}),
        ("- &a {x: 1}\n- &b {x: 2, y: 2}\n- {<<: [*a, *b]}", [{"x": 1}, {"x": 2, "y": 2}, {"x": 1, "y": 2}]),
        (f"n: {2**63 - 1}", {"n": 2**63 - 1}),
        ('"é\\n\\u00e9": "😀"', {"é\né": "😀"}),
    ],
)  # fmt: skip
def test_plain_values_are_read(text, value):
    assert parse_yaml(text, "recipe") == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is not valid YAML"),
        ("a: *none", "is not valid YAML"),
        ("a: 1\n---\nb: 2", "is not valid YAML"),
        ("a: \x07", "is not valid YAML"),
        ("seed: 1\nseed: 2", r"line 2, has the key 'seed' a second time"),
        ("a: {b: 1, b: 1}", r"line 1, has the key 'b' a second time"),
        ("1: x", "has the key 1. Expected text"),
        ("yes: x", "has the key True. Expected text"),
        ("[a]: x", r"has the key \['a'\]. Expected text"),
        ("? {a: b}\n: x", "Expected text"),
        (BOMB, "more than 20,000 values"),
        (MERGE_BOMB, "more than 20,000 values"),
        ("a: &a [*a]", "levels deep"),
        ("a: &a {<<: *a}", "levels deep"),
        ("[" * 60 + "]" * 60, "levels deep"),
        ("[" * 100_000, "levels deep"),
        ("- " * 100_000, "levels deep"),
        ('"\\ud800"', r"half of a surrogate pair \(U\+D800\)"),
        ('{"\\udc00": 1}', "half of a surrogate pair"),
        ('"\\0"', "contains the character NUL"),
        (f"n: {2**63}", "more than 64 bits"),
        ("n: " + "9" * 5_000, "a number of 5,000 characters"),
        ("n: 0x" + "f" * 5_000, "a number of 5,002 characters"),
        ("n: " + "1:" * 5_000 + "1", "a number of 10,001 characters"),
        ("n: 1e999", "the number inf"),
        ("n: .nan", "the number nan"),
        ("n: 0b_", "'0b_' is not a valid int"),
        ("n: !!int many", "'many' is not a valid int"),
        ("n: !!bool many", "'many' is not a valid bool"),
        ("n: !!binary aGk=", "has the tag 'tag:yaml.org,2002:binary'"),
        ("n: !!python/object/apply:os.system [ls]", "has the tag"),
        ("n: !!set {a}", "has the tag"),
        ("n: !mine x", "has the tag '!mine'"),
        ("a: {<<: 3}", "is not a mapping"),
        ("x" * (MAX_CHARACTERS + 1), "Expected at most 262,144"),
    ],
)  # fmt: skip
def test_everything_else_is_an_error(text, words):
    with pytest.raises(SelfExplainError, match=words) as error:
        parse_yaml(text, "nla_meta.yaml")
    assert str(error.value).startswith("nla_meta.yaml") and len(str(error.value)) < 400


def test_files_are_read_with_and_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.yaml"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text("a: é", encoding=encoding)
        assert read_yaml(path) == {"a": "é"}
    path.write_bytes(b"a: \xff")
    with pytest.raises(SelfExplainError, match=r"a\.yaml is not valid UTF-8: invalid start byte at byte 3"):
        read_yaml(path)
    with pytest.raises(SelfExplainError, match=r"none\.yaml cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(SelfExplainError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, "9" * 5_000, b"\xff"])
def test_damaged_json_is_an_error(text):
    with pytest.raises(SelfExplainError, match=r"^x\.json is (nested|not valid JSON)"):
        parse_json(text, "x.json")
    assert parse_json('{"a": [1]}', "x.json") == {"a": [1]}
