"""Pairs from running text: a prefix that the target continues with a word, and the same prefix with another word."""

import pytest

from selfexplain.groundtruth.sources import stories, story_pairs

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
