"""Where texts, counterfactual pairs and hinted questions come from."""

from selfexplain.groundtruth.sources.corpus import CORPORA, Corpus, read_corpus
from selfexplain.groundtruth.sources.facts import fact_pairs, table_pairs
from selfexplain.groundtruth.sources.items import Found, HintedQuestion, Pair, Prompt
from selfexplain.groundtruth.sources.questions import table_questions
from selfexplain.groundtruth.sources.stories import story_pairs

__all__ = [
    "CORPORA",
    "Corpus",
    "Found",
    "HintedQuestion",
    "Pair",
    "Prompt",
    "fact_pairs",
    "read_corpus",
    "story_pairs",
    "table_pairs",
    "table_questions",
]
