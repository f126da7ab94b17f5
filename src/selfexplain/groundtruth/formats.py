"""Read datasets back, and read and write the schemas of others."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.schema import vectors_of
from selfexplain.tasks import activation_patching, input_ablation, outcome
from selfexplain.tasks.outcome import Outcome

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, Any]


def read_split(path: Path, columns: Sequence[str] | None = None) -> "pa.Table":
    """A parquet split with its vectors: those that lie apart, in `vectors.parquet`, are joined back on.

    Args:
        columns: those wanted; all by default.

    Raises:
        SelfExplainError: no such file, or no rows in it.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if not path.is_file():
        raise SelfExplainError(
            f"{path} does not exist: build the dataset first (`selfexplain run RECIPE --stage dataset`)."
        )
    apart = _apart(path)
    stored = [name if not apart or name != "activations" else "vector_ids" for name in columns] if columns else None
    table = parquet.read_table(path, columns=stored)
    if not table.num_rows:
        raise SelfExplainError(f"{path} has no rows: build the dataset from more text.")
    if not apart or "vector_ids" not in table.column_names:
        return table
    vectors = parquet.read_table(path.with_name("vectors.parquet"))["vector"].combine_chunks()
    ids = table["vector_ids"].combine_chunks()
    joined = pa.ListArray.from_arrays(ids.offsets, vectors.take(ids.flatten()))
    index = table.column_names.index("vector_ids")
    return table.set_column(index, "activations", joined).replace_schema_metadata(None)


def _apart(path: Path) -> bool:
    import pyarrow.parquet as parquet

    return "vector_ids" in parquet.read_schema(path).names


def read_dataset(path: Path, columns: Sequence[str], cache_dir: Path) -> "Dataset":
    """Columns of a split as a `Dataset`: on disk, or in memory where vectors have to be joined on."""
    from datasets import Dataset

    if path.is_file() and not _apart(path):
        return Dataset.from_parquet(str(path), columns=list(columns), cache_dir=str(cache_dir))
    return Dataset(read_split(path, columns))


def read_rows(path: Path) -> list[dict]:
    """The rows of a parquet split; `activations` as arrays `(n_vectors, d)`.

    Raises:
        SelfExplainError: no such file, or no rows in it.
    """
    table = read_split(path)
    stacked, lengths = vectors_of(table)
    activations = np.split(stacked.copy(), np.cumsum(lengths)[:-1])
    rows = table.drop_columns("activations").to_pylist()
    return [{**row, "activations": own} for row, own in zip(rows, activations, strict=True)]


def vectors_apart(table: "pa.Table") -> tuple["pa.Table", "pa.Table"]:
    """Rows with `vector_ids` in place of `activations`, and the distinct vectors in the order of these ids."""
    import pyarrow as pa

    stacked, lengths = vectors_of(table)
    numbers: dict[bytes, int] = {}
    ids = [numbers.setdefault(vector.tobytes(), len(numbers)) for vector in stacked]
    distinct = stacked[np.unique(ids, return_index=True)[1]]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    kind = table.schema.field("activations").type.value_type
    values = pa.FixedSizeListArray.from_arrays(pa.array(distinct.ravel()), type=kind)
    vectors = pa.table({"vector_id": pa.array(range(len(numbers)), pa.int64()), "vector": values})
    column = pa.ListArray.from_arrays(offsets, pa.array(ids, pa.int64()))
    index = table.column_names.index("activations")
    return table.set_column(index, "vector_ids", column).replace_schema_metadata(None), vectors


def from_transluce(task: str, record: Row, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """A row of a published Transluce dataset (Li et al., arXiv 2511.08579) as one of ours.

    Patching: `Transluce/act_patch_*`; ablation: `Transluce/input_ablation_*`. What those do not hold is NaN or empty.

    Raises:
        SelfExplainError: a column is missing, or the prompt without the hint is not the prompt with it cut out.
    """
    read = _patching_from_transluce if task == "activation_patching" else _ablation_from_transluce
    try:
        return read(record, tokenizer)
    except KeyError as error:
        raise SelfExplainError(
            f"a Transluce row for {task} has a column {error}; this one has {list(record)}."
        ) from error


def _patching_from_transluce(record: Row, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    place, layers = record["patch_position"], [int(layer) for layer in record["layer"]]
    text = "".join(record["input_tokens"])
    before, after = "".join(record["original_continuation"]), "".join(record["ablated_continuation"])
    question = activation_patching.question(text, layers, place["orig_pos"], place["orig_text_token"])
    ids = [tokenizer(said, add_special_tokens=False)["input_ids"] for said in (before, after)]
    return {
        "prompt": question.prompt,
        "completion": outcome.render(Outcome(record["is_different"], after)),
        "placeholder_offsets": list(question.placeholder_offsets),
        "activations": [np.asarray(place["intervention_vector"], np.float32)],
        "activation_layers": [layers[0]],
        "group": text,
        "target_prompt": text,
        "prompt_ids": tokenizer(text, add_special_tokens=False)["input_ids"],
        "prompt_tokens": list(record["input_tokens"]),
        "source_prompt": record["counterfactual_text"],
        "layers": layers,
        "position": place["orig_pos"],
        "token": place["orig_text_token"],
        "token_type": record["token_type"],
        "source_position": place["counterfact_pos"],
        "clean_output": before,
        "patched_output": after,
        "clean_output_id": ids[0][0] if ids[0] else -1,
        "patched_output_id": ids[1][0] if ids[1] else -1,
        "changed": record["is_different"],
        "clean_log_prob": float("nan"),
        "patched_log_prob": float("nan"),
        "kl": float("nan"),
    }


def _ablation_from_transluce(record: Row, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    text, without = record["hint_prompt_full"], record["original_prompt_full"]
    removed = len(text) - len(without)
    begin = next((i for i, (a, b) in enumerate(zip(text, without, strict=False)) if a != b), len(without))
    if removed <= 0 or text[:begin] + text[begin + removed :] != without:
        raise SelfExplainError(f"row {record['index']}: original_prompt_full is not hint_prompt_full without a hint.")
    hint = text[begin : begin + removed]
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
        "removed_span": [begin, begin + removed],
        "replacement": "",
        "answered_by": "next_token",
        "full_output": record["random_hint_prediction"].strip(),
        "ablated_output": record["zeroshot_prediction"].strip(),
        "changed": record["changed_pred_bc_hint"],
        "option_log_probs_full": [],
        "option_log_probs_ablated": [],
    }


def to_transluce(task: str, rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase") -> list[dict[str, Any]]:
    """Our rows in the schema of the published Transluce datasets; what a row does not know is None.

    Raises:
        SelfExplainError: a hint was replaced, or the answer is the likeliest option; the schema has no word for either.
    """
    write = _patching_to_transluce if task == "activation_patching" else _ablation_to_transluce
    return [write(index, row, tokenizer) for index, row in enumerate(rows)]


def _patching_to_transluce(index: int, row: Row, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    source_ids = tokenizer(row["source_prompt"])["input_ids"]
    return {
        "layer": list(row["layers"]),
        "input_tokens": list(row["prompt_tokens"]),
        "original_continuation": [row["clean_output"]],
        "ablated_continuation": [row["patched_output"]],
        "is_different": row["changed"],
        "patch_position": {
            "counterfact_pos": row["source_position"],
            "counterfact_text_token": tokenizer.decode([source_ids[row["source_position"]]]),
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


def _ablation_to_transluce(index: int, row: Row, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    replacement, answered_by = row.get("replacement", ""), row.get("answered_by", "next_token")
    if replacement or answered_by != "next_token":
        raise SelfExplainError(
            f"row {index}: replacement is {replacement!r} and answered_by {answered_by!r}; Transluce's schema is of "
            "hints left out and of next tokens. Build with input_ablation.replacement empty and answers: next_token."
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
