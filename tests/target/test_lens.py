"""The logit lens reads a vector with the target's own final norm and head."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from selfexplain.target.capture import capture
from selfexplain.target.lens import logit_lens
from selfexplain.target.load import Target


def gpt2(tokenizer):
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=3, n_head=4, n_positions=64)
    return Target(GPT2LMHeadModel(config).eval(), tokenizer, name="gpt2")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_lens_of_the_last_block_is_the_models_own_prediction(target, tokenizer, architecture):
    target = target if architecture == "llama" else gpt2(tokenizer)
    ids = torch.tensor([target.encode("The capital of France is Paris")])
    vectors = capture(target.model, ids, [-1])[0, 0]  # (T, d)
    read = list(logit_lens(target, vectors, batch_size=4))
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(read), target.model(ids).logits[0], rtol=1e-4, atol=1e-4)
    assert [len(part) for part in read] == [4] * (len(vectors) // 4) + [len(vectors) % 4] * bool(len(vectors) % 4)
