"""Recipes: YAML files that are read into typed dataclasses."""

import json
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, field, fields, is_dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from selfexplain.errors import SelfExplainError, prefix_errors
from selfexplain.evaluation.config import ComparisonConfig, EvaluationConfig
from selfexplain.groundtruth.config import TASK_CONFIGS, AblationConfig, CorpusConfig, FeatureConfig, PatchingConfig
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.resources import resource
from selfexplain.runs.overrides import apply_override
from selfexplain.runs.settings import about_one_model
from selfexplain.tasks import BUILT_IN, TASKS
from selfexplain.training.config import AdapterConfig, TrainingConfig
from selfexplain.utils.formatting import format_count
from selfexplain.utils.names import check_file_name
from selfexplain.utils.parsing import read_yaml
from selfexplain.utils.registry import Registry

RENAMED_KEYS = {("training", "gradient_checkpointing"): "activation_checkpointing"}
"""Section and key in run directories of earlier versions -> the present key."""
_DEVICE = re.compile(r"auto|balanced|balanced_low_0|sequential|cpu|mps|(cuda|xpu|npu)(:\d+)?")
"""Values of `device_map` that are text."""
_PLACEHOLDERS = {"target": "DIR", "corpus": "FILE"}
"""Recipe keys that a packaged recipe may leave to the user -> how the suggested command writes their values."""

Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a run needs; shown before it starts.

    Attributes:
        minutes: duration on `hardware`.
        memory_gb: main memory in GB.
        disk_gb: disk space in GB.
        gpu_gb: memory of one GPU in GB; None if no GPU is needed.
        hardware: the machine that the other numbers apply to, in words.
        measured: whether time and memory were measured; otherwise they are estimates.
    """

    minutes: float
    memory_gb: float
    disk_gb: float = 1.0
    gpu_gb: float | None = None
    hardware: str = "2 CPU cores"
    measured: bool = True

    @property
    def summary(self) -> str:
        """Time, memory and hardware in one sentence."""
        hours = self.minutes / 60
        time = format_count(self.minutes, "minute") if hours < 3 else f"{hours:.0f} hours"
        estimate = "" if self.measured else " (an estimate)"
        return f"About {time} and {self.memory_gb:g} GB of memory on {self.hardware}{estimate}."


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines a run: from a target model to a trained and evaluated explainer.

    `recipe_type()` adds a section for each further registered task.

    Attributes:
        kind: "explainer" for this kind of recipe.
        name: name of the recipe and of its run directory.
        description: one sentence about what the run does.
        expected: time, memory and disk space that the run needs.
        seed: seed of splits, sampling, training and evaluation.
        target: the model to explain: a Hub id, a directory or a reserved name.
        target_revision: branch, tag or commit of the target on the Hub. A run keeps the commit that it finds at its
            first start.
        dtype: dtype of the target's weights while ground truth is computed.
        explainer: the model to train: None for the target's own weights, or another causal language model. An explainer
            that is already trained is only evaluated.
        explainer_revision: branch, tag or commit of the explainer on the Hub; the run keeps its commit as well.
        trust_remote_code: whether code in the repositories of the target and the explainer may run. A run with
            such code cannot be published.
        device_map: devices of the target and the explainer: `auto`, another value that transformers accepts, or a
            mapping of module names to devices; null for one device.
        corpus: the texts that ground truth is computed on: a text file with one text per line; a JSONL, CSV or parquet
            file or a Hub dataset with a text column; or the reserved name `selfexplain/tiny-world`.
        corpus_options: how the corpus is read.
        tasks: the questions to train and evaluate, by name.
        feature_description: ground truth of feature descriptions.
        activation_patching: ground truth of activation patching.
        input_ablation: ground truth of input ablation.
        injection: how vectors enter the explainer.
        adapter: the map from the target's activations to vectors of the explainer.
        training: how the explainer is trained.
        evaluation: how the explainer is scored.
        comparison: further explainers to train and compare.
    """

    kind: Literal["explainer"] = "explainer"
    name: str
    description: str
    expected: Expected
    seed: int = 0
    target: str
    target_revision: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    explainer: str | None = None
    explainer_revision: str | None = None
    trust_remote_code: bool = False
    device_map: str | dict[str, int | str] | None = None
    corpus: str
    corpus_options: CorpusConfig = field(default_factory=CorpusConfig)
    tasks: tuple[str, ...] = tuple(task.name for task in BUILT_IN)
    feature_description: FeatureConfig = field(default_factory=FeatureConfig)
    activation_patching: PatchingConfig = field(default_factory=PatchingConfig)
    input_ablation: AblationConfig = field(default_factory=AblationConfig)
    injection: InjectionConfig = field(default_factory=InjectionConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise SelfExplainError(f"tasks is {list(self.tasks)}. Give at least one task, and each task once.")
        if isinstance(self.device_map, str) and not _DEVICE.fullmatch(self.device_map):
            raise SelfExplainError(
                f"device_map is {self.device_map!r}. Expected auto, balanced, balanced_low_0, sequential, a device "
                "such as cuda:0, or a mapping of module names to devices."
            )
        for task in self.tasks:
            _ = TASKS[task]  # raises for unknown tasks, naming the nearest one
        if self.comparison.is_on and self.explainer is not None:
            raise SelfExplainError(
                f"explainer is {self.explainer!r} in a recipe with a comparison, which trains every model to explain "
                "every model. Remove explainer, and add that model to comparison.models."
            )
        if self.comparison.is_on and self.training.share != 1:
            raise SelfExplainError(
                f"training.share is {self.training.share:g} in a recipe with a comparison. Leave it at 1, and list the "
                "shares in comparison.shares."
            )
        if self.comparison.models and (keys := self._about_one_model()):
            raise SelfExplainError(
                f"{' and '.join(keys)}: this data describes {self.target} only, but comparison.models needs the same "
                "ground truth for other models. Use data that can be computed for every model, or remove "
                "comparison.models."
            )

    def settings(self, task: str) -> Any:
        """The settings of a task's ground truth.

        Raises:
            SelfExplainError: no such task, or no builder is registered for it.
        """
        settings = getattr(self, TASKS[task].name, None)
        return TASK_CONFIGS[task]() if settings is None else settings

    def find_settings(self, kind: type[Settings]) -> Settings | None:
        """The settings of the first requested task whose settings are of this type; None if there is no such task."""
        every = (self.settings(task) for task in self.tasks)
        return next((settings for settings in every if isinstance(settings, kind)), None)

    def _about_one_model(self) -> list[str]:
        return [f"{task}.{key}" for task in self.tasks for key in about_one_model(self.settings(task))]


def recipe_type(names: Collection[str] | None = None) -> type[Recipe]:
    """The class of explainer recipes: `Recipe`, with one more section per registered task that is not built in.

    Args:
        names: keys and task names that a recipe uses; sections of other tasks are left out. None for all sections.
    """
    own = {item.name for item in fields(cast(Any, Recipe))}
    candidates = [name for name in (TASK_CONFIGS if names is None else names) if name not in own]
    return _extended(tuple(dict.fromkeys(name for name in candidates if name in TASK_CONFIGS)))


@cache
def _extended(tasks: tuple[str, ...]) -> type[Recipe]:
    if not tasks:
        return Recipe
    types = {task: TASK_CONFIGS[task] for task in tasks}
    defaults = {task: field(default_factory=settings) for task, settings in types.items()}
    body = {"__module__": __name__, "__doc__": Recipe.__doc__, "__annotations__": types, **defaults}
    return cast(type[Recipe], dataclass(type("Recipe", (Recipe,), body), frozen=True, kw_only=True))


class AnyRecipe(Protocol):
    """The fields that recipes of all kinds have."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def expected(self) -> Expected: ...
    @property
    def seed(self) -> int: ...


RECIPE_KINDS: Registry[Callable[[Collection[str] | None], type]] = Registry("recipe kind")
"""Value of `kind` in a recipe -> function that returns the dataclass of its settings. Its argument is the keys and task
names that the recipe uses, or None for all that exist."""
RECIPE_KINDS.register("explainer", recipe_type)


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read a recipe from a file, or a packaged recipe by name, and apply `key=value` overrides.

    Args:
        source: a YAML file, or the name of a packaged recipe: `quickstart`, `recipes/quickstart.yaml`.
        overrides: dotted keys with values, such as `training.epochs=5` or `tasks=[input_ablation]`. Values are YAML,
            except that text is taken literally.

    Raises:
        SelfExplainError: the recipe does not exist or is not valid YAML, a key does not exist (the message names the
            nearest one), or a value is missing or has the wrong type.
    """
    data = _read(_find(source))
    for override in sorted(overrides, key=lambda text: not text.startswith("kind=")):  # which decides the other keys
        apply_override(data, override, RECIPE_KINDS[_kind(data, str(source))](None))
    return _checked(data, str(source), overrides)


def _checked(data: dict[str, Any], source: str, overrides: Sequence[str] = ()) -> AnyRecipe:
    """The recipe with these keys and values; `source` and `overrides` are for errors."""
    kind, tasks = _kind(data, source), data.get("tasks")
    used = [name for name in [*data, *(tasks if isinstance(tasks, list) else [])] if isinstance(name, str)]
    cls = RECIPE_KINDS[kind](used)
    known = list(_keys(cls))
    if unknown := _unknown_key(data, cls):
        candidates = _keys(RECIPE_KINDS[kind](None))
        nearest = max(candidates, key=lambda candidate: _similarity(unknown, candidate))
        raise SelfExplainError(f"{source}: recipe key {unknown!r} does not exist. Did you mean {nearest!r}?")
    try:
        # Through JSON, because only there pydantic's strict mode accepts a mapping for a dataclass.
        recipe: AnyRecipe = TypeAdapter(cls).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise SelfExplainError(_explain(error, known, source, overrides)) from error
    check_name(recipe, source)
    return recipe


def check_name(recipe: AnyRecipe, source: str = "recipe") -> None:
    """Check the name of a recipe, which becomes part of paths and of names on the Hub.

    Args:
        recipe: the recipe.
        source: where it comes from, for the error.

    Raises:
        SelfExplainError: it is not a valid file name.
    """
    with prefix_errors(f"{source}: name"):
        check_file_name(recipe.name)


def _kind(data: dict[str, Any], source: str) -> str:
    kind = data.get("kind", "explainer")
    if not isinstance(kind, str) or kind not in RECIPE_KINDS:
        raise SelfExplainError(f"{source}: kind is {kind!r}. Expected one of {', '.join(map(repr, RECIPE_KINDS))}.")
    return kind


def dump_recipe(recipe: AnyRecipe) -> str:
    """Return the recipe as YAML with all defaults filled in; `load_recipe` reads it back equal."""
    data = json.loads(json.dumps(asdict(cast(Any, recipe))))
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def read_resolved(path: Path) -> Recipe:
    """Read the `recipe.yaml` of a run directory. Keys of earlier versions get their present names.

    Raises:
        SelfExplainError: the file does not exist or is not a recipe of kind "explainer".
    """
    if not path.is_file():
        raise SelfExplainError(f"{path} does not exist. Run the recipe again to write it.")
    data = _read(path)
    for (section, old), new in RENAMED_KEYS.items():
        if isinstance(data.get(section), dict) and old in data[section]:
            data[section][new] = data[section].pop(old)
    recipe = _checked(data, str(path))
    if not isinstance(recipe, Recipe):
        raise SelfExplainError(f"{path} is a recipe of kind {recipe.kind!r}. Expected kind 'explainer'.")
    return recipe


def packaged_recipes() -> list[Path]:
    """The recipes that ship with the package, sorted by name."""
    return sorted(resource("recipes").glob("*.yaml"))


def describe_packaged() -> dict[str, tuple[str, str]]:
    """Name of each packaged recipe, the cheapest first -> its description, and time, memory and hardware in words."""
    described = {}
    for path in packaged_recipes():
        data = _read(path)
        described[path.stem] = Expected(**data["expected"]), data["description"]
    order = sorted(described, key=lambda name: (described[name][0].gpu_gb or 0, described[name][0].minutes))
    return {name: (described[name][1], described[name][0].summary) for name in order}


def dotted_keys(cls: type, prefix: str = "") -> Iterator[tuple[str, type, str]]:
    """Every field of a dataclass and of the dataclasses in it: its dotted key, the class it belongs to, its name."""
    hints = get_type_hints(cls)
    for item in fields(cls):
        yield prefix + item.name, cls, item.name
        if is_dataclass(hints[item.name]):
            yield from dotted_keys(hints[item.name], f"{prefix}{item.name}.")


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    packaged = {recipe.stem: recipe for recipe in packaged_recipes()}
    name = path.name.removesuffix(".yaml")  # not `stem`, because names may contain dots
    if path.parent in (Path("."), Path("recipes")) and name in packaged:
        return packaged[name]
    raise SelfExplainError(
        f"Recipe {str(source)!r} does not exist. Give a YAML file or a packaged recipe: {', '.join(packaged)}."
    )


def _read(path: Path) -> dict[str, Any]:
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise SelfExplainError(f"{path} contains a {type(data).__name__}. Expected a mapping of recipe keys to values.")
    return data


def _keys(cls: type) -> Iterator[str]:
    return (key for key, _, _ in dotted_keys(cls))


def _unknown_key(data: dict[Any, Any], cls: type, prefix: str = "") -> str | None:
    """The first dotted key that the dataclass does not have; None if there is no such key."""
    hints = get_type_hints(cls)
    for key, value in data.items():
        if key not in hints:
            return f"{prefix}{key}"
        if is_dataclass(hints[key]) and isinstance(value, dict):
            unknown = _unknown_key(value, cast(type, hints[key]), f"{prefix}{key}.")
            if unknown:
                return unknown
    return None


def _similarity(unknown: str, candidate: str) -> tuple[float, float]:
    last_parts = unknown.rpartition(".")[2], candidate.rpartition(".")[2]
    return SequenceMatcher(None, *last_parts).ratio(), SequenceMatcher(None, unknown, candidate).ratio()


def _explain(error: ValidationError, known: list[str], source: str, overrides: Sequence[str]) -> str:
    """A validation error as a message: the missing values with the full command, or the first invalid value."""
    problems = error.errors()
    missing = [".".join(map(str, problem["loc"])) for problem in problems if problem["type"] == "missing"]
    if missing:
        values = " ".join(f"{key}={_PLACEHOLDERS.get(key, 'VALUE')}" for key in missing)
        command = shlex.join(["selfexplain", "run", source, *overrides])
        return f"{source} does not set {' and '.join(missing)}. Run: {command} {values}"
    problem = problems[0]
    if problem["type"] == "value_error":
        return f"{source}: {problem['msg'].removeprefix('Value error, ')}"
    parts = list(problem["loc"])
    while parts and ".".join(part for part in parts if isinstance(part, str)) not in known:
        parts.pop()  # pydantic appends the name of a union's member
    key = ".".join(map(str, parts))
    if not key:
        return f"{source} is not a valid recipe: {problem['msg']}."
    expected = problem["msg"].removeprefix("Input should be ")
    return f"{source}: {key} is {problem['input']!r}. Expected {expected}."
