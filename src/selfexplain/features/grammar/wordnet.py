"""Semantic classes and word families from WordNet, read by nltk.

WordNet (Fellbaum, 1998) is not part of this package: `python -m nltk.downloader wordnet` downloads it. Without it,
the describer does not propose these forms, and a description that needs them cannot be matched.
"""

from functools import cache
from typing import Any

from selfexplain.errors import SelfExplainError

MISSING = (
    "WordNet's data was not found. Descriptions that name word families or semantic classes need it. "
    "Run `python -m nltk.downloader wordnet`, or set NLTK_DATA to a directory that contains corpora/wordnet."
)
UNAVAILABLE = (
    "WordNet's data was not found, so no description names a word family or a semantic class. "
    "To include them, run `python -m nltk.downloader wordnet`; to do without them, set wordnet=false."
)
CATEGORIES = {
    "noun.act": "nouns for actions",
    "noun.animal": "nouns for animals",
    "noun.artifact": "nouns for man-made objects",
    "noun.attribute": "nouns for properties",
    "noun.body": "nouns for body parts",
    "noun.cognition": "nouns for thoughts",
    "noun.communication": "nouns for communication",
    "noun.event": "nouns for events",
    "noun.feeling": "nouns for feelings",
    "noun.food": "nouns for food",
    "noun.group": "nouns for groups",
    "noun.location": "nouns for places",
    "noun.motive": "nouns for motives",
    "noun.object": "nouns for natural objects",
    "noun.person": "nouns for people",
    "noun.phenomenon": "nouns for natural phenomena",
    "noun.plant": "nouns for plants",
    "noun.possession": "nouns for possessions",
    "noun.process": "nouns for processes",
    "noun.quantity": "nouns for quantities",
    "noun.relation": "nouns for relations",
    "noun.shape": "nouns for shapes",
    "noun.state": "nouns for states",
    "noun.substance": "nouns for substances",
    "noun.time": "nouns for times",
    "verb.body": "verbs of body care",
    "verb.change": "verbs of change",
    "verb.cognition": "verbs of thinking",
    "verb.communication": "verbs of communication",
    "verb.competition": "verbs of competition",
    "verb.consumption": "verbs of eating and drinking",
    "verb.contact": "verbs of contact",
    "verb.creation": "verbs of creation",
    "verb.emotion": "verbs of feeling",
    "verb.motion": "verbs of motion",
    "verb.perception": "verbs of perception",
    "verb.possession": "verbs of possession",
    "verb.social": "verbs of social life",
    "verb.stative": "verbs of being",
    "verb.weather": "verbs of weather",
    "adj.all": "adjectives",
    "adj.pert": "adjectives of belonging",
    "adv.all": "adverbs",
}
"""Lexicographer files of WordNet -> the written form of the class."""
CATEGORY_OF = {phrase: name for name, phrase in CATEGORIES.items()}


@cache
def _reader() -> Any | None:
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return None
    return wordnet


def available() -> bool:
    """Whether WordNet's data can be read."""
    return _reader() is not None


def _wordnet() -> Any:
    reader = _reader()
    if reader is None:
        raise SelfExplainError(MISSING)
    return reader


@cache
def _function_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return ENGLISH_STOP_WORDS


@cache
def _main_sense(word: str) -> Any | None:
    """The most frequent sense of a word in WordNet's counts; None if it has none, or is a function word."""
    reader = _wordnet()
    if not word.isalpha() or len(word) < 2 or word.lower() in _function_words():
        return None
    senses = reader.synsets(word.lower())
    lemmas = families(word)

    def frequency(sense: Any) -> int:
        return sum(lemma.count() for lemma in sense.lemmas() if lemma.name().lower() in lemmas)

    return max(senses, key=frequency, default=None)


@cache
def families(word: str) -> frozenset[str]:
    """The base forms that a word is an inflected form of, in lower case: `left` -> `left`, `leave`."""
    reader = _wordnet()
    if not word.isalpha():
        return frozenset()
    return frozenset(lemma for pos in "nvar" if (lemma := reader.morphy(word.lower(), pos)))


@cache
def category(word: str) -> str | None:
    """The lexicographer file of a word's most frequent sense, such as `noun.animal`; None if there is none."""
    sense = _main_sense(word)
    name = sense.lexname() if sense is not None else None
    return name if name in CATEGORIES else None


@cache
def kinds(word: str) -> tuple[str, ...]:
    """The names of what a noun's most frequent sense is a kind of, from specific to general: `car` -> `vehicle`."""
    sense = _main_sense(word)
    if sense is None or sense.pos() != "n":
        return ()
    above = [sense, *sense.closure(lambda synset: synset.hypernyms() + synset.instance_hypernyms())]
    return tuple(dict.fromkeys(name for synset in above if (name := _name(synset))))


@cache
def _name(synset: Any) -> str | None:
    """The first lemma whose first noun sense is this one; None if there is none."""
    reader = _wordnet()
    names = [name for name in synset.lemma_names() if name.replace("_", "").isalpha()]
    first = (name for name in names if reader.synsets(name, "n")[:1] == [synset])
    return next((name.replace("_", " ") for name in first), None)
