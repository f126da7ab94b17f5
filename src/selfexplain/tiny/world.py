"""Draw texts about a small world: real geography, animals and elements, and invented ships and parcels.

Three kinds of text are made from the same facts (`facts.yaml`): sentences, prompts with five answer options (activation
patching), and questions with four options and a hint (input ablation).

A ship has a name of two words and a home country, so most questions about ships take two steps. Nothing is stated about
the home of an *uncharted* ship, so only a hint can help there. A parcel also has a name of two words, and its contents
are stated in the prompt, together with those of another parcel: the target has to combine the words of the name, find
the parcel in the text, and recall a fact about its contents. Without parcels, a model this small reads the answer from
the words in block 0, and no patch at a later block changes anything.
"""

import random
from collections.abc import Iterator, Sequence

from selfexplain.tiny.facts import Relation, read_facts
from selfexplain.tiny.prompts import ANSWER_PREFIX, HINT_STYLES, MultipleChoice, Scene, five_options
from selfexplain.tiny.tokenizer import ALL_WORDS

Text = list[tuple[str, bool]]
"""A training text in parts; the flag states whether the loss covers the part: only predictable parts are covered."""


class World:
    """The facts, and the texts drawn from them. The facts are fixed; `rng` only decides which text is drawn."""

    def __init__(self) -> None:
        self._facts = read_facts()
        self.relations = self._facts.relations
        self.by_name = {relation.name: relation for relation in self.relations}
        self.ships, self.uncharted = self._facts.ships, self._facts.uncharted
        self.answers = self._facts.answers
        self.classes = self._facts.classes

    def facts(self) -> Iterator[tuple[Relation, str, str]]:
        """Every fact once: relation, subject, object."""
        for relation in self.relations:
            for subject, answer in relation.facts.items():
                yield relation, subject, answer

    def options(self, relation: Relation, wanted: Sequence[str], n: int, rng: random.Random) -> list[str]:
        """`n` different answers of the relation's class, with `wanted`, in random order; fewer if it is small."""
        others = [answer for answer in self.answers[relation.answer_class] if answer not in wanted]
        options = list(dict.fromkeys(wanted)) + rng.sample(others, min(n - len(set(wanted)), len(others)))
        return rng.sample(options, len(options))

    def sentence(self, rng: random.Random) -> Text:
        """A fact, a scene with an answered question, a repeated list of words, or a neutral sentence."""
        kind = rng.random()
        if kind < 0.55:
            relation = rng.choice(self.relations)
            subject = rng.choice(list(relation.facts))
            return [(rng.choice(relation.statements).format(subject), False), (f" {relation.facts[subject]}.", True)]
        if kind < 0.8:
            return self._scene_sentence(rng)
        if kind < 0.9:
            words = ", ".join(rng.sample(ALL_WORDS, rng.randint(3, 8)))
            return [(f"The words {words},", False), (f" {words}", True)]
        return [(self._neutral_sentence(rng), True)]

    def _scene_sentence(self, rng: random.Random) -> Text:
        """A scene, the contents of one parcel repeated, and a question with its answer."""
        scene = self.scene(rng)
        parcel, content = rng.choice(list(zip(scene.parcels, scene.contents, strict=True)))
        repeated, _, end = self._facts.contents[scene.content].format(parcel, "|").partition(" |")
        statement = scene.statement.format(scene.parcels[scene.asked])
        return [
            (f"{scene.context} {repeated}", False),
            (f" {content}", True),
            (f"{end} {statement}", False),
            (f" {scene.answer}.", True),
        ]

    def _neutral_sentence(self, rng: random.Random) -> str:
        """A sentence without a fact. It gives a meaning to every word of questions, answers and descriptions."""
        kind = rng.random()
        name, words = rng.choice(sorted((name, sorted(words)) for name, words in self.classes.items()))
        some = rng.sample(words, rng.randint(1, min(5, len(words))))
        if kind < 0.3:
            return rng.choice(self._facts.neutral_sentences)
        if kind < 0.5:
            return f"The {'word' if len(some) == 1 else 'words'} {', '.join(some)}"
        if kind < 0.65:
            return f"The words {', '.join(some)} are {name}."
        if kind < 0.8:
            place = f"at token {rng.randrange(60)}, {some[0]}, of layers {rng.randrange(8)}, {rng.randrange(8)}"
            return f"<<<{some[0]}>>>. <<< {some[-1]}>>> {place}"
        words = rng.sample(ALL_WORDS, rng.randint(2, 6))
        return f"The {rng.choice(['word', 'words', 'words after', 'word after'])} {', '.join(words)}"

    def text(self, rng: random.Random) -> str:
        """Any text that the target was trained on: half of them sentences, half prompts with their answers."""
        makers = (
            self.sentence,
            self.sentence,
            self.sentence,
            self.five_option_prompt,
            self.scene_prompt,
            self.hinted_question,
        )
        return "".join(part for part, _ in rng.choice(makers)(rng))

    def five_option_prompt(self, rng: random.Random) -> Text:
        """A prompt with five options, and its answer."""
        relation = rng.choice(self.relations)
        subject = rng.choice(list(relation.facts))
        answer = relation.facts[subject]
        statement = rng.choice(relation.statements).format(subject)
        return _with_answer(five_options(statement, self.options(relation, [answer], 5, rng)), answer)

    def multiple_choice(
        self, rng: random.Random, relation: Relation | None = None, subject: str | None = None
    ) -> MultipleChoice:
        """A question with four options. Half of the questions about ships are about uncharted ones."""
        relation = relation or rng.choice(self.relations)
        if subject is None:
            is_uncharted = relation.name.startswith("ship") and rng.random() < 1 / 2
            subject = rng.choice(self.uncharted if is_uncharted else list(relation.facts))
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
            rng: source of randomness.
            relation: kind of the fact that is asked about; drawn at random if None.
            contents: what the parcels may hold; by default every subject of the relation.
        """
        relation = relation or rng.choice([relation for relation in self.relations if relation.content])
        pool = list(contents or relation.facts)
        first = rng.choice(pool)
        second = rng.choice([c for c in pool if relation.facts[c] != relation.facts[first]])
        parcel = rng.choice(self._facts.parcels)
        others = [p for p in self._facts.parcels if p != parcel]
        similar = [p for p in others if set(p.split()) & set(parcel.split())]
        options = self.options(relation, [relation.facts[first], relation.facts[second]], 5, rng)
        return Scene(
            relation, (parcel, rng.choice(similar if rng.random() < 0.5 else others)), (first, second),
            rng.randrange(2), rng.choice(relation.parcel_statements), tuple(options),
        )  # fmt: skip

    def scene_prompt(self, rng: random.Random) -> Text:
        """A prompt about a parcel, and its answer."""
        scene = self.scene(rng)
        return _with_answer(scene.text, scene.answer)

    def open_question(self, rng: random.Random) -> Text:
        """A question without options, and its answer."""
        relation = rng.choice(self.relations)
        subject = rng.choice(list(relation.facts))
        prompt = f"Question: {relation.question.format(subject)}{ANSWER_PREFIX}"
        return _with_answer(prompt, relation.facts[subject])

    def hinted_question(self, rng: random.Random) -> Text:
        """A question, half of the time with a hint that is correct as often as its topic and style determine."""
        relation = rng.choice(self.relations)
        question = self.multiple_choice(rng, relation)
        text = question.text
        if rng.random() < 1 / 2:
            style = rng.choice(list(HINT_STYLES))
            is_known = any(f" {subject}?" in question.question for subject in relation.facts)
            reliability = relation.hint_reliability[list(HINT_STYLES).index(style)] if is_known else 0.9
            is_correct = rng.random() < reliability
            others = [choice for choice in question.choices if choice != question.answer]
            text += HINT_STYLES[style].format(question.answer if is_correct else rng.choice(others))
        return _with_answer(text + ANSWER_PREFIX, question.answer)


def _with_answer(prompt: str, answer: str) -> Text:
    return [(prompt, False), (f" {answer}", True)]
