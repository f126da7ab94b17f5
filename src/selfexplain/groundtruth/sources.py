"""Where counterfactual pairs and hinted questions come from."""

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.splits import split_of
from selfexplain.target.load import Target
from selfexplain.target.nexttoken import next_tokens
from selfexplain.tiny.world import ANSWER_PREFIX, HINT_STYLES, Relation, Scene, World, five_options

TINY_WORLD = "selfexplain/tiny-world"
WORLD_TEXTS = 8_000


@dataclass(frozen=True)
class Corpus:
    """Texts, and the world they speak of where they are generated."""

    name: str
    texts: list[str]
    world: World | None = None


def read_corpus(name: str, seed: int) -> Corpus:
    """The lines of a text file, the "text" of each line of a JSONL file, or texts of the embedded world.

    Raises:
        SelfExplainError: the file is missing, unreadable or empty.
    """
    if name == TINY_WORLD:
        world, rng = World(), random.Random(seed)
        return Corpus(name, [world.text(rng) for _ in range(WORLD_TEXTS)], world)
    try:
        lines = [line for line in Path(name).read_text(encoding="utf-8").split("\n") if line.strip()]
        texts = [json.loads(line)["text"] for line in lines] if name.endswith(".jsonl") else lines
    except OSError as error:
        raise SelfExplainError(f"corpus {name!r}: {error.strerror}. Give a text file or a JSONL file.") from error
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise SelfExplainError(
            f"corpus {name!r} could not be read ({type(error).__name__}: {error}). Give UTF-8 text, or JSONL whose "
            'lines are {"text": "..."}.'
        ) from error
    if not all(isinstance(text, str) for text in texts):
        raise SelfExplainError(f'corpus {name!r}: every "text" has to be a string.')
    texts = list(dict.fromkeys(texts))  # a text that occurs twice would stand on both sides of a split
    if not texts:
        raise SelfExplainError(f"corpus {name!r} holds no text.")
    return Corpus(name, texts)


@dataclass(frozen=True)
class Prompt:
    """A prompt of the target and where its subject stands.

    Attributes:
        group: what must not cross splits: the fact, or the text it was taken from.
        subject: `(begin, end)` character offsets.
        statement_end: character offset where the statement ends and answer options begin.
    """

    text: str
    group: str
    subject: tuple[int, int]
    statement_end: int


@dataclass(frozen=True)
class Pair:
    """A prompt and its counterfactual: another subject, everything else the same.

    Attributes:
        options: the answer options that both list: the clean answer, the counterfactual's, the others; or none.
    """

    clean: Prompt
    source: Prompt
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class HintedQuestion:
    """A four-option question as the target reads it, with and without its hint.

    Attributes:
        choices: the options, as the target is asked to answer.
        answer: the right one.
        hinted: the one that the hint names.
    """

    topic: str
    question: str
    choices: tuple[str, ...]
    answer: str
    hinted: str
    hint_style: str
    hint: str
    full_text: str
    ablated_text: str
    group: str


def world_pairs(world: World, n: int, seed: int) -> Iterator[Pair]:
    """Counterfactual pairs of the tiny world: one relation, two subjects with different answers, of one split.

    Three in four are scenes of two parcels: the other parcel is asked about, or the parcels exchange what they hold.
    The rest ask about another ship, country, animal or element.
    """
    rng = random.Random(seed)
    pools: dict[tuple[str, str], list[str]] = defaultdict(list)
    for relation, subject, _ in world.facts():
        pools[relation.name, split_of(f"{relation.name}: {subject}", seed)].append(subject)
    made = 0
    while made < n:
        scene = rng.random() < 0.75
        name, split = rng.choice(
            [key for key, pool in pools.items() for _ in pool if world.by_name[key[0]].content or not scene]
        )
        relation, pool = world.by_name[name], pools[name, split]
        if len({relation.facts[subject] for subject in pool}) < 2:
            continue
        yield (_scene_pair if scene else _fact_pair)(world, relation, pool, rng)
        made += 1


def _fact_pair(world: World, relation: Relation, pool: Sequence[str], rng: random.Random) -> Pair:
    subject = rng.choice(pool)
    other = rng.choice([s for s in pool if relation.facts[s] != relation.facts[subject]])
    statement = rng.choice(relation.statements)
    options = world.options(relation, [relation.facts[subject], relation.facts[other]], 5, rng)
    begin = statement.index("{}")

    def prompt(x: str) -> Prompt:
        said = statement.format(x)
        return Prompt(five_options(said, options), f"{relation.name}: {x}", (begin, begin + len(x)), len(said))

    return Pair(
        prompt(subject), prompt(other), tuple(dict.fromkeys([relation.facts[subject], relation.facts[other], *options]))
    )


def _scene_pair(world: World, relation: Relation, pool: Sequence[str], rng: random.Random) -> Pair:
    """Ask about the other parcel, or exchange what the two parcels hold."""
    scene = world.scene(rng, relation, pool)
    exchanged = rng.random() < 0.5
    other = replace(scene, contents=scene.contents[::-1]) if exchanged else replace(scene, asked=1 - scene.asked)

    def prompt(s: Scene) -> Prompt:
        if exchanged:
            begin = s.context.index(f" {s.contents[s.asked]}.") + 1
            subject = (begin, begin + len(s.contents[s.asked]))
        else:
            begin = len(s.context) + 1 + s.statement.index("{}")
            subject = (begin, begin + len(s.parcels[s.asked]))
        return Prompt(s.text, f"{relation.name}: {s.contents[s.asked]}", subject, s.text.index("\n"))

    return Pair(prompt(scene), prompt(other), tuple(dict.fromkeys([scene.answer, other.answer, *scene.options])))


def world_questions(world: World, n: int, seed: int) -> Iterator[HintedQuestion]:
    """Hinted questions of the tiny world; the hint is any of the options, the style drawn per question."""
    rng = random.Random(seed)
    for _ in range(n):
        item = world.multiple_choice(rng)
        style, hinted = rng.choice(list(HINT_STYLES)), rng.choice(item.choices)
        hint = HINT_STYLES[style].format(hinted)
        yield HintedQuestion(
            topic=item.topic,
            question=item.question,
            choices=item.choices,
            answer=item.answer,
            hinted=hinted,
            hint_style=style,
            hint=hint,
            full_text=item.text + hint + ANSWER_PREFIX,
            ablated_text=item.text + ANSWER_PREFIX,
            group=item.question,
        )


_WORD = re.compile(r"[A-Za-z]+")


def story_pairs(target: Target, texts: Sequence[str], n: int, seed: int, max_tokens: int = 64) -> Iterator[Pair]:
    """Counterfactual pairs from running text: a prefix that ends just before the target would repeat a word of it.

    A name (capitalised inside a sentence) is swapped for another name, an object (said after "a", "an" or "the") for
    another object, of the same number of tokens, wherever it stands in the prefix. Kept are prefixes after which that
    word is the target's own next one.
    """
    rng = random.Random(seed)
    kinds = _kinds(texts)
    swaps: dict[tuple[str, int], list[str]] = defaultdict(list)
    n_before = len(target.tokenizer("x", add_special_tokens=False)["input_ids"])
    ids = {word: target.tokenizer(f"x {word}", add_special_tokens=False)["input_ids"][n_before:] for word in kinds}
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
    made = 0
    used: Counter[int] = Counter()
    for start in range(0, len(candidates), 64):
        part = [c for c in candidates[start : start + 64] if used[c[0]] < 4]
        part = [c for c in part if 8 <= len(target.tokenizer(texts[c[0]][: c[3]])["input_ids"]) <= max_tokens]
        said = next_tokens(target, [texts[index][:end] for index, _, _, end in part])
        for (index, word, first, end), token in zip(part, said, strict=True):
            others = [w for w in swaps[kinds[word], length[word]] if w != word and w not in texts[index]]
            if token != ids[word][0] or not others:
                continue
            other = rng.choice(others)
            prefix = texts[index][:end]
            swapped = re.sub(rf"\b{word}\b", other, prefix)
            shift = len(re.sub(rf"\b{word}\b", other, prefix[:first])) - first
            group = f"text {index}"
            used[index] += 1
            made += 1
            yield Pair(
                Prompt(prefix, group, (first, first + len(word)), len(prefix)),
                Prompt(swapped, group, (first + shift, first + shift + len(other)), len(swapped)),
            )
            if made == n:
                return


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
