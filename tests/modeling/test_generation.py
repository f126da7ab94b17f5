"""Generation from a cache, in parts, and with assistant models equals generation from the whole prompt at once."""

import pytest
import torch
from transformers import DynamicCache

from battery import tiny_model
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 41, 51, 61, 71, 81, 42], [0, 0, 1, 43, 53, 63, 73, 83, 44, 54, 64, 74]])
MASK = (IDS != 0).long()
POSITIONS = torch.tensor([[3, 9], [5, 10]])
OPTIONS = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 4}
SITES = [("llama", "embedding", 0), ("bloom", "embedding", 0), ("llama", "block_output", 1), ("gpt2", "block_input", 2)]


def explainer_of(architecture, site, block, **contract):
    contract = InjectionConfig(site=site, block=block, **contract)
    return SelfExplainerForCausalLM.from_base(tiny_model(architecture), injection=contract)


@pytest.fixture(params=SITES, ids=lambda site: "-".join(map(str, site)))
def explainer(request):
    return explainer_of(*request.param)


def vector_inputs(positions=POSITIONS, seed=0):
    return {
        "activations": torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(seed))[
            : len(positions), : positions.shape[1]
        ],
        "activation_mask": torch.ones_like(positions, dtype=torch.bool),
        "activation_layers": torch.ones_like(positions),
        "activation_positions": positions,
        "marker_positions": torch.stack([positions - 1, positions + 1], -1),
    }


def generate(explainer, ids=IDS, **options):
    """The generated tokens and their logits `(B, T, vocabulary)`, with the cache."""
    options = {"attention_mask": (ids != 0).long(), **vector_inputs(), **OPTIONS, **options}
    output = explainer.generate(ids, return_dict_in_generate=True, output_logits=True, **options)
    return output.sequences, torch.stack(output.logits, 1), output.past_key_values


def assert_same(first, second):
    n = min(first[1].shape[1], second[1].shape[1])
    assert torch.equal(first[0][:, -n:], second[0][:, -n:])
    torch.testing.assert_close(first[1], second[1], atol=2e-5, rtol=1e-4)


def test_a_chat_continues_from_the_cache(explainer):
    """All tokens are given again, with the same vectors and a new one."""
    sequences, _, cache = generate(explainer)
    longer = torch.cat([sequences, torch.tensor([[45, 55, 65, 75], [46, 56, 66, 76]])], 1)
    positions = torch.cat([POSITIONS, torch.tensor([[18], [17]])], 1)
    expected = generate(explainer, longer, **vector_inputs(positions))
    assert_same(generate(explainer, longer, past_key_values=cache, **vector_inputs(positions)), expected)
    without = generate(explainer, longer, **vector_inputs(positions, seed=1))
    assert (expected[1] - without[1]).abs().max() > 1e-3


def test_only_the_new_tokens_are_given(explainer):
    sequences, _, cache = generate(explainer)
    new = torch.tensor([[45, 55, 65, 75], [46, 56, 66, 76]])
    # The last generated token is not in the cache.
    longer, new = torch.cat([sequences, new], 1), torch.cat([sequences[:, -1:], new], 1)
    first, second = vector_inputs(), vector_inputs(torch.tensor([[2], [3]]), seed=1)
    shifted = vector_inputs(torch.tensor([[2], [3]]) + longer.shape[1] - new.shape[1], seed=1)
    both = {name: torch.cat([first[name], shifted[name]], 1) for name in first}
    expected = generate(explainer, longer, **both)
    mask = (longer != 0).long()
    assert_same(generate(explainer, new, attention_mask=mask, past_key_values=cache, **second), expected)


@pytest.mark.parametrize("kept", [2, 4, 9])
def test_a_cropped_cache_is_filled_up(explainer, kept):
    expected = generate(explainer)
    cache = generate(explainer)[2]
    cache.crop(kept - cache.get_seq_length())
    assert cache.get_seq_length() == kept
    assert_same(generate(explainer, past_key_values=cache), expected)


@pytest.mark.parametrize("size", [1, 3, 4, 11, 12])
def test_the_prompt_is_read_in_chunks(explainer, size):
    assert_same(generate(explainer, prefill_chunk_size=size), generate(explainer))


def test_a_cache_and_chunks(explainer):
    expected, cache = generate(explainer), generate(explainer)[2]
    cache.crop(2 - cache.get_seq_length())
    assert_same(generate(explainer, past_key_values=cache, prefill_chunk_size=3), expected)


def test_the_tokens_around_a_slot_are_checked_before_the_prompt_is_cut():
    explainer = explainer_of("llama", "block_output", 1, neighbour_ids=(50, 70), markers=False)
    inputs = vector_inputs(torch.tensor([[3]]))
    ids = IDS[:1]
    expected = generate(explainer, ids, **inputs)
    for size in (3, 4):  # the chunks end before and after the slot
        assert_same(generate(explainer, ids, prefill_chunk_size=size, **inputs), expected)
    with pytest.raises(SelfExplainError, match=r"Row 0: the tokens around a vector are \[60, 80\]"):
        generate(explainer, ids, prefill_chunk_size=3, **vector_inputs(torch.tensor([[4]])))


def test_invalid_vectors_are_refused_before_the_prompt_is_cut(explainer):
    positions = torch.tensor([[3, 9], [5, 12]])
    for options in ({"prefill_chunk_size": 3}, {"past_key_values": generate(explainer)[2]}):
        with pytest.raises(SelfExplainError, match="Row 1, vector 1: position 12 was given"):
            generate(explainer, **vector_inputs(positions) | {"marker_positions": None}, **options)


def test_a_cache_that_does_not_fit_the_tokens_is_refused(explainer):
    cache = generate(explainer)[2]  # 15 tokens
    with pytest.raises(SelfExplainError, match=r"cache contains 15 tokens, and 12 tokens were given .* mask of 12\."):
        generate(explainer, past_key_values=cache)
    with pytest.raises(SelfExplainError, match=r"15 tokens, and 12 tokens were given .* mask of 20\."):
        generate(explainer, past_key_values=cache, attention_mask=torch.ones(2, 20, dtype=torch.long))


def test_a_loop_of_one_s_own_writes_the_vectors(explainer):
    """Without `is_first_iteration`, and with rows that change their order in the cache, as beams do."""
    expected, _, _ = generate(explainer, max_new_tokens=3)
    ids, mask, cache = IDS, MASK, DynamicCache(config=explainer.config.get_text_config())
    vectors = vector_inputs()
    for _ in range(3):
        inputs = explainer.prepare_inputs_for_generation(
            ids, past_key_values=cache, attention_mask=mask, use_cache=True,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            next_sequence_length=ids.shape[1] - cache.get_seq_length(), **vectors,
        )  # fmt: skip
        with torch.no_grad():
            token = explainer(**inputs).logits[:, -1].argmax(-1, keepdim=True)
        order = torch.tensor([1, 0])
        cache.reorder_cache(order)
        ids, mask = torch.cat([ids, token], 1)[order], torch.cat([mask, torch.ones_like(token)], 1)[order]
    assert torch.equal(ids[[1, 0]], expected)


@pytest.mark.parametrize("kind", ["plain", "explainer", "prompt lookup"])
def test_assisted_generation_gives_the_same_tokens(explainer, kind):
    ids, vectors = IDS[:1], {name: value[:1] for name, value in vector_inputs().items()}
    if kind == "prompt lookup":
        options = {"prompt_lookup_num_tokens": 2}
    else:
        assistant = explainer.language_model if kind == "plain" else explainer_of("llama", "embedding", 0)
        options = {"assistant_model": assistant}
    expected = generate(explainer, ids, max_new_tokens=8, **vectors)
    assert_same(generate(explainer, ids, max_new_tokens=8, **vectors, **options), expected)


def test_an_explainer_as_assistant_reads_the_vectors(explainer):
    """Its guesses are then those of the explainer itself, so all of them are accepted."""
    ids, vectors = IDS[:1], {name: value[:1] for name, value in vector_inputs().items()}
    explainer.generation_config.num_assistant_tokens = 5
    explainer.generation_config.num_assistant_tokens_schedule = "constant"
    explainer.generation_config.assistant_confidence_threshold = 0
    calls = []
    explainer.register_forward_pre_hook(lambda module, args: calls.append(1))
    generate(explainer, ids, max_new_tokens=8, assistant_model=explainer, **vectors)
    assert len(calls) <= 2 + 8  # two checks, and one pass of the assistant per token


@pytest.mark.parametrize("site", SITES)
def test_a_static_cache_gives_the_same_tokens(site):
    explainer = explainer_of(*site)
    assert_same(generate(explainer, cache_implementation="static"), generate(explainer))
