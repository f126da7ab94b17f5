"""Check and normalise the arguments of a call of the processor."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers.processing_utils import TextKwargs

from selfexplain.errors import SelfExplainError, prefix_errors
from selfexplain.tasks.question import PLACEHOLDER

_COLUMNS = ("prompt", "placeholder_offsets", "activations", "activation_layers")


@dataclass(frozen=True)
class RowOptions:
    """Options with which rows are encoded, as tokenizers name them.

    Attributes:
        padding: True or "longest" pads to the longest row, "max_length" to `max_length`; False pads nothing.
        truncation: accepted for compatibility; rows are never truncated.
        max_length: maximum number of tokens of a row.
        pad_to_multiple_of: number of which the padded length is a multiple.
        padding_side: side of the padding; "left" for `generate`.
        return_tensors: "pt" or "np".
    """

    padding: bool | str = True
    truncation: bool | str | None = False
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    padding_side: Literal["left", "right"] = "left"
    return_tensors: str | None = "pt"

    def __post_init__(self) -> None:
        choices: dict[str, tuple[Any, ...]] = {
            "padding": (True, False, "longest", "max_length", "do_not_pad"),
            "padding_side": ("left", "right"),
            "return_tensors": ("pt", "np", None),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if not isinstance(value, str | bool | None) or value not in allowed:
                raise SelfExplainError(
                    f"{name} is {value!r}. For rows, it must be one of {', '.join(map(repr, allowed))}."
                )
        for name in ("max_length", "pad_to_multiple_of"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise SelfExplainError(f"{name} is {value!r}. Give a positive integer, or None.")
        if self.padding == "max_length" and self.max_length is None:
            raise SelfExplainError("padding is 'max_length', but max_length is None. Give max_length.")

    def length(self, lengths: Sequence[int]) -> int:
        """Return the padded length of rows with these numbers of tokens.

        Raises:
            SelfExplainError: a row is longer than `max_length`, or rows of different lengths are not to be padded.
        """
        for index, n_tokens in enumerate(lengths):
            if self.max_length is not None and n_tokens > self.max_length:
                raise SelfExplainError(
                    f"Row {index} has {n_tokens} tokens, but max_length is {self.max_length}. A question cannot be "
                    "truncated, because the places of its vectors and the beginning of the answer would be lost. "
                    "Shorten the text, or raise max_length."
                )
        if self.padding in (False, "do_not_pad") and len(set(lengths)) > 1:
            raise SelfExplainError(
                f"padding is off, but the rows have {min(lengths)} to {max(lengths)} tokens. Set padding=True, or give "
                "rows of one length."
            )
        longest = self.max_length if self.padding == "max_length" and self.max_length else max(lengths)
        return longest + -longest % (self.pad_to_multiple_of or 1)


def merge_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a call in one dictionary; `text_kwargs` and `common_kwargs` may contain some of them.

    Raises:
        SelfExplainError: an option does not exist, or is given twice.
    """
    flat = dict(options)
    merged: dict[str, Any] = {}
    for name in ("common_kwargs", "text_kwargs"):
        nested = flat.pop(name, None) or {}
        twice = sorted(set(nested) & set(flat))
        if twice:
            raise SelfExplainError(f"{', '.join(twice)} is given twice, also in {name}. Give it once.")
        merged |= nested
    merged |= flat
    for name in ("images", "videos", "audio"):
        if merged.pop(name, None) is not None:
            raise SelfExplainError(f"{name} was given, but explainers read text and vectors only. Omit it.")
    unknown = sorted(set(merged) - set(TextKwargs.__annotations__))
    if unknown:
        raise SelfExplainError(
            f"The processor has no option {', '.join(unknown)}. It has rows, text, activations, activation_layers, and "
            f"the options of tokenizers: {', '.join(sorted(TextKwargs.__annotations__))}."
        )
    return merged


def row_options(options: Mapping[str, Any]) -> RowOptions:
    """Return the options for rows.

    Raises:
        SelfExplainError: an option does not apply to rows, or its value is invalid.
    """
    names = RowOptions.__dataclass_fields__
    others = sorted(name for name, value in options.items() if name not in names and value not in (None, False))
    if others:
        raise SelfExplainError(f"{', '.join(others)} does not apply to rows. Options for rows: {', '.join(names)}.")
    return RowOptions(**{name: value for name, value in options.items() if name in names and value is not None})


def as_rows(rows: Any) -> list[Mapping]:
    """Return rows as a list, from one row, a dictionary of columns, or any iterable of rows.

    Raises:
        SelfExplainError: there are no rows, or a row lacks a column.
    """
    if isinstance(rows, Mapping):
        if not isinstance(rows.get("prompt"), Sequence) or isinstance(rows["prompt"], str):
            rows = [rows]
        else:
            columns = dict(rows)
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    elif not isinstance(rows, Iterable):
        raise SelfExplainError(f"rows is {type(rows).__name__}, expected rows such as {{'prompt': ..., ...}}.")
    rows = list(rows)
    if not rows:
        raise SelfExplainError("No rows were given. Give at least one question.")
    for number, row in enumerate(rows):
        with prefix_errors(f"Row {number}"):
            _check_row(row)
    return rows


def _check_row(row: Any) -> None:
    if not isinstance(row, Mapping):
        raise SelfExplainError(f"It is {type(row).__name__}, expected a dictionary with {', '.join(_COLUMNS)}.")
    missing = [name for name in _COLUMNS if name not in row or row[name] is None]
    if missing:
        raise SelfExplainError(
            f"{', '.join(missing)} is missing. A row needs {', '.join(_COLUMNS)}; the last three are empty lists for a "
            "question without vectors."
        )


def rows_of_text(text: Any, activations: Any, activation_layers: Any) -> Any:
    """Return rows for texts with vectors; every `<activation>` in a text is the place of one of its vectors.

    Args:
        text: one text, or several.
        activations: the vectors of the text, `(K, d)`; for several texts, one such list per text.
        activation_layers: the target layer of each vector, in the same form.

    Raises:
        SelfExplainError: the numbers of texts, vectors and placeholders differ.
    """
    if activations is None or activation_layers is None:
        raise SelfExplainError("activations and activation_layers belong together. Give both, or neither.")
    if isinstance(text, str):
        text, activations, activation_layers = [text], [activations], [activation_layers]
    if not len(text) == len(activations) == len(activation_layers):
        raise SelfExplainError(
            f"There are {len(text)} texts, {len(activations)} lists of activations and {len(activation_layers)} lists "
            "of activation_layers. Give one of each per text."
        )
    rows = []
    for number, (prompt, vectors, layers) in enumerate(zip(text, activations, activation_layers, strict=True)):
        parts = prompt.split(PLACEHOLDER)
        offsets = [len(PLACEHOLDER.join(parts[: n + 1])) for n in range(len(parts) - 1)]
        if len(offsets) != len(vectors):
            raise SelfExplainError(
                f"Text {number} contains {PLACEHOLDER} {len(offsets)} times, but has {len(vectors)} vectors. Give one "
                "vector per placeholder, or give rows with placeholder_offsets."
            )
        columns = (prompt, offsets, vectors, layers)
        rows.append(dict(zip(_COLUMNS, columns, strict=True)))
    return rows


def is_text(value: Any) -> bool:
    """Return whether a value is a text or a non-empty list of texts."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(each, str) for each in value)
    return isinstance(value, str)


def check_plain_text(text: Any) -> None:
    """Check that text without vectors has no places for them.

    Raises:
        SelfExplainError: it is neither a text nor a list of texts, or it contains a placeholder.
    """
    if not is_text(text):
        raise SelfExplainError(f"text is {type(text).__name__}, expected a text or a list of texts.")
    if any(PLACEHOLDER in each for each in ([text] if isinstance(text, str) else text)):
        raise SelfExplainError(
            f"The text contains {PLACEHOLDER}, but no vectors were given, so it would be encoded as text. Give "
            "activations and activation_layers, or rows. Trainers need data_collator=SelfExplainerCollator(processor)."
        )
