"""Next-token predictions of prompts of different lengths."""

import torch

from selfexplain.target.nexttoken import next_token_logits, next_tokens

TEXTS = ["The capital of France is", "Once", "The capital of Japan is", "Once there was a small"]


def test_logits_are_in_the_order_of_the_prompts(target):
    prompts = [target.encode(text) for text in TEXTS]
    logits = next_token_logits(target, prompts, batch_size=1)
    with torch.no_grad():
        expected = torch.stack([target.model(torch.tensor([ids])).logits[0, -1] for ids in prompts])
    torch.testing.assert_close(logits, expected)


def test_the_next_token_is_the_most_likely_one(target):
    logits = next_token_logits(target, [target.encode(text) for text in TEXTS])
    assert next_tokens(target, TEXTS) == logits.argmax(-1).tolist()
    assert next_tokens(target, []) == []
