"""Tokenizers of others cannot hang or fill the memory: chains are bounded, templates and patterns are tried first."""

import json

import pytest

from explainers import edit
from selfexplain.errors import SelfExplainError
from selfexplain.target import limited
from selfexplain.target.tokenizer_files import check_tokenizer_files, load_tokenizer

DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
TEMPLATE = "{{ bos_token }}{% for m in messages %}{% generation %}<u>{{ m.content }}{% endgeneration %}{% endfor %}"


def check(directory, texts=()):
    check_tokenizer_files("it", str(directory), {}, texts)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Sequence", "normalizers": [DOUBLE] * 40}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [DOUBLE] * 12}]}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 1000}},
        {"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}},
        {"decoder": {"type": "Sequence", "decoders": [DOUBLE] * 40}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 100}},
        {"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}] * 5000}},
    ],
)
def test_chains_that_lengthen_texts_are_refused(target_dir, change):
    check(target_dir)
    edit(target_dir / "tokenizer.json", lambda c: c.update(change))
    with pytest.raises(SelfExplainError, match=r"^it: .* of tokenizer.json has \d+ steps that lengthen a text"):
        check(target_dir)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'text' * 99 }}{% endfor %}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{% if 'user' in messages[0].content %}{{ 'a'.center(10000000) }}{% endif %}",
    ],
)
@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_chat_templates_that_take_too_much_are_refused(target_dir, template, place, monkeypatch):
    monkeypatch.setattr(limited, "CPU_SECONDS", 1)
    if place == "chat_template.jinja":
        (target_dir / place).write_text(template)
    else:
        edit(target_dir / place, lambda c: c.update(chat_template=[{"name": "default", "template": template}]))
    with pytest.raises(SelfExplainError, match="it: the chat template took more than 1 seconds, 2 GB or"):
        check(target_dir)


def test_chat_templates_that_never_end_are_refused(target_dir, monkeypatch):
    monkeypatch.setattr(limited, "CPU_SECONDS", 1)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    (target_dir / "chat_template.jinja").write_text(loop)
    with pytest.raises(SelfExplainError, match="it: the chat template took more than 1 seconds, 2 GB or"):
        check(target_dir)


def test_slow_regular_expressions_are_refused(target_dir, monkeypatch):
    monkeypatch.setattr(limited, "CPU_SECONDS", 1)
    split = {"type": "Split", "pattern": {"Regex": r"(?:a|a|b)+(?:a|a)+$"}, "behavior": "Isolated", "invert": False}
    edit(target_dir / "tokenizer.json", lambda c: c.update(pre_tokenizer=split))
    check(target_dir)  # the sample text is harmless
    with pytest.raises(SelfExplainError, match=r"the regular expressions in tokenizer.json took more than"):
        check(target_dir, ["a" * 5000 + "!"])


def test_ordinary_templates_and_patterns_load(target_dir):
    pattern = {"Regex": r"\p{L}+|\s+"}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    edit(target_dir / "tokenizer.json", lambda c: c.update(pre_tokenizer=split))
    (target_dir / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer = load_tokenizer("it", str(target_dir))
    turns = [{"role": "user", "content": "hello"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "<s><u>hello"


@pytest.mark.parametrize("file", ["tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("text", ["[]", "{", '{"normalizer": {"type": 5}, "tokenizer_class": 5, "added_tokens": 3}'])
def test_damaged_files_are_named(target_dir, file, text):
    (target_dir / file).write_text(text)
    with pytest.raises(SelfExplainError, match=r"^(it: tokenizer|The tokenizer of it could not be loaded: )"):
        load_tokenizer("it", str(target_dir))


def test_code_is_refused_without_a_question(target_dir, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda prompt="": pytest.fail("asked on the terminal"))
    names = {"auto_map": {"AutoTokenizer": ["evil.T", None]}, "tokenizer_class": "Evil"}
    edit(target_dir / "tokenizer_config.json", lambda c: c.update(names))
    (target_dir / "config.json").write_text(json.dumps({"model_type": "evil"}))
    with pytest.raises(SelfExplainError, match=r"The tokenizer of it could not be loaded: .*custom code"):
        load_tokenizer("it", str(target_dir))


def test_a_missing_tokenizer_is_reported(tmp_path):
    with pytest.raises(SelfExplainError, match="The tokenizer of it could not be loaded"):
        load_tokenizer("it", str(tmp_path))
