"""Build the dataset of feature description: dictionaries, exemplars, descriptions, and two additional test sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

from selfexplain.features.description import ABSTENTION
from selfexplain.features.dictionary import Dictionary
from selfexplain.features.exemplars import ExemplarState
from selfexplain.features.grammar import wordnet
from selfexplain.groundtruth.builders.activations import Vectors, activation_vectors, difference_vectors, vector_rows
from selfexplain.groundtruth.builders.builder import (
    BuildContext,
    Candidates,
    DatasetBuilder,
    Draw,
    Rerun,
    register,
    split_by_group,
)
from selfexplain.groundtruth.builders.dictionaries import collect_shard, find_dictionaries, train_dictionaries
from selfexplain.groundtruth.builders.feature_check import FeatureCheck
from selfexplain.groundtruth.builders.feature_rows import build_rows, layers_and_token_ids
from selfexplain.groundtruth.builders.items import report_items
from selfexplain.groundtruth.builders.pairs import NOUN, find_pairs
from selfexplain.groundtruth.config import FeatureConfig
from selfexplain.groundtruth.row_shards import Rows, shard_counts, write_row_shard
from selfexplain.groundtruth.shards import run_shards
from selfexplain.groundtruth.sources import Pair
from selfexplain.groundtruth.splits import split_of
from selfexplain.target.load import Target
from selfexplain.tasks import Task, feature_description

INEXPRESSIBLE = "inexpressible"
"""Name of the test set of features that the offline grammar cannot express."""
TEXTS_PER_SHARD = 8192  # in a pass over the corpus
PAIRS_PER_HELD_OUT_PAIR = 8  # drawn from the source, because about one in five is in the test split


@dataclass(frozen=True)
class FeatureBuilder:
    """A builder whose rows come from one pass over the corpus for all features."""

    config_class: type = FeatureConfig
    rerun: Rerun | None = None

    def for_config(self, config: Any) -> DatasetBuilder:
        """This builder."""
        return self

    def prepare_rerun(self, context: BuildContext) -> Rerun:
        """A function that runs the exemplars of a row on the target again, and scores its description again."""
        return FeatureCheck(context)

    def columns_for_draw(self, task: Task) -> Sequence[str]:
        """The group, and the description, which shows whether the grammar can express the feature."""
        return ("group", "description")

    def candidates(self, context: BuildContext) -> Candidates:
        """Train or load dictionaries, collect exemplars from the corpus, and describe all features.

        The out-of-distribution test sets share the pass over the corpus and are built in the same way.

        Raises:
            SelfExplainError: settings contradict each other, the corpus is empty, a layer does not exist, the SAEs do
                not fit the target, or an additional test set is empty.
        """
        title, work = context.task.name, context.directory.work
        inputs = {**context.inputs, "wordnet": _uses_wordnet(context.config)}
        run = partial(run_shards, inputs=inputs)
        steps = _Steps(context, *layers_and_token_ids(context.config, context.target, context.corpus.texts))
        run(work / "dictionaries", 1, steps.train, desc=f"{title}: dictionaries")
        vector_paths = run(work / "vectors", len(steps.test_sets), steps.choose_vectors, desc=f"{title}: vectors")
        vectors = [Vectors.load(path) for path in vector_paths]
        dictionaries = [steps.dictionaries(), *(entry.dictionaries(context.target) for entry in vectors)]
        described = _Described(steps, dictionaries, vectors)
        n_shards = -(-len(steps.token_ids) // TEXTS_PER_SHARD)
        collect = partial(described.collect, n_shards)
        states = run(work / "exemplars", n_shards, collect, desc=f"{title}: exemplars")
        write = partial(described.write_rows, states)
        paths = run(work / "candidates", 1 + len(vector_paths), write, desc=f"{title}: rows")
        return Candidates(paths[:1], test_sets=dict(zip(steps.test_sets, paths[1:], strict=True)))

    def draw(self, context: BuildContext, candidates: Candidates, rows: Rows, counts: Sequence[Mapping]) -> Draw:
        """Keep all rows. Features that cannot be expressed go to the training split and to a separate test set."""
        test_sets = {name: shard_counts(path) for name, path in candidates.test_sets.items()}
        expressible = [index for index, row in enumerate(rows) if row["description"] != ABSTENTION]
        splits = split_by_group(rows, expressible, context.seed)
        other = split_by_group(rows, sorted(set(range(len(rows))).difference(expressible)), context.seed)
        splits["train"] = sorted(splits["train"] + other["train"])
        drawn = {INEXPRESSIBLE: other["test"]} if other["test"] else {}
        test_sets |= {name: {"rows": len(indices)} for name, indices in drawn.items()}
        statistics = {**counts[0], **({"out_of_distribution": test_sets} if test_sets else {})}
        return Draw(splits, statistics, drawn)


@dataclass(frozen=True)
class _Steps:
    """The steps before the pass over the corpus.

    Attributes:
        context: the dataset to build.
        layers: layers whose features are described.
        token_ids: token ids of each text.
    """

    context: BuildContext
    layers: list[int]
    token_ids: list[list[int]]

    @property
    def test_sets(self) -> list[str]:
        """Names of the out-of-distribution test sets that the settings request."""
        config = self.context.config
        sizes = {"activations": config.n_activations, "differences": config.n_differences}
        return [name for name, size in sizes.items() if size]

    @property
    def arguments(self) -> tuple[FeatureConfig, Target, list[list[int]]]:
        """The first arguments of the functions in `builders.dictionaries`."""
        return self.context.config, self.context.target, self.token_ids

    def train(self, index: int, path: Path) -> None:
        """Train the dictionaries, and write a marker file."""
        train_dictionaries(*self.arguments, self.layers, self.context.directory.root, self.context.seed)
        path.write_text("trained")

    def dictionaries(self) -> list[Dictionary]:
        """The dictionaries whose features are described."""
        return find_dictionaries(*self.arguments, self.layers, self.context.directory.root, self.context.seed)

    def choose_vectors(self, index: int, path: Path) -> None:
        """Write the vectors of an out-of-distribution test set."""
        config, target, seed = self.context.config, self.context.target, self.context.seed
        if self.test_sets[index] == "activations":
            vectors = activation_vectors(config, target, self.token_ids, self.layers, seed)
        else:
            pairs = held_out_pairs(self.context)
            vectors = difference_vectors(config, target, pairs, self.token_ids, self.layers, seed)
        vectors.save(path)


@dataclass(frozen=True)
class _Described:
    """The steps from the pass over the corpus on.

    Attributes:
        steps: the steps before.
        dictionaries: dictionaries of the features, then those of each out-of-distribution test set.
        vectors: vectors of each out-of-distribution test set.
    """

    steps: _Steps
    dictionaries: list[list[Dictionary]]
    vectors: list[Vectors]

    def collect(self, n_shards: int, index: int, path: Path) -> None:
        """Collect exemplars for all dictionaries from one shard of the corpus."""
        together = [dictionary for dictionaries in self.dictionaries for dictionary in dictionaries]
        collect_shard(*self.steps.arguments, together, index, n_shards).save(path)

    def write_rows(self, states: Sequence[Path], index: int, path: Path) -> None:
        """Write the rows of the features (index 0) or of an out-of-distribution test set (from index 1 on)."""
        context = self.steps.context
        config, target, root = context.config, context.target, context.directory.root
        merged = reduce(ExemplarState.merge, map(ExemplarState.load, states)).to(target.model.device)
        state = merged.split([[d.n_features for d in dictionaries] for dictionaries in self.dictionaries])[index]
        rest = (context.corpus.classes, context.seed, state)
        if index == 0:
            rows, statistics = build_rows(config, target, context.corpus.texts, root, *rest)
        else:
            rows, statistics = vector_rows(config, target, self.steps.token_ids, self.vectors[index - 1], root, *rest)
        write_row_shard(context.task.name, target, rows, statistics, path)


def _uses_wordnet(config: FeatureConfig) -> bool:
    """Whether the descriptions depend on WordNet's data on this machine."""
    return config.grammar == "full" and config.wordnet is not False and wordnet.available()


def held_out_pairs(context: BuildContext) -> list[Pair]:
    """Counterfactual pairs whose facts are in the test split, which activation patching shares.

    No explainer was trained on these facts.
    """
    config, seed = context.config, context.seed
    n = config.n_differences
    found = find_pairs(config.pairs, context.target, context.corpus, PAIRS_PER_HELD_OUT_PAIR * n, seed)
    pairs = [pair for pair in dict.fromkeys(found.items) if split_of(pair.clean.group, seed) == "test"][:n]
    report_items(f"{context.task.name}, differences", NOUN, len(pairs), n, found.skipped)
    return pairs


BUILDER = FeatureBuilder()
register(feature_description.TASK, BUILDER)
