"""Datasets of a random target: balanced, split by group, reproducible from their own columns."""

from collections import Counter

import pytest
import torch
from datasets import load_dataset

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.build import build
from selfexplain.groundtruth.config import AblationConfig, FeatureConfig, PatchingConfig
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.sources import Corpus
from selfexplain.groundtruth.splits import SPLITS
from selfexplain.target.patching import Patch, run_patches
from selfexplain.target.resume import clean_run
from selfexplain.target.tokens import token_text
from selfexplain.tasks import outcome


@pytest.fixture
def patching(sensitive_target, world, pairs_config, tmp_path):
    build("activation_patching", pairs_config, sensitive_target, world, tmp_path / "data", seed=0)
    return {split: read_rows(tmp_path / "data" / f"{split}.parquet") for split in SPLITS}


def test_half_of_the_patching_rows_are_changed_in_every_split_and_cell(patching):
    for rows in patching.values():
        cells = Counter((row["token_type"], tuple(row["layers"]), row["changed"]) for row in rows)
        assert cells
        assert all(cells[kind, layers, True] == cells[kind, layers, False] for kind, layers, _ in cells)


def test_neither_groups_nor_prompts_cross_splits(patching):
    groups = [{row["group"] for row in rows} for rows in patching.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    texts = {split: {row["target_prompt"] for row in rows} for split, rows in patching.items()}
    sources = {split: {row["source_prompt"] for row in rows} for split, rows in patching.items()}
    assert not (texts["train"] | sources["train"]) & (texts["test"] | sources["test"])


def test_a_patching_row_reproduces_its_own_outcome(sensitive_target, patching):
    for row in patching["train"][:20]:
        vector = torch.as_tensor(row["activations"], dtype=torch.float32)
        patch = Patch(0, tuple(row["layers"]), (row["position"],), vector)
        results = run_patches(sensitive_target, [row["prompt_ids"]], [patch])
        assert results.clean_ids.item() == row["clean_output_id"]
        assert results.ids.item() == row["patched_output_id"]
        assert row["changed"] == (row["clean_output_id"] != row["patched_output_id"])
        assert outcome.parse(row["completion"]) == outcome.Outcome(row["changed"], row["patched_output"].strip())
        assert row["kl"] == pytest.approx(results.kl.item(), abs=1e-3)
        assert sensitive_target.tokenizer.decode(row["prompt_ids"], skip_special_tokens=True) == row["target_prompt"]


def test_the_patching_vector_is_the_mean_of_the_source_over_the_block(sensitive_target, patching):
    row = patching["train"][0]
    hidden = clean_run(sensitive_target.model, [sensitive_target.encode(row["source_prompt"])], row["layers"]).hidden
    mean = torch.stack([hidden[layer][0, row["source_position"]] for layer in row["layers"]]).mean(0)
    written = torch.as_tensor(row["activations"][0]).float()
    torch.testing.assert_close(written, mean.half().float(), atol=2e-3, rtol=2e-3)


def test_ablation_rows_reproduce_their_outcome_and_load_with_datasets(sensitive_target, world, tmp_path):
    build(
        "input_ablation",
        AblationConfig(n_questions=200, n_rows=100),
        sensitive_target,
        world,
        tmp_path / "data",
        seed=0,
    )
    dataset = load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    statistics = DatasetDirectory(tmp_path / "data").statistics()
    for split in SPLITS:
        assert statistics.splits[split].rows == len(dataset[split])
        assert statistics.splits[split].groups == len(set(dataset[split]["group"]))
        assert sum(dataset[split]["changed"]) == len(dataset[split]) / 2
    for row in list(dataset["train"])[:10]:
        begin, end = row["removed_span"]
        without = row["target_prompt"][:begin] + row["target_prompt"][end:]
        assert row["target_prompt"][begin:end] == row["removed_text"]
        for text, expected in ((row["target_prompt"], row["full_output"]), (without, row["ablated_output"])):
            logits = sensitive_target.model(torch.tensor([sensitive_target.encode(text)])).logits[0, -1]
            assert token_text(sensitive_target.tokenizer, logits.argmax().item()).strip() == expected


def test_a_build_that_cannot_produce_rows_raises_an_error(target, tmp_path):
    plain_text = Corpus("file", ["a"])
    with pytest.raises(SelfExplainError, match="needs questions with hints, but the corpus file is plain text"):
        build("input_ablation", AblationConfig(), target, plain_text, tmp_path, seed=0)
    with pytest.raises(SelfExplainError, match="the source contains no counterfactual pairs"):
        build("activation_patching", PatchingConfig(n_blocks=2), target, Corpus("file", ["a b c"]), tmp_path, seed=0)
    with pytest.raises(SelfExplainError, match="The corpus is empty"):
        build("feature_description", FeatureConfig(), target, Corpus("file", []), tmp_path, seed=0)
    with pytest.raises(SelfExplainError, match="no task 'activation_patchin'"):
        build("activation_patchin", PatchingConfig(), target, plain_text, tmp_path, seed=0)


def test_too_few_rows_for_every_split_raise_an_error(sensitive_target, world, tmp_path):
    with pytest.raises(SelfExplainError, match=r"rows in \d+ groups leave no row for .*Use more data"):
        build("input_ablation", AblationConfig(n_questions=12, n_rows=4), sensitive_target, world, tmp_path, seed=0)
