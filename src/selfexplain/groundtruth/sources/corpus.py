"""Read a corpus of texts from a file, the Hub, or a registered generator."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import CorpusConfig, TableConfig
from selfexplain.groundtruth.sources.items import HintedQuestion, Pair
from selfexplain.groundtruth.sources.tables import FORMATS, read_columns
from selfexplain.utils.registry import Registry


@dataclass(frozen=True)
class Corpus:
    """Texts, and what a generated corpus can provide in addition to them.

    Attributes:
        name: name or path of the corpus.
        texts: distinct texts.
        classes: class of tokens that descriptions may name -> its tokens.
        pairs: `pairs(n, seed)` yields counterfactual pairs; None if pairs have to be derived from the texts.
        questions: `questions(n, seed)` yields questions with hints; None if the corpus has no questions.
    """

    name: str
    texts: list[str]
    classes: dict[str, set[str]] = field(default_factory=dict)
    pairs: Callable[[int, int], Iterator[Pair]] | None = None
    questions: Callable[[int, int], Iterator[HintedQuestion]] | None = None


CORPORA: Registry[Callable[[int], Corpus]] = Registry("corpus")
"""Generated corpora by reserved name; each is a function of the seed."""


def read_corpus(name: str, seed: int, config: CorpusConfig | None = None) -> Corpus:
    """Read the distinct texts of a corpus.

    Args:
        name: a text file with one text per line; a JSONL, CSV or parquet file or a Hub dataset with a column of text;
            or the reserved name of a generated corpus.
        seed: seed of a generated corpus.
        config: column, subset, split and size of the corpus.

    Raises:
        SelfExplainError: the corpus is missing, unreadable or empty.
    """
    if name in CORPORA:
        return CORPORA[name](seed)
    config = config or CorpusConfig()
    # Duplicates are removed because a text that occurs twice could end up in two splits.
    texts = list(dict.fromkeys(islice(_texts(name, config), config.n_texts)))
    if not texts:
        raise SelfExplainError(f"Corpus {name!r} contains no text. Give a corpus with at least one non-empty text.")
    return Corpus(name, texts)


def _texts(name: str, config: CorpusConfig) -> Iterator[str]:
    path = Path(name).expanduser()
    if path.suffix in FORMATS or not (path.is_file() or path.suffix == ".txt"):
        table = TableConfig(path=name, subset=config.subset, split=config.split, revision=config.revision)
        for number, row in enumerate(read_columns(table, [config.text]), start=1):
            if not isinstance(row[config.text], str):
                raise SelfExplainError(
                    f"Corpus {name!r}, row {number}: column {config.text!r} contains a value of type "
                    f"{type(row[config.text]).__name__}, expected text. Set corpus_options.text to a column of text."
                )
            if row[config.text].strip():
                yield row[config.text]
        return
    try:
        with path.open(encoding="utf-8") as file:
            yield from (line.removesuffix("\n") for line in file if line.strip())
    except OSError as error:
        raise SelfExplainError(
            f"Corpus {name!r} cannot be read: {error.strerror}. Give a text file or a JSONL file."
        ) from error
    except UnicodeDecodeError as error:
        raise SelfExplainError(f"Corpus {name!r} cannot be read ({error}). Give UTF-8 text.") from error
