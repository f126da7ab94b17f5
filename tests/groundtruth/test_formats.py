"""Datasets read back: vectors kept apart, and the published Transluce schemas, both ways."""

import json

import numpy as np
import pyarrow.parquet as parquet
import pytest
from datasets import load_dataset

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.build import build
from selfexplain.groundtruth.config import AblationConfig, PairSource, PatchingConfig, QuestionSource
from selfexplain.groundtruth.formats import from_transluce, read_dataset, read_rows, to_transluce, vectors_apart
from selfexplain.groundtruth.schema import to_table
from selfexplain.groundtruth.splits import SPLITS
from selfexplain.tasks import outcome

PUBLISHED = {
    "layer": [0, 1],
    "input_tokens": ["The", " capital", " of", " France", " is"],
    "original_continuation": [" Paris"],
    "ablated_continuation": [" Rome"],
    "is_different": True,
    "patch_position": {
        "counterfact_pos": 3,
        "counterfact_text_token": " Italy",
        "intervention_vector": [0.5] * 32,
        "orig_pos": 3,
        "orig_text_token": " France",
    },
    "counterfactual_text": "The capital of Italy is",
    "gt_original_target": "Paris",
    "gt_counterfactual_target": "Rome",
    "layer_hashable": "(0, 1)",
    "token_type": "subject_final",
    "__index_level_0__": 7,
}
HINT = "\nHint: The answer is C"
PUBLISHED_ABLATION = {
    "index": 4,
    "question": "Which is red?",
    "choices": ["grass", "snow", "blood", "coal"],
    "correct_answer": "C",
    "zeroshot_prediction": "A",
    "random_hint_prediction": "C",
    "hint_token_ids": [1],
    "original_prompt_full": "[user]Which is red?[assistant]Answer:",
    "hint_prompt_full": f"[user]Which is red?{HINT}[assistant]Answer:",
    "system_prompt": "",
    "original_user_prompt": "Which is red?",
    "hint_user_prompt": f"Which is red?{HINT}",
    "hint": "C",
    "changed_pred_bc_hint": True,
    "ablation_prompt": "",
}


def test_a_published_patching_row_becomes_one_of_ours_and_back(tokenizer):
    row = from_transluce("activation_patching", PUBLISHED, tokenizer)
    assert row["target_prompt"] == "The capital of France is" and row["layers"] == [0, 1] and row["position"] == 3
    assert outcome.parse(row["completion"]) == outcome.Outcome(True, "Rome")
    offset = row["placeholder_offsets"][0]
    assert row["prompt"][offset:].startswith("<activation>") and len(row["activations"][0]) == 32
    back = to_transluce("activation_patching", [row | {"source_position": 0}], tokenizer)[0]
    assert set(back) == set(PUBLISHED)
    for name in (
        "layer",
        "input_tokens",
        "original_continuation",
        "ablated_continuation",
        "is_different",
        "token_type",
    ):
        assert back[name] == PUBLISHED[name]
    assert back["patch_position"]["intervention_vector"] == [0.5] * 32


def test_a_published_ablation_row_becomes_one_of_ours_and_back(tokenizer):
    row = from_transluce("input_ablation", PUBLISHED_ABLATION, tokenizer)
    begin, end = row["removed_span"]
    assert row["target_prompt"][begin:end] == row["removed_text"] == HINT and row["hinted"] == "C"
    assert outcome.parse(row["completion"]) == outcome.Outcome(True, "A")
    back = to_transluce("input_ablation", [row], tokenizer)[0]
    assert set(back) == set(PUBLISHED_ABLATION)
    same = ("question", "choices", "correct_answer", "original_prompt_full", "hint_prompt_full", "changed_pred_bc_hint")
    assert all(back[name] == PUBLISHED_ABLATION[name] for name in same)

    for other in ({"replacement": "None."}, {"answered_by": "likelihood"}):
        with pytest.raises(SelfExplainError, match="row 0 is of a hint that was replaced, or answered by likelihood"):
            to_transluce("input_ablation", [row | other], tokenizer)


def test_what_is_no_published_row_is_named(tokenizer):
    with pytest.raises(SelfExplainError, match="has a column 'patch_position'"):
        from_transluce("activation_patching", PUBLISHED_ABLATION, tokenizer)
    with pytest.raises(SelfExplainError, match="not hint_prompt_full without a hint"):
        from_transluce("input_ablation", PUBLISHED_ABLATION | {"original_prompt_full": "other"}, tokenizer)


def test_published_datasets_are_built_without_running_anything(target, world, tmp_path):
    for split in ("train", "test"):
        records = [{"patching": PUBLISHED | {"input_tokens": ["The", " capital", " of", f" Land {split} {n}", " is"]},
                    "ablation": PUBLISHED_ABLATION | {"question": f"{split} {n}"}} for n in range(40)]  # fmt: skip
        for kind in ("patching", "ablation"):
            lines = [json.dumps(record[kind]) + "\n" for record in records]
            (tmp_path / f"{kind}-{split}.jsonl").write_text("".join(lines))
    sources = {
        "activation_patching": PatchingConfig(
            source=PairSource(kind="transluce", path=str(tmp_path / "patching-{split}.jsonl"))
        ),
        "input_ablation": AblationConfig(
            source=QuestionSource(kind="transluce", path=str(tmp_path / "ablation-{split}.jsonl"))
        ),
    }
    none_if_run(target.model)
    for task, config in sources.items():
        build(task, config, target, world, tmp_path / task, seed=0)
        rows = {split: read_rows(tmp_path / task / f"{split}.parquet") for split in SPLITS}
        assert len(rows["test"]) == 40 and len(rows["train"]) + len(rows["validation"]) == 40
        assert all("test" in row["group"] for row in rows["test"]) and len(rows["validation"]) > 0
    wide = PUBLISHED | {"patch_position": PUBLISHED["patch_position"] | {"intervention_vector": [0.0] * 8}}
    (tmp_path / "patching-train.jsonl").write_text(json.dumps(wide))
    with pytest.raises(SelfExplainError, match=r"width \[8\].*has width 32"):
        build("activation_patching", sources["activation_patching"], target, world, tmp_path / "wide", seed=0)


def none_if_run(model):
    def forward(*args, **kwargs):
        raise AssertionError("the target was run")

    model.forward = forward
    return model


def test_vectors_that_many_rows_share_lie_apart_and_are_joined_again(tokenizer, tmp_path):
    row = from_transluce("activation_patching", PUBLISHED, tokenizer) | {"target_model": "m", "target_revision": None}
    rows = [row | {"activations": [np.full(32, n // 3, np.float32)], "position": n} for n in range(6)]
    whole = to_table("activation_patching", rows, 32)
    table, vectors = vectors_apart(whole)
    parquet.write_table(table, tmp_path / "train.parquet")
    parquet.write_table(vectors, tmp_path / "vectors.parquet")
    assert table["vector_ids"].to_pylist() == [[0], [0], [0], [1], [1], [1]] and len(vectors) == 2
    joined = read_rows(tmp_path / "train.parquet")
    for before, after in zip(rows, joined, strict=True):
        np.testing.assert_array_equal(after["activations"], before["activations"])
        assert after["activations"].dtype == np.float16 and after["position"] == before["position"]
    columns = ["prompt", "activations"]
    dataset = read_dataset(tmp_path / "train.parquet", columns, tmp_path / "cache")
    assert dataset.column_names == columns and dataset[5]["activations"] == [[1.0] * 32]
    assert len(load_dataset("parquet", data_files=str(tmp_path / "train.parquet"), cache_dir=str(tmp_path / "c"))) == 1
