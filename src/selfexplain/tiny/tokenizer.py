"""The word-level tokenizer of the embedded models."""

import re
from typing import TYPE_CHECKING

from selfexplain.features.grammar.words import SYMBOLS
from selfexplain.tasks import activation_patching, feature_description, input_ablation, outcome
from selfexplain.tiny.facts import read_facts
from selfexplain.tiny.prompts import HINT_STYLES, five_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Fixed, because the vocabulary of the embedded models depends on it.
BUILT_IN_CLASSES = ("punctuation", "numbers", "capitalised words")


def _all_words() -> list[str]:
    facts = read_facts()
    texts = [*facts.neutral_sentences, *facts.contents.values(), *facts.parcels]
    texts += [s for r in facts.relations for s in (*r.statements, *r.parcel_statements, r.question)]
    texts += [five_options("", ["none", "both", "other"]), *HINT_STYLES.values(), "Question"]
    texts += [*feature_description.TEMPLATES, *activation_patching.TEMPLATES, *input_ablation.HINT_TEMPLATES]
    texts += [outcome.render(outcome.Outcome(changed, "")) for changed in (True, False)]
    texts += [*SYMBOLS.values(), *BUILT_IN_CLASSES, *facts.classes]
    words = set(re.findall(r"[A-Za-z]+", re.sub(r"{.*?}", "", " ".join(texts))))
    for relation in facts.relations:
        for subject, answer in relation.facts.items():
            words |= {*subject.split(), answer}
    return sorted(words)


ALL_WORDS = _all_words()
"""Every word of the embedded world, and of the questions, answers and descriptions that its explainers need."""


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Build a tokenizer with one token per word of the world, and tokens for single characters and bytes.

    It can encode any text without loss: `decode(encode(text)) == text`. Ids 0, 1 and 2 are padding, begin and end.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    byte_tokens = [(f"<0x{byte:02X}>", -40.0) for byte in range(256)]
    vocabulary = [(token, 0.0) for token in special] + byte_tokens + _scored_pieces()
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never", split=False), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def _scored_pieces() -> list[tuple[str, float]]:
    """Characters, words, numbers and delimiters, with their unigram log-probabilities."""
    characters = [chr(code) for code in range(33, 127)] + ["\n", "\u2581"]
    words = [piece for word in ALL_WORDS for piece in (word, "\u2581" + word)]
    numbers = [piece for n in range(10, 64) for piece in (str(n), "\u2581" + str(n))]
    numbers += [f"\u2581{n}" for n in range(10)]
    delimiters = ["<<<", ">>>", "\u2581<<<", "\u2581A", "\u2581B", "\u2581C", "\u2581D"]
    pieces = dict.fromkeys([*characters, *words, *numbers, *delimiters])
    return [(piece, -2.0 if len(piece) > 1 and piece != "\u2581" else -20.0) for piece in pieces]
