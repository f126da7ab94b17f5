"""Test the texts and the tokenizer of the embedded world."""

import hashlib
import json
import random
import re
from collections import defaultdict

import pytest

from selfexplain.features.describers.offline import describe
from selfexplain.groundtruth.splits import split_of
from selfexplain.tasks import activation_patching, feature_description, input_ablation, outcome
from selfexplain.tiny.facts import read_facts
from selfexplain.tiny.sources import world_pairs, world_questions
from selfexplain.tiny.tokenizer import ALL_WORDS, build_tokenizer
from selfexplain.tiny.world import World


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def world_tokenizer():
    return build_tokenizer()


@pytest.mark.parametrize(
    "text",
    [
        "The ship Silver Falcon comes from Norway.",
        "<<<Paris>>> <<< Oslo>>>",
        "a  b\n\n\tc",
        "héllo 日本 🙂",
        "x=12345, 07",
        " lead and trail ",
    ],
)
def test_the_tokenizer_encodes_any_text_without_loss(world_tokenizer, text):
    assert world_tokenizer.decode(world_tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_each_word_of_texts_questions_and_answers_is_one_token(world, world_tokenizer):
    rng = random.Random(0)
    texts = [world.text(rng) for _ in range(500)]
    texts += [
        activation_patching.question(texts[0], [2, 3], 17, " Silver", t).prompt.replace("<activation>", "")
        for t in range(3)
    ]
    texts += [feature_description.question(3, t).prompt.replace("<activation>", "") for t in range(4)]
    texts += [input_ablation.question("", template=t).prompt for t in range(2)]
    texts += [outcome.render(outcome.Outcome(changed, " Paris")) for changed in (True, False)]
    for text in texts:
        tokens = [
            token.strip("\u2581") for token in world_tokenizer.convert_ids_to_tokens(world_tokenizer(text)["input_ids"])
        ]
        for word in re.findall(r"[A-Za-z]+", text):
            assert word in tokens, (word, text)


def test_descriptions_contain_only_words_of_the_vocabulary(world, world_tokenizer):
    [(description, _)] = describe(
        [{"tokens": [" Paris", ",", " Rome", "."], "activations": [1.0, 0.0, 1.0, 0.0]}], world.classes
    )
    tokens = world_tokenizer.convert_ids_to_tokens(
        world_tokenizer(f" {description}", add_special_tokens=False)["input_ids"]
    )
    assert all(len(token.strip("\u2581")) > 1 or token == "," for token in tokens)


def test_every_word_occurs_in_the_corpus(world):
    rng = random.Random(0)
    occurring = set(re.findall(r"[A-Za-z]+", " ".join(world.text(rng) for _ in range(20_000))))
    assert set(ALL_WORDS) <= occurring


def test_no_text_states_the_home_of_an_uncharted_ship(world):
    charted = {subject for relation in world.relations for subject in relation.facts}
    assert len(world.uncharted) == 18 and not set(world.uncharted) & charted
    rng, answers_to = random.Random(0), defaultdict(set)
    for text in (world.text(rng) for _ in range(20_000)):
        if any(ship in text for ship in world.uncharted):
            question, _, answer = text.partition("\nAnswer: ")
            if "Hint:" not in question:
                answers_to[question.splitlines()[0]].add(answer)
    assert len(answers_to) > 50 and all(question.startswith("Question: ") for question in answers_to)
    # Each time the question is drawn, its answer is drawn again.
    assert sum(len(answers) > 1 for answers in answers_to.values()) > 0.8 * len(answers_to)


def test_pairs_share_relation_options_and_split(world):
    for pair in world_pairs(world, 200, seed=0):
        relation, other = pair.clean.group.partition(":")[0], pair.source.group.partition(":")[0]
        assert relation == other and pair.clean.group != pair.source.group
        assert split_of(pair.clean.group, 0) == split_of(pair.source.group, 0)
        assert pair.options[0] != pair.options[1]
        begin, end = pair.clean.subject
        assert pair.clean.text[begin:end] in {pair.clean.group.partition(": ")[2], *read_facts().parcels}
        assert pair.clean.text.partition("\n")[2] == pair.source.text.partition("\n")[2]


def test_hinted_questions_differ_only_by_their_hint(world):
    places = []
    for question in world_questions(world, 400, seed=0):
        assert question.full_text.replace(question.hint, "") == question.ablated_text
        assert len(set(question.choices)) == 4 and question.answer in question.choices
        assert f" {question.hinted}." in question.hint
        places.append(question.choices.index(question.hinted))
    assert all(places.count(place) > 60 for place in range(4))


def sha256(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def test_texts_pairs_and_questions_are_those_that_the_shipped_models_were_trained_on(world):
    """The hashes were computed with the code that trained the shipped models."""
    rng = random.Random(0)
    assert sha256([world.text(rng) for _ in range(200)]) == (
        "fcfe76ec85b8e431a5021e35c8aae0c58cdf943ab51b364003b45d669f74fbea"
    )
    pairs = [
        [pair.clean.text, pair.clean.group, list(pair.clean.subject), pair.source.text, list(pair.options)]
        for pair in world_pairs(world, 200, 0)
    ]
    assert sha256(pairs) == "65112603fde5060465c647fb97d12e23e533b9183ce11125e9e505606e69fa95"
    questions = [[q.full_text, q.ablated_text, q.answer, q.hinted, q.group] for q in world_questions(world, 200, 0)]
    assert sha256(questions) == "0b852d629b183e7b964c7acb9e767880457916c18501492e7c0ab23767e6aaf5"


def test_the_vocabulary_is_that_of_the_shipped_models(world_tokenizer):
    assert sha256(ALL_WORDS) == "01b8c9fd36e41683a49ee0f6665c27a1bda5d80b70f6acb919cef79c1a2826e2"
    assert sha256(sorted(world_tokenizer.get_vocab().items())) == (
        "b64f16b4e6b89ccacd43f215a63458547750435710422698bd33d50231e05c9b"
    )
