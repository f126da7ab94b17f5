"""The residual stream of a corpus in batches."""

import pytest
import torch

from selfexplain.errors import SelfExplainError
from selfexplain.features.residuals import residual_batches
from selfexplain.target.capture import capture


def test_residual_batches_are_block_outputs_that_mark_special_tokens_and_padding(target, token_ids):
    seen = 0
    for batch in residual_batches(target, token_ids, [0, 2], "test"):
        assert not batch.sinks.any()
        for row, index in enumerate(batch.sequences.tolist()):
            ids = token_ids[index]
            expected = [0 < position < len(ids) for position in range(batch.words.shape[1])]
            assert batch.keep[:, row].tolist() == [expected] * 2
            if seen % 50 == 0:
                alone = capture(target.model, torch.tensor([ids]), [0, 2])[:, 0]
                assert torch.allclose(batch.hidden[:, row, : len(ids)], alone, atol=1e-5)
            seen += 1
    assert seen == len(token_ids)


def test_activations_that_are_not_finite_raise_an_error(target, token_ids, monkeypatch):
    def broken(model, input_ids, layers, mask=None):
        hidden = capture(model, input_ids, layers, mask)
        hidden[1, 0, 1, 5] = torch.nan
        return hidden

    monkeypatch.setattr("selfexplain.features.residuals.capture", broken)
    with pytest.raises(SelfExplainError, match=r"after block 2 at token 1 of text .* not finite"):
        list(residual_batches(target, token_ids[:5], [0, 2], "test"))
