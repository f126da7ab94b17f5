"""Published datasets of Transluce are converted into rows of this package and back."""

import json
from collections import Counter

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.build import build
from selfexplain.groundtruth.builders.transluce import (
    from_transluce,
    read_ablation,
    read_patching,
    write_ablation,
    write_patching,
)
from selfexplain.groundtruth.config import AblationConfig, PairSource, PatchingConfig, QuestionSource
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.sources import Corpus
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


def test_a_published_patching_row_is_converted_and_back(tokenizer):
    row = from_transluce(read_patching, PUBLISHED, tokenizer)
    assert row["target_prompt"] == "The capital of France is" and row["layers"] == [0, 1] and row["position"] == 3
    assert outcome.parse(row["completion"]) == outcome.Outcome(True, "Rome")
    offset = row["placeholder_offsets"][0]
    assert row["prompt"][offset:].startswith("<activation>") and len(row["activations"][0]) == 32
    back = write_patching(7, row | {"source_position": 0}, tokenizer)
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


def test_a_published_ablation_row_is_converted_and_back(tokenizer):
    row = from_transluce(read_ablation, PUBLISHED_ABLATION, tokenizer)
    begin, end = row["removed_span"]
    assert row["target_prompt"][begin:end] == row["removed_text"] == HINT and row["hinted"] == "C"
    assert outcome.parse(row["completion"]) == outcome.Outcome(True, "A")
    back = write_ablation(4, row, tokenizer)
    assert set(back) == set(PUBLISHED_ABLATION)
    same = ("question", "choices", "correct_answer", "original_prompt_full", "hint_prompt_full", "changed_pred_bc_hint")
    assert all(back[name] == PUBLISHED_ABLATION[name] for name in same)

    for other in ({"replacement": "None."}, {"answered_by": "likelihood"}):
        with pytest.raises(SelfExplainError, match="In row 0 the hint was replaced or the answer was chosen"):
            write_ablation(0, row | other, tokenizer)


def test_rows_in_another_form_raise_an_error(tokenizer):
    with pytest.raises(SelfExplainError, match="has a column 'patch_position'"):
        from_transluce(read_patching, PUBLISHED_ABLATION, tokenizer)
    with pytest.raises(SelfExplainError, match="not hint_prompt_full without a hint"):
        from_transluce(read_ablation, PUBLISHED_ABLATION | {"original_prompt_full": "other"}, tokenizer)


def test_published_datasets_are_built_without_running_the_target(target, world, tmp_path):
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
    fail_if_run(target.model)
    for task, config in sources.items():
        build(task, config, target, world, tmp_path / task, seed=0)
        rows = {split: read_rows(tmp_path / task / f"{split}.parquet") for split in SPLITS}
        assert len(rows["test"]) == 40 and len(rows["train"]) + len(rows["validation"]) == 40
        assert all("test" in row["group"] for row in rows["test"]) and len(rows["validation"]) > 0
    wide = PUBLISHED | {"patch_position": PUBLISHED["patch_position"] | {"intervention_vector": [0.0] * 8}}
    (tmp_path / "patching-train.jsonl").write_text(json.dumps(wide))
    with pytest.raises(SelfExplainError, match=r"width \[8\].*has width 32"):
        build("activation_patching", sources["activation_patching"], target, world, tmp_path / "wide", seed=0)


@pytest.mark.parametrize(
    ("task", "record", "changes"),
    [
        (
            "activation_patching",
            PUBLISHED,
            [{"is_different": None}, {"layer": []}, {"ablated_continuation": [None]}, {"counterfactual_text": None},
             {"patch_position": None}, {"patch_position": PUBLISHED["patch_position"] | {"orig_pos": None}},
             {"token_type": float("nan")}],
        ),
        (
            "input_ablation",
            PUBLISHED_ABLATION,
            [{"zeroshot_prediction": None}, {"choices": ["a", None]}, {"correct_answer": None}, {"question": 3},
             {"hint_prompt_full": None}, {"changed_pred_bc_hint": "yes"}, {"question": "\ud800"}],
        ),
    ],
)  # fmt: skip
def test_incomplete_rows_and_texts_are_counted_in_the_statistics(target, tmp_path, task, record, changes):
    for split in ("train", "test"):
        unlike = [{"question": f"{n}", "input_tokens": [f"Text {n}", " is"]} for n in range(80)]
        lines = [json.dumps(record | change) for change in (*unlike, *(changes if split == "train" else ()))]
        (tmp_path / f"{split}.jsonl").write_text("\n".join([*lines, "null"]))
    cls, source_cls = {
        "activation_patching": (PatchingConfig, PairSource),
        "input_ablation": (AblationConfig, QuestionSource),
    }[task]
    config = cls(source=source_cls(kind="transluce", path=str(tmp_path / "{split}.jsonl")))
    corpus = Corpus("file", ["a"], skipped=Counter({"no text": 2}))
    build(task, config, target, corpus, tmp_path / "data", seed=0)
    statistics = DatasetDirectory(tmp_path / "data").statistics()
    published = statistics.counts["published"]
    skipped = {name: n for name, n in published.items() if name.startswith("train rows skipped")}
    assert published["train"] == 80 and sum(skipped.values()) == len(changes) + 1
    assert published["test rows skipped: not an object (first: row 81)"] == 1
    assert statistics.counts["corpus"] == {"skipped": {"no text": 2}}
    rows = [row for split in SPLITS for row in read_rows(tmp_path / "data" / f"{split}.parquet")]
    assert len(rows) == 160 and not any("None" in str(row | {"target_revision": ""}) for row in rows)


def fail_if_run(model):
    def forward(*args, **kwargs):
        raise AssertionError("the target was run")

    model.forward = forward
    return model
