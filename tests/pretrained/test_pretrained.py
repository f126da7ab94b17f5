"""Real weights: capture, patches, hints, injection, quantisation, saving and merging."""

import random

import pytest
import torch

from selfexplain import SelfExplainerForCausalLM
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.target.ablation import answers, render
from selfexplain.target.blocks import decoder_blocks
from selfexplain.target.capture import capture
from selfexplain.target.load import load_target
from selfexplain.target.patching import Patch, run_patches

GREEDY = {
    "smollm2-135m": {
        "The capital of France is": " Paris.\n\nThe answer is: 201",
        "The mother tongue of Danielle Darrieux is": " French.",
    },
    "gemma-3-270m": {
        "The capital of France is": " the capital of the country of France",
        "Lima is the capital of": " Peru and is the largest city in Peru",
    },
}
"""Continuations by the dequantised weights, as far as they were read from other code."""
PROMPTS = ["The capital of France is", "Lima is the capital of", "The mother tongue of Danielle Darrieux is"]
N_PATCHES = 200
LORA = {"rank": 4, "alpha": 8, "target_modules": "attention"}


def greedy(target, text, n):
    ids = torch.tensor([target.encode(text)])
    with torch.no_grad():
        out = target.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False)
    return target.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_greedy_text(directory, pretrained):
    for text, continuation in GREEDY[directory.name].items():
        n = len(pretrained.tokenizer(continuation, add_special_tokens=False).input_ids)
        assert greedy(pretrained, text, n) == continuation


def test_capture_equals_the_hidden_states(pretrained):
    ids = torch.tensor([pretrained.encode(PROMPTS[0])])
    with torch.no_grad():
        states = pretrained.model(ids, output_hidden_states=True).hidden_states
    layers = range(pretrained.n_layers - 1)  # transformers applies the final norm to the last entry
    captured = capture(pretrained.model, ids, layers)
    assert torch.equal(captured, torch.stack(states[1:-1]))


@pytest.fixture(scope="module")
def patches(pretrained):
    """Patches of blocks, single layers and several positions, with activations of the other prompts."""
    rng = random.Random(0)
    prompts = [pretrained.encode(text) for text in PROMPTS]
    residual = [capture(pretrained.model, torch.tensor([ids]), range(pretrained.n_layers))[:, 0] for ids in prompts]
    chosen = []
    for index in range(N_PATCHES):
        prompt, source = rng.sample(range(len(prompts)), 2)
        first = rng.randrange(pretrained.n_layers)
        last = first if index % 2 else min(pretrained.n_layers - 1, first + rng.randrange(1, 8))
        positions = sorted(rng.sample(range(len(prompts[prompt])), 1 + index % 3))
        vectors = torch.stack([residual[source][last, min(n, len(prompts[source]) - 1)] for n in positions])
        chosen.append(Patch(prompt, tuple(range(first, last + 1)), tuple(positions), vectors))
    return prompts, chosen


def full_pass(target, ids, patch):
    """Log-probabilities of the next token in one forward pass of the whole prompt, written without this package."""

    def write(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, list(patch.positions)] = patch.vectors.to(hidden.dtype)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    blocks = decoder_blocks(target.model)
    handles = [blocks[layer].register_forward_hook(write) for layer in patch.layers]
    try:
        with torch.no_grad():
            return target.model(torch.tensor([ids]), use_cache=False).logits[0, -1].float().log_softmax(-1)
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture(scope="module")
def exact(pretrained, patches):
    return run_patches(pretrained, *patches)


def test_patches_equal_full_forward_passes(pretrained, patches, exact):
    (prompts, chosen), results = patches, exact
    assert results.method == "resumed" and results.check.flip_rate == 0
    for n, patch in enumerate(chosen):
        expected = full_pass(pretrained, prompts[patch.prompt], patch)
        token = int(results.ids[n])
        assert token == int(expected.argmax())
        assert float(results.log_probs[n]) == pytest.approx(float(expected[token]), abs=1e-3)


def test_few_patches_flip_in_bfloat16(directory, patches, exact, record_property):
    coarse = run_patches(load_target(str(directory), dtype="bfloat16"), *patches)
    flip_rate = (exact.ids != coarse.ids).double().mean().item()
    record_property("flip_rate_bfloat16", flip_rate)
    assert flip_rate < 0.15


QUESTIONS = [
    ("What is the capital of France?", ["Rome", "Paris", "Madrid", "Berlin"]),
    ("Which animal barks?", ["Dog", "Cat", "Fish", "Bird"]),
    ("What colour is grass?", ["Red", "Blue", "Green", "Black"]),
    ("How many legs does a spider have?", ["Two", "Four", "Six", "Eight"]),
    ("Which planet do we live on?", ["Mars", "Earth", "Venus", "Saturn"]),
    ("What do bees make?", ["Milk", "Bread", "Honey", "Cheese"]),
]


@pytest.mark.parametrize("system", [None, "Answer with one letter."])
def test_hints_move_the_answer_through_the_chat_template(pretrained, system):
    if not pretrained.tokenizer.chat_template:
        pytest.skip("the model has no chat template")
    texts, hinted = [], []
    for n, (question, options) in enumerate(QUESTIONS):
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
        texts.append(f"{question}\n{listed}")
        hinted.append("ABCD"[n % 4])
    rendered = [render(pretrained, text, system, "Answer:") for text in texts]
    turns = [{"role": "system", "content": system}] if system else []
    expected = pretrained.tokenizer.apply_chat_template(
        [*turns, {"role": "user", "content": texts[0]}], add_generation_prompt=True, tokenize=False
    )
    assert (
        pretrained.encode(rendered[0]) == pretrained.tokenizer(expected + "Answer:", add_special_tokens=False).input_ids
    )
    with_hint = [
        render(pretrained, f"{text}\nHint: The answer is {letter}", system, "Answer:")
        for text, letter in zip(texts, hinted, strict=True)
    ]
    plain, moved = (
        answers(pretrained, group, [list("ABCD")] * len(texts), "likelihood") for group in (rendered, with_hint)
    )
    gains = [
        after.option_log_probs["ABCD".index(letter)] - before.option_log_probs["ABCD".index(letter)]
        for before, after, letter in zip(plain, moved, hinted, strict=True)
    ]
    assert sum(gains) / len(gains) > 0.1


@pytest.mark.parametrize("site", ["embedding", "block_output"])
def test_vectors_are_read_back_where_they_were_written(pretrained, site):
    injection = InjectionConfig(site=site, norm="raw", block=3 if site == "block_output" else 0)
    explainer = SelfExplainerForCausalLM.from_base(pretrained.model, pretrained.tokenizer, injection)
    vector = capture(pretrained.model, torch.tensor([pretrained.encode(PROMPTS[0])]), [10])[0, 0, 0]
    assert vector.norm() > 100  # the first token's activation is very large in these models
    row = {
        "prompt": "What is <activation>?",
        "placeholder_offsets": [8],
        "activations": [vector],
        "activation_layers": [10],
    }
    batch = explainer.processor([row], return_tensors="pt")
    position = int(batch["activation_positions"][0, 0])
    read = {}

    def keep(module, args, output):
        read["vector"] = (args[0] if site == "embedding" else output[0] if isinstance(output, tuple) else output)[
            0, position
        ]

    block = decoder_blocks(pretrained.model)[0 if site == "embedding" else 3]
    handle = block.register_forward_hook(keep)
    with torch.no_grad():
        explainer(**batch)
    handle.remove()
    assert torch.allclose(read["vector"], vector, rtol=1e-5, atol=1e-4)


def test_an_explainer_is_saved_loaded_and_merged(directory, pretrained, tmp_path):
    explainer = SelfExplainerForCausalLM.from_base(str(directory), lora=LORA, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for parameter in (parameter for parameter in explainer.parameters() if parameter.requires_grad):
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    ids = torch.tensor([pretrained.encode(PROMPTS[0])])
    first = capture(pretrained.model, ids, [10])[0, 0, 0]  # the injection check also holds for very large activations
    row = {
        "prompt": "What is <activation>?",
        "placeholder_offsets": [8],
        "activations": [first],
        "activation_layers": [10],
    }
    explainer.golden_rows = [row]
    explainer.save_pretrained(tmp_path / "adapter")
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
    batch = explainer.processor([row], return_tensors="pt")
    with torch.no_grad():
        expected = explainer(**batch).logits
        assert torch.equal(loaded(**batch).logits, expected)
        with loaded.as_target() as base:
            assert torch.equal(base(ids).logits, pretrained.model(ids).logits)
        explainer.merge_and_save(tmp_path / "merged")
        merged = SelfExplainerForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
        assert (merged(**batch).logits - expected).abs().max() < 0.01


def test_the_base_in_nf4_reads_vectors_and_trains(directory, pretrained):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    explainer = SelfExplainerForCausalLM.from_base(str(directory), lora=LORA, quantization_config=quantization)
    vector = torch.randn(pretrained.d_model, generator=torch.Generator().manual_seed(0))
    row = {
        "prompt": "What is <activation>?",
        "placeholder_offsets": [8],
        "activations": [vector],
        "activation_layers": [10],
    }
    batch = explainer.processor([row], return_tensors="pt")
    logits = explainer(**batch).logits
    other = explainer(**{**batch, "activations": torch.zeros_like(batch["activations"])}).logits
    assert not torch.allclose(logits[:, -1], other[:, -1], atol=1e-2)
    logits[0, -1].log_softmax(-1)[0].backward()
    gradients = [parameter.grad for parameter in explainer.parameters() if parameter.requires_grad]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
