"""Train the embedded target, a Llama with about a million parameters, and its sibling from random weights."""

import json
import logging
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from selfexplain.errors import SelfExplainError
from selfexplain.target.load import Target
from selfexplain.target.nexttoken import next_tokens
from selfexplain.tiny.config import TinyTargetConfig
from selfexplain.tiny.prompts import five_options
from selfexplain.tiny.sources import world_questions
from selfexplain.tiny.tokenizer import build_tokenizer
from selfexplain.tiny.world import Text, World
from selfexplain.utils.io import write_json

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Encoded = tuple[list[int], list[int]]
"""Token ids and labels."""

N_SENTENCES = 8_000
"""Sentences in one pool of training texts."""
MIX = (
    (World.five_option_prompt, 2000),
    (World.scene_prompt, 3000),
    (World.open_question, 1500),
    (World.hinted_question, 3500),
)
"""Prompts in one pool of training texts: function that draws them -> their number."""


def new_model(config: TinyTargetConfig, tokenizer: "PreTrainedTokenizerBase", seed: int) -> "LlamaForCausalLM":
    """The untrained model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.d_model,
            intermediate_size=config.d_mlp,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            initializer_range=0.05,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def batches(
    world: World, tokenizer: "PreTrainedTokenizerBase", tokens_per_batch: int, seed: int, n_plain: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw endless batches `(input_ids, labels)`, each `(B, T)`, of texts of similar length.

    Labels are -100 where the loss does not apply. About the first `n_plain` batches contain only sentences: they are
    short, so facts, and the retrieval of words from earlier in the text, are learned fastest from them. Prompts, which
    build on both, follow.
    """
    rng = random.Random(seed)
    n_drawn = 0
    while True:
        makers = ((World.sentence, N_SENTENCES), *(MIX if n_drawn >= n_plain else ()))
        rows = [_encode(make(world, rng), tokenizer) for make, n in makers for _ in range(n)]
        rng.shuffle(rows)
        rows.sort(key=lambda row: len(row[0]) // 4)
        grouped = _group(rows, tokens_per_batch)
        rng.shuffle(grouped)
        n_drawn += len(grouped)
        for batch in grouped:
            length = max(len(ids) for ids, _ in batch)
            input_ids = torch.tensor([ids + [tokenizer.pad_token_id] * (length - len(ids)) for ids, _ in batch])
            labels = torch.tensor([labels + [-100] * (length - len(labels)) for _, labels in batch])
            yield input_ids, labels


def _group(rows: list[Encoded], tokens_per_batch: int) -> list[list[Encoded]]:
    """Consecutive rows as batches of at most `tokens_per_batch` tokens, padding included."""
    grouped: list[list[Encoded]] = [[]]
    for row in rows:
        if grouped[-1] and (len(grouped[-1]) + 1) * len(row[0]) > tokens_per_batch:
            grouped.append([])
        grouped[-1].append(row)
    return grouped[:-1]  # without the last one, which is not full


def _encode(text: Text, tokenizer: "PreTrainedTokenizerBase") -> Encoded:
    """Token ids and labels of a text, with begin and end of text."""
    parts = [(tokenizer(part, add_special_tokens=False)["input_ids"], in_loss) for part, in_loss in text]
    ids = [token for part, _ in parts for token in part]
    labels = [token if in_loss else -100 for part, in_loss in parts for token in part]
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id], [-100, *labels, tokenizer.eos_token_id]


def train(
    config: TinyTargetConfig, seed: int, progress: str = "target", position: int = 0
) -> tuple["LlamaForCausalLM", "PreTrainedTokenizerBase"]:
    """Train one model.

    Args:
        config: sizes and training of the model.
        seed: seed of the weights and of the data order.
        progress: label of the progress bar.
        position: line of the progress bar.
    """
    world, tokenizer = World(), build_tokenizer()
    model = new_model(config, tokenizer, seed)
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    optimizers = [
        torch.optim.Muon(matrices, lr=config.muon_learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]

    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, n_steps=config.steps)) for optimizer in optimizers
    ]
    stream = batches(world, tokenizer, config.tokens_per_batch, seed, round(config.plain_share * config.steps))
    model.train()
    bar = tqdm(range(config.steps), desc=progress, unit="step", mininterval=5, position=position)
    for step in bar:
        input_ids, labels = next(stream)
        keep = labels[:, 1:] != -100
        hidden = model.model(input_ids=input_ids).last_hidden_state[:, :-1][keep]  # right padding needs no mask
        loss = cross_entropy(model.lm_head(hidden), labels[:, 1:][keep])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 100 == 99:
            model.eval()
            bar.set_postfix({name: f"{value:.2f}" for name, value in check(model, tokenizer, n=200).items()})
            model.train()
    return model.eval(), tokenizer


def _rate(step: int, n_steps: int) -> float:
    """Factor of the learning rate: rises over the first fiftieth of the steps, falls to a tenth over the last 40 %."""
    return min(1.0, (step + 1) / (n_steps / 50), 0.1 + 0.9 * (n_steps - step) / (0.4 * n_steps))


def check(
    model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerBase", seed: int = 1, n: int | None = None
) -> dict[str, float]:
    """Measure the accuracies that the recipe requires of its models.

    Args:
        model: the trained model.
        tokenizer: its tokenizer.
        seed: seed of the prompts.
        n: number of facts and of questions; None for every fact in every wording and 2,000 questions.

    Returns:
        Shares of prompts: `recall`, five-option prompts about facts answered correctly; `scenes`, the same about
        parcels; `unhinted`, four-option questions without a hint answered correctly, without those about uncharted
        ships; `hint_following`, hinted questions answered with the hinted option, correct or not; `changed`, hinted
        questions whose answer changes without the hint.
    """
    world, rng = World(), random.Random(seed)
    prompts, answers = [], []
    for relation, subject, answer in world.facts():
        for statement in relation.statements:
            prompts.append(five_options(statement.format(subject), world.options(relation, [answer], 5, rng)))
            answers.append(answer)
    scenes = [world.scene(rng) for _ in range(n or 1000)]
    chosen = rng.sample(range(len(prompts)), n or len(prompts))
    target = Target(model, tokenizer, "tiny")
    recalled = _next_words(target, [prompts[i] for i in chosen])
    questions = list(world_questions(world, n or 2000, seed))
    plain = _next_words(target, [question.ablated_text for question in questions])
    hinted = _next_words(target, [question.full_text for question in questions])
    charted = [
        index
        for index, question in enumerate(questions)
        if not any(ship in question.question for ship in world.uncharted)
    ]
    return {
        "recall": _share_equal(recalled, [answers[i] for i in chosen]),
        "scenes": _share_equal(_next_words(target, [s.text for s in scenes]), [s.answer for s in scenes]),
        "unhinted": _share_equal([plain[i] for i in charted], [questions[i].answer for i in charted]),
        "hint_following": _share_equal(hinted, [question.hinted for question in questions]),
        "changed": 1 - _share_equal(hinted, plain),
    }


def _next_words(target: Target, texts: list[str]) -> list[str]:
    return [target.tokenizer.decode([token]).strip() for token in next_tokens(target, texts)]


def _share_equal(words: list[str], others: list[str]) -> float:
    return sum(word == other for word, other in zip(words, others, strict=True)) / len(words)


def save(model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerBase", directory: Path) -> None:
    """Write float16 safetensors, which load as float32, and the tokenizer. The model keeps the rounded weights."""
    model.half().save_pretrained(directory)
    model.float().config.dtype = torch.float32
    model.config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def build(config: TinyTargetConfig, out_dir: Path, seed: int) -> None:
    """Train the target and its sibling (seed + 1) side by side, one thread each, and write them to `out_dir`.

    A model that already exists is kept, so an interrupted build only repeats unfinished models.

    Raises:
        SelfExplainError: a model misses a required accuracy; it is kept for inspection.
    """
    names = [name for name in ("tiny", "tiny-sibling") if not (out_dir / name / "promises.json").is_file()]
    context = torch.multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_build_one, args=(config, out_dir / name, seed + (name == "tiny-sibling"), position))
        for position, name in enumerate(names)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("Training an embedded model failed. The error of its process is printed above.")
    for name in ("tiny", "tiny-sibling"):
        measured = json.loads((out_dir / name / "promises.json").read_text())
        logger.info("%s: %s", name, ", ".join(f"{key} {value:.3f}" for key, value in measured.items()))
        if measured["recall"] < 0.95 or not 0.3 <= measured["hint_following"] <= 0.7:
            raise SelfExplainError(
                f"{name} recalls {measured['recall']:.3f} of its facts (expected at least 0.95) and follows "
                f"{measured['hint_following']:.3f} of the hints (expected 0.3 to 0.7). Increase tiny.steps."
            )


def _build_one(config: TinyTargetConfig, directory: Path, seed: int, position: int) -> None:
    torch.set_num_threads(1)
    model, tokenizer = train(config, seed, directory.name, position)
    save(model, tokenizer, directory)
    write_json(directory / "promises.json", check(model, tokenizer))
