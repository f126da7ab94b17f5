"""Where texts, counterfactual pairs and hinted questions come from."""

from selfexplain.groundtruth.sources.corpus import Corpus, read_corpus
from selfexplain.groundtruth.sources.facts import fact_pairs, table_pairs
from selfexplain.groundtruth.sources.items import Found, HintedQuestion, Pair, Prompt
from selfexplain.groundtruth.sources.questions import table_questions
from selfexplain.groundtruth.sources.stories import story_pairs
from selfexplain.groundtruth.sources.world import world_pairs, world_questions
from selfexplain.tiny import TINY_WORLD

__all__ = [
    "TINY_WORLD",
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
    "world_pairs",
    "world_questions",
]
