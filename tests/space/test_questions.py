"""A question put three ways, asked directly."""

import pytest

import questions
from selfexplain.errors import SelfExplainError
from selfexplain.tiny.world import World


def example(show, task, index):
    return {name: value for name, value in show.examples[task][index].items() if name != "note"}


def feature(show, index):
    return questions.ask_feature(show, **example(show, "feature", index))


def patch(show, index):
    return questions.ask_patch(show, **example(show, "patch", index))


def ablation(show, index):
    return questions.ask_ablation(show, **example(show, "ablation", index))


def test_examples_of_reading_are_what_their_notes_say(show):
    homes = World().by_name["ship home"].facts
    fact = feature(show, 0)
    assert fact.explanation.text == f"the word {homes['Brave Falcon']}" and fact.after == homes["Brave Falcon"]
    assert homes["Brave Falcon"] not in show.examples["feature"][0]["text"]
    hidden = feature(show, 1)
    assert hidden.explanation.text == f"the word {homes['Iron Star']}"
    assert homes["Iron Star"] not in (show.examples["feature"][1]["text"], hidden.after)
    kept = feature(show, 2)
    assert kept.explanation.text == "the word Nepal" and kept.after == "rupee"
    failed = feature(show, 3)
    assert failed.after == "puppy" and not {"puppy", "dog"} & set(failed.explanation.text.split())


def test_an_answer_about_a_token_comes_with_its_control_and_evidence(show):
    trial = feature(show, 0)
    assert trial.control.text != trial.explanation.text and trial.control_from
    assert trial.by_layer[3] == trial.explanation.text
    assert len(trial.by_layer) == len(show.explainer.config.layers_of(trial.task)) == 5
    assert max(trial.shades) == trial.shades[8] == pytest.approx(1)
    assert all(0 <= shade <= 1 + 1e-5 for each in trial.exemplars for shade in each.activations)
    assert 0 < trial.explanation.confidence < 1


def test_examples_of_patching_are_what_their_notes_say(show):
    for index in (0, 1):
        trial = patch(show, index)
        assert trial.explanation.correct and trial.explanation.changed and not trial.control.correct
    still = patch(show, 2)
    assert still.before == still.after and not still.explanation.correct


def test_examples_of_removing_are_what_their_notes_say(show):
    believed, ignored, failed = (ablation(show, index) for index in range(3))
    assert believed.before == "Ankara" and believed.after == "Dhaka" and believed.explanation.correct
    assert ignored.before == ignored.after == "Yerevan" and ignored.explanation.correct
    assert failed.explanation.correct is False


def test_the_map_holds_what_single_patches_give(show):
    chosen = example(show, "patch", 0)
    found = questions.ask_map(show, chosen["text"], chosen["source"], chosen["source_token"])
    assert len(found.actual) == len(found.predicted) == len(found.tokens) and len(found.blocks) == 4
    for token, block in ((4, 0), (4, 1), (len(found.tokens) - 1, 3)):
        trial = questions.ask_patch(show, chosen["text"], chosen["source"], found.blocks[block], token, token)
        assert found.actual[token][block] == (trial.before != trial.after)
        assert (found.predicted[token][block] > 0.5) == trial.explanation.changed


def test_texts_of_other_lengths_share_one_vector(show):
    found = questions.ask_map(show, "The capital of Peru is", "In Japan people speak", 2)
    assert len(found.actual) == len(show.tokens("The capital of Peru is"))


def test_a_feature_of_the_browser_is_asked_about(show):
    trial = questions.ask_direction(show, show.features[0])
    assert trial.explanation.text and trial.prompt.count("<activation>") == 1


@pytest.mark.parametrize(
    ("ask", "arguments", "told"),
    [
        (questions.ask_feature, ("  ", 0, 0), "empty"),
        (questions.ask_feature, ("word " * 400, 0, 0), "characters"),
        (questions.ask_feature, ("a b " * 60, 0, 0), "tokens"),
        (questions.ask_feature, ("The capital", 8, 0), "no layer 8; they are numbered 0 to 7"),
        (questions.ask_feature, ("The capital", 0, 3), "no token 3; they are numbered 0 to 2"),
        *(
            (questions.ask_patch, ("The capital", "Peru", layers, 0, 0), "neighbours in ascending order, from 0 to 7")
            for layers in ((), (0, 9), (0, 2), (0, 0), (3, 2), (-1,), (7, 8), (0,) * 2000)
        ),
        (questions.ask_patch, ("The capital", "Peru", (0,), 0, 9), "token of the other text 9"),
        (questions.ask_map, ("a b " * 40, "Peru", 0), "room for 64"),
        (questions.ask_ablation, ("The capital", "Lima"), "occurs 0 times"),
        (questions.ask_ablation, ("The capital", "The capital"), "whole text"),
    ],
)
def test_what_cannot_be_asked_is_told(show, ask, arguments, told):
    with pytest.raises(SelfExplainError, match=told):
        ask(show, *arguments)
