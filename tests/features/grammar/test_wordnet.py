"""Word families and semantic classes come from WordNet; without its data they are refused, not guessed."""

import shutil
from pathlib import Path

import nltk
import pytest

from selfexplain import SelfExplainError
from selfexplain.features.describers.offline import describe
from selfexplain.features.description import Description
from selfexplain.features.grammar import wordnet

DEBIAN = Path("/usr/share/wordnet")
LEXNAMES = {
    "adj": ("all", "pert"),
    "adv": ("all",),
    "noun": (
        *("Tops", "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event", "feeling"),
        *("food", "group", "location", "motive", "object", "person", "phenomenon", "plant", "possession", "process"),
        *("quantity", "relation", "shape", "state", "substance", "time"),
    ),
    "verb": (
        *("body", "change", "cognition", "communication", "competition", "consumption", "contact", "creation"),
        *("emotion", "motion", "perception", "possession", "social", "stative", "weather"),
    ),
}
"""Part of speech -> the lexicographer files of lexnames(5), in their order; `adj.ppl` comes last."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """WordNet's data, for nltk: an installed copy, or Debian's packages wordnet-base and wordnet-sense-index."""
    if wordnet.available():
        yield
        return
    if not (DEBIAN / "index.sense").is_file():
        pytest.skip("WordNet's data was not found: apt-get install wordnet-base wordnet-sense-index")
    root = tmp_path_factory.mktemp("nltk_data")
    shutil.copytree(DEBIAN, root / "corpora" / "wordnet")
    files = [(pos, name) for pos, names in LEXNAMES.items() for name in names] + [("adj", "ppl")]
    number = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}
    lines = [f"{n:02d}\t{pos}.{name}\t{number[pos]}\n" for n, (pos, name) in enumerate(files)]
    (root / "corpora" / "wordnet" / "lexnames").write_text("".join(lines))
    nltk.data.path.append(str(root))
    forget()
    yield
    nltk.data.path.remove(str(root))
    forget()


def forget():
    for cached in (wordnet._reader, wordnet.families, wordnet.category, wordnet.kinds, wordnet._main_sense):
        cached.cache_clear()


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("word", "category", "family", "kind"),
    [
        ("Dogs", "noun.animal", "dog", "animal"),
        ("car", "noun.artifact", "car", "vehicle"),
        ("ran", "verb.motion", "run", None),
        ("quickly", "adv.all", "quickly", None),
        ("Paris", "noun.location", "paris", "city"),
        ("in", None, "in", None),
        ("it", None, "it", None),
        ("7", None, None, None),
        ("zzqx", None, None, None),
    ],
)
def test_words_in_wordnet(word, category, family, kind):
    assert wordnet.category(word) == category
    assert family is None or family in wordnet.families(word)
    assert (kind in wordnet.kinds(word)) if kind else not wordnet.kinds(word)


@pytest.mark.usefixtures("data")
def test_kinds_are_ordered_from_specific_to_general():
    kinds = wordnet.kinds("dog")
    assert kinds.index("canid") < kinds.index("animal") < kinds.index("entity")


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("text", "matched"),
    [
        ("forms of the word go", [" goes", " went"]),
        ("kinds of vehicle", [" cars"]),
        ("nouns for animals", [" horse"]),
        ("verbs of motion", [" goes", " went"]),
    ],
)
def test_descriptions_that_name_semantic_classes(text, matched):
    tokens = ["She", " goes", " by", " cars", ";", " a", " horse", " went"]
    description = Description.parse(text)
    assert [token for token, m in zip(tokens, description.matches(tokens), strict=True) if m] == matched
    assert str(description) == text


@pytest.mark.usefixtures("data")
def test_the_most_specific_kind_is_proposed():
    tokens = [" one", " dog", " sat", " the", " wolf", " ran", " horse", " cow", " chair", " fox", " cat", " bear"]
    canids = {" dog", " wolf", " fox"}
    windows = [{"tokens": tokens[n:] + tokens[:n], "activations": [0.0] * 12} for n in range(12)]
    for window in windows:
        window["activations"] = [float(token in canids) for token in window["tokens"]]
    [(description, correlation)] = describe(windows, use_wordnet=True)
    assert str(description) == "kinds of canid"
    assert correlation == pytest.approx(1.0)


def test_without_wordnet_a_description_that_needs_it_is_refused(monkeypatch):
    forget()
    monkeypatch.setattr(wordnet, "_reader", lambda: None)
    description = Description.parse("forms of the word go")
    with pytest.raises(SelfExplainError, match=r"WordNet's data was not found.*nltk.downloader wordnet"):
        description.matches(["went"])
