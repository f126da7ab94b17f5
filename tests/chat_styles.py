"""Small tokenizers of the kinds that published models use, each with the chat format of such a model."""

import json
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "user: Layer: 9 ? What is the capital of France? Layer: 3 ? ? The capital is Paris.",
    "<|user|> <start_of_turn> [INST] assistant system model ### USER: ASSISTANT: <|im_start|>\n\n",
    "Once there was a small dog who lived in a big house near the river. 12 345 6789",
]
_GPT_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _byte_level(control, words=_LLAMA_WORDS):
    """Byte-level BPE, as in GPT-2, Llama 3, Qwen and Mistral's tekken."""
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(words), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS * 2, trainers.BpeTrainer(vocab_size=500, special_tokens=control, initial_alphabet=alphabet)
    )
    return bpe


def _metaspace(control, prepend):
    """BPE with byte fallback on text with spaces as U+2581, as in Llama 2, Mistral and Gemma.

    Args:
        control: control tokens.
        prepend: where a space is prepended: "each" part between control tokens, the "first" part of the text, "always"
            unless there is one, or "never".
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(TEXTS * 2, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", *control]))
    model = json.loads(trained.to_str())["model"]
    vocabulary = model["vocab"]
    for piece in ["\n", *(f"<0x{byte:02X}>" for byte in range(256))]:
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [tuple(pair) for pair in model["merges"]]
    bpe = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if prepend in ("first", "always"):
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    else:
        replace = [normalizers.Replace(" ", "\u2581")]
        bpe.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), *replace] if prepend == "each" else replace
        )
    strip = [] if prepend == "never" else [decoders.Strip(" ", 1, 0)]
    bpe.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return bpe


def _unigram(control, prepend):
    """Unigram with control tokens in its vocabulary, as SentencePiece writes it."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=["<unk>", *control], unk_token="<unk>")
    trained.train_from_iterator([*TEXTS, "\n\u65e5\u672c\u00e9 .,'/[]{}xyz"] * 3, trainer)
    pieces = [tuple(piece) for piece in json.loads(trained.to_str())["model"]["vocab"]]
    unigram = Tokenizer(models.Unigram([*pieces, ("\u2581?", -3.0)], unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    unigram.decoder = decoders.Metaspace(prepend_scheme=prepend, split=False)
    return unigram


def _tokenizer(backend, control, template, bos="<s>", eos="</s>", adds=("<s>",), rstrip=(), text_control=()):
    """A transformers tokenizer that adds the tokens `adds` before every text and writes chats with `template`."""
    ids = {token: backend.token_to_id(token) for token in control}
    backend.post_processor = processors.TemplateProcessing(
        single=" ".join([*adds, "$A"]), special_tokens=[(token, ids[token]) for token in adds]
    )
    backend.add_special_tokens(
        [AddedToken(t, rstrip=t in rstrip, normalized=False) for t in control if t not in text_control]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=eos, pad_token=eos, chat_template=template,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _turns(turn, begin="", answer=""):
    """A template: `begin`, one `turn` per message with `r` for its role and `t` for its text, and `answer`."""
    return f"{begin}{{% for m in messages %}}{{% set r, t = m['role'], m['content'] %}}{turn}{{% endfor %}}" + (
        f"{{% if add_generation_prompt %}}{answer}{{% endif %}}"
    )


_CHATML = _turns(
    "{{ '<|im_start|>' + r + '\n' + t + '<|im_end|>\n' }}",
    answer="{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
_LLAMA_3 = _turns(
    "{{ '<|start_header_id|>' + r + '<|end_header_id|>\n\n' + (t | trim) + '<|eot_id|>' }}",
    begin="{{ '<|begin_of_text|>' }}",
    answer="{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
)
_INST = "{{ bos_token }}" + _turns("{{ '[INST] ' + (t | trim) + ' [/INST]' }}")
_INST_CLOSE = "{{ bos_token }}" + _turns("{{ '[INST]' + t + '[/INST]' }}")
_GEMMA = _turns(
    "{{ '<start_of_turn>' + r + '\n' + (t | trim) + '<end_of_turn>\n' }}",
    begin="{{ bos_token }}",
    answer="{{ '<start_of_turn>model\n' }}",
)
_VICUNA = _turns("{{ 'USER: ' + t + ' ' }}", begin="{{ bos_token }}A chat. ", answer="ASSISTANT:")
_ZEPHYR = _turns("{{ '<|user|>\n' + t + eos_token + '\n' }}", answer="<|assistant|>\n")
_PHI_3 = _turns("{{ '<|user|>\n' + t + '<|end|>\n' }}", begin="{{ bos_token }}", answer="<|assistant|>\n")
_USER = _turns("{{ r + ': ' + t + '\n' }}", begin="{{ bos_token }}", answer="assistant: ")

_LLAMA_3_CONTROL = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
_S = ["<s>", "</s>"]
_PHI_CONTROL = [*_S, "<|user|>", "<|assistant|>", "<|end|>"]
_STYLES = {
    "chatml": lambda: _tokenizer(
        _byte_level(["<|im_start|>", "<|im_end|>", "<think>", "</think>"]),
        ["<|im_start|>", "<|im_end|>", "<think>", "</think>"], _CHATML, None, "<|im_end|>", (),
    ),
    "llama 2": lambda: _tokenizer(_metaspace(_S, "each"), _S, _INST),
    "llama 2, first": lambda: _tokenizer(_metaspace(_S, "first"), _S, _INST),
    "llama 3": lambda: _tokenizer(
        _byte_level(_LLAMA_3_CONTROL), _LLAMA_3_CONTROL, _LLAMA_3, "<|begin_of_text|>", "<|eot_id|>",
        ("<|begin_of_text|>",),
    ),
    "mistral v1": lambda: _tokenizer(_metaspace(_S, "always"), _S, _INST),
    "mistral v3": lambda: _tokenizer(
        _metaspace([*_S, "[INST]", "[/INST]"], "first"), [*_S, "[INST]", "[/INST]"],
        _INST_CLOSE.replace("'[INST]'", "'[INST] '"),
    ),
    "tekken": lambda: _tokenizer(
        _byte_level([*_S, "[INST]", "[/INST]"]), [*_S, "[INST]", "[/INST]"], _INST_CLOSE
    ),
    "gemma": lambda: _tokenizer(
        _metaspace([*_S, "<start_of_turn>", "<end_of_turn>"], "never"),
        [*_S, "<start_of_turn>", "<end_of_turn>"], _GEMMA,
    ),
    "vicuna": lambda: _tokenizer(_metaspace(_S, "each"), _S, _VICUNA),
    "zephyr": lambda: _tokenizer(_metaspace(_S, "each"), _S, _ZEPHYR),
    "phi 3": lambda: _tokenizer(
        _metaspace(_PHI_CONTROL, "each"), _PHI_CONTROL, _PHI_3, rstrip=("<|user|>", "<|assistant|>", "<|end|>")
    ),
    "unigram, first": lambda: _tokenizer(_unigram(_S, "first"), _S, _USER),
    "unigram, always": lambda: _tokenizer(_unigram(_S, "always"), _S, _USER),
    "byte-level with a space": lambda: _tokenizer(_byte_level(_S), _S, _USER),
    "gpt-2": lambda: _tokenizer(_byte_level(["<s>"], _GPT_WORDS), ["<s>"], None, "<s>", "<s>", ()),
    "gpt-2 with a beginning": lambda: _tokenizer(_byte_level(_S, _GPT_WORDS), _S, None),
    "llama 2 without a template": lambda: _tokenizer(_metaspace(_S, "first"), _S, None),
}  # fmt: skip
STYLES = tuple(_STYLES)
"""Names of the styles."""


@cache
def styled(name):
    """Return the tokenizer of a style. Do not change it."""
    return _STYLES[name]()
