"""Readers of activation patching."""

import numpy as np
import pytest
import torch

from selfexplain.evaluation.readers import Material, NotAvailable, readers_of
from selfexplain.evaluation.readers.patching import _clean_values, _options
from selfexplain.groundtruth.builders.patching import BUILDER
from selfexplain.groundtruth.config import PatchingConfig
from selfexplain.groundtruth.sources import Pair, Prompt
from selfexplain.tasks.outcome import Outcome, parse

READERS = readers_of("activation_patching")
OPTIONS = ("Paris", "Tokyo", "Madrid")


def prompt(country):
    statement = f"The capital of {country} is"
    text = f"{statement}\nRespond with one of {' or '.join(OPTIONS)} or unknown and nothing else.\nAnswer:"
    begin = statement.index(country)
    return Prompt(text, country, (begin, begin + len(country)), len(statement))


@pytest.fixture
def rows(target):
    """The rows of every patch of four pairs."""
    pairs = [Pair(prompt(a), prompt(b), OPTIONS) for a, b in (("France", "Japan"), ("Japan", "Spain"))]
    pairs += [Pair(prompt("Spain"), prompt("France"), OPTIONS)]
    rows = BUILDER.rows(PatchingConfig(n_blocks=2), target, pairs, 0)[0]
    return [{**row, "changed": row["position"] > 20} for row in rows]  # this target's outputs never change


@pytest.fixture
def material(target, rows):
    return Material(rows, rows, {}, 0, lambda: target)


def test_clean_values_are_those_of_a_full_forward_pass(target, rows):
    values = _clean_values(target, rows)
    assert values.shape == (len(rows), 2)
    for row, (cosine, margin) in list(zip(rows, values, strict=True))[::17]:
        with torch.no_grad():
            output = target.model(torch.tensor([row["prompt_ids"]]), output_hidden_states=True)
        two = output.logits[0, -1].log_softmax(-1).topk(2).values
        assert margin == pytest.approx(float(two[0] - two[1]), abs=1e-4)
        if row["layers"][-1] < target.n_layers - 1:  # the last hidden state is normed
            hidden = torch.stack([output.hidden_states[layer + 1] for layer in row["layers"]]).mean(0)
            clean = hidden[0, row["position"]].numpy()
            vector = np.asarray(row["activations"][0], np.float32)
            expected = clean @ vector / np.linalg.norm(clean) / np.linalg.norm(vector)
            assert cosine == pytest.approx(expected, abs=1e-3)


def test_gradient_boosting_predicts_its_training_rows(material, rows):
    predicted = READERS["gradient_boosting"](material).answer(rows)
    changed = [row["changed"] for row in rows]
    assert np.mean(np.equal(predicted, changed)) > 0.9


@pytest.mark.parametrize("name", ["logit_lens_options", "logit_lens_vocabulary"])
def test_the_logit_lens_names_an_output_where_boosting_predicts_a_change(material, rows, name):
    verdicts = READERS["gradient_boosting"](material).answer(rows)
    outcomes = [parse(text) for text in READERS[name](material).answer(rows)]
    assert [outcome.changed for outcome in outcomes] == verdicts
    for outcome, row in zip(outcomes, rows, strict=True):
        assert (outcome.output == row["clean_output"].strip()) or outcome.changed
    firsts = {material.target.tokenizer.tokenize(f" {option}")[0].removeprefix("Ġ") for option in OPTIONS}
    if name == "logit_lens_options":
        assert {outcome.output for outcome in outcomes if outcome.changed} <= firsts


def test_substitution_runs_the_target_on_the_text_with_the_token_of_the_vector(target, rows):
    first = [row for row in rows if row["layers"][0] == 0]
    weight = target.model.get_input_embeddings().weight.detach()
    sources = [target.encode(row["source_prompt"])[row["source_position"]] for row in first]
    embedded = [
        {**row, "activations": weight[None, s].numpy()} for row, s in zip(first, sources, strict=True)
    ]  # vectors from which the lens reads the token exactly
    answers = READERS["substitution"](Material(embedded, embedded, {}, 0, lambda: target)).answer(embedded)
    for row, source, text in zip(embedded, sources, answers, strict=True):
        ids = list(row["prompt_ids"])
        ids[row["position"]] = source
        with torch.no_grad():
            output = int(target.model(torch.tensor([ids])).logits[0, -1].argmax())
        assert parse(text) == Outcome(output != row["clean_output_id"], target.tokenizer.decode([output]).strip())


def test_options_are_read_from_prompts_of_the_papers_form():
    assert _options(prompt("France").text) == list(OPTIONS)
    assert _options("Respond with one of a or b and nothing else.") == ["a", "b"]
    assert _options("The capital of France is") == []


def test_prompts_without_options_have_no_lens_over_options(target, rows):
    bare = [{**row, "target_prompt": "The capital of France is"} for row in rows]
    with pytest.raises(NotAvailable, match="the prompts list no answer options"):
        READERS["logit_lens_options"](Material(bare, bare, {}, 0, lambda: target))
