"""Pairs from running text: a prefix that the target continues with a word, and the same prefix with another word."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.build import build
from selfexplain.groundtruth.config import PatchingConfig
from selfexplain.groundtruth.sources import Corpus, stories, story_pairs

NAMES, THINGS = ["Tom", "Ann"], ["dog", "cat", "ball"]


@pytest.fixture
def repeats_a_name(target, monkeypatch):
    """Make the target continue every prefix with the first of `NAMES` that it contains."""
    ids = {name: target.tokenizer(f" {name}", add_special_tokens=False)["input_ids"][0] for name in NAMES}

    def next_tokens(_, prefixes):
        return [next((ids[name] for name in NAMES if name in prefix), 0) for prefix in prefixes]

    monkeypatch.setattr(stories, "next_tokens", next_tokens)


def test_similar_prompts_share_a_group(target, repeats_a_name):
    """Texts begin alike. Prompts that are equal, differ in one word, or extend another prompt must share a group."""
    openings = [f"One {time} {name} saw a {thing}" for time in ("day", "evening") for name in NAMES for thing in THINGS]
    texts = [f"{opening}{rest}" for opening in openings for rest in (". So the", " and a", " by the")]
    texts = [f"{text} {thing} went home with {name}." for text in texts for name in NAMES for thing in THINGS[:2]]
    pairs = story_pairs(target, texts, 400, seed=0)
    cleans = [pair.clean.text for pair in pairs]
    groups = {prompt.text: prompt.group for pair in pairs for prompt in (pair.clean, pair.source)}
    assert len(pairs) > 20
    assert all(prompt.group == groups[prompt.text] for pair in pairs for prompt in (pair.clean, pair.source))
    assert all(groups[pair.clean.text] == groups[pair.source.text] for pair in pairs)
    assert all(groups[a] == groups[b] for a in cleans for b in cleans if b.startswith(a))


def test_both_prompts_of_a_pair_have_the_same_length_and_group(target, repeats_a_name):
    texts = [
        f"One day {name} saw a {thing}. So {name} took the {thing} home." for name in NAMES for thing in THINGS[:2]
    ] * 6
    pairs = story_pairs(target, texts, 10, seed=0)
    assert pairs
    for pair in pairs:
        assert len(target.encode(pair.clean.text)) == len(target.encode(pair.source.text))
        assert pair.clean.text != pair.source.text and pair.clean.group == pair.source.group
        assert pair.clean.text[slice(*pair.clean.subject)] in NAMES
        assert pair.source.text[slice(*pair.source.subject)] in NAMES


def test_the_vocabulary_is_read_once_for_all_texts(target, repeats_a_name, monkeypatch):
    reads: list[int] = []
    get_vocab = target.tokenizer.get_vocab
    monkeypatch.setattr(target.tokenizer, "get_vocab", lambda: reads.append(1) or get_vocab())
    story_pairs(target, [f"One day {name} saw a {thing}." for name in NAMES for thing in THINGS], 10, seed=0)
    assert len(reads) == 1


def test_only_the_beginning_of_a_long_text_is_tokenised(target, repeats_a_name, monkeypatch):
    openings = [f"One day {name} saw a {thing}. So {name} took the {thing}" for name in NAMES for thing in THINGS]
    shorts = [f"{text} home, and {n} more." for text in openings for n in range(2)]
    read: list[int] = []
    encode = stories.encode_with_spans
    monkeypatch.setattr(stories, "encode_with_spans", lambda t, text: read.append(len(text)) or encode(t, text))
    encode_prefix = stories.encode_text
    monkeypatch.setattr(stories, "encode_text", lambda t, text: read.append(len(text)) or encode_prefix(t, text))
    found = {}
    for length in (2_000, 200_000):
        read.clear()
        texts = [text + " The dog saw a cat, so the cat saw the ball." * (length // 40) for text in shorts]
        pairs = story_pairs(target, texts, 50, seed=0, max_tokens=32)
        found[length] = pairs, sum(read)
    assert found[2_000][0] and found[2_000] == found[200_000]


def test_names_in_any_letters_with_capitals_are_swapped(target, monkeypatch):
    names = ["Иван", "Анна", "José"]
    monkeypatch.setattr(stories, "next_tokens", lambda _, prefixes: [first for _ in prefixes])
    first = target.tokenizer(" Иван", add_special_tokens=False)["input_ids"][0]
    texts = [f"раз {name} увидел кота, и тогда {name} пошёл домой {n}." for name in names for n in range(6)]
    pairs = story_pairs(target, texts, 20, seed=0)
    assert pairs and {pair.clean.text[slice(*pair.clean.subject)] for pair in pairs} <= set(names)
    assert all(pair.source.text.count(pair.source.text[slice(*pair.source.subject)]) == 1 for pair in pairs)


def test_texts_without_names_or_articles_are_refused_with_what_is_supported(target, tmp_path):
    corpus = Corpus("file", [f"从前有一个孩子{n} 孩子住在村子里。" for n in range(20)])
    with pytest.raises(SelfExplainError, match=r"In languages without capital letters, use a table"):
        build("activation_patching", PatchingConfig(n_blocks=2), target, corpus, tmp_path, seed=0)
