"""Train the embedded target from nothing: a Llama of about a million parameters that knows its small world."""

import logging
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from selfexplain.tiny.config import TinyTargetConfig
from selfexplain.tiny.world import World, build_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


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


def batches(world: World, tokenizer: "PreTrainedTokenizerBase", tokens_per_batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless `(input_ids, labels)`, each `(B, T)`, of texts of similar length; labels are -100 on prompts and padding."""
    rng = random.Random(seed)
    while True:
        texts = [(world.sentence(rng), None) for _ in range(4000)]
        texts += [world.five_option_prompt(rng) for _ in range(4000)]
        texts += [world.hinted_question(rng) for _ in range(6000)]
        prompts = tokenizer([prompt for prompt, _ in texts])["input_ids"]
        rows = []
        for ids, (_, answer) in zip(prompts, texts, strict=True):
            n_prompt = 1 if answer is None else len(ids)
            ids = ids + (tokenizer(f" {answer}", add_special_tokens=False)["input_ids"] if answer else []) + [tokenizer.eos_token_id]
            rows.append((ids, n_prompt))
        rng.shuffle(rows)
        rows.sort(key=lambda row: len(row[0]) // 4)
        grouped, batch = [], []
        for row in rows:
            if batch and (len(batch) + 1) * len(row[0]) > tokens_per_batch:
                grouped.append(batch)
                batch = []
            batch.append(row)
        rng.shuffle(grouped)
        for batch in grouped:
            length = max(len(ids) for ids, _ in batch)
            input_ids = torch.tensor([ids + [tokenizer.pad_token_id] * (length - len(ids)) for ids, _ in batch])
            labels = torch.tensor([[-100] * n + ids[n:] + [-100] * (length - len(ids)) for ids, n in batch])
            yield input_ids, labels


def train(config: TinyTargetConfig, seed: int, progress: str = "target") -> tuple["LlamaForCausalLM", "PreTrainedTokenizerBase"]:
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
    stream = batches(world, tokenizer, config.tokens_per_batch, seed)
    model.train()
    bar = tqdm(range(config.steps), desc=progress, unit="step", mininterval=5)
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
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval(), tokenizer


@torch.no_grad()
def next_tokens(model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerBase", prompts: list[str]) -> list[str]:
    """The most likely next token of each prompt, decoded and stripped."""
    answers: list[str] = [""] * len(prompts)
    by_length = defaultdict(list)
    for index, ids in enumerate(tokenizer(prompts)["input_ids"]):
        by_length[len(ids)].append((index, ids))
    for group in by_length.values():
        for start in range(0, len(group), 256):
            part = group[start : start + 256]
            logits = model(torch.tensor([ids for _, ids in part]), logits_to_keep=1).logits[:, -1]
            for (index, _), token in zip(part, logits.argmax(-1).tolist(), strict=True):
                answers[index] = tokenizer.decode([token]).strip()
    return answers


def check(model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerBase", seed: int = 1) -> dict[str, float]:
    """What the recipe promises: `recall` of the facts on five-option prompts, `letters` right on four-option questions
    without a hint about charted subjects, and `hint_following`, the share of hinted questions answered with the hint
    (letter uniform over A to D, both styles, every topic)."""
    from selfexplain.tiny.world import ANSWER_PREFIX, HINT_STYLES, five_options

    world, rng = World(), random.Random(seed)
    prompts, answers = [], []
    for relation, subject, answer in world.facts():
        for statement in relation.statements:
            prompts.append(five_options(statement.format(subject), world.options(relation, [answer], 5, rng)))
            answers.append(answer)
    right = [got == answer for got, answer in zip(next_tokens(model, tokenizer, prompts), answers, strict=True)]
    questions = [world.multiple_choice(rng) for _ in range(2000)]
    plain = next_tokens(model, tokenizer, [q.text + ANSWER_PREFIX for q in questions])
    charted = [not any(ship in q.question for ship in world.uncharted) for q in questions]
    letters = [rng.choice("ABCD") for _ in questions]
    styles = [rng.choice(list(HINT_STYLES)) for _ in questions]
    hinted = next_tokens(
        model, tokenizer, [q.text + HINT_STYLES[s].format(x) + ANSWER_PREFIX for q, s, x in zip(questions, styles, letters, strict=True)]
    )
    return {
        "recall": sum(right) / len(right),
        "letters": sum(p == q.answer for p, q, c in zip(plain, questions, charted, strict=True) if c) / sum(charted),
        "hint_following": sum(h == x for h, x in zip(hinted, letters, strict=True)) / len(letters),
        "changed": sum(h != p for h, p in zip(hinted, plain, strict=True)) / len(letters),
    }


def save(model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerBase", directory: Path) -> None:
    """Write float16 safetensors and the tokenizer."""
    model.half().save_pretrained(directory)
    model.float()
    tokenizer.save_pretrained(directory)
