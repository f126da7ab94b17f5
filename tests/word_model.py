"""A random Llama with a word-level tokenizer, a corpus of random words, and SAEs trained on them."""

import random

import pytest
import torch

from selfexplain.target.load import Target

NOUNS = ["cat", "dog", "bird", "ball", "tree", "house"]
WORDS = [*NOUNS, "the", "a", "sees", "likes", "hears", "red", "blue", "green", ".", ","]


@pytest.fixture(scope="session")
def target() -> Target:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", pad_token="<pad>", unk_token="<unk>", model_max_length=64
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        initializer_range=0.2,
    )
    return Target(LlamaForCausalLM(config).eval(), tokenizer, "local/tiny-llama")


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(4, 20))) for _ in range(300)]


@pytest.fixture(scope="session")
def token_ids(target: Target, corpus: list[str]) -> list[list[int]]:
    return target.tokenizer(corpus)["input_ids"]


@pytest.fixture(scope="session")
def trained(target, token_ids, tmp_path_factory):
    """A directory with one SAE of 48 features for each of the blocks 0 and 2."""
    from selfexplain.features.saes import train_saes

    out_dir = tmp_path_factory.mktemp("saes")
    train_saes(target, token_ids, [0, 2], out_dir, n_features=48, k=3, n_tokens=20_000, learning_rate=5e-3, seed=0)
    return out_dir


@pytest.fixture(scope="session")
def dictionaries(target, trained):
    from selfexplain.features.dictionary import load_dictionaries

    return load_dictionaries(str(trained), target, [0, 2], centers=dict)
