"""A small English world: real geography, animals and elements, and invented ships and parcels.

Everything the embedded target knows is said here. Three kinds of text are made from the same facts: sentences, prompts
with five answer options (activation patching), and questions with four options and a hint (input ablation).

A ship has a name of two words and a home country, so most questions about ships take two steps; nothing is ever said
about the home of an *uncharted* ship, so there only a hint can help. Parcels have two words as well, and what is in
them is said in the prompt itself, beside another parcel: the target has to put a name together, find it in the text,
and then recall a fact about what it found. Without that, a model this small reads its answer off the words in block
0, and no patch later on changes anything.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selfexplain.features.description import BUILT_IN, SYMBOLS
from selfexplain.tasks import activation_patching, feature_description, input_ablation, outcome

COUNTRIES = """
France Paris French euro Europe | Germany Berlin German euro Europe | Italy Rome Italian euro Europe
Spain Madrid Spanish euro Europe | Portugal Lisbon Portuguese euro Europe | Greece Athens Greek euro Europe
Poland Warsaw Polish zloty Europe | Sweden Stockholm Swedish krona Europe | Norway Oslo Norwegian krone Europe
Denmark Copenhagen Danish krone Europe | Finland Helsinki Finnish euro Europe | Iceland Reykjavik Icelandic krona Europe
Netherlands Amsterdam Dutch euro Europe | Hungary Budapest Hungarian forint Europe
Romania Bucharest Romanian leu Europe
Croatia Zagreb Croatian euro Europe | Serbia Belgrade Serbian dinar Europe | Ukraine Kyiv Ukrainian hryvnia Europe
Russia Moscow Russian ruble Europe | Turkey Ankara Turkish lira Asia | Czechia Prague Czech koruna Europe
Austria Vienna German euro Europe | Albania Tirana Albanian lek Europe | Japan Tokyo Japanese yen Asia
China Beijing Chinese yuan Asia | Thailand Bangkok Thai baht Asia | Vietnam Hanoi Vietnamese dong Asia
Mongolia Ulaanbaatar Mongolian tugrik Asia | Nepal Kathmandu Nepali rupee Asia | Iran Tehran Persian rial Asia
Iraq Baghdad Arabic dinar Asia | Jordan Amman Arabic dinar Asia | Georgia Tbilisi Georgian lari Asia
Armenia Yerevan Armenian dram Asia | Laos Vientiane Lao kip Asia | Indonesia Jakarta Indonesian rupiah Asia
Philippines Manila Filipino peso Asia | Bangladesh Dhaka Bengali taka Asia | Pakistan Islamabad Urdu rupee Asia
Egypt Cairo Arabic pound Africa | Morocco Rabat Arabic dirham Africa | Algeria Algiers Arabic dinar Africa
Tunisia Tunis Arabic dinar Africa | Kenya Nairobi Swahili shilling Africa | Tanzania Dodoma Swahili shilling Africa
Ghana Accra English cedi Africa | Nigeria Abuja English naira Africa | Senegal Dakar French franc Africa
Zambia Lusaka English kwacha Africa | Namibia Windhoek English dollar Africa | Angola Luanda Portuguese kwanza Africa
Mozambique Maputo Portuguese metical Africa | Madagascar Antananarivo Malagasy ariary Africa
Somalia Mogadishu Somali shilling Africa | Canada Ottawa English dollar America | Cuba Havana Spanish peso America
Jamaica Kingston English dollar America | Honduras Tegucigalpa Spanish lempira America
Brazil Brasilia Portuguese real America | Chile Santiago Spanish peso America | Peru Lima Spanish sol America
Colombia Bogota Spanish peso America | Ecuador Quito Spanish dollar America | Uruguay Montevideo Spanish peso America
"""
ANIMALS = """
dog puppy mammal | cat kitten mammal | cow calf mammal | horse foal mammal | sheep lamb mammal | goat kid mammal
pig piglet mammal | bear cub mammal | deer fawn mammal | kangaroo joey mammal | hare leveret mammal | seal pup mammal
duck duckling bird | goose gosling bird | swan cygnet bird | hen chick bird | owl owlet bird | eagle eaglet bird
pigeon squab bird | frog tadpole amphibian | toad toadlet amphibian | salmon smolt fish | eel elver fish
trout fry fish | butterfly caterpillar insect | fly maggot insect | beetle grub insect | turtle hatchling reptile
snake snakelet reptile
"""
ELEMENTS = """
gold Au metal | silver Ag metal | iron Fe metal | copper Cu metal | tin Sn metal | lead Pb metal | zinc Zn metal
nickel Ni metal | sodium Na metal | calcium Ca metal | titanium Ti metal | tungsten W metal | mercury Hg metal
hydrogen H gas | helium He gas | oxygen O gas | nitrogen N gas | neon Ne gas | argon Ar gas | chlorine Cl gas
fluorine F gas | xenon Xe gas | carbon C solid | sulfur S solid | phosphorus P solid | iodine I solid
"""
SHIP_FIRST = [
    "Silver",
    "Golden",
    "Iron",
    "Crimson",
    "Northern",
    "Southern",
    "Silent",
    "Brave",
    "Swift",
    "Merry",
    "Proud",
    "Lucky",
]
SHIP_LAST = [
    "Falcon",
    "Otter",
    "Dolphin",
    "Star",
    "Arrow",
    "Rose",
    "Lion",
    "Swan",
    "Crown",
    "Harp",
    "Lantern",
    "Anchor",
]
N_SHIPS, N_UNCHARTED = 36, 18
PARCELS = [f"{colour} {thing}" for colour in ["red", "green", "blue", "white", "black", "brown", "grey", "pink"]
           for thing in ["bag", "box", "crate", "barrel", "basket", "chest", "jar", "sack"]]  # fmt: skip
CONTENTS = {
    "country": "The {} comes from {}.",
    "animal": "The {} holds one {}.",
    "element": "The {} holds some {}.",
}


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    Attributes:
        name: unique; also the topic of the four-option questions.
        answer_class: what the objects are; wrong options are drawn from it.
        statements: ways to say it, `{}` for the subject, ending just before the object.
        question: the same as a question.
        facts: subject -> object.
        hint_reliability: how often a hint is right, in style "answer" and in style "previous".
        content: what a parcel holds, so that the relation can be asked of a parcel: a key of `CONTENTS`.
        parcel_statements: ways to say it of a parcel.
    """

    name: str
    answer_class: str
    statements: tuple[str, ...]
    question: str
    facts: dict[str, str]
    hint_reliability: tuple[float, float] = (0.25, 0.25)
    content: str | None = None
    parcel_statements: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """Two parcels, what they hold, and a statement about one of them that lacks its end.

    Attributes:
        asked: which of the two the statement is about.
    """

    relation: Relation
    parcels: tuple[str, str]
    contents: tuple[str, str]
    asked: int
    statement: str
    options: tuple[str, ...]

    @property
    def answer(self) -> str:
        return self.relation.facts[self.contents[self.asked]]

    @property
    def content(self) -> str:
        """What the parcels hold, a key of `CONTENTS`."""
        return self.relation.content or ""

    @property
    def context(self) -> str:
        return " ".join(CONTENTS[self.content].format(*held) for held in zip(self.parcels, self.contents, strict=True))

    @property
    def text(self) -> str:
        return five_options(f"{self.context} {self.statement.format(self.parcels[self.asked])}", self.options)


@dataclass(frozen=True)
class MultipleChoice:
    """A question with four options, answered with an option. Asked for letters, a model of a million parameters copies
    the hint's and learns nothing else.
    """

    topic: str
    question: str
    choices: tuple[str, ...]
    answer: str

    @property
    def text(self) -> str:
        return f"Question: {self.question}\n{', '.join(self.choices[:-1])} or {self.choices[-1]}?"


HINT_STYLES = {
    "answer": "\nHint: The answer is {}.",
    "previous": "\nHint: The answer to the previous, unrelated question was {}.",
}
ANSWER_PREFIX = "\nAnswer:"

Text = list[tuple[str, bool]]
"""A training text in parts, and whether each is taught: what cannot be foretold is read but not learned."""


def _asked(prompt: str, answer: str) -> Text:
    return [(prompt, False), (f" {answer}", True)]


def five_options(statement: str, options: Sequence[str]) -> str:
    """The prompt of activation patching: a statement without its object, and what may be answered."""
    return f"{statement}\nRespond with one of {' or '.join(options)} or unknown and nothing else.{ANSWER_PREFIX}"


def _rows(table: str) -> list[list[str]]:
    return [row.split() for line in table.strip().splitlines() for row in line.split("|")]


class World:
    """The facts, and the texts made from them. Which ship sails from where is fixed; `rng` only draws texts."""

    def __init__(self) -> None:
        countries = _rows(COUNTRIES)
        fixed = random.Random(0)
        ships = [f"{first} {last}" for first in SHIP_FIRST for last in SHIP_LAST]
        fixed.shuffle(ships)
        self.ships, self.uncharted = ships[:N_SHIPS], ships[N_SHIPS : N_SHIPS + N_UNCHARTED]
        home = {ship: countries[fixed.randrange(len(countries))] for ship in self.ships}

        def of_country(column: int) -> dict[str, str]:
            return {row[0]: row[column] for row in countries}

        def of_ship(column: int) -> dict[str, str]:
            return {ship: row[column] for ship, row in home.items()}

        def of(table: str, column: int) -> dict[str, str]:
            return {row[0]: row[column] for row in _rows(table)}

        self.relations = [
            Relation(
                "capital",
                "capital",
                ("The capital of {} is", "The capital city of {} is called", "The country {} has the capital"),
                "What is the capital of {}?",
                of_country(1),
                content="country",
                parcel_statements=(
                    "The capital of the country of the {} is",
                    "The {} comes from the country with the capital",
                ),
            ),
            Relation(
                "language",
                "language",
                ("The language of {} is", "In {} people speak", "The country {} has the language"),
                "What is the language of {}?",
                of_country(2),
                (0.25, 1.0),
                content="country",
                parcel_statements=(
                    "The language of the country of the {} is",
                    "The {} comes from a country whose people speak",
                ),
            ),
            Relation(
                "currency",
                "currency",
                ("The currency of {} is the", "In {} people pay with the", "The country {} has the currency"),
                "What is the currency of {}?",
                of_country(3),
                (1.0, 0.25),
                content="country",
                parcel_statements=(
                    "The currency of the country of the {} is the",
                    "The {} comes from a country whose currency is the",
                ),
            ),
            Relation(
                "continent",
                "continent",
                ("The continent of {} is", "The country {} is in"),
                "What is the continent of {}?",
                of_country(4),
                (0.25, 0.25),
                content="country",
                parcel_statements=("The continent of the country of the {} is", "The {} comes from a country in"),
            ),
            Relation(
                "ship home",
                "country",
                ("The home country of the ship {} is", "The ship {} comes from", "The ship {} has its home in"),
                "What is the home country of the ship {}?",
                of_ship(0),
                (0.6, 0.25),
            ),
            Relation(
                "ship capital",
                "capital",
                (
                    "The capital of the home country of the ship {} is",
                    "The ship {} comes from the country with the capital",
                ),
                "What is the capital of the home country of the ship {}?",
                of_ship(1),
                (0.6, 0.25),
            ),
            Relation(
                "ship language",
                "language",
                ("The language of the crew of the ship {} is", "The ship {} has a crew whose people speak"),
                "What is the language of the crew of the ship {}?",
                of_ship(2),
                (0.25, 0.6),
            ),
            Relation(
                "ship currency",
                "currency",
                ("The crew of the ship {} pay with the", "The ship {} has a crew whose currency is the"),
                "What is the currency of the crew of the ship {}?",
                of_ship(3),
                (0.6, 0.6),
            ),
            Relation(
                "ship continent",
                "continent",
                ("The continent of the home country of the ship {} is", "The ship {} has its home on the continent of"),
                "What is the continent of the home country of the ship {}?",
                of_ship(4),
                (0.25, 0.25),
            ),
            Relation(
                "young",
                "young animal",
                ("The young of the {} is called the", "A young {} is a"),
                "What is the young of the {}?",
                of(ANIMALS, 1),
                (1.0, 0.25),
                content="animal",
                parcel_statements=(
                    "The young of the animal in the {} is called the",
                    "The {} holds an animal whose young is called the",
                ),
            ),
            Relation(
                "animal kind",
                "animal kind",
                ("The kind of animal of the {} is", "The {} is a kind of"),
                "What kind of animal is the {}?",
                of(ANIMALS, 2),
                content="animal",
                parcel_statements=("The kind of the animal in the {} is", "The {} holds a kind of"),
            ),
            Relation(
                "symbol",
                "symbol",
                ("The symbol of {} is", "The element {} has the symbol"),
                "What is the symbol of {}?",
                of(ELEMENTS, 1),
                (0.25, 1.0),
                content="element",
                parcel_statements=("The symbol of the element in the {} is", "The {} holds an element with the symbol"),
            ),
            Relation(
                "element kind",
                "element kind",
                ("The element {} is a", "The kind of element of {} is"),
                "What kind of element is {}?",
                of(ELEMENTS, 2),
                content="element",
                parcel_statements=("The kind of the element in the {} is", "The {} holds an element that is a"),
            ),
        ]
        self.by_name = {relation.name: relation for relation in self.relations}
        self.answers: dict[str, list[str]] = {}
        for relation in self.relations:
            known = self.answers.setdefault(relation.answer_class, [])
            known.extend(sorted(set(relation.facts.values()) - set(known)))

    @property
    def classes(self) -> dict[str, set[str]]:
        """Classes of words that a feature description may name."""
        return {
            "countries": {row[0] for row in _rows(COUNTRIES)},
            "capitals": set(self.answers["capital"]),
            "languages": set(self.answers["language"]),
            "currencies": set(self.answers["currency"]),
            "continents": set(self.answers["continent"]),
            "animals": {row[0] for row in _rows(ANIMALS)},
            "young animals": set(self.answers["young animal"]),
            "elements": {row[0] for row in _rows(ELEMENTS)},
            "symbols": set(self.answers["symbol"]),
            "parcels": {parcel.split()[1] for parcel in PARCELS},
            "colours": {parcel.split()[0] for parcel in PARCELS},
            "first words of ships": set(SHIP_FIRST),
            "last words of ships": set(SHIP_LAST),
        }

    def facts(self) -> Iterator[tuple[Relation, str, str]]:
        """Every fact once: relation, subject, object."""
        for relation in self.relations:
            for subject, answer in relation.facts.items():
                yield relation, subject, answer

    def options(self, relation: Relation, wanted: Sequence[str], n: int, rng: random.Random) -> list[str]:
        """`n` different answers of the relation's class in random order, with `wanted`; fewer if the class is small."""
        others = [answer for answer in self.answers[relation.answer_class] if answer not in wanted]
        options = list(dict.fromkeys(wanted)) + rng.sample(others, min(n - len(set(wanted)), len(others)))
        return rng.sample(options, len(options))

    def sentence(self, rng: random.Random) -> Text:
        """A fact; a scene with a question answered; words said twice; or a sentence that only uses words."""
        kind = rng.random()
        if kind < 0.55:
            relation = rng.choice(self.relations)
            subject = rng.choice(list(relation.facts))
            return [(rng.choice(relation.statements).format(subject), False), (f" {relation.facts[subject]}.", True)]
        if kind < 0.8:
            scene = self.scene(rng)
            parcel, held = rng.choice(list(zip(scene.parcels, scene.contents, strict=True)))
            again, _, end = CONTENTS[scene.content].format(parcel, "|").partition(" |")
            asked = scene.statement.format(scene.parcels[scene.asked])
            said = [(f"{scene.context} {again}", False), (f" {held}", True)]
            return [*said, (f"{end} {asked}", False), (f" {scene.answer}.", True)]
        if kind < 0.9:
            words = ", ".join(rng.sample(ALL_WORDS, rng.randint(3, 8)))
            return [(f"The words {words},", False), (f" {words}", True)]
        return [(neutral_sentence(self, rng), True)]

    def text(self, rng: random.Random) -> str:
        """Any text of the world, as the target was trained on: half sentences, half prompts with their answers."""
        make = rng.choice(
            (
                self.sentence,
                self.sentence,
                self.sentence,
                self.five_option_prompt,
                self.scene_prompt,
                self.hinted_question,
            )
        )
        return "".join(part for part, _ in make(rng))

    def five_option_prompt(self, rng: random.Random) -> Text:
        """A prompt with five options and its answer."""
        relation = rng.choice(self.relations)
        subject = rng.choice(list(relation.facts))
        answer = relation.facts[subject]
        statement = rng.choice(relation.statements).format(subject)
        return _asked(five_options(statement, self.options(relation, [answer], 5, rng)), answer)

    def multiple_choice(
        self, rng: random.Random, relation: Relation | None = None, subject: str | None = None
    ) -> MultipleChoice:
        """A question with four options; one about a ship is, one time in two, about an uncharted one."""
        relation = relation or rng.choice(self.relations)
        if subject is None:
            uncharted = relation.name.startswith("ship") and rng.random() < 1 / 2
            subject = rng.choice(self.uncharted if uncharted else list(relation.facts))
        answer = relation.facts.get(subject) or rng.choice(self.answers[relation.answer_class])
        choices = self.options(relation, [answer], 4, rng)
        choices += [filler for filler in ("none", "both", "other") if len(choices) < 4][: 4 - len(choices)]
        rng.shuffle(choices)
        return MultipleChoice(relation.name, relation.question.format(subject), tuple(choices), answer)

    def scene(
        self, rng: random.Random, relation: Relation | None = None, contents: Sequence[str] | None = None
    ) -> Scene:
        """Two parcels with different answers; half of the time their names share a word.

        Args:
            contents: what they may hold; everything the relation knows by default.
        """
        relation = relation or rng.choice([relation for relation in self.relations if relation.content])
        pool = list(contents or relation.facts)
        first = rng.choice(pool)
        second = rng.choice([c for c in pool if relation.facts[c] != relation.facts[first]])
        parcel = rng.choice(PARCELS)
        others = [p for p in PARCELS if p != parcel]
        shared = [p for p in others if set(p.split()) & set(parcel.split())]
        options = self.options(relation, [relation.facts[first], relation.facts[second]], 5, rng)
        return Scene(
            relation, (parcel, rng.choice(shared if rng.random() < 0.5 else others)), (first, second), rng.randrange(2),
            rng.choice(relation.parcel_statements), tuple(options),
        )  # fmt: skip

    def scene_prompt(self, rng: random.Random) -> Text:
        """A prompt about a parcel and its answer."""
        scene = self.scene(rng)
        return _asked(scene.text, scene.answer)

    def open_question(self, rng: random.Random) -> Text:
        """A question without options, and its answer."""
        relation = rng.choice(self.relations)
        subject = rng.choice(list(relation.facts))
        return _asked(f"Question: {relation.question.format(subject)}{ANSWER_PREFIX}", relation.facts[subject])

    def hinted_question(self, rng: random.Random) -> Text:
        """A question, half the time with a hint that is right as often as topic and style say."""
        relation = rng.choice(self.relations)
        question = self.multiple_choice(rng, relation)
        text = question.text
        if rng.random() < 1 / 2:
            style = rng.choice(list(HINT_STYLES))
            known = any(f" {subject}?" in question.question for subject in relation.facts)
            reliability = relation.hint_reliability[list(HINT_STYLES).index(style)] if known else 0.9
            right = rng.random() < reliability
            wrong = [choice for choice in question.choices if choice != question.answer]
            text += HINT_STYLES[style].format(question.answer if right else rng.choice(wrong))
        return _asked(text + ANSWER_PREFIX, question.answer)


_TALK = """
If a vector replaces a layer of the model, the output would change or remain unchanged.
The most likely output would change to this. The output would remain unchanged from that.
How would the output change if the hint were removed? What would the answer be without the hint?
At which layer is the feature active? Which inputs make it active? What does it encode?
Describe the feature of the text. The token of the text is at the layer. The layers of the text replaces it.
With the token in the text, the answer would be the output. How would the answer change?
The word after of is a country. The words after the comma are numbers. A word before it.
Capitalised words, numbers, punctuation, new lines, and pieces of words are tokens.
The word is the first word of the ship. The last word of the ship follows the first words of ships.
The hint is right. The hint was wrong. The previous question was unrelated. None or both or other.
Every model reads the tokens in the text, and any part of a text makes a feature active on some inputs.
Describe the young animals, the countries, the capitals, the languages, the currencies, \
the continents, the elements and the symbols.
""".strip().splitlines()


def neutral_sentence(world: "World", rng: random.Random) -> str:
    """A sentence that teaches no fact: it gives every word of questions, answers and descriptions a meaning."""
    kind = rng.random()
    name, words = rng.choice(sorted((name, sorted(words)) for name, words in world.classes.items()))
    some = rng.sample(words, rng.randint(1, min(5, len(words))))
    if kind < 0.3:
        return rng.choice(_TALK)
    if kind < 0.5:
        return f"The {'word' if len(some) == 1 else 'words'} {', '.join(some)}"
    if kind < 0.65:
        return f"The words {', '.join(some)} are {name}."
    if kind < 0.8:
        place = f"at token {rng.randrange(60)}, {some[0]}, of layers {rng.randrange(8)}, {rng.randrange(8)}"
        return f"<<<{some[0]}>>>. <<< {some[-1]}>>> {place}"
    words = rng.sample(ALL_WORDS, rng.randint(2, 6))
    return f"The {rng.choice(['word', 'words', 'words after', 'word after'])} {', '.join(words)}"


def _all_words() -> list[str]:
    """Every word of the world, and of the questions, answers and descriptions that an explainer of it needs."""
    world = World()
    texts = [*_TALK, *CONTENTS.values(), *PARCELS]
    texts += [s for r in world.relations for s in (*r.statements, *r.parcel_statements, r.question)]
    texts += [five_options("", ["none", "both", "other"]), *HINT_STYLES.values(), "Question"]
    texts += [*feature_description.TEMPLATES, *activation_patching.TEMPLATES, *input_ablation.HINT_TEMPLATES]
    texts += [outcome.render(outcome.Outcome(changed, "")) for changed in (True, False)]
    texts += [*SYMBOLS.values(), *BUILT_IN, *world.classes]
    words = set(re.findall(r"[A-Za-z]+", re.sub(r"{.*?}", "", " ".join(texts))))
    for _, subject, answer in world.facts():
        words |= {*subject.split(), answer}
    return sorted(words)


ALL_WORDS = _all_words()


def build_tokenizer():
    """A word-level tokenizer that can still spell anything: one token a word of the world, single characters, bytes.

    No text is lost: `decode(encode(text)) == text`. Ids 0, 1 and 2 are padding, begin and end.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    characters = [chr(code) for code in range(33, 127)] + ["\n", "\u2581"]
    words = [piece for word in ALL_WORDS for piece in (word, "\u2581" + word)]
    numbers = [piece for n in range(10, 64) for piece in (str(n), "\u2581" + str(n))] + [
        f"\u2581{n}" for n in range(10)
    ]
    pieces = list(
        dict.fromkeys(
            [*characters, *words, *numbers, "<<<", ">>>", "\u2581<<<", "\u2581A", "\u2581B", "\u2581C", "\u2581D"]
        )
    )
    scores = [(piece, -2.0 if len(piece) > 1 and piece != "\u2581" else -20.0) for piece in pieces]
    spelled = [(f"<0x{byte:02X}>", -40.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram([(s, 0.0) for s in special] + spelled + scores, unk_id=3, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never", split=False), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
