"""Settings of the ground truth: where texts, pairs and questions come from, and one dataclass a task."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal


def what_counts(config: Any) -> dict[str, Any]:
    """The settings that results depend on, as JSON values."""
    how_fast = ("endpoint_concurrency", "endpoint_timeout")
    return {name: value for name, value in asdict(config).items() if name not in how_fast}


def table_of(config: Any) -> "TableConfig":
    """The table that the pairs or questions of a task come from."""
    return config.pairs if isinstance(config, FeatureConfig) else config.source


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """A table of rows.

    Attributes:
        path: a JSONL, JSON, CSV or parquet file (`{split}` in it stands for the split), or the id of a dataset on the
            Hub, which is streamed.
        subset: the Hub dataset's configuration, where it has several.
        split: its split.
        revision: its branch, tag or commit.
        columns: the column's name in the table, for every column that is called otherwise there.
    """

    path: str | None = None
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """How the recipe's `corpus` is read.

    Attributes:
        text: the column that holds the text, of JSONL, CSV, parquet and Hub datasets.
        subset, split, revision: of a Hub dataset.
        n_texts: reading stops here; a Hub dataset is streamed and what follows is never fetched.
    """

    text: str = "text"
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    n_texts: int = 100_000


@dataclass(frozen=True, kw_only=True)
class PairSource(TableConfig):
    """Where counterfactual pairs come from.

    Attributes:
        kind: "corpus": the recipe's corpus: pairs of the embedded world, or prefixes of running text with a word
            swapped.
            "counterfact": records with `requested_rewrite` (columns: requested_rewrite).
            "relations": relation tables: a JSON file or a directory of them, each {name, prompt_templates,
            samples: [{subject, object}]}, or a table (columns: relation, prompt, subject, object).
            "pairs": a table of ready pairs (columns: clean_prompt, source_prompt, subject, source_subject; an
            `options` column and a `group` column are read where the table has them).
            "transluce": finished rows of a published `Transluce/act_patch_*` dataset; nothing is run.
        n_options: answer options that a prompt lists, the two answers among them; 0 for the bare statement.
        template: the prompt of a fact; `{statement}` lacks its object, `{options}` are joined by " or ".
    """

    kind: Literal["corpus", "counterfact", "relations", "pairs", "transluce"] = "corpus"
    n_options: int = 5
    template: str = "{statement}\nRespond with one of {options} or unknown and nothing else."


SYSTEM_PROMPT = (
    "The following are multiple choice questions (with a correct answer). Output only the answer letter (A, B, C, or D)"
    " and nothing else, in the format Answer: x, where x is one of A, B, C, or D."
)


@dataclass(frozen=True, kw_only=True)
class QuestionSource(TableConfig):
    """Where questions with hints come from.

    Attributes:
        kind: "corpus": the recipe's corpus, which has to be the embedded world. "multiple_choice": a table of questions
            (columns: question, choices, answer, and subject where there is one); `choices` is a list, or the names of
            several columns joined by ",", and `answer` an index, a letter or the right choice itself. The defaults
            read MMLU. "transluce": finished rows of a published `Transluce/input_ablation_*` dataset; nothing is run.
        chat: put the question through the target's chat template; null where it has one.
        system: the system prompt, or what stands above the question without a chat template.
        hints: styles of hints by name; `{}` is the letter that is hinted at, drawn evenly.
        answer_prefix: how the answer begins; the next token is the answer.
    """

    kind: Literal["corpus", "multiple_choice", "transluce"] = "corpus"
    chat: bool | None = None
    system: str = SYSTEM_PROMPT
    hints: dict[str, str] = field(
        default_factory=lambda: {
            "answer": "Hint: The answer is {}",
            "previous": "Hint: The answer to the previous, unrelated question was {}.",
        }
    )
    answer_prefix: str = "Answer:"


@dataclass(frozen=True)
class FeatureConfig:
    """Which directions are described, from what, by whom, and how descriptions are scored.

    Attributes:
        layers: the layers whose outputs are read: numbers, fractions of the depth (0.5 is half way up), ranges of
            either ("8-15", "0.25-0.75"); None for all.
        saes: where features come from: a directory (`features.dictionary` says what it may hold), or a release of
            sae-lens; None to train SAEs.
        sae_id: of a release, the SAE of each layer, with `{layer}` for its number, such as l{layer}r_32x.
        max_features: of each SAE, drawn at random; None for all.
        n_saes: SAEs trained for each layer, of different seeds.
        n_features: features of an SAE trained here.
        k: how many of them are active per token.
        n_tokens: tokens each SAE is trained on.
        learning_rate: of that training.
        max_text_tokens: texts of the corpus are cut here.
        n_top: windows of the strongest activations, in each set of exemplars: one that descriptions are written from,
            one that they are scored on and, where there are several candidates, one that the best is chosen on.
        n_sampled: windows from across the range of activations, in each set.
        n_random: windows drawn blindly, mostly inactive, in each set.
        window: tokens of a window.
        min_active: a feature that fires in fewer sequences of any set is left out.
        min_correlation: an offline description that fits less than this is dropped; of several candidates the one
            chosen, by the exemplars it was chosen on, and else by those it was written from.
        group_cosine: features at least this similar make a family, and families that are mostly about the same share a
            group, which has one split; training features that are still this similar to a held-out one are left out.
        rows_per_feature: rows of each feature, each asked with another template.
        descriptions: who writes them. Of several candidates the one with the best simulator score is kept.
        n_candidates: descriptions asked of each writer: the offline one gives those that fit best, the others write
            their first from all exemplars and the rest from half of them.
        simulator: who foretells activations from a description. The offline one reads the offline describer only.
        scores: what is measured of descriptions; the mean of each goes into the statistics.
        neuronpedia: folder or URL of an export of Neuronpedia, with `{layer}`; None for the one the SAE names.
        endpoint: base URL of an OpenAI-compatible endpoint; its key is read from OPENAI_API_KEY.
        endpoint_model: the name of the model there.
        endpoint_concurrency: requests in flight.
        endpoint_timeout: seconds that a reply may take.
        share_vectors: keep each vector once, in a configuration of its own (`vectors`), where many rows have it.
        n_activations: tokens of the corpus whose whole activations are asked about, at every layer: a test set out of
            distribution, in a configuration of its own (`activations`).
        n_differences: counterfactual pairs whose difference of activations at the last token is asked about, at every
            layer: another one (`differences`).
        pairs: where these pairs come from.
    """

    layers: tuple[int | float | str, ...] | None = None
    saes: str | None = None
    sae_id: str | None = None
    max_features: int | None = None
    n_saes: int = 1
    n_features: int = 512
    k: int = 8
    n_tokens: int = 150_000
    learning_rate: float = 5e-3
    max_text_tokens: int = 256
    n_top: int = 10
    n_sampled: int = 10
    n_random: int = 10
    window: int = 24
    min_active: int = 5
    min_correlation: float = 0.3
    group_cosine: float = 0.6
    rows_per_feature: int = 1
    descriptions: tuple[Literal["offline", "neuronpedia", "endpoint"], ...] = ("offline",)
    n_candidates: int = 1
    simulator: Literal["offline", "endpoint"] = "offline"
    scores: tuple[Literal["simulator", "detection", "fuzzing"], ...] = ("simulator",)
    neuronpedia: str | None = None
    endpoint: str | None = None
    endpoint_model: str | None = None
    endpoint_concurrency: int = 8
    endpoint_timeout: float = 120.0
    share_vectors: bool = False
    n_activations: int = 0
    n_differences: int = 0
    pairs: PairSource = field(default_factory=PairSource)


@dataclass(frozen=True)
class PatchingConfig:
    """Which patches are run, and how many rows are kept.

    Attributes:
        n_pairs: counterfactual pairs; every block of layers and every token of each is patched.
        n_blocks: contiguous blocks that the layers are cut into.
        n_rows: rows kept, half of them changed in every (token type, block).
        max_text_tokens: longest prompt taken from running text.
        source: where the pairs come from.
    """

    n_pairs: int = 1500
    n_blocks: int = 4
    n_rows: int = 6000
    max_text_tokens: int = 64
    source: PairSource = field(default_factory=PairSource)


@dataclass(frozen=True)
class AblationConfig:
    """Which hints are removed.

    Attributes:
        n_questions: hinted questions asked, with and without their hint.
        n_rows: rows kept, half of them changed.
        answers: what counts as the target's answer: its "next_token", whatever that is, or the option of the highest
            "likelihood" as a whole continuation.
        replacement: a neutral text that takes the hint's place; empty to leave the hint out.
        source: where the questions come from.
    """

    n_questions: int = 8000
    n_rows: int = 4000
    answers: Literal["next_token", "likelihood"] = "next_token"
    replacement: str = ""
    source: QuestionSource = field(default_factory=QuestionSource)
