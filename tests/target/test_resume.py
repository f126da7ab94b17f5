"""Batches of token spans, clean runs, and runs that resume from them."""

import pytest
import torch

from battery import tiny_model
from selfexplain.target import resume
from selfexplain.target.blocks import attention_and_mlp, decoder_blocks

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [20, 21, 22, 23], [30, 31, 32, 33, 34, 35]]


def test_batches_cover_every_span_once_with_little_padding():
    torch.manual_seed(0)
    spans = [(int(a), int(a) + int(n)) for a, n in torch.randint(1, 40, (3000, 2))]
    batches = list(resume.batches(spans, torch.device("cpu")))
    assert sorted(i for batch in batches for i in batch) == list(range(len(spans)))
    area = sum(len(b) * (max(spans[i][1] for i in b) - min(spans[i][0] for i in b)) for b in batches)
    small = len(batches) * resume.SMALL  # batches that are filled up
    assert area <= resume.PADDING * sum(b - a for a, b in spans) + small
    assert all(len(batch) <= resume.MAX_ROWS for batch in batches)


@pytest.mark.parametrize(
    ("spans", "sizes"),
    [
        ([(0, 5), (0, 256)], [2]),  # 512 tokens: a small batch may be padded
        ([(0, 5), (0, 257)], [1, 1]),
        ([(10, 20), (256, 266)], [2]),  # from the first start to the last end
        ([(10, 20), (257, 267)], [1, 1]),
        ([(0, 1000), (0, 1100), (0, 1130)], [3]),  # 3390 tokens for 3230: less than 6 % padding
        ([(0, 1000), (0, 1100), (0, 1200)], [2, 1]),
        ([(1000, 2000), (1000, 2100), (1000, 2200)], [2, 1]),
        ([(0, 240), (1, 10), (2, 10)], [2, 1]),
        ([(0, 2048)] * 3, [2, 1]),  # 4096 tokens per batch
        ([(0, 2049)] * 2, [1, 1]),
        ([(0, 1)] * 257, [256, 1]),  # 256 rows per batch
        ([(0, 400)] * 11 + [(0, 500)], [10, 1, 1]),  # padding is counted separately for each batch
        ([(0, 1000), (1, 11), (1, 11)], [1, 2]),
        ([], []),
    ],
)
def test_batches_hold_as_many_spans_as_the_limits_allow(spans, sizes):
    assert [len(batch) for batch in resume.batches(spans, CPU)] == sizes


@pytest.mark.parametrize(
    ("end", "device", "fill", "sizes"),
    [
        (1024, CUDA, True, [2]),  # 2048 tokens are little on a GPU
        (1025, CUDA, True, [1, 1]),
        (20, CPU, True, [2]),
        (20, CPU, False, [1, 1]),
        (20, CUDA, False, [1, 1]),
        (10, CPU, False, [2]),
    ],
)
def test_small_batches_are_filled_up_on_request(end, device, fill, sizes):
    spans = [(0, 10), (0, end)]
    assert [len(batch) for batch in resume.batches(spans, device, fill)] == sizes


def test_spans_of_similar_start_and_end_share_a_batch():
    spans = [(0, 300), (0, 10), (400, 410), (0, 290), (0, 12), (0, 302)]
    assert list(resume.batches(spans, CPU)) == [[1, 4], [3, 0, 5], [2]]


def test_prompts_are_padded_with_their_last_token():
    assert resume.padded([[1, 2, 3], [4], [5, 6]], CPU).tolist() == [[1, 2, 3], [4, 4, 4], [5, 6, 6]]


@pytest.fixture(params=["llama", "bloom", "gemma2"])
def model(request):
    return tiny_model(request.param)


@torch.no_grad()
def outputs_of(model, module, ids):
    """The output of a module on one prompt, `(T, d)`."""
    seen = []
    handle = module.register_forward_hook(lambda module, args, output: seen.append(output))
    model(torch.tensor([ids]), use_cache=False)
    handle.remove()
    return (seen[0][0] if isinstance(seen[0], tuple) else seen[0])[0]


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0]


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("site", ["residual", "attention"])
def test_a_clean_run_keeps_what_variants_need(model, site):
    clean = resume.clean_run(model, PROMPTS, [0, 2], site)
    blocks = decoder_blocks(model)
    assert clean.lengths.tolist() == [7, 4, 6] and clean.input_ids.shape == (3, 7)
    assert set(clean.outputs) == {0, 2} and set(clean.hidden) == ({0, 2} if site == "residual" else {1})
    assert len(clean.keys) == len(clean.values) == 4 and clean.logits.shape == (3, model.config.vocab_size)
    for row, ids in enumerate(PROMPTS):
        with torch.no_grad():
            cache = model(torch.tensor([ids]), use_cache=True).past_key_values
        assert_close(clean.logits[row], logits_of(model, ids)[-1])
        for layer, entry in enumerate(cache.layers):
            assert_close(clean.keys[layer][row, :, : len(ids)], entry.keys[0])
            assert_close(clean.values[layer][row, :, : len(ids)], entry.values[0])
        for layer, hidden in clean.hidden.items():
            assert_close(hidden[row, : len(ids)], outputs_of(model, blocks[layer], ids))
        if site == "attention" and model.config.model_type == "llama":
            for layer, output in clean.outputs.items():
                attention = attention_and_mlp(blocks[layer])[0]
                assert_close(output[row, : len(ids)], outputs_of(model, attention, ids))


def test_a_clean_run_without_cache_keeps_no_keys_and_values(model):
    clean = resume.clean_run(model, PROMPTS, cached=False)
    assert clean.keys == clean.values == [] and clean.hidden == {}
    assert_close(clean.logits[1], logits_of(model, PROMPTS[1])[-1])


@pytest.mark.parametrize("after", [-1, 0, 2])
@pytest.mark.parametrize("start", [0, 1, 3])
def test_resumed_logits_equal_those_of_full_runs(model, start, after):
    clean = resume.clean_run(model, PROMPTS, [0, 2])
    rows = torch.tensor([2, 0, 2])
    ids = clean.input_ids[rows, start:6]
    read = torch.tensor([[5 - start, 3 - start], [4 - start, 3 - start], [3 - start, 3 - start]])
    logits = resume.resume(model, clean, rows, start, after, ids, read)
    assert logits.dtype == torch.float32
    for row, positions, actual in zip(rows, read, logits, strict=True):
        assert_close(actual, logits_of(model, PROMPTS[row])[positions + start])


def test_variants_may_have_other_tokens_than_their_prompt(model):
    clean = resume.clean_run(model, PROMPTS)
    logits = resume.resume(
        model, clean, torch.tensor([0, 2]), 2, -1, torch.tensor([[40, 41], [42, 43]]), torch.ones(2, 1).long()
    )
    assert_close(logits[0, 0], logits_of(model, [*PROMPTS[0][:2], 40, 41])[-1])
    assert_close(logits[1, 0], logits_of(model, [*PROMPTS[2][:2], 42, 43])[-1])


def test_full_passes_read_the_last_position_or_the_given_ones(model):
    read = torch.tensor([[0, 6], [3, 1], [5, 5]])
    last, chosen = resume.full_forward(model, PROMPTS), resume.full_forward(model, PROMPTS, read=read)
    assert last.dtype == chosen.dtype == torch.float32
    for row, ids in enumerate(PROMPTS):
        expected = logits_of(model, ids)
        assert_close(last[row], expected[-1:])
        assert_close(chosen[row], expected[read[row]])


def test_logits_are_float32_in_any_precision():
    model = tiny_model("llama").bfloat16()
    clean = resume.clean_run(model, PROMPTS[:1])
    resumed = resume.resume(model, clean, torch.tensor([0]), 0, -1, clean.input_ids, torch.tensor([[6]]))
    full = resume.full_forward(model, PROMPTS[:1])
    assert clean.logits.dtype == resumed.dtype == full.dtype == torch.float32


def test_hooks_are_active_only_during_the_run(model):
    block, clean = decoder_blocks(model)[1], resume.clean_run(model, PROMPTS[:1], [1])
    before = logits_of(model, PROMPTS[0])

    def double(module, args, output):
        return (2 * output[0], *output[1:]) if isinstance(output, tuple) else 2 * output

    handle = block.register_forward_hook(double)
    expected = logits_of(model, PROMPTS[0])[-1]
    handle.remove()
    hooks = [(block, double)]
    assert_close(resume.full_forward(model, PROMPTS[:1], hooks)[0, 0], expected)
    ids, read = clean.input_ids, torch.tensor([[6]])
    for after in (-1, 1):
        logits = resume.resume(model, clean, torch.tensor([0]), 0, after, ids, read, hooks)
        assert_close(logits[0, 0], expected)
    assert not torch.allclose(before[-1], expected, atol=1e-3)
    assert torch.equal(logits_of(model, PROMPTS[0]), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_forward_that_accelerate_has_set_is_restored_after_an_error():
    module = torch.nn.Linear(2, 2)
    module.forward = placed = lambda x: x + 1
    with pytest.raises(KeyError, match="stop"), resume._replaced_forward(module, lambda x: x + 2):
        assert module(torch.zeros(1)) == 2
        raise KeyError("stop")
    assert module.forward is placed


def test_the_last_mlp_runs_only_at_the_positions_that_are_read(monkeypatch):
    model = tiny_model("llama")
    block, positions = decoder_blocks(model)[-1], torch.tensor([[4, 1], [0, 2]])
    hidden = torch.randn(2, 5, 32)
    with torch.no_grad():
        expected = block.mlp(hidden)
        with resume._last_mlp_at(block, positions, []):
            actual = block.mlp(hidden)
        with resume._last_mlp_at(block, positions, [block.mlp]):
            assert torch.equal(actual, block.mlp(hidden))
        for part in block.mlp.children():  # a hook inside the MLP needs all positions
            with resume._last_mlp_at(block, positions, [part]):
                assert torch.equal(expected, block.mlp(hidden))
        monkeypatch.setattr(resume, "attention_and_mlp", lambda block: None)  # a block with other parts
        with resume._last_mlp_at(block, positions, []):
            assert torch.equal(expected, block.mlp(hidden))
    for row in range(2):
        for position in range(5):
            is_read = position in positions[row]
            assert_close(actual[row, position], expected[row, position] * is_read)
