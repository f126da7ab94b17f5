"""The token lens reads which token a vector comes from."""

import torch

from selfexplain.evaluation.readers.token_lens import TokenLens, fit_maps


def test_a_linear_code_of_tokens_is_read_exactly_and_special_tokens_are_never_read(target):
    torch.manual_seed(0)
    weight = target.model.get_input_embeddings().weight.detach()
    code = torch.randn(2, 32, 32)  # one linear code per layer
    n_tokens = len(target.tokenizer)
    tokens = torch.randint(3, n_tokens, (400,))
    pairs = [(weight[tokens] @ code[layer], weight[tokens]) for layer in range(2)]
    lens = TokenLens(target, [3, 7], fit_maps(pairs, 1e-6), 1e-6)
    read = torch.arange(3, n_tokens)
    for layer, number in ((3, 0), (7, 1), (0, 0), (6, 1)):  # layers without a map use that of the nearest layer
        assert torch.equal(lens.nearest(weight[read] @ code[number], [layer] * len(read), 1)[:, 0], read)
    special = weight[:3] @ code[0]
    assert not set(lens.nearest(special, [3] * 3, 5).flatten().tolist()) & {0, 1, 2}
    assert lens.similarities(special, [3] * 3).shape == (3, len(lens.token_ids)) == (3, n_tokens - 3)
