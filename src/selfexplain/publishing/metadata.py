"""The metadata (YAML front matter) of cards."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selfexplain.evaluation.results import Results
from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
from selfexplain.publishing.facts import DatasetFacts
from selfexplain.publishing.names import Names
from selfexplain.tasks import TASKS
from selfexplain.utils.formatting import format_name
from selfexplain.utils.names import is_hub_id

TAG = "selfexplain"
"""Tag of everything that this package publishes."""

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Licence:
    """The licence that a model inherits from its base, in the terms of the Hub's metadata.

    Attributes:
        license: identifier, such as "mit" or "other".
        license_name: name of a licence that has no identifier.
        license_link: address of its text.
    """

    license: str
    license_name: str | None = None
    license_link: str | None = None

    @property
    def name(self) -> str:
        """The name to show."""
        return self.license_name or self.license


def model_metadata(
    recipe: str, config: SelfExplainerConfig, results: Results, names: Names | None, licence: Licence | None
) -> str:
    """Metadata of a model card: base model, datasets, licence and the explainer's scores.

    Args:
        recipe: name of the recipe.
        config: the explainer's configuration.
        results: its scores.
        names: ids of the published repositories; None for a card in a run directory.
        licence: licence of the base, if known.
    """
    from huggingface_hub import EvalResult, ModelCardData

    base = config.base_model_name_or_path
    on_hub = isinstance(base, str) and is_hub_id(base)  # the Hub rejects a directory
    datasets = {task: names.dataset(task) if names else TASKS[task].dataset_name for task in results.tasks}
    return ModelCardData(
        model_name=f"{recipe}-selfexplainer",
        library_name="transformers",
        pipeline_tag="text-generation",
        **({key: value for key, value in dataclasses.asdict(licence).items() if value} if licence else {}),
        base_model=base if on_hub else None,
        base_model_relation=("finetune" if config.merged else "adapter") if on_hub else None,
        datasets=[*datasets.values()],
        tags=[TAG, "interpretability", *(task.replace("_", "-") for task in results.tasks)],
        eval_results=[
            EvalResult(
                task_type="text-generation",
                task_name=TASKS[task].title,
                dataset_type=datasets[task],
                dataset_name=TASKS[task].dataset_name,
                dataset_split="test",
                metric_type=metric,
                metric_name=format_name(metric),
                metric_value=round(score.value, 4),
            )
            for task, result in results.tasks.items()
            for metric, score in result.scores["explainer"].items()
        ],
    ).to_yaml()


def dataset_metadata(task: str, facts: Sequence[DatasetFacts]) -> str:
    """Metadata of a dataset card. It lists the parquet files, so that `load_dataset` reads no other file as data.

    Args:
        task: task of the rows.
        facts: one entry per target.
    """
    from huggingface_hub import DatasetCardData

    return DatasetCardData(
        pretty_name=f"selfexplain: {TASKS[task].title}",
        license="other",
        license_name="as-target-and-corpus",
        task_categories=["text-generation"],
        tags=[TAG, "interpretability"],
        configs=[entry for about in facts for entry in _configurations(about, is_only=len(facts) == 1)],
    ).to_yaml()


def _configurations(facts: DatasetFacts, is_only: bool) -> Iterator[dict[str, object]]:
    """Configurations of the rows about one target: the splits, the vectors file, and each additional test set."""

    def name(suffix: str) -> str:
        return f"{facts.name}-{suffix}" if facts.name else suffix

    splits = [{"split": split, "path": f"{facts.prefix}{split}.parquet"} for split in SPLITS]
    yield {"config_name": facts.name or "default", **({"default": True} if is_only else {}), "data_files": splits}
    if facts.has_vectors_file:
        files = [{"split": "train", "path": f"{facts.prefix}vectors.parquet"}]
        yield {"config_name": name("vectors"), "data_files": files}
    for test_set in facts.statistics.out_of_distribution:
        files = [{"split": "test", "path": f"{facts.prefix}{test_set}.parquet"}]
        yield {"config_name": name(test_set), "data_files": files}


def results_metadata(tasks: Sequence[str]) -> str:
    """Metadata of the results repository: a table of scores, and one table of answers per task."""
    from huggingface_hub import DatasetCardData

    scores = {"config_name": "scores", "default": True, "data_files": [{"split": "test", "path": "*/scores.jsonl"}]}
    answers = [
        {"config_name": task, "data_files": [{"split": "test", "path": f"*/predictions/{task}.jsonl"}]}
        for task in tasks
    ]
    return DatasetCardData(
        pretty_name="selfexplain: results",
        license="other",
        license_name="as-target-and-corpus",
        tags=[TAG, "interpretability", "leaderboard"],
        configs=[scores, *answers],
    ).to_yaml()
