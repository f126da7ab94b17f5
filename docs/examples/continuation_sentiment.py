"""A fourth task: will the target continue a text with a positive or a negative word?

The question contains one vector, the residual stream at the last token of a text. The answer is the name of a
sentiment, `positive` or `negative` by default. The label comes from the target's greedy continuation: the first word in
it that is in one of two word lists. Importing this module registers the task, its builder with the settings of its
dataset, its metric, its scorer and a cheap reader.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from selfexplain import capture
from selfexplain.evaluation.metrics import Metric, Simulator, ratio, row_statistics
from selfexplain.evaluation.metrics import register as register_metric
from selfexplain.evaluation.readers import Fitted, Material, best_on_validation, reader
from selfexplain.evaluation.scorers import Scorer
from selfexplain.evaluation.scorers import register as register_scorer
from selfexplain.groundtruth.balance import draw_balanced
from selfexplain.groundtruth.builders import Builder
from selfexplain.groundtruth.builders import register as register_builder
from selfexplain.groundtruth.sources import Corpus, SourceItems
from selfexplain.target.load import Target
from selfexplain.target.nexttoken import next_token_logits
from selfexplain.tasks import Task
from selfexplain.tasks import register as register_task
from selfexplain.tasks.question import Question, fill

# ---------------------------------------------------------------- the question

TEMPLATES = (
    "At layer {layer}, a text ends in {activation}. Is its continuation {positive} or {negative}?\n",
    "A text ends in {activation} at layer {layer}. Is what follows {positive} or {negative}?\n",
)


def question(layer: int, positive: str, negative: str, template: int = 0) -> Question:
    """Ask about the vector at the last token of a text.

    Args:
        layer: layer of the vector.
        positive, negative: names of the two sentiments, which are the possible answers.
        template: index into `TEMPLATES`.
    """
    return fill(TEMPLATES[template], layer=str(layer), positive=positive, negative=negative)


TASK = register_task(
    Task(
        name="continuation_sentiment",
        asks="whether the target continues a text with a positive or a negative word",
        short_question="Will the text turn out well?",
        columns={"layer": "integer", "target_prompt": "text", "continuation": "text", "sentiment": "text"},
        query_columns=("layer", "target_prompt"),
        metrics=("sentiment_accuracy",),
        headline="sentiment_accuracy",
        correct_when="the answer is the sentiment of the continuation",
        dataset_name="selfexplain-sentiment",
        split_unit="text",
        templates=TEMPLATES,
        has_vectors=True,
        max_tokens=64,
    )
)

# ---------------------------------------------------------------- the dataset


@dataclass(frozen=True)
class SentimentConfig:
    """Settings of the dataset; in a recipe, the section `continuation_sentiment`.

    Attributes:
        positive: words that make a continuation positive.
        negative: words that make a continuation negative.
        positive_name, negative_name: the answers. Small models learn names faster that are tokens of their vocabulary.
        layer: layer whose residual stream is read.
        n_texts: number of texts to continue.
        n_rows: number of rows to keep, half of them positive.
        n_tokens: length of a continuation, in tokens.
    """

    positive: tuple[str, ...] = ("good", "great", "happy", "love", "nice", "smiled", "laughed", "thanked")
    negative: tuple[str, ...] = ("bad", "sad", "angry", "afraid", "scared", "cried", "hurt", "lost")
    positive_name: str = "positive"
    negative_name: str = "negative"
    layer: int = 0
    n_texts: int = 2000
    n_rows: int = 1000
    n_tokens: int = 12


def find_items(config: SentimentConfig, target: Target, corpus: Corpus, seed: int) -> SourceItems[str]:
    """The first halves of random texts, each once."""
    items: SourceItems[str] = SourceItems()
    texts = list(dict.fromkeys(corpus.texts))
    random.Random(seed).shuffle(texts)
    halves = (" ".join(words[: len(words) // 2]) for words in map(str.split, texts))
    for half in dict.fromkeys(halves):
        if len(items.items) == config.n_texts:
            break
        if not half:
            items.skipped["text too short"] += 1
        elif len(target.tokenizer(half)["input_ids"]) + config.n_tokens > target.context_length:
            items.skipped["longer than the context"] += 1
        else:
            items.items.append(half)
    return items


def compute_rows(
    config: SentimentConfig, target: Target, texts: Sequence[str], seed: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """One row per text whose continuation has a sentiment, and counts."""
    counts = Counter(texts=len(texts))
    rows = []
    for text, continuation in zip(texts, continuations(target, texts, config.n_tokens), strict=True):
        sentiment = sentiment_of(continuation, config)
        if sentiment is None:
            counts["texts left out: continuation without a sentiment"] += 1
            continue
        ids = torch.tensor([target.encode(text)], device=target.model.device)
        vector = capture(target.model, ids, [config.layer])[0, 0, -1].float().cpu().numpy()  # (d_model,)
        template = random.Random(f"{seed} {text}").randrange(len(TEMPLATES))
        asked = question(config.layer, config.positive_name, config.negative_name, template)
        rows.append({
            "prompt": asked.prompt,
            "completion": config.positive_name if sentiment == "positive" else config.negative_name,
            "placeholder_offsets": list(asked.placeholder_offsets),
            "activations": [vector],
            "activation_layers": [config.layer],
            "group": text,
            "layer": config.layer,
            "target_prompt": text,
            "continuation": continuation,
            "sentiment": sentiment,
        })  # fmt: skip
    return rows, dict(counts)


def draw_rows(
    config: SentimentConfig, rows: Sequence[Mapping[str, Any]], seed: int
) -> tuple[list[int], dict[str, Any]]:
    """Indices of the rows to keep, half of them positive in each split, and statistics."""
    drawn = draw_balanced(rows, config.n_rows, seed, label=is_positive) if rows else []
    share = sum(map(is_positive, rows)) / max(1, len(rows))
    return drawn, {"texts_with_a_sentiment": len(rows), "positive": share, "rows": len(drawn)}


def continuations(target: Target, texts: Sequence[str], n_tokens: int) -> list[str]:
    """The greedy continuation of each text, `n_tokens` long."""
    prompts = [target.encode(text) for text in texts]
    sequences = [list(ids) for ids in prompts]
    for _ in range(n_tokens):
        tokens = next_token_logits(target, sequences).argmax(-1).tolist()
        sequences = [[*ids, token] for ids, token in zip(sequences, tokens, strict=True)]
    return [target.tokenizer.decode(ids[len(p) :]) for ids, p in zip(sequences, prompts, strict=True)]


def sentiment_of(text: str, config: SentimentConfig) -> str | None:
    """The sentiment of the first word in a word list; None if there is no such word."""
    lists = dict.fromkeys(config.negative, "negative") | dict.fromkeys(config.positive, "positive")
    return next((lists[word] for word in re.findall(r"\w+", text) if word in lists), None)


def is_positive(row: Mapping[str, Any]) -> bool:
    """Whether the continuation of a row is positive."""
    return row["sentiment"] == "positive"


BUILDER: Builder[SentimentConfig, str] = Builder(
    config_class=SentimentConfig,
    item_type=str,
    noun="texts",
    n_items=lambda config: config.n_texts,
    n_rows=lambda config: config.n_rows,
    find_items=find_items,
    rows=compute_rows,
    draw_rows=draw_rows,
)
register_builder(TASK, BUILDER)

# ---------------------------------------------------------------- the scores


def count_correct(answers: Sequence[str], sentiments: Sequence[str], simulator: Simulator) -> np.ndarray:
    """Row statistics: whether each answer is the sentiment."""
    return row_statistics([answer.strip() == truth for answer, truth in zip(answers, sentiments, strict=True)])


register_metric(
    Metric("sentiment_accuracy", "Share of answers that name the sentiment.", "completion", count_correct, ratio)
)


@dataclass(frozen=True)
class SentimentScorer(Scorer):
    """Answers are the name of a sentiment, one word. Baselines and calibration are the same as for any task."""

    def is_parsable(self, answer: str, simulator: Simulator) -> bool:
        return len(answer.split()) == 1


register_scorer(SentimentScorer(TASK))

# ---------------------------------------------------------------- a cheap reader


@reader(TASK)
def words_of_the_text(material: Material) -> Fitted:
    """Predict the sentiment from the words of the text alone, with logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def texts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
        return [row["target_prompt"] for row in rows]

    truth = [row["completion"] for row in material.train]
    fitted = {
        c: make_pipeline(TfidfVectorizer(), LogisticRegression(C=c)).fit(texts(material.train), truth) for c in (0.1, 1)
    }
    validation, completions = texts(material.validation), [row["completion"] for row in material.validation]
    best = best_on_validation(list(fitted), lambda c: fitted[c].score(validation, completions) if validation else 0.0)
    return Fitted(lambda rows: fitted[best].predict(texts(rows)).tolist(), {"C": best})
