"""Tokenise texts as the target reads them, and show tokens as text."""

import re
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from selfexplain.errors import SelfExplainError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REPLACEMENT = "\ufffd"  # what tokenizers show for bytes that are not a whole character
_METASPACE = "\u2581"  # what SentencePiece writes for a space


def named_templates(tokenizer: "PreTrainedTokenizerBase") -> dict[str, str]:
    """Return the chat templates of a tokenizer by name. A single template has the name "default"."""
    templates = tokenizer.chat_template
    if isinstance(templates, list | tuple):
        return {template["name"]: template["template"] for template in templates}
    if isinstance(templates, Mapping):
        return dict(templates)
    return {} if templates is None else {"default": templates}


def default_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the chat template for questions.

    Raises:
        SelfExplainError: the tokenizer has no chat template, or several of which none is named "default".
    """
    templates = named_templates(tokenizer)
    if "default" in templates:
        return templates["default"]
    if not templates:
        raise SelfExplainError(
            "chat is True, but the tokenizer has no chat template. Set tokenizer.chat_template, or pass chat=False."
        )
    raise SelfExplainError(
        f"The tokenizer has the chat templates {', '.join(templates)}, and none is named 'default'. Set "
        "tokenizer.chat_template to one of them, or pass chat=False."
    )


def added_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """Return the token ids that a tokenizer adds before and after every text, such as `<s>` and `</s>`."""
    framed, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    for begin in range(len(framed) - len(plain) + 1):
        if framed[begin : begin + len(plain)] == plain:
            return framed[:begin], framed[begin + len(plain) :]
    return [], []


def encode_text(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Return the token ids of a text up to its last character.

    Tokens that the tokenizer adds before a text are included, unless the text spells out the beginning-of-text token
    itself, or is a rendered chat whose template does not write them. Tokens that it adds after a text are not: the next
    token would be the one after the end of the text.
    """
    return _before(tokenizer, text) + tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_with_spans(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the token ids of a text, as `encode_text` does, and the `(begin, end)` characters of each token.

    Added tokens have empty spans. For tokenizers without offsets the spans are derived from the decoded tokens.

    Raises:
        SelfExplainError: the tokenizer has no offsets, and its tokens do not decode to the text.
    """
    before = _before(tokenizer, text)
    if not tokenizer.is_fast:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return before + ids, [(0, 0)] * len(before) + _decoded_spans(tokenizer, text, ids)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return before + encoded["input_ids"], [(0, 0)] * len(before) + encoded["offset_mapping"]


def continuation(tokenizer: "PreTrainedTokenizerBase", text: str, added: str) -> list[int] | None:
    """Return the tokens of `added` after a text, tokenised together with it.

    None if `added` is empty, or if its first token would merge with the last token of the text.
    """
    ids, together = encode_text(tokenizer, text), encode_text(tokenizer, text + added)
    return together[len(ids) :] if added.strip() and together[: len(ids)] == ids else None


def _before(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """The token ids that the tokenizer adds before a text.

    None if the text begins with them, or if it is a rendered chat whose template does not write them.
    """
    before, _ = added_tokens(tokenizer)
    is_begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return [] if is_begun or (before and _is_chat_without_begin(tokenizer, text)) else before


def _is_chat_without_begin(tokenizer: "PreTrainedTokenizerBase", text: str) -> bool:
    """Whether a text has the frame of the chat template, and the template does not begin with the `bos_token`."""
    from jinja2 import TemplateError

    content = "|content|"
    turns = [{"role": role, "content": content} for role in ("system", "user")]
    for messages in (turns[1:], turns) if "default" in named_templates(tokenizer) else ():
        try:
            chat = tokenizer.apply_chat_template(
                messages,
                chat_template=default_template(tokenizer),
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        except (TemplateError, TypeError):
            continue  # `render` reports it, or the template has no system role
        begin, end = chat.partition(content)[0], chat.rpartition(content)[2]
        if tokenizer.bos_token is not None and chat.startswith(tokenizer.bos_token):
            return False
        if begin and end and text.startswith(begin) and end in text[len(begin) :]:
            return True
    return False


def _decoded_spans(tokenizer: "PreTrainedTokenizerBase", text: str, ids: list[int]) -> list[tuple[int, int]]:
    """Spans of tokens, from the length of the text that the tokens up to each one decode to."""
    ends = [0]
    for n_tokens in range(1, len(ids) + 1):
        decoded = tokenizer.decode(ids[:n_tokens], clean_up_tokenization_spaces=False).rstrip(_REPLACEMENT)
        start = len(text) - len(text.lstrip()) if not text.startswith(decoded) else 0  # decoding may strip a space
        if not text.startswith(decoded, start):
            raise SelfExplainError(
                f"The tokenizer {type(tokenizer).__name__} has no character offsets, and its tokens decode to "
                f"{decoded[-40:]!r}, which is not in {text[:80]!r}. Use the fast version of the tokenizer."
            )
        ends.append(max(ends[-1], start + len(decoded)))
    return list(pairwise(ends))


def token_text(tokenizer: "PreTrainedTokenizerBase", token: int) -> str:
    r"""Return the text of one token, with its leading space.

    A token that is a part of a character is shown as its bytes, such as `\xe6\x97`, because all such tokens decode to
    the same replacement character.
    """
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    piece = tokenizer.convert_ids_to_tokens(token)
    if isinstance(piece, str) and piece.startswith(_METASPACE) and not text.startswith(" "):
        return " " + text  # decoding removes the space before the first token
    return _piece_bytes(piece, text) if _REPLACEMENT in text else text


def _piece_bytes(piece: str | bytes | None, text: str) -> str:
    """The bytes of a piece of the vocabulary as text; `text` itself if they are unknown."""
    if isinstance(piece, str) and (byte := re.fullmatch("<0x([0-9A-Fa-f]{2})>", piece)):
        piece = bytes([int(byte[1], 16)])
    elif isinstance(piece, str) and set(piece) <= set(_byte_of_character()):
        piece = bytes(_byte_of_character()[character] for character in piece)
    return piece.decode("utf-8", "backslashreplace") if isinstance(piece, bytes) else text


@cache
def _byte_of_character() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + n): byte for n, byte in enumerate(hidden)}
