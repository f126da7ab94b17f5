"""Tokenise a prompt as a whole, with places for vectors, and with control tokens in user text kept as text."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from jinja2 import TemplateError
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from selfexplain.errors import SelfExplainError
from selfexplain.target.tokens import added_tokens, default_template, named_templates

_USER_TEXT = "the user's text"
_NO_THINKING = {"enable_thinking": False, "thinking": False}
# Some chat templates print the current date. A fixed date keeps prompts the same as in training.
_FIXED_DATE = "{% macro strftime_now(format) %}01 January 2025{% endmacro %}"
# Added tokens of a copy of the tokenizer. Text before and after an added token is encoded separately.
_CUT, _SLOT = "<|selfexplain:cut|>", "<|selfexplain:slot|>"

Spans = Sequence[tuple[int, int]]


class Part(NamedTuple):
    """A part of a prompt between two slots.

    Attributes:
        text: the text.
        control_spans: character spans in which control tokens are encoded as such.
    """

    text: str
    control_spans: Spans = ()


class Slot(NamedTuple):
    """The place of a vector.

    Attributes:
        token: token id at which the vector is written.
        around: token ids before and after it; None without markers.
        text: text that stands for the vector in the prompt. If it is not exactly the token `token` there, or is None,
            the token is inserted, and the text before and after it is encoded separately.
    """

    token: int
    around: tuple[int, int] | None = None
    text: str | None = None


class EncodedPrompt(NamedTuple):
    """A tokenised prompt.

    Attributes:
        ids: token ids, with special tokens.
        positions: position of each slot in `ids`.
        completion: token ids of the completion.
    """

    ids: list[int]
    positions: list[int]
    completion: list[int]


@dataclass(frozen=True)
class _Tokens:
    """The tokens of a rendered prompt before the tokens of slots are inserted.

    Attributes:
        text: rendered text, with `_CUT` and `_SLOT`.
        ids: token ids of `text` without those of `_CUT`.
        positions: position of each slot in `ids`.
    """

    text: str
    ids: list[int]
    positions: list[int]


class PromptEncoder:
    """Encodes prompts with one tokenizer.

    The rendered prompt is tokenised as a whole, so its tokens equal those of `apply_chat_template(tokenize=True)`. Only
    two places divide it: a slot that is not a token of the text, and the spelling of a control token in user text,
    which is cut after its first character.

    Args:
        tokenizer: tokenizer.
        chat: whether a prompt is wrapped in a user turn of the tokenizer's chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat: bool):
        self.tokenizer = tokenizer
        self.chat = chat
        self._templates = named_templates(tokenizer)
        self._n_tokens = len(tokenizer)

    def is_for(self, tokenizer: PreTrainedTokenizerBase, chat: bool) -> bool:
        """Whether this encoder was made for these arguments, and the tokenizer has not changed since."""
        same = tokenizer is self.tokenizer and chat == self.chat
        return same and named_templates(tokenizer) == self._templates and len(tokenizer) == self._n_tokens

    def encode(self, parts: Sequence[Part], slots: Sequence[Slot], completion: str = "") -> EncodedPrompt:
        """Encode a prompt: parts of text with a slot between each two.

        Args:
            parts: texts, one more than slots.
            slots: places of the vectors.
            completion: text that continues the prompt. It is encoded together with the prompt; if that changed the
                tokens of the prompt, it is encoded as the text after a special token would be.

        Raises:
            SelfExplainError: the chat template does not contain the user's text unchanged.
        """
        n_control = self._n_control_in_frame + sum(
            len(self._controls.findall(part.text, begin, end)) for part in parts for begin, end in part.control_spans
        )
        for everywhere in (False, True):
            cut = [self._cut(part, everywhere) for part in parts]
            tokens = self._in_text(cut, slots) or self._inserted(cut, slots)
            in_slots = sum(tokens.ids[at] in self._control_ids for at in tokens.positions)
            if self._n_control(tokens.ids) <= n_control + in_slots:
                break
        begin = [] if self.chat else added_tokens(self.tokenizer)[0]
        ids, positions, start = list(begin), [], 0
        for slot, at in zip(slots, tokens.positions, strict=True):
            ids += tokens.ids[start:at]
            positions.append(len(ids) + (slot.around is not None))
            ids += [slot.token] if slot.around is None else [slot.around[0], slot.token, slot.around[1]]
            start = at + 1
        return EncodedPrompt(ids + tokens.ids[start:], positions, self._completion(tokens, completion))

    def encode_pieces(self, parts: Sequence[Part], slots: Sequence[Slot], completion: str = "") -> EncodedPrompt:
        """Encode a prompt as explainers without `whole_prompt` do: chat frame and parts are tokenised separately."""
        before, after = self._frame
        ids = self._plain(before) if self.chat else list(added_tokens(self.tokenizer)[0])
        positions = []
        for index, part in enumerate(parts):
            if index:
                slot = slots[index - 1]
                positions.append(len(ids) + (slot.around is not None))
                ids += [slot.token] if slot.around is None else [slot.around[0], slot.token, slot.around[1]]
            ids += [token for piece in self._cut(part).split(_CUT) for token in self._plain(piece)]
        return EncodedPrompt(ids + self._plain(after), positions, self._plain(completion))

    def first_id(self, text: str) -> int:
        """Return the first token id of a text on its own."""
        return self._ids(self._cut(Part(text)))[0]

    # ---------------------------------------------------------------- slots and completion

    def _in_text(self, parts: Sequence[str], slots: Sequence[Slot]) -> _Tokens | None:
        """The tokens of the prompt with the text of each slot in its place; None if a slot is not a token of it."""
        if any(slot.text is None for slot in slots):
            return None
        content, spans = parts[0], []
        for slot, part in zip(slots, parts[1:], strict=True):
            spans.append((len(content), len(content) + len(slot.text or "")))
            content += (slot.text or "") + part
        text, shift = self._render(content)
        spans = [(begin + shift, end + shift) for begin, end in spans]
        ids = self._ids(text)
        found = self._token_at_offsets(text, spans) if self.tokenizer.is_fast else self._token_after(text, ids, spans)
        if any(at is None or ids[at] != slot.token for at, slot in zip(found, slots, strict=True)):
            return None
        return _Tokens(text, ids, [at for at in found if at is not None])

    def _token_at_offsets(self, text: str, spans: Spans) -> list[int | None]:
        """The index of the token at each span, if exactly one token overlaps it and is inside."""
        reader = self._reader_of(text)
        encoded = reader(text, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        offsets = [offset for token, offset in pairs if token not in self._cut_ids(text)]
        found: list[int | None] = []
        for begin, end in spans:
            overlapping = [n for n, (a, b) in enumerate(offsets) if a < end and b > begin and a < b]
            alone = len(overlapping) == 1 and begin <= offsets[overlapping[0]][0] <= offsets[overlapping[0]][1] <= end
            found.append(overlapping[0] if alone else None)
        return found

    def _token_after(self, text: str, ids: Sequence[int], spans: Spans) -> list[int | None]:
        """The index of the token at each span, from the tokens of the text before and up to its end."""
        found: list[int | None] = []
        for begin, end in spans:
            before, upto = self._ids(text[:begin]), self._ids(text[:end])
            alone = len(upto) == len(before) + 1 and upto[:-1] == before and list(ids[: len(upto)]) == upto
            found.append(len(before) if alone else None)
        return found

    def _inserted(self, parts: Sequence[str], slots: Sequence[Slot]) -> _Tokens:
        """The tokens of the prompt with an added token in the place of each slot."""
        text, _ = self._render(_SLOT.join(parts))
        ids = self._ids(text)
        slot_id = self._reader.convert_tokens_to_ids(_SLOT) if slots else None
        return _Tokens(text, ids, [at for at, token in enumerate(ids) if token == slot_id])

    def _completion(self, prompt: _Tokens, completion: str) -> list[int]:
        """The tokens of a completion after a prompt."""
        n = len(prompt.ids)
        for everywhere in (False, True):
            cut = self._cut(Part(completion), everywhere)
            ids = self._ids(prompt.text + cut)
            if ids[:n] != prompt.ids:
                ids = self._ids(prompt.text + _CUT + cut)
            if not self._n_control(ids[n:]):
                break
        return ids[n:]

    # ---------------------------------------------------------------- control tokens

    @cached_property
    def _control_tokens(self) -> Mapping[str, int]:
        """Spelling -> id of the special tokens, and of the added tokens that the chat template writes."""
        templates = "".join(named_templates(self.tokenizer).values())
        return {
            token.content: token_id
            for token_id, token in self.tokenizer.added_tokens_decoder.items()
            if len(token.content) > 1 and (token.special or (token.content.strip() and token.content in templates))
        }

    @cached_property
    def _control_ids(self) -> set[int]:
        """Ids of the control tokens, except the one that stands for unknown characters."""
        return set(self._control_tokens.values()) - {self.tokenizer.unk_token_id}

    @cached_property
    def _controls(self) -> re.Pattern:
        """Pattern that matches the empty string after the first character of each spelled-out control token."""
        spelled = [*self._control_tokens, _CUT, _SLOT]
        return re.compile("|".join(f"(?<={re.escape(s[0])})(?={re.escape(s[1:])})" for s in spelled))

    def _n_control(self, ids: Sequence[int]) -> int:
        return sum(token in self._control_ids for token in ids)

    @cached_property
    def _n_control_in_frame(self) -> int:
        return self._n_control(self._ids(self._render(_USER_TEXT)[0])) if self.chat else 0

    def _cut(self, part: Part, everywhere: bool = False) -> str:
        """Cut the spelling of each control token in two, outside of the spans where control tokens are wanted.

        Args:
            part: text with its spans.
            everywhere: whether to cut after every character, for tokenizers that normalise a different spelling to that
                of a control token.
        """
        text = part.text
        cuts = list(range(1, len(text))) if everywhere else [match.start() for match in self._controls.finditer(text)]
        cuts = [at for at in cuts if not any(begin < at < end for begin, end in part.control_spans)]
        return _CUT.join(text[a:b] for a, b in pairwise([0, *cuts, len(text)]))

    # ---------------------------------------------------------------- tokens and template

    @cached_property
    def _reader(self) -> PreTrainedTokenizerBase:
        """A copy of the tokenizer with the added tokens `_CUT` and `_SLOT`."""
        reader = deepcopy(self.tokenizer)
        reader.add_tokens([AddedToken(token, normalized=False, special=False) for token in (_CUT, _SLOT)])
        return reader

    def _reader_of(self, text: str) -> PreTrainedTokenizerBase:
        """The tokenizer for a text; the copy is made and used only if the text needs it."""
        return self._reader if _CUT in text or _SLOT in text else self.tokenizer

    def _cut_ids(self, text: str) -> set[int]:
        """The id of `_CUT`, if the text contains it."""
        return {self._reader.convert_tokens_to_ids(_CUT)} if _CUT in text else set()

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _ids(self, text: str) -> list[int]:
        """The token ids of a text as a whole, without those of `_CUT`."""
        cut = self._cut_ids(text)
        ids = self._reader_of(text)(text, add_special_tokens=False)["input_ids"]
        return [token for token in ids if token not in cut]

    @cached_property
    def _frame(self) -> tuple[str, str]:
        """The text before and after a question in its user turn."""
        if not self.chat:
            return "", ""
        before, match, after = self._apply(_USER_TEXT).partition(_USER_TEXT)
        if not match or _USER_TEXT in after:
            raise _changed_by_template()
        return before, after

    def _apply(self, content: str) -> str:
        """Render a user turn with the chat template, up to the beginning of the answer."""
        turn = [{"role": "user", "content": content}]
        template = _FIXED_DATE + default_template(self.tokenizer)
        try:
            return self.tokenizer.apply_chat_template(
                turn, chat_template=template, tokenize=False, add_generation_prompt=True, **_NO_THINKING
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise SelfExplainError(
                f"The chat template of the tokenizer cannot render a question: {error} Set chat=False, or use a "
                "different chat template."
            ) from error

    def _render(self, content: str) -> tuple[str, int]:
        """The text that is tokenised, and the number of characters by which `content` is shifted in it.

        Raises:
            SelfExplainError: the chat template changes the text, except for white space at its ends.
        """
        if not self.chat:
            return content, 0
        before, after = self._frame
        text = self._apply(content)
        middle = text[len(before) : len(text) - len(after)]
        n_spaces = len(content) - len(content.lstrip())
        if len(text) >= len(before) + len(after) and text.startswith(before) and text.endswith(after):
            for kept, stripped in ((content, 0), (content.strip(), n_spaces), (content.rstrip(), 0)):
                if middle == kept:
                    return text, len(before) - stripped
            if middle == content.lstrip():
                return text, len(before) - n_spaces
        raise _changed_by_template()


def _changed_by_template() -> SelfExplainError:
    return SelfExplainError(
        "The chat template does not contain the user's text exactly once and unchanged, so questions cannot be placed "
        "in it. Set chat=False, or use a different chat template."
    )
