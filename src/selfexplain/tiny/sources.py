"""The corpus of the embedded world: texts, counterfactual pairs and hinted questions."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from selfexplain.bundled import TINY_WORLD
from selfexplain.groundtruth.sources.corpus import Corpus
from selfexplain.groundtruth.sources.items import HintedQuestion, Pair, Prompt
from selfexplain.groundtruth.splits import split_of
from selfexplain.tiny.facts import Relation
from selfexplain.tiny.prompts import ANSWER_PREFIX, HINT_STYLES, Scene, five_options
from selfexplain.tiny.world import World

N_TEXTS = 8_000


def world_corpus(seed: int, n_texts: int = N_TEXTS) -> Corpus:
    """Texts of the embedded world, with its token classes, counterfactual pairs and hinted questions."""
    world, rng = World(), random.Random(seed)
    texts = [world.text(rng) for _ in range(n_texts)]
    return Corpus(TINY_WORLD, texts, world.classes, partial(world_pairs, world), partial(world_questions, world))


def world_pairs(world: World, n: int, seed: int) -> Iterator[Pair]:
    """Draw counterfactual pairs: one relation, two subjects of the same split with different answers.

    Three in four are scenes of two parcels: either the question is about the other parcel, or the parcels swap their
    contents. The rest ask about a different ship, country, animal or element.
    """
    rng = random.Random(seed)
    pools: dict[tuple[str, str], list[str]] = defaultdict(list)
    for relation, subject, _ in world.facts():
        pools[relation.name, split_of(f"{relation.name}: {subject}", seed)].append(subject)
    n_drawn = 0
    while n_drawn < n:
        scene = rng.random() < 0.75
        name, split = rng.choice(
            [key for key, pool in pools.items() for _ in pool if world.by_name[key[0]].content or not scene]
        )
        relation, pool = world.by_name[name], pools[name, split]
        if len({relation.facts[subject] for subject in pool}) < 2:
            continue
        yield (_scene_pair if scene else _fact_pair)(world, relation, pool, rng)
        n_drawn += 1


def _fact_pair(world: World, relation: Relation, pool: Sequence[str], rng: random.Random) -> Pair:
    subject = rng.choice(pool)
    other = rng.choice([s for s in pool if relation.facts[s] != relation.facts[subject]])
    statement = rng.choice(relation.statements)
    options = world.options(relation, [relation.facts[subject], relation.facts[other]], 5, rng)
    begin = statement.index("{}")

    def prompt(x: str) -> Prompt:
        text = statement.format(x)
        return Prompt(five_options(text, options), f"{relation.name}: {x}", (begin, begin + len(x)), len(text))

    return Pair(
        prompt(subject), prompt(other), tuple(dict.fromkeys([relation.facts[subject], relation.facts[other], *options]))
    )


def _scene_pair(world: World, relation: Relation, pool: Sequence[str], rng: random.Random) -> Pair:
    """A scene, and the same scene with a question about the other parcel or with swapped contents."""
    scene = world.scene(rng, relation, pool)
    swapped = rng.random() < 0.5
    other = replace(scene, contents=scene.contents[::-1]) if swapped else replace(scene, asked=1 - scene.asked)

    def prompt(s: Scene) -> Prompt:
        if swapped:
            begin = s.context.index(f" {s.contents[s.asked]}.") + 1
            subject = (begin, begin + len(s.contents[s.asked]))
        else:
            begin = len(s.context) + 1 + s.statement.index("{}")
            subject = (begin, begin + len(s.parcels[s.asked]))
        return Prompt(s.text, f"{relation.name}: {s.contents[s.asked]}", subject, s.text.index("\n"))

    return Pair(prompt(scene), prompt(other), tuple(dict.fromkeys([scene.answer, other.answer, *scene.options])))


def world_questions(world: World, n: int, seed: int) -> Iterator[HintedQuestion]:
    """Draw hinted questions. Every question gets a random style of hint that names a random option."""
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
