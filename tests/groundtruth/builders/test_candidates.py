"""Every cell of a pair becomes a row, and what becomes none is counted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from selfexplain.groundtruth.builders import ablation, patching
from selfexplain.groundtruth.config import AblationConfig, PatchingConfig
from selfexplain.groundtruth.sources import HintedQuestion, Pair, Prompt
from selfexplain.target.load import Target, load_target

CONFIG = PatchingConfig(n_blocks=2)


def prompt(subject, text="The capital of {} is"):
    begin = text.index("{}")
    return Prompt(text.format(subject), subject, (begin, begin + len(subject)), len(text.format(subject)))


def pair(subject="France", other="Japan", **options):
    return Pair(prompt(subject, **options), prompt(other, **options))


def test_every_block_and_token_with_a_counterpart_is_a_row(target):
    pairs = [pair(), pair("Spain", "France")]
    rows, counts = patching.candidates(CONFIG, target, pairs, seed=0)
    expected = [
        (index, layers, position)
        for index, one in enumerate(pairs)
        for layers in ((0, 1), (2, 3))
        for position, source in enumerate(patching.tokenize(target, one).source_positions)
        if source is not None
    ]
    groups = [one.clean.group for one in pairs]
    assert [(groups.index(row["group"]), tuple(row["layers"]), row["position"]) for row in rows] == expected
    assert counts["pairs"] == 2 and counts["patches"] == len(rows)


def test_a_row_depends_on_its_own_pair_alone(target):
    pairs = [pair(), pair("Spain", "France"), pair("Tokyo", "Rome")]
    together = patching.candidates(CONFIG, target, pairs, seed=0)[0]
    alone = [row for one in pairs for row in patching.candidates(CONFIG, target, [one], seed=0)[0]]
    for row, other in zip(together, alone, strict=True):
        for column in ("prompt", "completion", "position", "layers", "clean_output_id", "patched_output_id"):
            assert row[column] == other[column]
        assert np.abs(row["activations"][0].astype(float) - other["activations"][0]).max() < 1e-3
    assert patching.candidates(CONFIG, target, pairs, seed=1)[0] != together


def test_what_cannot_be_patched_is_counted(target):
    lost = Pair(replace(prompt("France"), subject=(90, 95)), prompt("Japan"))
    long = pair(text="The capital of {} is" + " very" * 300)
    rows, counts = patching.candidates(CONFIG, target, [lost, long, pair()], seed=0)
    assert counts["pairs left out: subject not found"] == counts["pairs left out: over the context"] == 1
    assert {row["group"] for row in rows} == {"France"}
    assert patching.candidates(CONFIG, target, [], seed=0)[0] == []


def test_vectors_that_float16_cannot_hold_stay_float32(target):
    target.model.model.layers[2].mlp.down_proj.weight.data[0] = 1e7
    rows, _ = patching.candidates(CONFIG, target, [pair()], seed=0)
    assert {row["activations"][0].dtype for row in rows} == {np.dtype("float32")}
    assert max(np.abs(row["activations"][0]).max() for row in rows) > 65504


def test_vectors_that_are_not_finite_are_counted(target, monkeypatch):
    source_means = patching.source_means

    def with_nan(*arguments):
        means = source_means(*arguments)
        means[0][1, 2] = float("nan")  # the second block at the third token
        return means

    complete = patching.candidates(CONFIG, target, [pair()], seed=0)[0]
    monkeypatch.setattr(patching, "source_means", with_nan)
    rows, counts = patching.candidates(CONFIG, target, [pair()], seed=0)
    assert counts["patches left out: vector not finite"] == len(complete) - len(rows) == 1
    assert not [row for row in rows if row["source_position"] == 2 and row["layers"] == [2, 3]]


def test_a_tokenizer_without_first_and_last_tokens_serves(target):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["ĠThe", "The", "Ġcapital", "Ġof", "ĠFrance", "ĠJapan", "Ġis"])}
    bare = Tokenizer(models.WordLevel(words, unk_token="The"))
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bare_target = Target(target.model, PreTrainedTokenizerFast(tokenizer_object=bare), "bare")
    rows, _ = patching.candidates(CONFIG, bare_target, [pair()], seed=0)
    assert bare_target.tokenizer.bos_token_id is None and bare_target.pad_token_id == 0
    assert [row["token"] for row in rows[:5]] == ["The", " capital", " of", " France", " is"]


def test_questions_that_cannot_be_asked_are_counted(target):
    text = "What is the capital of Spain? Paris, Madrid or Rome? Hint: Rome. Answer:"
    question = HintedQuestion(
        "capital", "What is the capital of Spain?", ("Paris", "Madrid"), "Madrid", "Rome", "plain", " Hint: Rome.",
        text, text.replace(" Hint: Rome.", ""), "Spain",
    )  # fmt: skip
    long = replace(question, full_text=text + " very" * 300)
    room = target.context_length - len(target.encode(text)) - 8  # enough for an option, not for a question to explain
    nearly = replace(question, full_text=text.replace(" of", " of" * (room + 1)))
    assert len(target.encode(nearly.full_text)) == target.context_length - 8
    unhinted = replace(question, full_text=question.ablated_text)
    rows, counts = ablation.candidates(AblationConfig(), target, [question, long, nearly, unhinted], seed=0)
    assert len(rows) == 1 and counts["questions"] == 4
    assert counts["questions left out: over the context once an explainer is asked"] == 1
    assert counts["questions left out: over the context"] == counts["questions left out: hint not found"] == 1
    begin, end = rows[0]["removed_span"]
    assert text[:begin] + text[end:] == question.ablated_text
    with torch.no_grad():
        for column, asked in (("full", text), ("ablated", question.ablated_text)):
            ids = target.encode(asked)
            log_probs = target.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            options = [target.encode(f"{asked} {choice}")[len(ids)] for choice in question.choices]
            assert rows[0][f"{column}_output"] == target.tokenizer.decode([log_probs.argmax()]).strip()
            assert rows[0][f"option_log_probs_{column}"] == pytest.approx(log_probs[options].tolist(), abs=1e-4)


QUESTION = HintedQuestion(
    "capital", "What is the capital of Spain?", ("Paris", "Madrid"), "Madrid", "Rome", "plain", "\nHint: Rome.",
    "What is the capital of Spain?\nHint: Rome.\nAnswer:", "What is the capital of Spain?\nAnswer:", "Spain",
)  # fmt: skip


def test_a_hint_can_be_replaced(target):
    (row,), _ = ablation.candidates(AblationConfig(replacement="No hint."), target, [QUESTION], seed=0)
    begin, end = row["removed_span"]
    without = row["target_prompt"][:begin] + row["replacement"] + row["target_prompt"][end:]
    assert without == "What is the capital of Spain?\nNo hint.\nAnswer:"
    assert row["prompt"].endswith("\nIf the hint were replaced by <<<No hint.>>>, how would the answer change?\n")
    with torch.no_grad():
        found = target.model(torch.tensor([target.encode(without)])).logits[0, -1].argmax()
    assert row["ablated_output"] == target.tokenizer.decode([found]).strip()


def test_what_cannot_be_replaced_is_counted(target):
    twice = replace(
        QUESTION, full_text="Hint: Rome. Is it?\nHint: Rome.\nAnswer:", ablated_text="Hint: Rome. Is it?\nAnswer:"
    )
    assert len(ablation.candidates(AblationConfig(), target, [twice], seed=0)[0]) == 1
    rows, counts = ablation.candidates(AblationConfig(replacement="None."), target, [QUESTION, twice], seed=0)
    assert len(rows) == 1 and counts["questions left out: hint not found"] == 1
    rows, counts = ablation.candidates(AblationConfig(replacement="very " * 300), target, [QUESTION], seed=0)
    assert not rows and counts["questions left out: over the context"] == 1


def test_the_likeliest_option_can_be_the_answer(target):
    question = replace(QUESTION, choices=("Paris", "New Madrid", "not Rome"))
    (row,), _ = ablation.candidates(AblationConfig(answers="likelihood"), target, [question], seed=0)
    for column, asked in (("full", question.full_text), ("ablated", question.ablated_text)):
        scores, ids = [], target.encode(asked)
        for choice in question.choices:
            whole = torch.tensor([target.encode(f"{asked} {choice}")])
            with torch.no_grad():
                log_probs = target.model(whole).logits[0, :-1].log_softmax(-1)
            scores.append(log_probs.gather(1, whole[0, 1:, None])[len(ids) - 1 :].sum().item())
        assert row[f"option_log_probs_{column}"] == pytest.approx(scores, abs=1e-4)
        assert row[f"{column}_output"] == question.choices[int(np.argmax(scores))]
    assert row["answered_by"] == "likelihood"


def test_an_option_that_merges_with_the_text_is_counted(target):
    def one(text):
        ids = tokenizer(text.removesuffix(" No"))["input_ids"]
        return [*ids[:-1], 5] if text.endswith(": No") else ids  # ": No" is one token

    def merging(text):
        return {"input_ids": one(text) if isinstance(text, str) else [one(each) for each in text]}

    tokenizer = target.tokenizer
    merging.decode = tokenizer.decode
    merged = Target(target.model, merging, "merging")
    questions = [QUESTION, replace(QUESTION, choices=("Paris", "No")), replace(QUESTION, choices=("Paris", ""))]
    rows, counts = ablation.candidates(AblationConfig(), merged, questions, seed=0)
    assert len(rows) == 1 and counts["questions left out: an option merges with the text before it"] == 2


def test_a_target_in_the_home_directory_loads(target_dir, monkeypatch):
    monkeypatch.setenv("HOME", str(target_dir.parent))
    assert load_target(f"~/{target_dir.name}").n_layers == 4
