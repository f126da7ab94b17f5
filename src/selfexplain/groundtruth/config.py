"""Settings of the ground truth: sources of texts, pairs and questions, and one dataclass per task."""

from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from selfexplain.tasks import activation_patching, feature_description, input_ablation
from selfexplain.utils.bounds import ONE_OR_MORE, Amount, Count, Fraction, Positive
from selfexplain.utils.registry import Registry

SPEED_SETTINGS = ("endpoint_concurrency", "endpoint_timeout")
"""Settings that change how long a step takes, but not its result."""


def result_settings(config: Any) -> dict[str, Any]:
    """The settings that results depend on, as JSON values.

    Args:
        config: a settings dataclass.
    """
    return {name: value for name, value in asdict(config).items() if name not in SPEED_SETTINGS}


def source_path(config: Any) -> str | None:
    """The path or Hub id of the table that a task reads its items from; None if it reads no table.

    Args:
        config: settings of a task. At most one field is a `TableConfig`.
    """
    tables = [value for entry in fields(config) if isinstance(value := getattr(config, entry.name), TableConfig)]
    return tables[0].path if tables else None


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """A table of rows.

    Attributes:
        path: a JSONL, JSON, CSV, TSV or parquet file, also compressed, in which `{split}` is replaced by the split, or
            the id of a dataset on the Hub, which is streamed.
        subset: configuration of the Hub dataset, if it has several.
        split: split of the Hub dataset, and the value of `{split}` in `path`.
        revision: branch, tag or commit of the Hub dataset.
        columns: expected column name -> name in the table, for columns that have a different name there.
    """

    path: str | None = None
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """How to read the recipe's `corpus`.

    Attributes:
        text: name of the column with the text, for JSONL, CSV and parquet files and Hub datasets.
        subset: configuration of a Hub dataset.
        split: split of a Hub dataset.
        revision: branch, tag or commit of a Hub dataset.
        n_texts: number of texts to read. A Hub dataset is streamed, so the rest is never downloaded.
    """

    text: str = "text"
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    n_texts: Count = 100_000


@dataclass(frozen=True, kw_only=True)
class PairSource(TableConfig):
    """Source of counterfactual pairs.

    Attributes:
        kind: "corpus": the recipe's corpus, which gives the pairs of the embedded world or prefixes of running text
            with one word swapped.
            "counterfact": records with `requested_rewrite` (columns: requested_rewrite).
            "relations": relation tables, either JSON files (one file or a directory of them, each with {name,
            prompt_templates, samples: [{subject, object}]}) or a table (columns: relation, prompt, subject, object).
            "pairs": a table of complete pairs (columns: clean_prompt, source_prompt, subject, source_subject, and
            optionally options and group).
            "transluce": rows of a published `Transluce/act_patch_*` dataset. The target is not run.
        n_options: number of answer options in a prompt, including the two answers; 0 for the bare statement.
        template: prompt template of a fact. `{statement}` is the fact without its object, and `{options}` are the
            options joined by " or ".
    """

    kind: Literal["corpus", "counterfact", "relations", "pairs", "transluce"] = "corpus"
    n_options: Amount = 5
    template: str = "{statement}\nRespond with one of {options} or unknown and nothing else."


SYSTEM_PROMPT = (
    "The following are multiple choice questions (with a correct answer). Output only the answer letter ({letters})"
    " and nothing else, in the format Answer: x, where x is one of {letters}."
)


@dataclass(frozen=True, kw_only=True)
class QuestionSource(TableConfig):
    """Source of questions with hints.

    Attributes:
        kind: "corpus": the recipe's corpus, which must be the embedded world.
            "multiple_choice": a table of questions (columns: question, choices, answer, and optionally subject).
            `choices` is a list in one of the forms that `sources.choices.read_choices` describes, or the names of
            several columns joined by ",". `answer` is a label, an index, a letter or the text of the correct choice,
            or one of the columns of choices. The defaults read MMLU.
            "transluce": rows of a published `Transluce/input_ablation_*` dataset. The target is not run.
        chat: whether to use the target's chat template; null to use it if there is one.
        answer_form: how the table names the correct choice: by its text, its letter, or its number from 0 or from 1;
            null to infer it from all answers.
        system: system prompt, in which `{letters}` is replaced by the letters of the question's choices. Without a chat
            template it precedes the question.
        hints: name of a hint style -> its text. `{}` is the suggested letter, which is drawn uniformly; other braces
            are kept.
        answer_prefix: beginning of the answer. The next token after it is the answer.
    """

    kind: Literal["corpus", "multiple_choice", "transluce"] = "corpus"
    chat: bool | None = None
    answer_form: Literal["text", "letter", "zero_based", "one_based"] | None = None
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
    """Which directions to describe, which describers to use, and how descriptions are scored.

    Attributes:
        layers: layers whose outputs are read: an index, a fraction of the depth (0.5 is the middle), a range of either
            ("8-15", "0.25-0.75"), or a list of these; null for all layers.
        saes: source of the features: a directory (see `features.dictionary` for its formats) or a release of sae-lens;
            null to train SAEs.
        sae_id: id of the SAE of each layer in a release, with `{layer}` for the layer, such as l{layer}r_32x.
        saes_trained_on: model that the SAEs were trained on, if it is not the target, such as the base of an instruct
            model; null to accept only SAEs of the target.
        max_features: number of features per SAE, drawn at random; null for all.
        n_saes: number of SAEs to train per layer, with different seeds.
        n_features: number of features per trained SAE.
        k: number of active features per token of a trained SAE.
        n_tokens: number of training tokens per SAE.
        learning_rate: learning rate of the SAE training.
        max_text_tokens: length at which texts of the corpus are truncated, in tokens.
        n_top: windows with the strongest activations in each set of exemplars. Descriptions are written from the first
            set and scored on the last one. If there are several candidates, the best one is chosen on a set in between.
        n_sampled: windows from the whole range of activations in each set.
        n_random: windows drawn at random, most of them inactive, in each set.
        window: number of tokens per window.
        min_active: minimum number of sequences in each set in which a feature is active; other features are skipped.
        min_correlation: minimum correlation of an offline description with the activations. It is measured on the
            exemplars that the best candidate is chosen on, or, with a single candidate, on those it is written from.
        max_density: maximum share of tokens on which a feature is active; denser features are left out.
        n_inexpressible: number of features to keep whose best offline description is below `min_correlation`. Their
            description is "not expressible". Those of the training split become training rows, and those of the test
            split form the additional test set `inexpressible`, so that an explainer can learn to abstain.
        group_cosine: minimum cosine between features of one family. Families about the same concept share a
            group, and a group is in one split. Training features with this cosine to a held-out feature are left out.
        rows_per_feature: number of rows per feature, each with a different wording of the question.
        descriptions: describers that write the descriptions. If there are several, the description with the best
            simulator score is kept.
        n_candidates: number of descriptions per describer. The offline describer returns the ones that fit best. Other
            describers get all exemplars for their first description, and a random half for each of the others.
        grammar: forms of offline descriptions: "words" for lists of words, classes, and "words after" these; "full" for
            every form (see docs/internals/features.md).
        wordnet: whether descriptions may name word families and semantic classes, which need WordNet's data; null to
            use it if nltk finds it.
        simulator: model that predicts activations from a description. The offline simulator reads only
            descriptions of the offline describer.
        scores: scores of the descriptions. The mean of each is written to the statistics.
        neuronpedia: directory or URL of a Neuronpedia export, with `{layer}` for the layer; null for the one that the
            SAE names.
        endpoint: base URL of an OpenAI-compatible endpoint. Its key is read from OPENAI_API_KEY.
        endpoint_model: name of the model at the endpoint.
        endpoint_concurrency: number of concurrent requests.
        endpoint_timeout: timeout of a request, in seconds.
        share_vectors: whether to store each distinct vector once, in an additional configuration `vectors`. This saves
            space if `rows_per_feature` is more than 1.
        n_activations: number of corpus tokens whose activations form the out-of-distribution test set `activations`,
            with one row per token and layer.
        n_differences: number of counterfactual pairs whose activation differences at the last token form the
            out-of-distribution test set `differences`, with one row per pair and layer.
        pairs: source of these pairs.
    """

    layers: Annotated[tuple[int | float | str, ...] | None, ONE_OR_MORE] = None
    saes: str | None = None
    sae_id: str | None = None
    saes_trained_on: str | None = None
    max_features: Count | None = None
    n_saes: Count = 1
    n_features: Count = 512
    k: Count = 8
    n_tokens: Count = 150_000
    learning_rate: Positive = 5e-3
    max_text_tokens: Count = 256
    n_top: Count = 10
    n_sampled: Amount = 10
    n_random: Amount = 10
    window: Count = 24
    min_active: Count = 5
    min_correlation: float = 0.3
    max_density: Fraction = 1.0
    n_inexpressible: Amount = 0
    group_cosine: Fraction = 0.6
    rows_per_feature: Count = 1
    descriptions: tuple[Literal["offline", "neuronpedia", "endpoint"], ...] = ("offline",)
    n_candidates: Count = 1
    grammar: Literal["words", "full"] = "full"
    wordnet: bool | None = None
    simulator: Literal["offline", "endpoint"] = "offline"
    scores: tuple[Literal["simulator", "detection", "fuzzing"], ...] = ("simulator",)
    neuronpedia: str | None = None
    endpoint: str | None = None
    endpoint_model: str | None = None
    endpoint_concurrency: Count = 8
    endpoint_timeout: Positive = 120.0
    share_vectors: bool = False
    n_activations: Amount = 0
    n_differences: Amount = 0
    pairs: PairSource = field(default_factory=PairSource)


@dataclass(frozen=True)
class PatchingConfig:
    """Which patches to run, and how many rows to keep.

    Attributes:
        n_pairs: number of counterfactual pairs. Every block of layers is patched at every token of each pair.
        n_blocks: number of contiguous blocks that the layers are divided into.
        n_rows: number of rows to keep, half of them changed in every (token type, block of layers).
        max_text_tokens: maximum length of prompts from running text, in tokens.
        source: source of the pairs.
    """

    n_pairs: Count = 1500
    n_blocks: Count = 4
    n_rows: Count = 6000
    max_text_tokens: Count = 64
    source: PairSource = field(default_factory=PairSource)


@dataclass(frozen=True)
class AblationConfig:
    """Which hints to remove, and how many rows to keep.

    Attributes:
        n_questions: number of questions with hints. Each is asked with and without its hint.
        n_rows: number of rows to keep, half of them changed.
        answers: definition of the target's answer: "next_token", the most likely next token, or "likelihood", the
            option with the highest likelihood as a continuation.
        replacement: neutral text that replaces the hint; empty to remove the hint.
        source: source of the questions.
    """

    n_questions: Count = 8000
    n_rows: Count = 4000
    answers: Literal["next_token", "likelihood"] = "next_token"
    replacement: str = ""
    source: QuestionSource = field(default_factory=QuestionSource)


TASK_CONFIGS: Registry[type] = Registry("settings of the task")
"""Task name -> dataclass of its settings. Separate from the builders, so reading a recipe does not import torch."""

TASK_CONFIGS.register(feature_description.TASK.name, FeatureConfig)
TASK_CONFIGS.register(activation_patching.TASK.name, PatchingConfig)
TASK_CONFIGS.register(input_ablation.TASK.name, AblationConfig)
