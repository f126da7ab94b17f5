"""Counterfactual pairs from running text."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from selfexplain.groundtruth.sources.items import Pair, Prompt
from selfexplain.groundtruth.sources.tokens import word_tokens
from selfexplain.groundtruth.splits import near_duplicate_groups
from selfexplain.target.load import Target
from selfexplain.target.nexttoken import next_tokens

PREFIXES_PER_TEXT, SWAPS_PER_PREFIX = 4, 12
_WORD = re.compile(r"[A-Za-z]+")


def story_pairs(target: Target, texts: Sequence[str], n: int, seed: int, max_tokens: int = 64) -> list[Pair]:
    """Counterfactual pairs from running text: a prefix that ends just before the target would repeat a word of it.

    A name (capitalised inside a sentence) is swapped for another name, an object (said after "a", "an" or "the") for
    another object, of the same number of tokens, wherever it stands in the prefix. Kept are prefixes after which that
    word is the target's own next one; each is paired with up to `SWAPS_PER_PREFIX` others, at most
    `PREFIXES_PER_TEXT` of a text, and every prefix once before any a second time.
    """
    rng = random.Random(seed)
    kinds = _kinds(texts)
    swaps: dict[tuple[str, int], list[str]] = defaultdict(list)
    ids = {word: word_tokens(target, word) for word in kinds}
    length = {word: len(tokens) for word, tokens in ids.items()}
    for word, kind in sorted(kinds.items()):
        swaps[kind, length[word]].append(word)
    candidates = []
    for index, text in enumerate(texts):
        seen: dict[str, int] = {}
        for match in _WORD.finditer(text):
            word = match[0]
            if word in kinds and word in seen and match.start() and text[match.start() - 1] == " ":
                candidates.append((index, word, seen[word], match.start() - 1))
            if match.start() and text[match.start() - 1] == " ":
                seen.setdefault(word, match.start())
    rng.shuffle(candidates)
    found: dict[str, tuple[Prompt, str, list[str]]] = {}  # by prompt: many stories begin alike
    used: Counter[int] = Counter()
    for start in range(0, len(candidates), 64):
        part = [c for c in candidates[start : start + 64] if used[c[0]] < PREFIXES_PER_TEXT]
        part = [c for c in part if 8 <= len(target.tokenizer(texts[c[0]][: c[3]])["input_ids"]) <= max_tokens]
        said = next_tokens(target, [texts[index][:end] for index, _, _, end in part])
        for (index, word, begin, end), token in zip(part, said, strict=True):
            others = [w for w in swaps[kinds[word], length[word]] if w != word and w not in texts[index]]
            if token == ids[word][0] and others and texts[index][:end] not in found:
                used[index] += 1
                clean = Prompt(texts[index][:end], "", (begin, begin + len(word)), end)
                found[clean.text] = (clean, word, rng.sample(others, min(len(others), SWAPS_PER_PREFIX)))
        if len(found) >= n:
            break
    rounds = [
        _swapped(clean, word, others[turn])
        for turn in range(SWAPS_PER_PREFIX)
        for clean, word, others in found.values()
        if turn < len(others)
    ]
    return _grouped(rounds[:n])


def _grouped(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with their groups: prompts that are nearly the same, that begin one another, or that are swapped for
    one another share one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number = {text: n for n, text in enumerate(sorted({p.text for pair in pairs for p in (pair.clean, pair.source)}))}
    edges = [(number[pair.clean.text], number[pair.source.text]) for pair in pairs]
    prompts = sorted({pair.clean.text for pair in pairs})
    first: dict[str, str] = {}
    before = None
    for prompt, name in zip(prompts, near_duplicate_groups(prompts), strict=True):
        edges.append((number[first.setdefault(name, prompt)], number[prompt]))
        if before is not None and prompt.startswith(before):
            edges.append((number[before], number[prompt]))
        else:
            before = prompt
    i, j = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    _, labels = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(len(number),) * 2), directed=False)
    groups = {text: f"prefix {labels[n]}" for text, n in number.items()}
    return [
        Pair(replace(pair.clean, group=groups[pair.clean.text]), replace(pair.source, group=groups[pair.source.text]))
        for pair in pairs
    ]


def _swapped(clean: Prompt, word: str, other: str) -> Pair:
    """The pair of a prompt and the same with a word swapped for another wherever it stands."""
    begin, _ = clean.subject
    text = re.sub(rf"\b{word}\b", other, clean.text)
    shift = len(re.sub(rf"\b{word}\b", other, clean.text[:begin])) - begin
    return Pair(clean, Prompt(text, clean.group, (begin + shift, begin + shift + len(other)), len(text)))


def _kinds(texts: Sequence[str]) -> dict[str, str]:
    """Words that are used as names or as objects in at least five texts: word -> "name" or "object"."""
    names: Counter[str] = Counter()
    objects: Counter[str] = Counter()
    common: Counter[str] = Counter()
    for text in texts:
        names.update(set(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+\b", text)) - {"I"})
        objects.update(set(re.findall(r"\b(?:a|an|the) ([a-z]{3,})\b", text)))
        common.update(set(re.findall(r"\b[a-z]+\b", text)))
    kinds = {word: "name" for word, count in names.items() if count >= 5 and common[word.lower()] == 0}
    return kinds | {word: "object" for word, count in objects.items() if count >= 5 and count > common[word] / 2}
