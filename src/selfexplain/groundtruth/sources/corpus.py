"""Text to read."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import CorpusConfig, TableConfig
from selfexplain.groundtruth.sources.tables import FORMATS, read_columns
from selfexplain.tiny import TINY_WORLD
from selfexplain.tiny.world import World

WORLD_TEXTS = 8_000


@dataclass(frozen=True)
class Corpus:
    """Texts, and the world they speak of where they are generated."""

    name: str
    texts: list[str]
    world: World | None = None

    @property
    def classes(self) -> dict[str, set[str]]:
        """Classes of tokens that descriptions may name; those of the world."""
        return self.world.classes if self.world else {}


def read_corpus(name: str, seed: int, config: CorpusConfig | None = None) -> Corpus:
    """Texts of a corpus, each once.

    Args:
        name: a file of one text a line, a JSONL, CSV or parquet file or a Hub dataset with a column of text, or the
            embedded world.

    Raises:
        SelfExplainError: the corpus is missing, unreadable or empty.
    """
    if name == TINY_WORLD:
        world, rng = World(), random.Random(seed)
        return Corpus(name, [world.text(rng) for _ in range(WORLD_TEXTS)], world)
    config = config or CorpusConfig()
    # A text that occurs twice would stand on both sides of a split.
    texts = list(dict.fromkeys(islice(_texts(name, config), config.n_texts)))
    if not texts:
        raise SelfExplainError(f"corpus {name!r} holds no text.")
    return Corpus(name, texts)


def _texts(name: str, config: CorpusConfig) -> Iterator[str]:
    path = Path(name).expanduser()
    if path.suffix in FORMATS or not (path.is_file() or path.suffix == ".txt"):
        table = TableConfig(path=name, subset=config.subset, split=config.split, revision=config.revision)
        for number, row in enumerate(read_columns(table, [config.text]), start=1):
            if not isinstance(row[config.text], str):
                raise SelfExplainError(
                    f"corpus {name!r}, row {number}: {config.text!r} is {type(row[config.text]).__name__}, not text."
                )
            if row[config.text].strip():
                yield row[config.text]
        return
    try:
        with path.open(encoding="utf-8") as file:
            yield from (line.removesuffix("\n") for line in file if line.strip())
    except OSError as error:
        raise SelfExplainError(f"corpus {name!r}: {error.strerror}. Give a text file or a JSONL file.") from error
    except UnicodeDecodeError as error:
        raise SelfExplainError(f"corpus {name!r} could not be read ({error}). Give UTF-8 text.") from error
