"""The metadata (YAML front matter) of cards."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfexplain.evaluation.results import Results
from selfexplain.groundtruth.card_metadata import configurations, content_description
from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
from selfexplain.publishing.facts import DatasetFacts
from selfexplain.publishing.names import Names
from selfexplain.tasks import TASKS
from selfexplain.utils.formatting import format_name
from selfexplain.utils.names import is_hub_id

TAG = "selfexplain"
"""Tag of everything that this package publishes."""


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
    """Metadata of a dataset card. It lists the parquet files and hashes of their content for `load_dataset`.

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
        configs=[
            entry
            for about in facts
            for entry in configurations(
                about.statistics.out_of_distribution, about.has_vectors_file, about.files, about.name, len(facts) == 1
            )
        ],
    ).to_yaml()


def results_metadata(tasks: Sequence[str], runs: Mapping[str, Results]) -> str:
    """Metadata of the results repository: a table of scores, and one table of answers per task.

    Args:
        tasks: tasks with answers.
        runs: recipe -> its results, which determine the content hash.
    """
    from huggingface_hub import DatasetCardData

    content = content_description({recipe: results.to_data() for recipe, results in runs.items()})
    files = {"scores": "*/scores.jsonl", **{task: f"*/predictions/{task}.jsonl" for task in tasks}}
    configs = [
        {
            "config_name": name,
            **({"default": True} if name == "scores" else {}),
            "description": content,
            "data_files": [{"split": "test", "path": path}],
        }
        for name, path in files.items()
    ]
    return DatasetCardData(
        pretty_name="selfexplain: results",
        license="other",
        license_name="as-target-and-corpus",
        tags=[TAG, "interpretability", "leaderboard"],
        configs=configs,
    ).to_yaml()
