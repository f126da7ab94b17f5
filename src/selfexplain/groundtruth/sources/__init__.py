"""Read the items that interventions run on: corpora, counterfactual pairs and hinted questions."""

from selfexplain.groundtruth.sources.corpus import CORPORA, Corpus, read_corpus
from selfexplain.groundtruth.sources.facts import fact_pairs, table_pairs
from selfexplain.groundtruth.sources.items import HintedQuestion, Pair, Prompt, SourceItems
from selfexplain.groundtruth.sources.questions import table_questions
from selfexplain.groundtruth.sources.stories import story_pairs

__all__ = [
    "CORPORA",
    "Corpus",
    "HintedQuestion",
    "Pair",
    "Prompt",
    "SourceItems",
    "fact_pairs",
    "read_corpus",
    "story_pairs",
    "table_pairs",
    "table_questions",
]
