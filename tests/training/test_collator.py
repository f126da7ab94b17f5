"""Tokenised rows and the batches made from them."""

from copy import deepcopy

import pytest
import torch

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.tasks import feature_description
from selfexplain.training.collator import SelfExplainerCollator, tokenize


@pytest.fixture
def explainer(target):
    return SelfExplainerForCausalLM.from_base(deepcopy(target.model), target.tokenizer)


def row(completion="the word dog"):
    question = feature_description.question(1)
    return {
        "prompt": question.prompt,
        "placeholder_offsets": question.placeholder_offsets,
        "completion": completion,
        "activations": [torch.ones(32)],
        "activation_layers": [1],
    }


def test_only_the_completion_and_the_end_of_text_are_in_the_loss(explainer):
    tokens, tokenizer = tokenize(row(), explainer.processor, 128), explainer.processor.tokenizer
    completion = [*tokenizer("the word dog", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    n_prompt = tokens["length"] - len(completion)
    assert tokens["input_ids"][n_prompt:] == completion
    assert tokens["labels"] == [-100] * n_prompt + completion
    assert tokens["input_ids"][:n_prompt] == explainer.processor.encode_row(row())[0]
    assert tokens["positions"] == explainer.processor.encode_row(row())[1]


def test_a_row_longer_than_the_context_is_refused(explainer):
    length = tokenize(row(), explainer.processor, 128)["length"]
    assert tokenize(row(), explainer.processor, length)["length"] == length
    with pytest.raises(SelfExplainError, match=f"has {length} tokens, but the context holds {length - 1}"):
        tokenize(row(), explainer.processor, length - 1)


def test_a_tokenizer_without_an_end_of_text_is_refused(explainer):
    explainer.processor.tokenizer = deepcopy(explainer.processor.tokenizer)
    explainer.processor.tokenizer.eos_token = None
    with pytest.raises(SelfExplainError, match="has no end-of-text token"):
        tokenize(row(), explainer.processor, 128)


def test_the_loss_ignores_prompt_and_padding(explainer):
    collator = SelfExplainerCollator(explainer.processor)
    short, long = (
        each | tokenize(each, explainer.processor, 128) for each in (row(), row("the word dog and the word river"))
    )
    batch, alone = collator([short, long]), collator([short])
    labels = batch["labels"][0]
    assert (labels[batch["attention_mask"][0] == 0] == -100).all() and (batch["attention_mask"][0] == 0).any()
    assert labels[labels != -100].tolist() == [label for label in short["labels"] if label != -100]
    padded = {name: value[:1] for name, value in batch.items()}
    with torch.no_grad():
        assert explainer(**alone).loss.item() == pytest.approx(explainer(**padded).loss.item(), abs=1e-5)
