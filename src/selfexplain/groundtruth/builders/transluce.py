"""Read and write the datasets that Transluce published (Li et al., arXiv 2511.08579)."""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth import shards
from selfexplain.groundtruth.builders.builder import (
    BuildContext,
    Candidates,
    DatasetBuilder,
    Draw,
    Rerun,
    Row,
    split_by_group,
)
from selfexplain.groundtruth.row_shards import NOT_FINITE, Rows, write_row_shard
from selfexplain.groundtruth.schema import small_columns
from selfexplain.groundtruth.sources.tables import read_rows
from selfexplain.groundtruth.sources.values import Skips
from selfexplain.target.tokens import continuation, encode_text, token_text
from selfexplain.tasks import Task, activation_patching, input_ablation, outcome
from selfexplain.tasks.outcome import Outcome
from selfexplain.utils.registry import Registry

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SPLITS = ("train", "test")
"""Splits of the published datasets."""


def _encodable(text: str) -> str:
    text.encode()  # raises a ValueError for half of a surrogate pair
    return text


_Text = Annotated[str, AfterValidator(_encodable)]


class _PatchPosition(BaseModel):
    counterfact_pos: int
    orig_pos: int
    orig_text_token: _Text
    intervention_vector: list[float]


class _Patching(BaseModel):
    patch_position: _PatchPosition
    layer: Annotated[list[int], Field(min_length=1)]
    input_tokens: list[_Text]
    original_continuation: list[_Text]
    ablated_continuation: list[_Text]
    is_different: bool
    counterfactual_text: _Text
    token_type: _Text


class _Ablation(BaseModel):
    question: _Text
    choices: list[_Text | int | float]
    correct_answer: _Text | int | float
    zeroshot_prediction: _Text
    random_hint_prediction: _Text
    original_prompt_full: _Text
    hint_prompt_full: _Text
    changed_pred_bc_hint: bool


class MistypedRowError(Exception):
    """A value of a published row is null or has the wrong type."""


def _check(form: type[BaseModel], record: Row) -> None:
    """Check the types of a published row.

    Raises:
        KeyError: a column is missing.
        MistypedRowError: a value is null or has the wrong type.
    """
    try:
        form.model_validate(record, strict=True)
    except ValidationError as error:
        for problem in error.errors():
            if problem["type"] == "missing":
                raise KeyError(problem["loc"][-1]) from error
        raise MistypedRowError(f"{error.errors()[0]['loc'][0]} is null or has the wrong type") from error


@dataclass(frozen=True)
class PublishedRows:
    """A builder that converts published rows without running the target.

    The published test split stays the test split. The validation split is taken from the published training split.

    Attributes:
        config_class: dataclass of the task's settings.
        read: `read(record, tokenizer)` converts a published row into a row of this package.
    """

    config_class: type
    read: "Callable[[Row, PreTrainedTokenizerBase], dict[str, Any]]"
    rerun: Rerun | None = None

    def for_config(self, config: Any) -> DatasetBuilder:
        """This builder."""
        return self

    def columns_for_draw(self, task: Task) -> Sequence[str]:
        """All columns of moderate size, because `Task.cell` may read any of them."""
        return small_columns(task.name)

    def candidates(self, context: BuildContext) -> Candidates:
        """Read and convert the published rows, one shard per split.

        Raises:
            SelfExplainError: the table is missing, is not in the published form, or is about a different model.
        """
        paths = shards.run_shards(
            context.directory.work / "candidates",
            len(SPLITS),
            partial(self._write_split, context),
            context.inputs,
            f"{context.task.name}: published rows",
        )
        return Candidates(paths)

    def draw(self, context: BuildContext, candidates: Candidates, rows: Rows, counts: Sequence[Mapping]) -> Draw:
        """Keep all rows, and take the validation split from the training rows."""
        n_train = counts[0]["train"] - counts[0].get(NOT_FINITE, 0)
        parts = split_by_group(rows, range(n_train), context.seed)
        splits = {
            "train": sorted(parts["train"] + parts["test"]),
            "validation": parts["validation"],
            "test": list(range(n_train, len(rows))),
        }
        return Draw(splits, {"published": {**counts[0], **counts[1]}})

    def _write_split(self, context: BuildContext, index: int, path: Path) -> None:
        source, target, split = context.config.source, context.target, SPLITS[index]
        rows, skips = [], Skips()
        for number, record in read_rows(replace(source, split=split), skips):
            try:
                rows.append(from_transluce(self.read, record, target.tokenizer))
            except MistypedRowError as error:
                skips.add(str(error), number)
        skipped = {f"{split} rows skipped: {reason}": count for reason, count in skips.counter().items()}
        for reason, count in skipped.items():
            logger.warning("%s: %d %s", source.path, count, reason)
        if not rows:
            reasons = "".join(f"; {reason}" for reason in skipped)
            raise SelfExplainError(f"{source.path} contains no usable {split} row{reasons}. Check source.path.")
        widths = {len(vector) for row in rows for vector in row["activations"]} - {target.d_model}
        if widths:
            raise SelfExplainError(
                f"{source.path} contains vectors of width {sorted(widths)}, but {target.name} has width "
                f"{target.d_model}. Set `target` to the model that these rows are about."
            )
        write_row_shard(context.task.name, target, rows, {split: len(rows), **skipped}, path)


def from_transluce(
    read: "Callable[[Row, PreTrainedTokenizerBase], dict[str, Any]]",
    record: Row,
    tokenizer: "PreTrainedTokenizerBase",
) -> dict[str, Any]:
    """Convert a published row into a row of this package. Values that it does not contain are NaN or empty.

    Args:
        read: `read_patching` for `Transluce/act_patch_*`, `read_ablation` for `Transluce/input_ablation_*`.
        record: the published row.
        tokenizer: the target's tokenizer.

    Raises:
        SelfExplainError: a column is missing, or the two prompts of an ablation differ in more than the hint.
        MistypedRowError: a value is null or has the wrong type.
    """
    try:
        return read(record, tokenizer)
    except KeyError as error:
        raise SelfExplainError(
            f"A Transluce row for this task has a column {error}, but this row has the columns {', '.join(record)}. "
            "Check source.path."
        ) from error


def read_patching(record: Row, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Convert a row of `Transluce/act_patch_*`."""
    _check(_Patching, record)
    patch, layers = record["patch_position"], [int(layer) for layer in record["layer"]]
    text = "".join(record["input_tokens"])
    before, after = "".join(record["original_continuation"]), "".join(record["ablated_continuation"])
    question = activation_patching.question(text, layers, patch["orig_pos"], patch["orig_text_token"])
    ids = [
        continuation(tokenizer, text, output) or tokenizer(output, add_special_tokens=False)["input_ids"]
        for output in (before, after)
    ]
    return {
        "prompt": question.prompt,
        "completion": outcome.render(Outcome(record["is_different"], after)),
        "placeholder_offsets": list(question.placeholder_offsets),
        "activations": [np.asarray(patch["intervention_vector"], np.float32)],
        "activation_layers": [layers[0]],
        "group": text,
        "target_prompt": text,
        "prompt_ids": tokenizer(text, add_special_tokens=False)["input_ids"],
        "prompt_tokens": list(record["input_tokens"]),
        "source_prompt": record["counterfactual_text"],
        "layers": layers,
        "position": patch["orig_pos"],
        "token": patch["orig_text_token"],
        "token_type": record["token_type"],
        "source_position": patch["counterfact_pos"],
        "clean_output": before,
        "patched_output": after,
        "clean_output_id": ids[0][0] if ids[0] else -1,
        "patched_output_id": ids[1][0] if ids[1] else -1,
        "changed": record["is_different"],
        "clean_log_prob": float("nan"),
        "patched_log_prob": float("nan"),
        "kl": float("nan"),
    }


def read_ablation(record: Row, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Convert a row of `Transluce/input_ablation_*`."""
    _check(_Ablation, record)
    text, without = record["hint_prompt_full"], record["original_prompt_full"]
    n_removed = len(text) - len(without)
    begin = next((i for i, (a, b) in enumerate(zip(text, without, strict=False)) if a != b), len(without))
    if n_removed <= 0 or text[:begin] + text[begin + n_removed :] != without:
        raise SelfExplainError(
            f"Row {record.get('index')}: original_prompt_full is not hint_prompt_full without a hint. Expected the two "
            "prompts to differ only in one contiguous part."
        )
    hint = text[begin : begin + n_removed]
    letters = re.findall(r"\b[A-Z]\b", hint)
    return {
        "prompt": input_ablation.question(text).prompt,
        "completion": outcome.render(Outcome(record["changed_pred_bc_hint"], record["zeroshot_prediction"])),
        "placeholder_offsets": [],
        "activations": [],
        "activation_layers": [],
        "group": record["question"],
        "question": record["question"],
        "choices": [str(choice) for choice in record["choices"]],
        "answer": str(record["correct_answer"]),
        "topic": "",
        "hint_style": "previous" if "previous" in hint else "answer",
        "hinted": letters[-1] if letters else "",
        "target_prompt": text,
        "removed_text": hint,
        "removed_span": [begin, begin + n_removed],
        "replacement": "",
        "answered_by": "next_token",
        "full_output": record["random_hint_prediction"].strip(),
        "ablated_output": record["zeroshot_prediction"].strip(),
        "changed": record["changed_pred_bc_hint"],
        "option_log_probs_full": [],
        "option_log_probs_ablated": [],
    }


def write_patching(index: int, row: Row, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Convert row number `index` of activation patching into the published form; unknown values are None."""
    source_ids = encode_text(tokenizer, row["source_prompt"])
    return {
        "layer": list(row["layers"]),
        "input_tokens": list(row["prompt_tokens"]),
        "original_continuation": [row["clean_output"]],
        "ablated_continuation": [row["patched_output"]],
        "is_different": row["changed"],
        "patch_position": {
            "counterfact_pos": row["source_position"],
            "counterfact_text_token": token_text(tokenizer, source_ids[row["source_position"]]),
            "intervention_vector": np.asarray(row["activations"][0], np.float32).tolist(),
            "orig_pos": row["position"],
            "orig_text_token": row["token"],
        },
        "counterfactual_text": row["source_prompt"],
        "gt_original_target": None,
        "gt_counterfactual_target": None,
        "layer_hashable": json.dumps(list(row["layers"])),
        "token_type": row["token_type"],
        "__index_level_0__": index,
    }


def write_ablation(index: int, row: Row, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Convert row number `index` of input ablation into the published form; unknown values are None.

    Raises:
        SelfExplainError: the hint was replaced, or the answer is the option with the highest likelihood. The published
            form cannot express either.
    """
    if row.get("replacement") or row.get("answered_by", "next_token") != "next_token":
        raise SelfExplainError(
            f"In row {index} the hint was replaced or the answer was chosen by likelihood, but Transluce's form only "
            "has removed hints and next tokens. Build the dataset without `replacement` and with `answers: next_token`."
        )
    begin, end = row["removed_span"]
    return {
        "index": index,
        "question": row["question"],
        "choices": list(row["choices"]),
        "correct_answer": row["answer"],
        "zeroshot_prediction": row["ablated_output"],
        "random_hint_prediction": row["full_output"],
        "hint_token_ids": tokenizer(row["removed_text"], add_special_tokens=False)["input_ids"],
        "original_prompt_full": row["target_prompt"][:begin] + row["target_prompt"][end:],
        "hint_prompt_full": row["target_prompt"],
        "system_prompt": None,
        "original_user_prompt": None,
        "hint_user_prompt": None,
        "hint": row["removed_text"],
        "changed_pred_bc_hint": row["changed"],
        "ablation_prompt": row["prompt"],
    }


WRITERS: "Registry[Callable[[int, Row, PreTrainedTokenizerBase], dict[str, Any]]]" = Registry(
    "Transluce format for the task"
)
"""Task name -> function that converts one of its rows into the published form."""

WRITERS.register(activation_patching.TASK.name, write_patching)
WRITERS.register(input_ablation.TASK.name, write_ablation)
