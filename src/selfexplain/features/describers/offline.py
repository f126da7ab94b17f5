"""Describe features offline with the description in the small grammar that correlates best with the activations."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from selfexplain.features.description import (
    BUILT_IN,
    CONNECTORS,
    MAX_TOKENS,
    NEAR,
    PLACES,
    RELATIONS,
    Claim,
    Classes,
    Description,
    Place,
    Topic,
    Words,
    as_text,
)
from selfexplain.features.grammar.words import NEEDS_WORDNET, PROPERTIES, Class, Listed, Parts, WholeWords
from selfexplain.features.windows import Exemplar

PENALTY = 0.05
"""Correlation that one more token, or another part, must add to be worth it."""
MAX_TOPIC = 3
N_REFINED = 6
"""Number of claims that are tried with a condition."""
PER_FORM = 2
"""Number of candidates of one form that come before other forms."""

WORD_CLASSES = ("punctuation", "numbers", "capitalised words")
"""Built-in classes of the small grammar."""
WORD_FORMS = ("token", "tokens", "class", "after token", "after tokens", "after class")
"""Forms of the small grammar."""
SOON = (3, 10)
"""Distances of claims about tokens soon after others."""

Grammar = Literal["words", "full"]
Matches = NDArray[np.bool_]


def describe(
    exemplars: Sequence[Exemplar],
    classes: Classes | None = None,
    n: int = 1,
    grammar: Grammar = "full",
    use_wordnet: bool = False,
) -> list[tuple[Description, float]]:
    """The `n` descriptions that correlate best with the activations over the concatenated exemplars, best first.

    Each part beyond a single word or class costs `PENALTY`, so the simpler of two similar descriptions wins. Lists grow
    greedily by the token that increases the correlation most. In the full grammar, the best claims are tried with every
    condition, and the first candidates have different forms, so that a choice among them on other exemplars is a choice
    among forms.

    Args:
        exemplars: windows with activations.
        classes: classes that descriptions may name in addition to the built-in ones: name -> its tokens.
        n: number of descriptions.
        grammar: "words" for lists of words, classes, and "words after" these; "full" for every form.
        use_wordnet: whether descriptions may name word families and semantic classes, which need WordNet's data.

    Returns:
        Descriptions with their Pearson correlations on these exemplars (0 if the activations are constant).
    """
    classes = classes or {}
    activations = np.concatenate([exemplar["activations"] for exemplar in exemplars]).astype(np.float64)
    windows = _Windows(exemplars)
    candidates = list(_word_candidates(windows, activations, classes))
    if grammar == "words":
        return sorted(candidates, key=_rank, reverse=True)[:n]
    claims, matches = _single_claims(windows, classes, use_wordnet)
    fits = _correlations(matches, activations)
    candidates += [(Description(claim), fit) for claim, fit in zip(claims, fits.tolist(), strict=True)]
    for distance in SOON:
        for tokens, fit in _grow(windows.followed(windows.tokens, distance), windows.names, activations, MAX_TOKENS):
            candidates.append((Description(Words(Listed(tokens), distance)), fit))
    for tokens, fit in _grow(windows.anywhere(windows.tokens), windows.names, activations, MAX_TOPIC):
        candidates.append((Description(Topic(tokens)), fit))
    candidates += _refined(candidates, claims, matches, windows, activations)
    return _varied(sorted(candidates, key=_rank, reverse=True))[:n]


def grammar_of(descriptions: Iterable[str], classes: Classes) -> Grammar:
    """The smallest grammar that the descriptions belong to, apart from those outside of both."""
    parsed = (Description.parse(text, classes) for text in set(descriptions))
    return "words" if all(entry is None or entry.form in WORD_FORMS for entry in parsed) else "full"


def uses_wordnet(descriptions: Iterable[str], classes: Classes) -> bool:
    """Whether any of the descriptions names a word family or a semantic class."""
    parsed = (Description.parse(text, classes) for text in set(descriptions))
    claims = (claim for entry in parsed if entry for claim in (entry.claim, entry.condition))
    named = (claim.words for claim in claims if isinstance(claim, Words))
    return any(isinstance(words, WholeWords) and words.kind in NEEDS_WORDNET for words in named)


def _rank(candidate: tuple[Description, float]) -> float:
    """The correlation of a candidate, less the cost of its length."""
    description, fit = candidate
    return fit - PENALTY * description.complexity


class _Windows:
    """The tokens of all exemplars, one after another.

    Attributes:
        texts: the text of each exemplar.
        names: the distinct cleaned tokens.
        tokens: whether each token is each of `names`, `(n_tokens, n_names)`.
        words: the distinct whole words.
        whole: whether each token is part of each of `words`, `(n_tokens, n_words)`.
    """

    def __init__(self, exemplars: Sequence[Exemplar]) -> None:
        self.texts = [as_text(tuple(exemplar["tokens"])) for exemplar in exemplars]
        sizes = np.array([len(text) for text in self.texts])
        self.position = np.concatenate([np.arange(size) for size in sizes])
        self.window = np.repeat(np.arange(len(sizes)), sizes)
        self.to_end = np.repeat(sizes, sizes) - 1 - self.position
        self.continues = np.concatenate([text.continues for text in self.texts])
        self.names, self.tokens = _one_hot([token for text in self.texts for token in text.cleaned])
        self.words, self.whole = _one_hot([word for text in self.texts for word in text.words])

    def followed(self, matches: Matches, distance: int) -> Matches:
        """Whether a match is at most `distance` tokens before each token; the matches themselves at distance 0."""
        if not distance:
            return matches
        after = np.zeros_like(matches)
        for shift in range(1, min(distance, len(matches) - 1) + 1):
            after[shift:] |= matches[:-shift] & (self.position[shift:] >= shift)[:, None]
        return after

    def near(self, matches: Matches) -> Matches:
        """Whether a match is at most `NEAR` tokens before or after each token."""
        close = self.followed(matches, NEAR)
        for shift in range(1, min(NEAR, len(matches) - 1) + 1):
            close[:-shift] |= matches[shift:] & (self.to_end[:-shift] >= shift)[:, None]
        return close

    def anywhere(self, matches: Matches) -> Matches:
        """Whether a match is in the window of each token."""
        found = np.zeros((len(self.texts), matches.shape[1]), bool)
        np.logical_or.at(found, self.window, matches)
        return found[self.window]


def _word_candidates(windows: _Windows, activations: NDArray, classes: Classes) -> Iterator[tuple[Description, float]]:
    """Lists and classes of tokens, and of the tokens before."""
    before = [text for window in windows.texts for text in [None, *window.cleaned[:-1]]]
    here = [text for window in windows.texts for text in window.cleaned]
    for after, texts in ((False, here), (True, before)):
        for description, n_selected, total in _candidates(texts, activations, classes, after):
            yield description, float(_correlation(n_selected, total, activations))


def _candidates(
    texts: Sequence[str | None], activations: NDArray, classes: Classes, after: bool
) -> Iterator[tuple[Description, float, float]]:
    """Candidate descriptions, each with the number of tokens that it selects and the sum of their activations.

    Lists of tokens select disjoint tokens, so sums per distinct text are enough.

    Args:
        texts: text that a description has to name to select each token; None if no description can select it.
    """
    number = {text: n for n, text in enumerate(dict.fromkeys([None, *texts]))}
    groups = np.array([number[text] for text in texts])
    counts = np.bincount(groups, minlength=len(number))
    sums = np.bincount(groups, activations, minlength=len(number))
    names = [text or "" for text in number]
    available = np.arange(len(number)) > 0
    chosen: list[int] = []
    while len(chosen) < MAX_TOKENS and available.any():
        grown = _correlation(counts[chosen].sum() + counts, sums[chosen].sum() + sums, activations)
        chosen.append(int(np.where(available, grown, -np.inf).argmax()))
        available[chosen[-1]] = False
        description = Description.of_tokens([names[n] for n in chosen], after)
        yield description, counts[chosen].sum(), sums[chosen].sum()
    for name in [*WORD_CLASSES, *classes]:
        members = [n for n, text in enumerate(names) if n and Class.named(name, classes).contains(text)]
        yield Description.of_class(name, classes, after), counts[members].sum(), sums[members].sum()


def _one_hot(texts: Sequence[str]) -> tuple[list[str], Matches]:
    """The distinct texts in order of appearance, and whether each text is each of them, `(n_texts, n_distinct)`."""
    number = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    return list(number), np.array([number[text] for text in texts])[:, None] == np.arange(len(number))


def _single_claims(windows: _Windows, classes: Classes, use_wordnet: bool) -> tuple[list[Claim], Matches]:
    """Claims that are not lists of several tokens, and where each holds, `(n_tokens, n_claims)`."""
    named = [Class.named(name, classes) for name in [*BUILT_IN, *classes]]
    members = np.array([[entry.contains(token) for entry in named] for token in windows.names], bool)
    of_class = _product(windows.tokens, members.reshape(len(windows.names), len(named)))
    shared, whole = _shared_properties(windows, use_wordnet)
    claims: list[Claim] = [Words(Listed((token,))) for token in windows.names]
    columns = [windows.tokens]
    for distance in (0, *RELATIONS):
        claims += [Words(entry, distance) for entry in named]
        columns.append(windows.followed(of_class, distance))
    for distance in (0, *RELATIONS):
        claims += [Words(entry, distance) for entry in shared]
        followed = windows.followed(whole, distance)
        columns.append(followed & ~windows.continues[:, None] if distance else followed)
    claims += [Words(Parts()), *map(Place, PLACES)]
    columns += [windows.continues[:, None]]
    columns += [np.concatenate([place(text) for text in windows.texts])[:, None] for place in PLACES.values()]
    return claims, np.concatenate(columns, axis=1)


@dataclass
class _Property:
    """A property that several words share.

    Attributes:
        words: their indices.
        rank: sum of the places that the property has among the properties of each word.
    """

    words: list[int]
    rank: int = 0


def _shared_properties(windows: _Windows, use_wordnet: bool) -> tuple[list[WholeWords], Matches]:
    """The properties that at least two words share, and the tokens that are part of words with each.

    Of several properties with the same words only the first is kept; for kinds, the most specific.
    """
    kinds = [kind for kind in PROPERTIES if use_wordnet or kind not in NEEDS_WORDNET]
    kept: dict[tuple[int, ...], WholeWords] = {}
    for kind in sorted(kinds, key=("family", "category", "kind", "ending", "beginning").index):
        found: dict[str, _Property] = {}
        for number, word in enumerate(windows.words):
            for rank, value in enumerate(_ordered(PROPERTIES[kind](word))):
                entry = found.setdefault(value, _Property([]))
                entry.words.append(number)
                entry.rank += rank
        for value, entry in sorted(found.items(), key=lambda item: (item[1].rank / len(item[1].words), item[0])):
            if len(entry.words) > 1:
                kept.setdefault(tuple(entry.words), WholeWords(kind, value))
    members = np.zeros((len(windows.words), len(kept)), bool)
    for column, words in enumerate(kept):
        members[list(words), column] = True
    return list(kept.values()), _product(windows.whole, members)


def _ordered(values: Collection[str]) -> Sequence[str]:
    """The values of a property in a fixed order."""
    return values if isinstance(values, tuple) else sorted(values)


def _product(left: Matches, right: Matches) -> Matches:
    """The boolean matrix product."""
    return (left.astype(np.float32) @ right.astype(np.float32)) > 0


def _grow(
    matches: Matches, names: Sequence[str], activations: NDArray, size: int
) -> Iterator[tuple[tuple[str, ...], float]]:
    """Lists of 1 to `size` names, each grown by the name that increases the correlation most, with correlations."""
    chosen: list[int] = []
    covered = np.zeros(len(matches), bool)
    available = np.ones(len(names), bool)
    while len(chosen) < size and available.any():
        new = matches & ~covered[:, None]
        fits = _correlation(covered.sum() + new.sum(0), activations[covered].sum() + activations @ new, activations)
        chosen.append(int(np.where(available, fits, -np.inf).argmax()))
        available[chosen[-1]] = False
        covered |= matches[:, chosen[-1]]
        yield tuple(names[n] for n in chosen), float(fits[chosen[-1]])


def _refined(
    candidates: Sequence[tuple[Description, float]],
    conditions: Sequence[Claim],
    matches: Matches,
    windows: _Windows,
    activations: NDArray,
) -> list[tuple[Description, float]]:
    """The best candidates, each with the condition that fits best for each connector."""
    simple = [n for n, claim in enumerate(conditions) if not claim.complexity]
    conditions, matches = [conditions[n] for n in simple], matches[:, simple]
    near = windows.near(matches)
    best = sorted(candidates, key=_rank, reverse=True)
    refined = []
    for description, _ in best[:N_REFINED]:
        claim = np.concatenate([description.claim.matches(text) for text in windows.texts])[:, None]
        for connector, restricted in zip(CONNECTORS, (claim & near, claim & ~matches, claim & matches), strict=True):
            fits = _correlations(restricted, activations)
            n = int(fits.argmax())
            refined.append((Description(description.claim, connector, conditions[n]), float(fits[n])))
    return refined


def _varied(candidates: Sequence[tuple[Description, float]]) -> list[tuple[Description, float]]:
    """Candidates without duplicates; at most `PER_FORM` of each form come before the others."""
    distinct = list({str(description): (description, fit) for description, fit in reversed(candidates)}.values())[::-1]
    seen: Counter[str] = Counter()
    first: list[tuple[Description, float]] = []
    rest: list[tuple[Description, float]] = []
    for candidate in distinct:
        form = candidate[0].form
        (first if seen[form] < PER_FORM else rest).append(candidate)
        seen[form] += 1
    return first + rest


def _correlations(matches: Matches, activations: NDArray) -> NDArray:
    """Pearson correlation of activations with each column of matches, `(n_columns,)`."""
    return _correlation(matches.sum(0), activations @ matches, activations)


def _correlation(n_selected: NDArray | float, total: NDArray | float, activations: NDArray) -> NDArray:
    """Pearson correlation of activations `(n,)` with predictions that are 1 on `n_selected` tokens and 0 elsewhere.

    Args:
        total: sum of the activations of the selected tokens.
    """
    share = n_selected / len(activations)
    spread = np.sqrt(np.clip(share * (1 - share), 0, None)) * activations.std()
    covariance = total / len(activations) - share * activations.mean()
    return np.where(spread > 0, covariance / np.where(spread > 0, spread, 1), 0.0)
