"""Patching rows: one per block and token with a counterpart, and counts of what is left out."""

from dataclasses import replace

import numpy as np
import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.builders import patching
from selfexplain.groundtruth.builders.alignment import align
from selfexplain.groundtruth.config import PatchingConfig
from selfexplain.groundtruth.sources import Pair, Prompt
from selfexplain.target.load import Target

CONFIG = PatchingConfig(n_blocks=2)


def prompt(subject, text="The capital of {} is"):
    begin = text.index("{}")
    return Prompt(text.format(subject), subject, (begin, begin + len(subject)), len(text.format(subject)))


def pair(subject="France", other="Japan", **options):
    return Pair(prompt(subject, **options), prompt(other, **options))


def test_every_block_and_token_with_a_counterpart_gives_a_row(target):
    pairs = [pair(), pair("Spain", "France")]
    rows, counts = patching.compute_rows(CONFIG, target, pairs, seed=0)
    expected = [
        (index, layers, position)
        for index, one in enumerate(pairs)
        for layers in ((0, 1), (2, 3))
        for position, source in enumerate(align(target, one).source_positions)
        if source is not None
    ]
    groups = [one.clean.group for one in pairs]
    assert [(groups.index(row["group"]), tuple(row["layers"]), row["position"]) for row in rows] == expected
    assert counts["pairs"] == 2 and counts["patches"] == len(rows)


def test_a_row_depends_only_on_its_own_pair_and_the_seed(target):
    pairs = [pair(), pair("Spain", "France"), pair("Tokyo", "Rome")]
    joint = patching.compute_rows(CONFIG, target, pairs, seed=0)[0]
    separate = [row for one in pairs for row in patching.compute_rows(CONFIG, target, [one], seed=0)[0]]
    for row, other in zip(joint, separate, strict=True):
        for column in ("prompt", "completion", "position", "layers", "clean_output_id", "patched_output_id"):
            assert row[column] == other[column]
        assert np.abs(row["activations"][0].astype(float) - other["activations"][0]).max() < 1e-3
    assert patching.compute_rows(CONFIG, target, pairs, seed=1)[0] != joint


def test_pairs_that_cannot_be_patched_are_counted(target):
    lost = Pair(replace(prompt("France"), subject=(90, 95)), prompt("Japan"))
    long = pair(text="The capital of {} is" + " very" * 300)
    rows, counts = patching.compute_rows(CONFIG, target, [lost, long, pair()], seed=0)
    assert counts["pairs left out: subject not found"] == counts["pairs left out: longer than the context"] == 1
    assert {row["group"] for row in rows} == {"France"}
    assert patching.compute_rows(CONFIG, target, [], seed=0)[0] == []


def test_vectors_beyond_the_range_of_float16_stay_float32(target):
    target.model.model.layers[2].mlp.down_proj.weight.data[0] = 1e7
    rows, _ = patching.compute_rows(CONFIG, target, [pair()], seed=0)
    assert {row["activations"][0].dtype for row in rows} == {np.dtype("float32")}
    assert max(np.abs(row["activations"][0]).max() for row in rows) > 65504


def test_vectors_that_are_not_finite_are_counted(target, monkeypatch):
    source_means = patching.source_means

    def with_nan(*arguments):
        means = source_means(*arguments)
        means[0][1, 2] = float("nan")  # the second block at the third token
        return means

    complete = patching.compute_rows(CONFIG, target, [pair()], seed=0)[0]
    monkeypatch.setattr(patching, "source_means", with_nan)
    rows, counts = patching.compute_rows(CONFIG, target, [pair()], seed=0)
    assert counts["patches left out: vector not finite"] == len(complete) - len(rows) == 1
    assert not [row for row in rows if row["source_position"] == 2 and row["layers"] == [2, 3]]


def test_a_tokenizer_without_special_tokens_works(target):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["ĠThe", "The", "Ġcapital", "Ġof", "ĠFrance", "ĠJapan", "Ġis"])}
    bare = Tokenizer(models.WordLevel(words, unk_token="The"))
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bare_target = Target(target.model, PreTrainedTokenizerFast(tokenizer_object=bare), "bare")
    rows, _ = patching.compute_rows(CONFIG, bare_target, [pair()], seed=0)
    assert bare_target.tokenizer.bos_token_id is None and bare_target.pad_token_id == 0
    assert [row["token"] for row in rows[:5]] == ["The", " capital", " of", " France", " is"]


@pytest.mark.parametrize(
    ("n_layers", "n_blocks", "expected"),
    [(8, 4, [(0, 1), (2, 3), (4, 5), (6, 7)]), (5, 2, [(0, 1), (2, 3, 4)]), (3, 3, [(0,), (1,), (2,)])],
)
def test_layers_are_divided_into_contiguous_blocks(n_layers, n_blocks, expected):
    assert patching.blocks_of_layers(n_layers, n_blocks) == expected


@pytest.mark.parametrize("n_blocks", [0, 5])
def test_an_impossible_number_of_blocks_raises_an_error(n_blocks):
    with pytest.raises(SelfExplainError, match=f"n_blocks is {n_blocks}, but the target has 4 layers"):
        patching.blocks_of_layers(4, n_blocks)


def test_candidates_without_any_change_raise_an_error():
    row = {"group": "a", "target_prompt": "t", "token_type": "subject", "layers": [0], "changed": False}
    with pytest.raises(SelfExplainError, match="None of 1 patches changes the output"):
        patching.draw_rows(CONFIG, [row], seed=0)
    with pytest.raises(SelfExplainError, match="There are no counterfactual pairs that can be patched"):
        patching.draw_rows(CONFIG, [], seed=0)


def test_rerunning_a_row_reproduces_its_outputs(target):
    rows, _ = patching.compute_rows(CONFIG, target, [pair()], seed=0)
    for row in rows[:4]:
        stored, found = patching.rerun(target, row)
        assert stored == found == f"{row['clean_output']!r} -> {row['patched_output']!r}"
    target.model.lm_head.weight.data.neg_()
    assert any(stored != found for stored, found in (patching.rerun(target, row) for row in rows[:4]))
