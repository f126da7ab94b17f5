"""Fixtures of all tests: a tiny random model with its tokenizer, and one finished run."""

import json
import os

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", WANDB_MODE="disabled")

import pytest

SENTENCES = [
    "The capital of France is Paris and the language of France is French.",
    "The capital of Japan is Tokyo and the currency of Japan is the yen.",
    "What is the capital of Spain? Answer with one of Paris, Tokyo, Madrid, Rome or unknown.",
    "Once there was a small dog who lived in a big house near the river.",
]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Use one thread: tiny tensors gain nothing from more, and parallel workers would compete for the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-level BPE with 512 entries. It encodes any text without loss; texts start with `<s>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )


@pytest.fixture
def target(tokenizer):
    """A new `Target` with a random LlamaForCausalLM: 4 layers of width 32, context 256. Tests may change it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from selfexplain.target.load import Target

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return Target(LlamaForCausalLM(config).eval(), tokenizer, name="tiny-random")


@pytest.fixture
def target_dir(target, tmp_path):
    """The same target as a model directory."""
    path = tmp_path / "tiny-random"
    target.model.save_pretrained(path)
    target.tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def finished(whole_run):
    """The directory of a finished run, in which nothing is faked. All tests share it: copy it to change it."""
    return whole_run[0]


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """The finished run, and how many models were in memory each time that one had been loaded.

    The first worker of pytest-xdist that needs the run computes it, and the others wait for it.
    """
    from filelock import FileLock

    from little import LITTLE, counting_models
    from selfexplain.pipeline.driver import run
    from selfexplain.runs.recipe import load_recipe

    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    run_dir, counts = shared / "whole_run", shared / "whole_run_models.json"
    with FileLock(shared / "whole_run.lock"):
        if not counts.is_file():
            with counting_models() as held:
                run(load_recipe("quickstart", LITTLE), run_dir)
            counts.write_text(json.dumps(held))
    return run_dir, json.loads(counts.read_text())
