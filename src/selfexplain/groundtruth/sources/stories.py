"""Derive counterfactual pairs from running text."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import regex
from tqdm import tqdm

from selfexplain.groundtruth.sources.items import Pair, Prompt
from selfexplain.groundtruth.sources.tokens import word_tokens
from selfexplain.groundtruth.splits import near_duplicate_groups
from selfexplain.target.load import Target
from selfexplain.target.nexttoken import next_tokens
from selfexplain.target.tokens import encode_text, encode_with_spans
from selfexplain.utils.graphs import connected_components

PREFIXES_PER_TEXT, SWAPS_PER_PREFIX = 4, 12
MIN_TOKENS = 8  # shortest prefix
TEXTS_AT_ONCE = 64  # candidates per batch of the target
MIN_TEXTS = 5  # texts that have to use a word as a name or as an object
PROGRESS_AFTER = 2  # seconds until a progress bar is shown
WANTED = (
    f"no word that at least {MIN_TEXTS} texts use as a name (with a capital letter inside a sentence) or as a noun "
    "after a, an or the, and that the target predicts where a text repeats it. In languages without capital letters, "
    "use a table (source.kind=pairs or source.kind=relations)"
)
"""Why texts give no pairs."""

_WORD = regex.compile(r"\p{L}+")
_NAME = regex.compile(r"(?<=[\p{Ll},] )\p{Lu}\p{Ll}+\b")
_OBJECT = regex.compile(r"\b(?:a|an|the) (\p{Ll}{3,})\b")
_LOWER_CASE = regex.compile(r"\b\p{Ll}+\b")


def story_pairs(target: Target, texts: Sequence[str], n: int, seed: int, max_tokens: int = 64) -> list[Pair]:
    """Up to `n` counterfactual pairs whose prompts are prefixes of texts.

    A prefix ends right before a word that already occurred in it, and is used only if the target predicts that word.
    In the counterfactual, the word is replaced everywhere in the prefix by another word of the same kind and the same
    number of tokens. Kinds are names (capitalised inside a sentence) and objects (used after "a", "an" or "the").
    A text gives at most `PREFIXES_PER_TEXT` prefixes and a prefix at most `SWAPS_PER_PREFIX` pairs. No prefix gives its
    second pair before every prefix has given its first.

    Time grows linearly with the total length of the texts. Of a long text, only the beginning that can fit into
    `max_tokens` tokens gives prefixes.

    Args:
        max_tokens: longest prefix, in tokens.
    """
    rng = random.Random(seed)
    kinds = _kinds(texts)
    longest_prefix = max_tokens * max(map(len, target.tokenizer.get_vocab()))  # in characters
    texts = [text[:longest_prefix] for text in texts]
    swaps: dict[tuple[str, int], list[str]] = defaultdict(list)
    ids = {word: word_tokens(target, word) for word in kinds}
    length = {word: len(tokens) for word, tokens in ids.items()}
    for word, kind in sorted(kinds.items()):
        swaps[kind, length[word]].append(word)
    candidates = [(index, *repeat) for index, text in enumerate(texts) for repeat in _repeated_words(text, kinds)]
    rng.shuffle(candidates)
    prefixes: dict[str, tuple[Prompt, str, list[str]]] = {}  # by text, because many stories begin alike
    n_used: Counter[int] = Counter()
    end_of = cache(lambda index: _end(target, texts[index], 2 * max_tokens))
    bar = tqdm(range(0, len(candidates), TEXTS_AT_ONCE), "counterfactual pairs", unit="batch", delay=PROGRESS_AFTER)
    for start in bar:
        part = [c for c in candidates[start : start + TEXTS_AT_ONCE] if n_used[c[0]] < PREFIXES_PER_TEXT]
        part = [c for c in part if c[3] <= end_of(c[0])]
        part = [c for c in part if MIN_TOKENS <= len(encode_text(target.tokenizer, texts[c[0]][: c[3]])) <= max_tokens]
        predictions = next_tokens(target, [texts[index][:end] for index, _, _, end in part])
        for (index, word, begin, end), token in zip(part, predictions, strict=True):
            if token != ids[word][0] or texts[index][:end] in prefixes:
                continue
            if others := [w for w in swaps[kinds[word], length[word]] if w != word and w not in texts[index]]:
                n_used[index] += 1
                clean = Prompt(texts[index][:end], "", (begin, begin + len(word)), end)
                prefixes[clean.text] = (clean, word, rng.sample(others, min(len(others), SWAPS_PER_PREFIX)))
        if len(prefixes) >= n:
            break
    pairs = [
        _swapped(clean, word, others[turn])
        for turn in range(SWAPS_PER_PREFIX)
        for clean, word, others in prefixes.values()
        if turn < len(others)
    ]
    return _grouped(pairs[:n])


def _repeated_words(text: str, kinds: dict[str, str]) -> Iterator[tuple[str, int, int]]:
    """Each repetition of a swappable word: the word, where it first occurred, and where the prefix before it ends."""
    seen: dict[str, int] = {}
    for match in _WORD.finditer(text):
        if match.start() and text[match.start() - 1] == " ":
            word = match[0]
            if word in kinds and word in seen:
                yield word, seen[word], match.start() - 1
            seen.setdefault(word, match.start())


def _end(target: Target, text: str, n_tokens: int) -> int:
    """The character at which the first `n_tokens` tokens of a text end; its length for tokenizers without offsets."""
    if not target.tokenizer.is_fast:
        return len(text)
    _, spans = encode_with_spans(target.tokenizer, text)
    return spans[n_tokens - 1][1] if len(spans) > n_tokens else len(text)


def _grouped(pairs: Sequence[Pair]) -> list[Pair]:
    """Add groups to pairs.

    Two prompts share a group if they are near-duplicates, if one is a prefix of the other, or if they form a pair.
    """
    number = {text: n for n, text in enumerate(sorted({p.text for pair in pairs for p in (pair.clean, pair.source)}))}
    edges = [(number[pair.clean.text], number[pair.source.text]) for pair in pairs]
    prompts = sorted({pair.clean.text for pair in pairs})
    first: dict[str, str] = {}
    shortest = None
    for prompt, name in zip(prompts, near_duplicate_groups(prompts), strict=True):
        edges.append((number[first.setdefault(name, prompt)], number[prompt]))
        if shortest is not None and prompt.startswith(shortest):
            edges.append((number[shortest], number[prompt]))
        else:
            shortest = prompt
    components = connected_components(len(number), edges).tolist()
    groups = {text: f"prefix {components[n]}" for text, n in number.items()}
    return [
        Pair(replace(pair.clean, group=groups[pair.clean.text]), replace(pair.source, group=groups[pair.source.text]))
        for pair in pairs
    ]


def _swapped(clean: Prompt, word: str, other: str) -> Pair:
    """The pair of a prompt and its copy in which every occurrence of `word` is replaced by `other`."""
    begin, _ = clean.subject
    text = regex.sub(rf"\b{word}\b", other, clean.text)
    shift = len(regex.sub(rf"\b{word}\b", other, clean.text[:begin])) - begin
    return Pair(clean, Prompt(text, clean.group, (begin + shift, begin + shift + len(other)), len(text)))


def _kinds(texts: Sequence[str]) -> dict[str, str]:
    """Words that at least `MIN_TEXTS` texts use as a name or as an object: word -> "name" or "object"."""
    names: Counter[str] = Counter()
    objects: Counter[str] = Counter()
    common: Counter[str] = Counter()
    for text in tqdm(texts, "words of the corpus", unit="text", delay=PROGRESS_AFTER):
        names.update(set(_NAME.findall(text)))
        objects.update(set(_OBJECT.findall(text)))
        common.update(set(_LOWER_CASE.findall(text)))
    kinds = {word: "name" for word, count in names.items() if count >= MIN_TEXTS and common[word.lower()] == 0}
    return kinds | {
        word: "object" for word, count in objects.items() if count >= MIN_TEXTS and count > common[word] / 2
    }
