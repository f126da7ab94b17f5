"""Read a corpus of texts from a file, the Hub, or a registered generator."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import CorpusConfig, TableConfig
from selfexplain.groundtruth.sources.items import HintedQuestion, Pair
from selfexplain.groundtruth.sources.tables import read_columns
from selfexplain.groundtruth.sources.values import Skips, as_text
from selfexplain.utils.names import local_path
from selfexplain.utils.registry import Registry
from selfexplain.utils.table_files import COMPRESSIONS, TABLES, TEXTS, format_of, read_lines

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """Texts, and what a generated corpus can provide in addition to them.

    Attributes:
        name: name or path of the corpus.
        texts: distinct texts.
        classes: class of tokens that descriptions may name -> its tokens.
        pairs: `pairs(n, seed)` yields counterfactual pairs; None if pairs have to be derived from the texts.
        questions: `questions(n, seed)` yields questions with hints; None if the corpus has no questions.
        skipped: reason -> number of rows without a usable text.
    """

    name: str
    texts: list[str]
    classes: dict[str, set[str]] = field(default_factory=dict)
    pairs: Callable[[int, int], Iterator[Pair]] | None = None
    questions: Callable[[int, int], Iterator[HintedQuestion]] | None = None
    skipped: Counter[str] = field(default_factory=Counter)


CORPORA: Registry[Callable[[int], Corpus]] = Registry("corpus")
"""Generated corpora by reserved name; each is a function of the seed."""


def read_corpus(name: str, seed: int, config: CorpusConfig | None = None) -> Corpus:
    """Read the distinct texts of a corpus. Rows without a usable text are skipped and counted.

    Args:
        name: a text file with one text per line; a JSONL, JSON, CSV, TSV or parquet file or a Hub dataset with a column
            of text; or the reserved name of a generated corpus. Files may be compressed.
        seed: seed of a generated corpus.
        config: column, subset, split and size of the corpus.

    Raises:
        SelfExplainError: the corpus is missing, unreadable or empty, or its file type is not supported.
    """
    if name in CORPORA:
        return CORPORA[name](seed)
    config, skips = config or CorpusConfig(), Skips()
    # Duplicates are removed because a text that occurs twice could end up in two splits.
    texts = list(dict.fromkeys(islice(_texts(name, config, skips), config.n_texts)))
    skipped = skips.counter()
    reasons = "; ".join(f"{count:,} rows skipped: {reason}" for reason, count in skipped.items())
    if not texts:
        reasons = f" ({reasons})" if reasons else ""
        raise SelfExplainError(
            f"Corpus {name!r} contains no text{reasons}. Give a corpus with at least one non-empty text; for a table, "
            "corpus_options.text names the column."
        )
    if reasons:
        logger.warning("corpus %s: %d distinct texts; %s", name, len(texts), reasons)
    return Corpus(name, texts, skipped=skipped)


def _texts(name: str, config: CorpusConfig, skips: Skips) -> Iterator[str]:
    path, suffix = local_path(name), format_of(name)
    if suffix in TEXTS or (not suffix and path.is_file()):
        yield from (line for line in read_lines(path) if line.strip())
    elif path.is_file() and suffix not in TABLES:
        raise SelfExplainError(
            f"Corpus {name!r} has an unsupported file type, {suffix!r}. Give a text file ({', '.join(TEXTS)}) or a "
            f"table ({', '.join(TABLES)}), also compressed as {', '.join(COMPRESSIONS)}."
        )
    else:
        table = TableConfig(path=name, subset=config.subset, split=config.split, revision=config.revision)
        for number, row in read_columns(table, [config.text], [], skips, "corpus_options.text"):
            if (text := as_text(row[config.text])) is None:
                skips.add(f"no text in column {config.text!r}", number)
            else:
                yield text
