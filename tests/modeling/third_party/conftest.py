"""A tokenizer with Llama 3's chat, and checkpoints of tiny models saved as other projects save them."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from battery import tiny_model
from third_party_checkpoints import CHAT, LLAMA_3, RESERVED


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-level BPE with Llama 3's chat template; `?`, ` ?` and the mark ㈎ are one token each."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", *LLAMA_3, *RESERVED]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(
        ["The capital of Spain is Madrid ? ? ? ? Layer: 1 What does the word mean ? ?"] * 3, trainer
    )
    bpe.add_tokens([AddedToken("㈎", normalized=False)])
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=[*LLAMA_3, *RESERVED],
        chat_template=CHAT,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture
def save_base(tokenizer, tmp_path):
    """Function that saves a tiny random model of an architecture with the tokenizer, and returns the directory."""

    def save(architecture, name="base"):
        tiny_model(architecture).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def save_adapter(save_base, tmp_path):
    """Function that saves a random LoRA adapter as peft does, and returns the directory."""

    def save(architecture, name, change=lambda model: None, save_embedding_layers=False, **options):
        model = tiny_model(architecture)
        model.config._name_or_path = model.name_or_path = str(save_base(architecture))
        change(model)
        torch.manual_seed(1)
        peft = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear", **options))
        for parameter_name, parameter in peft.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.1)
        peft.save_pretrained(tmp_path / name, save_embedding_layers=save_embedding_layers)
        return tmp_path / name

    return save
