"""A fourth task from outside the package is built like the others: the example of the documentation."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset

from selfexplain import capture
from selfexplain.evaluation.metrics import METRICS
from selfexplain.evaluation.readers import READERS
from selfexplain.evaluation.scorers import SCORERS
from selfexplain.groundtruth.build import build
from selfexplain.groundtruth.builders import BUILDERS
from selfexplain.groundtruth.config import TASK_CONFIGS
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.schema import COMMON
from selfexplain.groundtruth.sources import Corpus
from selfexplain.groundtruth.splits import SPLITS
from selfexplain.tasks import TASKS

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "continuation_sentiment.py"


@pytest.fixture
def example(monkeypatch):
    """The example module. What it registers is removed after the test."""
    for registry in (TASKS, TASK_CONFIGS, BUILDERS, METRICS, SCORERS, READERS):
        monkeypatch.setattr(registry, "_values", dict(registry._values))
    spec = importlib.util.spec_from_file_location("continuation_sentiment", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "continuation_sentiment", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def corpus(target):
    rng = np.random.default_rng(0)
    words = [word for token in sorted(target.tokenizer.get_vocab()) if (word := token.removeprefix("Ġ")).isalpha()]
    return Corpus("file", [" ".join(rng.choice(words, 12)) for _ in range(300)])


@pytest.fixture
def config(example, target, corpus):
    """Settings whose word lists divide the words that this random target produces."""
    settings = example.SentimentConfig(layer=2, n_texts=300, n_rows=120, n_tokens=6)
    texts = example.find_items(settings, target, corpus, 0).items[:100]
    words = Counter(word for text in example.continuations(target, texts, 6) for word in set(text.split()))
    frequent = [word for word, _ in words.most_common(40) if word.isalnum()]
    return example.SentimentConfig(
        positive=tuple(frequent[::2]), negative=tuple(frequent[1::2]), layer=2, n_texts=300, n_rows=120, n_tokens=6
    )


def test_a_fourth_task_is_built_like_the_others(example, config, target, corpus, tmp_path):
    build("continuation_sentiment", config, target, corpus, tmp_path, seed=0)
    directory = DatasetDirectory(tmp_path)
    assert directory.is_complete()
    rows = {split: read_rows(directory.rows(split)) for split in SPLITS}
    statistics = directory.statistics()
    for split in SPLITS:
        labels = Counter(row["completion"] for row in rows[split])
        assert labels["positive"] == labels["negative"] > 0
        assert statistics.splits[split].rows == len(rows[split])
    assert statistics.balance is None  # the task has no has-changed label
    assert statistics.counts["counted"]["texts"] == statistics.counts["items"]["found"] == 300
    groups = [{row["group"] for row in own} for own in rows.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    dataset = load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert dataset["train"].column_names == [*COMMON, *example.TASK.columns]


def test_its_rows_state_the_sentiment_of_the_greedy_continuation(example, config, target, corpus):
    texts = example.find_items(config, target, corpus, 0).items[:20]
    rows, counts = example.compute_rows(config, target, texts, 0)
    assert rows and len(rows) + counts.get("texts left out: continuation without a sentiment", 0) == 20
    for row in rows:
        ids = torch.tensor([target.encode(row["target_prompt"])])
        extended = ids
        for _ in range(6):
            extended = torch.cat([extended, target.model(extended).logits[:, -1:].argmax(-1)], dim=1)
        assert target.tokenizer.decode(extended[0, ids.shape[1] :]) == row["continuation"]
        assert example.sentiment_of(row["continuation"], config) == row["sentiment"] == row["completion"]
        vector = capture(target.model, ids, [2])[0, 0, -1]
        np.testing.assert_allclose(row["activations"][0], vector, atol=1e-5)
        (offset,) = row["placeholder_offsets"]
        assert row["prompt"][offset:].startswith("<activation>")


def test_the_first_listed_word_decides(example):
    config = example.SentimentConfig(positive=("good",), negative=("bad",))
    assert example.sentiment_of(" a good day, a bad night", config) == "positive"
    assert example.sentiment_of("goodness, bad!", config) == "negative"
    assert example.sentiment_of("a day", config) is None
