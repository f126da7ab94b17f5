"""Questions about vectors of the residual stream."""

import pytest

from asking import reference
from asking.feature import ask_direction, ask_feature
from selfexplain.errors import SelfExplainError
from selfexplain.tiny.world import World


def ask_example(show, index):
    example = show.examples["feature_description"][index]
    return ask_feature(show, example.text, example.layer, example.token)


def test_the_notes_of_the_curated_examples_are_true(show):
    homes = World().by_name["ship home"].facts
    fact = ask_example(show, 0)
    assert fact.explanation.text == f"the word {homes['Brave Falcon']}" and fact.after == homes["Brave Falcon"]
    assert homes["Brave Falcon"] not in show.examples["feature_description"][0].text
    intermediate = ask_example(show, 1)
    assert intermediate.explanation.text == f"the word {homes['Iron Star']}"
    assert homes["Iron Star"] not in (show.examples["feature_description"][1].text, intermediate.after)
    topic = ask_example(show, 2)
    assert topic.explanation.text == "the word Nepal" and topic.after == "rupee"
    incorrect = ask_example(show, 3)
    assert incorrect.after == "puppy" and not {"puppy", "dog"} & set(incorrect.explanation.text.split())


def test_a_trial_has_a_control_and_evidence(show):
    trial = ask_example(show, 0)
    assert trial.control.text != trial.explanation.text and trial.control_from
    assert trial.by_layer[3] == trial.explanation.text
    assert len(trial.by_layer) == len(show.explainer.config.layers_of(trial.task)) == 5
    assert max(trial.shades) == trial.shades[8] == pytest.approx(1)
    assert all(0 <= shade <= 1 + 1e-5 for exemplar in trial.exemplars for shade in exemplar.activations)
    assert 0 < trial.explanation.confidence < 1
    assert 0 < trial.explanation.score < 1 and trial.explanation.correct is None


def test_an_sae_feature_is_asked_about_by_its_direction(show):
    trial = ask_direction(show, show.features[0])
    assert trial.explanation.text and trial.prompt.count("<activation>") == 1


def test_reference_texts_run_in_batches_and_only_once(show, monkeypatch):
    batches = []
    run_target = reference.capture

    def count(model, ids, *arguments):
        batches.append(len(ids))
        return run_target(model, ids, *arguments)

    monkeypatch.setattr(reference, "capture", count)
    reference.reference_texts.cache_clear()
    for text in ("The currency of Chile is the", "The capital of Peru is"):
        ask_feature(show, text, 4, -1)
    assert sum(batches) == len(show.texts) and max(batches) <= reference.BATCH_SIZE
    assert len(batches) == -(-len(show.texts) // reference.BATCH_SIZE)


@pytest.mark.parametrize(
    ("layer", "token", "message"),
    [
        (8, 0, "There is no layer 8. Give a number from 0 to 7"),
        (0, 3, "There is no token 3. Give a number from 0 to 2"),
        (7, 0, r"not trained on layer 7. Pick one of these layers: \[0, 1, 2, 3, 4\]"),
    ],
)
def test_an_invalid_layer_or_token_is_an_error(show, layer, token, message):
    with pytest.raises(SelfExplainError, match=message):
        ask_feature(show, "The capital", layer, token)
