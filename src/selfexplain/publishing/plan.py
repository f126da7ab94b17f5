"""Plan which repositories a finished run is published to, and with which files. Nothing is sent to the Hub."""

import fnmatch
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfexplain.evaluation.metrics import METRICS
from selfexplain.evaluation.predictions import Prediction, read_predictions
from selfexplain.evaluation.results import Results
from selfexplain.publishing import cards
from selfexplain.publishing.checks import check_finished, check_organisation, check_replaced, check_repositories
from selfexplain.publishing.facts import DatasetFacts, read_facts
from selfexplain.publishing.figures import draw_change_counts
from selfexplain.publishing.metadata import Licence
from selfexplain.publishing.names import Names, configuration
from selfexplain.publishing.public_names import (
    choose_public_names,
    copy_with_public_names,
    rewrite_json_files,
)
from selfexplain.publishing.repositories import Kind, PublishedFile, PublishedRepository, PublishingPlan, files_below
from selfexplain.runs.recipe import Recipe
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.utils.names import check_relative_path, is_hub_id

logger = logging.getLogger(__name__)

_NOT_PUBLISHED = ("manifest.json", "replies.sqlite*", "neuronpedia-*")
"""Files in a dataset's directory that stay local: the state of the build, cached replies of a chat model, and exports
that are available elsewhere."""


@dataclass(frozen=True)
class PlanOptions:
    """How a run is published, and information from the Hub.

    Attributes:
        full: whether to merge the trained weights into the base instead of naming the base.
        base: id on the Hub of a base that the run read from a directory.
        licence: licence of the base.
        licences: target or source -> its licence, where it is known.
        space: directory with the files of the demo Space; None to publish no Space.
        earlier: dataset repository -> local directory with the small files that earlier runs published there.
        replace: whether to replace another run that was published under the same names.
        metrics: whether to publish the metrics as metric repositories as well.
    """

    full: bool = False
    base: str | None = None
    licence: Licence | None = None
    licences: Mapping[str, str] = field(default_factory=dict)
    space: Path | None = None
    earlier: Mapping[str, Path] = field(default_factory=dict)
    replace: bool = False
    metrics: bool = False


def make_plan(run_dir: Path, org: str, staging: Path, options: PlanOptions | None = None) -> PublishingPlan:
    """Plan the repositories of a finished run in the order of pushing: ground truth, results, model, Space, metrics.

    The Space is left out if the target is not on the Hub, because the Space has to load it.

    Args:
        run_dir: directory of the run; it is not changed.
        org: organisation or user on the Hub.
        staging: empty directory for files that are written for publishing, such as cards.
        options: how to publish.

    Raises:
        SelfExplainError: the run is not finished or its files do not belong together, it would replace a different run,
            others could not load its base, or it contains local paths, secrets or files that the Hub does not accept.
    """
    options = options or PlanOptions()
    check_organisation(org)
    run, copy, names = RunDirectory(Path(run_dir)), RunDirectory(staging / "run"), Names(org)
    public_names = choose_public_names(run, check_finished(run), full=options.full, base=options.base)
    copy_with_public_names(run, copy, public_names)
    if options.full:
        _merge(run, copy, public_names)
    recipe = copy.read_recipe()
    if not options.replace:
        check_replaced(recipe, names, options.earlier)
    planner = _Planner(copy, recipe, names, staging, options)
    repositories = tuple(planner.repositories())
    check_repositories(repositories, run, copy)
    return PublishingPlan(recipe, names, repositories)


def _merge(run: RunDirectory, copy: RunDirectory, public_names: Mapping[str, str]) -> None:
    """Replace the explainer in the copy, which has LoRA weights, by one whose weights are merged into the base."""
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    shutil.rmtree(copy.explainer)
    SelfExplainerForCausalLM.from_pretrained(run.explainer, dtype="auto").merge_and_save(copy.explainer)
    rewrite_json_files(copy.explainer, public_names)


@dataclass(frozen=True)
class _Planner:
    """Lists the files of each repository, and writes the ones that exist only for publishing.

    Attributes:
        run: copy of the run with public names.
        recipe: its recipe.
        names: repository ids.
        staging: directory for files that are written here.
        options: how to publish.
    """

    run: RunDirectory
    recipe: Recipe
    names: Names
    staging: Path
    options: PlanOptions

    def repositories(self) -> Iterator[PublishedRepository]:
        for task in self.recipe.tasks:
            yield self.dataset(task)
        yield self.results()
        yield self.model()
        if self.options.space is not None:
            if is_hub_id(self.recipe.target):
                yield self.space(self.options.space)
            else:
                logger.warning(
                    "No Space is published, because it loads the target, and the target %r is not on the Hub. "
                    "If it is there under a different name, give that name with --base ID.",
                    self.recipe.target,
                )
        if self.options.metrics:
            for metric in METRICS:
                yield self.metric(metric)

    def dataset(self, task: str) -> PublishedRepository:
        """Rows of a task: one configuration per target. Those of other runs stay, and the card covers all of them."""
        repository = self.names.dataset(task)
        facts = self._facts(task)
        earlier = map(DatasetFacts.read, self._earlier(repository, "*/card.json", facts.name))
        card = cards.dataset_card(task, sorted([facts, *earlier], key=lambda facts: facts.name), self.names)
        facts_path = self.staging / check_relative_path(f"{facts.name}/{task}.json")
        facts_path.parent.mkdir(parents=True, exist_ok=True)
        facts.write(facts_path)
        files = [
            PublishedFile("README.md", self._stage(f"cards/{task}.md", card)),
            PublishedFile(f"{facts.name}/card.json", facts_path),
            PublishedFile(f"{facts.name}/recipe.yaml", self.run.recipe_path),
        ]
        dataset = self.run.dataset(task)
        files += [
            PublishedFile(f"{facts.name}/{path}", file)
            for path, file in files_below(dataset.root)
            if file != dataset.card and not any(fnmatch.fnmatchcase(path, pattern) for pattern in _NOT_PUBLISHED)
        ]
        if facts.change_counts:
            figure = self.run.cards / f"{task}.png"
            if not figure.is_file():  # runs of earlier versions lack it
                draw_change_counts(facts.change_counts, figure)
            files.append(PublishedFile(f"{facts.name}/{task}.png", figure))
        return _repository("dataset", repository, f"ground truth: {task}", files, owned=(f"{facts.name}/*",))

    def results(self) -> PublishedRepository:
        """Scores and answers: one directory per recipe."""
        recipe, results = self.recipe.name, self.run.read_results()
        paths = self._earlier(self.names.results, "*/results.json", recipe)
        card = cards.results_card(
            {**{path.parent.name: Results.read(path) for path in paths}, recipe: results}, self.names
        )
        files = [
            PublishedFile("README.md", self._stage("cards/results.md", card)),
            PublishedFile(f"{recipe}/scores.jsonl", self._stage("scores.jsonl", _json_lines(score_rows(results)))),
            PublishedFile(f"{recipe}/results.json", self.run.results_path),
            PublishedFile(f"{recipe}/recipe.yaml", self.run.recipe_path),
            *(PublishedFile(f"{recipe}/figures/{path}", file) for path, file in files_below(self.run.figures)),
        ]
        for path, file in files_below(self.run.predictions):
            answers = self._stage(f"predictions/{path}", _json_lines(map(answer_row, read_predictions(file))))
            files.append(PublishedFile(f"{recipe}/predictions/{path}", answers, file))
        return _repository("dataset", self.names.results, "results", files, owned=(f"{recipe}/*",))

    def model(self) -> PublishedRepository:
        """The explainer."""
        card = cards.model_card(self.run, "figures/", self.names, self.options.licence)
        files = [
            PublishedFile("README.md", self._stage("cards/model.md", card)),
            *(PublishedFile(path, file) for path, file in files_below(self.run.explainer) if path != "README.md"),
            *(PublishedFile(f"figures/{path}", file) for path, file in files_below(self.run.figures)),
            PublishedFile("results.json", self.run.results_path),
            PublishedFile("recipe.yaml", self.run.recipe_path),
        ]
        owned = ("lora/*", "merged/*", "figures/*", "*.safetensors", "*.safetensors.index.json")
        return _repository("model", self.names.model(self.recipe.name), "explainer", files, owned)

    def space(self, directory: Path) -> PublishedRepository:
        """The demo."""
        readme = (directory / "README.md").read_text(encoding="utf-8")
        card = cards.space_card(readme, self.recipe, self.names)
        files = [
            PublishedFile("README.md", self._stage("cards/space.md", card)),
            *(
                PublishedFile(path, file)
                for path, file in files_below(directory)
                if path != "README.md" and not any(part.startswith((".", "__")) for part in Path(path).parts)
            ),
        ]
        return _repository("space", self.names.space(self.recipe.name), "Space", files)

    def metric(self, metric: str) -> PublishedRepository:
        """A metric that `evaluate.load` reads."""
        from selfexplain.evaluation.metric_modules import write_metric_repository

        directory = self.staging / "metrics" / metric
        directory.mkdir(parents=True)
        write_metric_repository(metric, directory, self.names.metric(metric))
        readme = directory / "README.md"
        readme.write_text(cards.metric_card(readme.read_text(encoding="utf-8")), encoding="utf-8")
        files = [PublishedFile(path, file) for path, file in files_below(directory)]
        return _repository("space", self.names.metric(metric), "metric", files)

    def _facts(self, task: str) -> DatasetFacts:
        facts = read_facts(self.run, task)
        named = (facts.recipe.target, facts.recipe.source)
        licences = {name: self.options.licences[name] for name in named if name in self.options.licences}
        return facts.model_copy(update={"name": configuration(facts.recipe.target), "licences": licences})

    def _stage(self, name: str, text: str) -> Path:
        path = self.staging / check_relative_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def _earlier(self, repository: str, pattern: str, own: str) -> list[Path]:
        """Files that other runs published in a repository; the directory `own` belongs to this run."""
        directory = self.options.earlier.get(repository)
        return [path for path in sorted(directory.glob(pattern)) if path.parent.name != own] if directory else []


def score_rows(results: Results) -> Iterator[dict[str, Any]]:
    """One row per score, for tables over many runs."""
    for task, test_set, result in results.sections():
        for system, scores in result.scores.items():
            for metric, score in scores.items():
                yield {
                    "recipe": results.recipe,
                    "target": results.target.name,
                    "explainer": results.explainer.name,
                    "task": task if test_set is None else f"{task}/{test_set}",
                    "system": system,
                    "metric": metric,
                    "value": score.value,
                    "ci95_low": score.ci95[0],
                    "ci95_high": score.ci95[1],
                    "n_test": result.n_test,
                    "n_groups": result.n_groups,
                }


def answer_row(prediction: Prediction) -> dict[str, Any]:
    """A prediction with its answers as a list, so that runs with different systems have the same columns."""
    answers = [{"system": system, "answer": _in_words(answer)} for system, answer in prediction.answers.items()]
    return {**prediction.model_dump(exclude={"schema_version"}), "answers": answers}


def _in_words(answer: str | bool) -> str:
    """An answer as text; systems that only predict whether the output changes answer with a bool."""
    if isinstance(answer, str):
        return answer
    return "changed" if answer else "unchanged"


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _repository(
    kind: Kind, name: str, title: str, files: Sequence[PublishedFile], owned: tuple[str, ...] = ()
) -> PublishedRepository:
    return PublishedRepository(kind, name, title, tuple(sorted(files, key=lambda file: file.path)), owned)
