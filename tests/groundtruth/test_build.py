"""Datasets built from a random target: self-contained, balanced, split by group, and true."""

import json
from collections import Counter

import pytest
import torch
from datasets import load_dataset

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.build import build
from selfexplain.groundtruth.builders.patching import blocks_of_layers, tokenize
from selfexplain.groundtruth.config import AblationConfig, PatchingConfig
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.sources import Corpus, Pair, Prompt, read_corpus, story_pairs
from selfexplain.groundtruth.splits import SPLITS
from selfexplain.target.patching import Patch, run_patches
from selfexplain.target.resume import clean_run
from selfexplain.tasks import outcome

NAMES, THINGS = ["Tom", "Ann"], ["dog", "cat", "ball"]


@pytest.fixture
def patching(lively, world, pairs_config, tmp_path):
    build("activation_patching", pairs_config, lively, world, tmp_path / "data", seed=0)
    return {split: read_rows(tmp_path / "data" / f"{split}.parquet") for split in SPLITS}


def test_patching_rows_are_balanced_in_every_split_and_cell(patching):
    for rows in patching.values():
        cells = Counter((row["token_type"], tuple(row["layers"]), row["changed"]) for row in rows)
        assert all(cells[kind, layers, True] == cells[kind, layers, False] for kind, layers, _ in cells)


def test_no_group_crosses_splits_and_no_source_either(patching):
    groups = [{row["group"] for row in rows} for rows in patching.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    texts = {split: {row["target_prompt"] for row in rows} for split, rows in patching.items()}
    sources = {split: {row["source_prompt"] for row in rows} for split, rows in patching.items()}
    assert not (texts["train"] | sources["train"]) & (texts["test"] | sources["test"])


def test_no_story_prompt_crosses_splits(target, monkeypatch):
    """Stories begin alike: the same prompt, the same but for a word, or one that begins another."""
    openings = [f"One {time} {name} saw a {thing}" for time in ("day", "evening") for name in NAMES for thing in THINGS]
    texts = [f"{opening}{rest}" for opening in openings for rest in (". So the", " and a", " by the")]
    texts = [f"{text} {thing} went home with {name}." for text in texts for name in NAMES for thing in THINGS[:2]]
    said = {name: target.tokenizer(f" {name}", add_special_tokens=False)["input_ids"][0] for name in NAMES + THINGS}

    def next_tokens(_, prefixes):
        return [next((said[name] for name in NAMES if name in prefix), 0) for prefix in prefixes]

    monkeypatch.setattr("selfexplain.groundtruth.sources.stories.next_tokens", next_tokens)
    pairs = story_pairs(target, texts, 400, seed=0)
    cleans = [pair.clean.text for pair in pairs]
    groups = {prompt.text: prompt.group for pair in pairs for prompt in (pair.clean, pair.source)}
    assert len(pairs) > 20 and all(groups[pair.clean.text] == groups[pair.source.text] for pair in pairs)
    assert all(groups[a] == groups[b] for a in cleans for b in cleans if b.startswith(a))
    assert all(prompt.group == groups[prompt.text] for pair in pairs for prompt in (pair.clean, pair.source))


def test_a_patching_row_reproduces_its_own_outcome(lively, patching):
    for row in patching["train"][:20]:
        vector = torch.as_tensor(row["activations"], dtype=torch.float32)
        patch = Patch(0, tuple(row["layers"]), (row["position"],), vector)
        results = run_patches(lively, [row["prompt_ids"]], [patch])
        assert results.clean_ids.item() == row["clean_output_id"]
        assert results.ids.item() == row["patched_output_id"]
        assert row["changed"] == (row["clean_output_id"] != row["patched_output_id"])
        assert outcome.parse(row["completion"]) == outcome.Outcome(row["changed"], row["patched_output"].strip())
        assert row["kl"] == pytest.approx(results.kl.item(), abs=1e-3)
        assert lively.tokenizer.decode(row["prompt_ids"], skip_special_tokens=True) == row["target_prompt"]


def test_the_vector_is_the_mean_over_the_block_of_the_source(lively, patching):
    row = patching["train"][0]
    hidden = clean_run(lively.model, [lively.encode(row["source_prompt"])], row["layers"]).hidden
    mean = torch.stack([hidden[layer][0, row["source_position"]] for layer in row["layers"]]).mean(0)
    written = torch.as_tensor(row["activations"][0]).float()
    torch.testing.assert_close(written, mean.half().float(), atol=2e-3, rtol=2e-3)


def test_ablation_rows_reproduce_their_outcome_and_load(lively, world, tmp_path):
    build("input_ablation", AblationConfig(n_questions=200, n_rows=100), lively, world, tmp_path / "data", seed=0)
    dataset = load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    assert json.loads((tmp_path / "data" / "statistics.json").read_text())["splits"]["train"]["rows"] == len(
        dataset["train"]
    )
    for split in SPLITS:
        assert 0.4 <= sum(dataset[split]["changed"]) / len(dataset[split]) <= 0.6
    for row in list(dataset["train"])[:10]:
        begin, end = row["removed_span"]
        without = row["target_prompt"][:begin] + row["target_prompt"][end:]
        assert row["target_prompt"][begin:end] == row["removed_text"]
        for text, expected in ((row["target_prompt"], row["full_output"]), (without, row["ablated_output"])):
            logits = lively.model(torch.tensor([lively.encode(text)])).logits[0, -1]
            assert lively.tokenizer.decode([logits.argmax().item()]).strip() == expected


def test_positions_align_around_subjects_of_different_length(target):
    def prompt(subject):
        text = f"The capital of {subject} is"
        return Prompt(text, subject, (15, 15 + len(subject)), len(text))

    pair = tokenize(target, Pair(prompt("France"), prompt("New Zealand")))
    n_subject, n_other = (pair.token_types.count("subject"), len(pair.source_ids) - len(pair.ids))
    assert n_other > 0 and n_subject >= 1
    for i, j in enumerate(pair.source_positions):
        if pair.token_types[i] == "other":
            assert pair.ids[i] == pair.source_ids[j]
    last = max(i for i, kind in enumerate(pair.token_types) if kind == "subject")
    assert pair.source_positions[last] == last + n_other


def test_story_pairs_end_where_the_target_says_the_word(target, monkeypatch):
    texts = [
        f"One day {name} saw a {thing}. So {name} took the {thing} home."
        for name in ("Tom", "Ann")
        for thing in ("dog", "cat")
    ] * 6
    tom = target.tokenizer(" Tom", add_special_tokens=False)["input_ids"][0]

    def next_tokens(_, prefixes):
        return [tom for _ in prefixes]

    monkeypatch.setattr("selfexplain.groundtruth.sources.stories.next_tokens", next_tokens)
    for pair in story_pairs(target, texts, 10, seed=0):
        assert len(target.encode(pair.clean.text)) == len(target.encode(pair.source.text))
        assert pair.clean.text != pair.source.text and pair.clean.group == pair.source.group


@pytest.mark.parametrize(
    ("n_layers", "n_blocks", "expected"),
    [(8, 4, [(0, 1), (2, 3), (4, 5), (6, 7)]), (5, 2, [(0, 1), (2, 3, 4)]), (3, 3, [(0,), (1,), (2,)])],
)
def test_blocks_of_layers(n_layers, n_blocks, expected):
    assert blocks_of_layers(n_layers, n_blocks) == expected


def test_bad_input_is_named(target, tmp_path):
    with pytest.raises(SelfExplainError, match="target has 4 layers"):
        blocks_of_layers(4, 5)
    with pytest.raises(SelfExplainError, match="plain text"):
        build("input_ablation", AblationConfig(), target, Corpus("file", ["a"]), tmp_path, seed=0)
    with pytest.raises(SelfExplainError, match="no counterfactual pairs"):
        build("activation_patching", PatchingConfig(n_blocks=2), target, Corpus("file", ["a b c"]), tmp_path, seed=0)
    (tmp_path / "bad.jsonl").write_text('{"txt": 1}')
    (tmp_path / "empty.txt").write_text("\n\n")
    for name, message in (("bad.jsonl", "no column 'text'"), ("empty.txt", "no text"), ("missing.txt", "No such file")):
        with pytest.raises(SelfExplainError, match=message):
            read_corpus(str(tmp_path / name), 0)
