"""Turn questions with vectors into model inputs."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Self

import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from selfexplain.errors import SelfExplainError, prefix_errors
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.inputs import VECTOR_INPUTS
from selfexplain.modeling.processor_arguments import (
    as_rows,
    check_plain_text,
    is_text,
    merge_options,
    row_options,
    rows_of_text,
)
from selfexplain.modeling.prompt_encoder import EncodedPrompt, Part, PromptEncoder, Slot
from selfexplain.target.tokens import default_template
from selfexplain.tasks.question import PLACEHOLDER
from selfexplain.utils.arguments import as_integers, as_list, as_text, field_of


class SelfExplainerProcessor(ProcessorMixin):
    """A tokenizer that places the slots of vectors.

    A question is data: if it spells out a placeholder, a marker or a control token, that spelling is encoded as text.

    Args:
        tokenizer: tokenizer of the explainer's base.
        placeholder: text whose first token fills the slot of a vector.
        markers: whether there is a marker before and after each slot.
        chat: whether a question is wrapped in a user turn, with thinking disabled; None does so if the tokenizer has a
            chat template.
        placeholder_id: token id in a slot; None uses the first token of `placeholder`.
        first_placeholder_id: token id in the first of several adjacent slots, if it differs from the others.
        neighbour_ids: token ids that must be before and after each slot, if the contract fixes them.
        whole_prompt: whether the rendered prompt is tokenised as a whole, as `apply_chat_template(tokenize=True)` does.
            False tokenises the chat frame and the text around each slot separately. Processors that were saved
            without this setting have False, because their explainers were trained on such prompts.

    Raises:
        SelfExplainError: `chat` is true and the tokenizer has no chat template.
    """

    def __init__(
        self,
        tokenizer=None,
        placeholder: str = "?",
        markers: bool = True,
        chat: bool | None = None,
        placeholder_id: int | None = None,
        first_placeholder_id: int | None = None,
        neighbour_ids: Sequence[int] | None = None,
        whole_prompt: bool = True,
        **kwargs,
    ):
        self.placeholder = placeholder
        self.markers = markers
        self.chat = bool(tokenizer.chat_template) if chat is None else chat
        self.placeholder_id = placeholder_id
        self.first_placeholder_id = first_placeholder_id
        self.neighbour_ids = neighbour_ids and list(neighbour_ids)
        self.whole_prompt = whole_prompt
        super().__init__(tokenizer, **kwargs)
        if self.chat:
            default_template(tokenizer)  # raises if there is none

    @classmethod
    def from_args_and_dict(cls, args, processor_dict: dict[str, Any], **kwargs):
        """Create a processor from its saved settings."""
        if "placeholder" in processor_dict:
            processor_dict = {"whole_prompt": False, **processor_dict}
        return super().from_args_and_dict(args, processor_dict, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **options) -> Self:
        """Load a saved processor. Code in the repository runs only with `trust_remote_code=True`."""
        options["trust_remote_code"] = bool(options.get("trust_remote_code"))
        return super().from_pretrained(pretrained_model_name_or_path, **options)

    @classmethod
    def for_contract(cls, tokenizer, injection: InjectionConfig, chat: bool | None = None) -> Self:
        """Return the processor for an injection contract; `chat` overrides `injection.chat` unless it is None."""
        return cls(
            tokenizer,
            placeholder=injection.placeholder,
            markers=injection.markers,
            chat=injection.chat if chat is None else chat,
            placeholder_id=injection.placeholder_id,
            first_placeholder_id=injection.first_placeholder_id,
            neighbour_ids=injection.neighbour_ids,
        )

    @property
    def slot_id(self) -> int:
        """Token id in a slot. Vectors are written by position, so the same id elsewhere is plain text."""
        return self._encoder.first_id(self.placeholder) if self.placeholder_id is None else self.placeholder_id

    @property
    def _encoder(self) -> PromptEncoder:
        """The encoder of the present tokenizer, which keeps what it has computed from it."""
        encoder = self.__dict__.get("_kept_encoder")
        if encoder is None or not encoder.is_for(self.tokenizer, self.chat):
            encoder = self._kept_encoder = PromptEncoder(self.tokenizer, self.chat)
        return encoder

    def encode(
        self, prompt: str, placeholder_offsets: Sequence[int], template_spans: Sequence[tuple[int, int]] = ()
    ) -> tuple[list[int], list[int]]:
        """Encode a prompt.

        Args:
            prompt: text with `<activation>` at each slot.
            placeholder_offsets: character offset of each slot, in ascending order.
            template_spans: character spans in which control tokens are encoded as such; see `Question`.

        Returns:
            Token ids with special tokens, and the token position of each slot.

        Raises:
            SelfExplainError: there is no `<activation>` at an offset, or the tokens around a slot differ from those
                that the contract fixes.
        """
        encoded = self._encode(prompt, placeholder_offsets, template_spans)
        return encoded.ids, encoded.positions

    def _encode(
        self,
        prompt: str,
        placeholder_offsets: Sequence[int],
        template_spans: Sequence[tuple[int, int]] = (),
        completion: str = "",
    ) -> EncodedPrompt:
        """Encode a prompt and the text that continues it."""
        parts: list[Part] = []
        slots: list[Slot] = []
        start = 0
        as_text(prompt, "prompt")
        for offset in as_integers(placeholder_offsets, "placeholder_offsets"):
            if offset < start or not prompt.startswith(PLACEHOLDER, offset):
                raise SelfExplainError(
                    f"Placeholder offset {offset} does not point at {PLACEHOLDER} in {prompt!r}. Give the character "
                    "offsets of the placeholders in ascending order."
                )
            slots.append(self._slot(follows=bool(slots) and offset == start))
            parts.append(Part(prompt[start:offset], [(a - start, b - start) for a, b in template_spans]))
            start = offset + len(PLACEHOLDER)
        parts.append(Part(prompt[start:], [(a - start, b - start) for a, b in template_spans]))
        encode = self._encoder.encode if self.whole_prompt else self._encoder.encode_pieces
        encoded = encode(parts, slots, completion)
        for position in encoded.positions if self.neighbour_ids else []:
            around = [encoded.ids[position - 1], *encoded.ids[position + 1 : position + 2]]
            if around != self.neighbour_ids:
                raise SelfExplainError(
                    f"The slot of a vector is between the tokens {around}, but the contract requires "
                    f"{self.neighbour_ids}. Use the tokenizer and the prompt template that the explainer was trained "
                    "with."
                )
        return encoded

    def _slot(self, follows: bool) -> Slot:
        """A slot. With markers its tokens are inserted, otherwise it is the placeholder in the text.

        Args:
            follows: whether the slot follows another one directly.
        """
        if self.markers:
            left, right = self.neighbour_ids or (self.slot_id, self.slot_id)
            token = self.slot_id if follows or self.first_placeholder_id is None else self.first_placeholder_id
            return Slot(token, (left, right))
        if follows or self.first_placeholder_id is None:
            return Slot(self.slot_id, text=self.placeholder)
        return Slot(self.first_placeholder_id, text=self.tokenizer.decode([self.first_placeholder_id]))

    def encode_row(self, row: Mapping) -> tuple[list[int], list[int]]:
        """Encode the question of a row. Only rows built from a contract's template have `template_spans`."""
        return self.encode(field_of(row, "prompt"), offsets_of(row), row.get("template_spans", ()))

    def encode_answered(self, row: Mapping, answer: str) -> EncodedPrompt:
        """Encode the question of a row together with an answer. Control tokens in the answer are encoded as text.

        Returns:
            `ids` and `positions` as `encode` returns them, and `completion`, the token ids of the answer.
        """
        return self._encode(field_of(row, "prompt"), offsets_of(row), row.get("template_spans", ()), answer)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the inputs that rows are turned into; those of vectors are absent if no row has a vector."""
        return ["input_ids", "attention_mask", *VECTOR_INPUTS]

    def __call__(
        self,
        rows: Any = None,
        text: str | Sequence[str] | None = None,
        activations: Any = None,
        activation_layers: Any = None,
        **kwargs,
    ) -> BatchFeature:
        """Encode rows as left-padded inputs for `generate`, or plain text as the tokenizer does.

        Args:
            rows: one or more mappings with `prompt`, `placeholder_offsets`, `activations` and `activation_layers`, or
                one mapping of such columns.
            text: one or more texts. Without vectors they are passed to the tokenizer, with all its options, and are not
                put into a user turn. With vectors they become rows, in which every `<activation>` is a place.
            activations: vectors of the text, `(K, d)`; for several texts, one list per text.
            activation_layers: target layer of each of these vectors, in the same form.
            kwargs: options of tokenizers. For rows: `padding`, `max_length`, `pad_to_multiple_of`, `padding_side` and
                `return_tensors` ("pt", the default, or "np"). Rows are never truncated.

        Returns:
            For rows, `input_ids`, `attention_mask` `(B, T)`, and the vectors as `collate` returns them.

        Raises:
            SelfExplainError: there is no input, an option does not exist, a row is invalid or longer than `max_length`,
                or the number, width or values of its vectors are invalid; the message names the row and the field.
        """
        options = merge_options(kwargs)
        if is_text(rows) and text is None:
            rows, text = None, rows
        if (rows is None) == (text is None):
            raise SelfExplainError("Give either rows or text.")
        if activations is not None or activation_layers is not None:
            if rows is not None:
                raise SelfExplainError("Rows contain their own vectors. Give activations only together with text.")
            rows = rows_of_text(text, activations, activation_layers)
        if rows is None:
            check_plain_text(text)
            return self.tokenizer(text, **{"return_token_type_ids": False, **options})
        rows, chosen = as_rows(rows), row_options(options)
        encoded = []
        for index, row in enumerate(rows):
            with prefix_errors(f"Row {index}"):
                encoded.append(self.encode_row(row))
        ids, positions = [ids for ids, _ in encoded], [slots for _, slots in encoded]
        length = chosen.length([len(row) for row in ids])
        batch = self.collate(ids, positions, rows, chosen.padding_side == "left", length)
        if chosen.return_tensors == "np":
            return BatchFeature({name: tensor.numpy() for name, tensor in batch.items()})
        return BatchFeature(batch)

    def collate(
        self,
        ids: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        rows: Sequence[Mapping],
        left: bool,
        length: int | None = None,
    ) -> dict[str, Tensor]:
        """Pad token ids and vectors into one batch.

        Args:
            ids: token ids of each row.
            positions: token positions of the slots of each row, before padding.
            rows: rows with `activations` and `activation_layers`.
            left: whether to pad on the left.
            length: number of tokens to pad to; None for that of the longest row.

        Returns:
            `input_ids` and `attention_mask`, `(B, T)`. If any row has a vector, also `activations` `(B, K, d)` float32,
            `activation_mask` `(B, K)` bool, `activation_layers` and `activation_positions` `(B, K)`, and
            `marker_positions` `(B, K, 2)` with -1 for no marker.

        Raises:
            SelfExplainError: the number, width or values of a row's vectors are invalid.
        """
        length = length or max(map(len, ids))
        pad = self.tokenizer.pad_token_id or 0
        shifts = [length - len(row) if left else 0 for row in ids]

        def padded(row: list[int], filler: int) -> list[int]:
            fill = [filler] * (length - len(row))
            return fill + row if left else row + fill

        batch = {
            "input_ids": torch.tensor([padded(list(row), pad) for row in ids]),
            "attention_mask": torch.tensor([padded([1] * len(row), 0) for row in ids]),
        }
        vectors = []
        for index, (row, slots) in enumerate(zip(rows, positions, strict=True)):
            with prefix_errors(f"Row {index}"):
                vectors.append(row_vectors(row, len(slots)))
        if not any(positions):
            return batch
        return batch | self._collate_vectors(vectors, positions, rows, shifts)

    def _collate_vectors(
        self,
        vectors: Sequence[Tensor],
        positions: Sequence[Sequence[int]],
        rows: Sequence[Mapping],
        shifts: Sequence[int],
    ) -> dict[str, Tensor]:
        """Pad the vectors of all rows to `(B, K, d)`; `shifts` are the numbers of padding tokens on the left."""
        n_rows, n_vectors = len(rows), max(map(len, positions))
        d = next(v.shape[1] for v in vectors if len(v))
        activations = torch.zeros(n_rows, n_vectors, d)
        mask = torch.zeros(n_rows, n_vectors, dtype=torch.bool)
        layers = torch.zeros(n_rows, n_vectors, dtype=torch.long)
        slots = torch.zeros(n_rows, n_vectors, dtype=torch.long)
        for index, (row_slots, vector) in enumerate(zip(positions, vectors, strict=True)):
            n = len(row_slots)
            if not n:
                continue
            if vector.shape[1] != d:
                raise SelfExplainError(
                    f"Row {index}: the vectors have width {vector.shape[1]}, but those of other rows have "
                    f"width {d}. Give vectors of one width."
                )
            activations[index, :n] = vector
            mask[index, :n] = True
            layers[index, :n] = torch.tensor(list(rows[index]["activation_layers"]), dtype=torch.long)
            slots[index, :n] = torch.tensor(row_slots, dtype=torch.long) + shifts[index]
        neighbours = torch.stack([slots - 1, slots + 1], dim=-1)  # (B, K, 2)
        none = torch.full_like(neighbours, -1)
        return {
            "activations": activations,
            "activation_mask": mask,
            "activation_layers": layers,
            "activation_positions": slots,
            "marker_positions": torch.where(mask[..., None], neighbours, none) if self.markers else none,
        }


def offsets_of(row: Mapping) -> list[int]:
    """The placeholder offsets of a row.

    Raises:
        SelfExplainError: it has none, or they are not integers.
    """
    return as_integers(field_of(row, "placeholder_offsets"), "placeholder_offsets")


def row_vectors(row: Mapping, n: int) -> Tensor:
    """Return the vectors of a row with `n` placeholders, `(n, d)` float32 on the CPU.

    Raises:
        SelfExplainError: there are not `n` vectors and `n` layers, the widths differ, or a value is NaN or infinite.
    """
    vectors = as_list(field_of(row, "activations"), "activations", "vectors")
    layers = as_integers(field_of(row, "activation_layers"), "activation_layers")
    if len(vectors) != n or len(layers) != n:
        raise SelfExplainError(
            f"There are {len(vectors)} activations and {len(layers)} activation_layers for {n} placeholders. Give one "
            "of each per placeholder."
        )
    if not n:
        return torch.zeros(0, 0)
    try:
        tensors = [torch.as_tensor(vector, dtype=torch.float32).cpu() for vector in vectors]
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise SelfExplainError(f"The activations are not vectors of numbers ({error}). Give tensors.") from error
    shapes = {tuple(vector.shape) for vector in tensors}
    if len(shapes) > 1 or tensors[0].dim() != 1:
        raise SelfExplainError(
            f"The activations have the shapes {sorted(shapes)}, expected one-dimensional vectors of one width. Give "
            "one vector per placeholder."
        )
    stacked = torch.stack(tensors)
    if not stacked.isfinite().all():
        raise SelfExplainError("The activations contain NaN or infinity. Give finite vectors.")
    return stacked
