"""Find counterfactual pairs in the source that the settings name."""

from collections import Counter

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import PairSource
from selfexplain.groundtruth.sources import Corpus, Pair, SourceItems, fact_pairs, story_pairs, table_pairs
from selfexplain.groundtruth.sources.stories import WANTED
from selfexplain.target.load import Target

NOUN = "counterfactual pairs"


def find_pairs(
    source: PairSource, target: Target, corpus: Corpus, n: int, seed: int, max_text_tokens: int = 64
) -> SourceItems[Pair]:
    """At most `n` pairs, and counts of what was skipped.

    Args:
        source: where to read pairs.
        target: the model that is explained.
        corpus: the recipe's corpus, for `source.kind` "corpus".
        n: number of pairs.
        seed: seed of the splits and of everything that is drawn.
        max_text_tokens: maximum length of prompts from running text, in tokens.

    Raises:
        SelfExplainError: the source is missing, unreadable, or contains complete rows instead of pairs.
    """
    if source.kind in ("counterfact", "relations"):
        return fact_pairs(source, target, n, seed)
    if source.kind == "pairs":
        return table_pairs(source, target, n, seed)
    if source.kind == "transluce":
        raise SelfExplainError(
            "pairs.kind is 'transluce', but its rows are complete and contain no pairs to run. "
            "Set pairs.kind to corpus, counterfact, relations or pairs."
        )
    if corpus.pairs is not None:
        return SourceItems(list(corpus.pairs(n, seed)))
    pairs = story_pairs(target, corpus.texts, n, seed, max_text_tokens)
    return SourceItems(pairs, Counter() if pairs else Counter({WANTED: len(corpus.texts)}))
