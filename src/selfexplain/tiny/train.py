"""Train the embedded target from nothing: a Llama of about a million parameters that knows its small world."""

import json
import logging
import random
from collections.abc import Iterator
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
from selfexplain.tiny.sources import world_questions
from selfexplain.tiny.world import Text, World, build_tokenizer, five_options

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Texts in a pool of training texts; open questions teach what is asked.
N_SENTENCES = 8_000
MIX = (
    (World.five_option_prompt, 2000),
    (World.scene_prompt, 3000),
    (World.open_question, 1500),
    (World.hinted_question, 3500),
)


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
    """Endless `(input_ids, labels)`, each `(B, T)`, of texts of similar length; labels are -100 on what is not taught.

    The first `n_plain` batches or so are sentences alone: they are short, so facts, and finding again what was
    said, are learned fastest there. Prompts come when there is something to build on.
    """
    rng = random.Random(seed)
    n_made = 0
    while True:
        makers = ((World.sentence, N_SENTENCES), *(MIX if n_made >= n_plain else ()))
        rows = [_encode(make(world, rng), tokenizer) for make, n in makers for _ in range(n)]
        rng.shuffle(rows)
        rows.sort(key=lambda row: len(row[0]) // 4)
        grouped: list[list[tuple[list[int], list[int]]]] = []
        batch: list[tuple[list[int], list[int]]] = []
        for row in rows:
            if batch and (len(batch) + 1) * len(row[0]) > tokens_per_batch:
                grouped.append(batch)
                batch = []
            batch.append(row)
        rng.shuffle(grouped)
        n_made += len(grouped)
        for batch in grouped:
            length = max(len(ids) for ids, _ in batch)
            input_ids = torch.tensor([ids + [tokenizer.pad_token_id] * (length - len(ids)) for ids, _ in batch])
            labels = torch.tensor([labels + [-100] * (length - len(labels)) for _, labels in batch])
            yield input_ids, labels


def _encode(text: Text, tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """Token ids and labels of a text, begin and end of text included."""
    parts = [(tokenizer(part, add_special_tokens=False)["input_ids"], taught) for part, taught in text]
    ids = [token for part, _ in parts for token in part]
    labels = [token if taught else -100 for part, taught in parts for token in part]
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id], [-100, *labels, tokenizer.eos_token_id]


def train(
    config: TinyTargetConfig, seed: int, progress: str = "target", position: int = 0
) -> tuple["LlamaForCausalLM", "PreTrainedTokenizerBase"]:
    """Train one model; the seed decides weights and data order."""
    world, tokenizer = World(), build_tokenizer()
    model = new_model(config, tokenizer, seed)
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    optimizers = [
        torch.optim.Muon(matrices, lr=config.muon_learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / (config.steps / 50), 0.1 + 0.9 * (config.steps - step) / (0.4 * config.steps))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
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


def check(
    model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerBase", seed: int = 1, n: int | None = None
) -> dict[str, float]:
    """What the recipe promises.

    Args:
        n: facts and questions tried; None tries every fact in every phrasing, and 2,000 questions.

    Returns:
        recall: of the facts, on five-option prompts.
        scenes: right on five-option prompts about parcels.
        unhinted: right on four-option questions without a hint, about subjects of which something is said.
        hint_following: hinted questions answered as the hint says, which is any option; all styles, all topics.
        changed: hinted questions whose answer changes without the hint.
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

    def next_words(texts: list[str]) -> list[str]:
        return [tokenizer.decode([token]).strip() for token in next_tokens(target, texts)]

    said = next_words([prompts[i] for i in chosen])
    questions = list(world_questions(world, n or 2000, seed))
    plain = next_words([q.ablated_text for q in questions])
    hinted = next_words([q.full_text for q in questions])
    charted = [
        (p, q.answer)
        for p, q in zip(plain, questions, strict=True)
        if not any(x in q.question for x in world.uncharted)
    ]
    return {
        "recall": sum(got == answers[i] for got, i in zip(said, chosen, strict=True)) / len(chosen),
        "scenes": sum(
            w == scene.answer for w, scene in zip(next_words([scene.text for scene in scenes]), scenes, strict=True)
        )
        / len(scenes),
        "unhinted": sum(p == answer for p, answer in charted) / len(charted),
        "hint_following": sum(h == q.hinted for h, q in zip(hinted, questions, strict=True)) / len(questions),
        "changed": sum(h != p for h, p in zip(hinted, plain, strict=True)) / len(questions),
    }


def save(model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerBase", directory: Path) -> None:
    """Write float16 safetensors, which load as float32, and the tokenizer. The model keeps the rounded weights."""
    model.half().save_pretrained(directory)
    model.float().config.dtype = torch.float32
    model.config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def build(config: TinyTargetConfig, out_dir: Path, seed: int) -> None:
    """Train the target and its sibling (seed + 1) side by side, one thread each, and write them to `out_dir`.

    A model that is already there is kept, so a killed build loses only what was in the making.

    Raises:
        SelfExplainError: a model that does not keep what the recipe promises; it is kept for inspection.
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
        raise RuntimeError("training an embedded model failed; its error stands above.")
    for name in ("tiny", "tiny-sibling"):
        kept = json.loads((out_dir / name / "promises.json").read_text())
        logger.info("%s: %s", name, ", ".join(f"{key} {value:.3f}" for key, value in kept.items()))
        if kept["recall"] < 0.95 or not 0.3 <= kept["hint_following"] <= 0.7:
            raise SelfExplainError(
                f"{name} recalls {kept['recall']:.3f} of its facts and follows {kept['hint_following']:.3f} of hints: "
                "train longer (tiny.steps)."
            )


def _build_one(config: TinyTargetConfig, directory: Path, seed: int, position: int) -> None:
    torch.set_num_threads(1)
    model, tokenizer = train(config, seed, directory.name, position)
    save(model, tokenizer, directory)
    (directory / "promises.json").write_text(json.dumps(check(model, tokenizer), indent=2) + "\n")
