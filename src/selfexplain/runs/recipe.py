"""Recipes: YAML files read into typed dataclasses."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, field, fields, is_dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.config import ComparisonConfig, EvaluationConfig
from selfexplain.groundtruth.config import AblationConfig, CorpusConfig, FeatureConfig, PatchingConfig
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.resources import resource
from selfexplain.utils.registry import Registry
from selfexplain.training.config import AdapterConfig, TrainingConfig

Task = Literal["feature_description", "activation_patching", "input_ablation"]

# What a value that no packaged recipe can know looks like on the command line.
_PLACEHOLDERS = {"target": "DIR", "corpus": "FILE"}


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a run costs, told before it starts.

    Attributes:
        memory_gb: of the machine.
        gpu_gb: of one GPU; None where none is needed.
        measured: whether somebody ran it; else time and memory are estimates.
    """

    minutes: float
    memory_gb: float
    disk_gb: float = 1.0
    gpu_gb: float | None = None
    hardware: str = "2 CPU cores"
    measured: bool = True

    @property
    def told(self) -> str:
        hours = self.minutes / 60
        time = f"{self.minutes:g} minutes" if hours < 3 else f"{hours:.0f} hours"
        return f"About {time} on {self.hardware}{'' if self.measured else ' (an estimate)'}."


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """From a target model to a trained and checked explainer of it.

    Attributes:
        target: the model being explained: Hub id, directory or reserved name.
        target_revision, explainer_revision: branch, tag or commit on the Hub; a run stays with the commit that it finds
            when it first starts.
        dtype: of the target's weights while ground truth is made.
        explainer: what is trained: None for the target's own weights, or another causal language model. An explainer
            that is trained already is only evaluated.
        corpus: the text that ground truth is made from: a text file (one text a line), a JSONL, CSV or parquet file
            or a Hub dataset with a column of text, or the reserved name `selfexplain/tiny-world`.
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
    corpus: str
    corpus_options: CorpusConfig = field(default_factory=CorpusConfig)
    tasks: tuple[Task, ...] = ("feature_description", "activation_patching", "input_ablation")
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
            raise SelfExplainError(f"tasks is {list(self.tasks)}, expected at least one, each once.")
        if self.comparison.is_on and self.explainer is not None:
            raise SelfExplainError(
                "a comparison trains every model to explain every model: leave explainer out, and name "
                f"{self.explainer!r} in comparison.models."
            )
        if self.comparison.is_on and self.training.share != 1:
            raise SelfExplainError(
                f"training.share is {self.training.share:g} in a recipe that compares: leave it at 1, and name shares "
                "in comparison.shares."
            )
        if self.comparison.models and (keys := self._about_one_model()):
            raise SelfExplainError(
                f"{' and '.join(keys)} are about {self.target} alone, and comparison.models asks for the same ground "
                "truth about other models: take data that can be made of every model, or leave the models out."
            )

    def _about_one_model(self) -> list[str]:
        """The settings, of the tasks asked for, that name what somebody recorded of one model."""
        features, patching, ablation = self.feature_description, self.activation_patching, self.input_ablation
        named: dict[Task, dict[str, bool]] = {
            "feature_description": {"saes": features.saes is not None, "neuronpedia": features.neuronpedia is not None},
            "activation_patching": {"source.kind=transluce": patching.source.kind == "transluce"},
            "input_ablation": {"source.kind=transluce": ablation.source.kind == "transluce"},
        }
        return [f"{task}.{key}" for task in self.tasks for key, is_named in named[task].items() if is_named]


class AnyRecipe(Protocol):
    """What recipes of all kinds have in common."""

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


RECIPE_KINDS: Registry[type] = Registry("recipe kind")
"""Value of `kind` in a recipe -> the dataclass that holds its settings."""
RECIPE_KINDS.register("explainer", Recipe)


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read a recipe from a file or, by name, from the package, with `key=value` overrides on top.

    Args:
        source: a YAML file, or the name of a packaged recipe: `quickstart`, `recipes/quickstart.yaml`.
        overrides: dotted keys with YAML values, such as `training.epochs=5` or `tasks=[input_ablation]`.

    Raises:
        SelfExplainError: no such recipe, no YAML, a key that does not exist (the nearest one is named), a value of the
            wrong type, or a value that is missing.
    """
    data = _read(_find(source))
    for override in overrides:
        _apply(data, override)
    kind = data.get("kind", "explainer")
    if kind not in RECIPE_KINDS:
        raise SelfExplainError(f"{source}: kind is {kind!r}, expected one of {', '.join(map(repr, RECIPE_KINDS))}.")
    known = list(_keys(RECIPE_KINDS[kind]))
    _check_keys(data, RECIPE_KINDS[kind], known, str(source))
    try:
        # Through JSON, because pydantic's strict mode takes a mapping for a dataclass only there.
        return TypeAdapter(RECIPE_KINDS[kind]).validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise SelfExplainError(_explain(error, known, str(source), overrides)) from error


def dump_recipe(recipe: AnyRecipe) -> str:
    """The recipe with every default filled in, as YAML that `load_recipe` reads back equal."""
    return yaml.safe_dump(json.loads(json.dumps(asdict(cast(Any, recipe)))), sort_keys=False, allow_unicode=True, width=120)


def read_resolved(path: Path) -> Recipe:
    """Read the `recipe.yaml` of a run directory.

    Raises:
        SelfExplainError: the file is missing or is not the recipe of an explainer.
    """
    if not path.is_file():
        raise SelfExplainError(f"{path} does not exist. Run the recipe again to write it.")
    recipe = load_recipe(path)
    if not isinstance(recipe, Recipe):
        raise SelfExplainError(f"{path} is a recipe of kind {recipe.kind!r}, expected 'explainer'.")
    return recipe


def packaged_recipes() -> list[Path]:
    """The recipes that travel with the package, by name."""
    return sorted(resource("recipes").glob("*.yaml"))


def describe_packaged() -> dict[str, tuple[str, str]]:
    """Name of each packaged recipe, the cheapest first -> what it does; how long that takes, and on what."""
    described = {}
    for path in packaged_recipes():
        data = _read(path)
        described[path.stem] = Expected(**data["expected"]), data["description"]
    order = sorted(described, key=lambda name: (described[name][0].gpu_gb or 0, described[name][0].minutes))
    return {name: (described[name][1], described[name][0].told) for name in order}


class _Loader(yaml.SafeLoader):
    """YAML 1.1, except that `1e-3` is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    packaged = {recipe.stem: recipe for recipe in packaged_recipes()}
    name = path.name.removesuffix(".yaml")  # which may hold dots
    if path.parent in (Path("."), Path("recipes")) and name in packaged:
        return packaged[name]
    raise SelfExplainError(f"recipe {str(source)!r}: no such file, and the packaged ones are {', '.join(packaged)}.")


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SelfExplainError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise SelfExplainError(f"{path} holds {type(data).__name__}, expected a mapping of recipe keys to values.")
    return data


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SelfExplainError(f"override {override!r}: expected key=value, such as training.epochs=5.")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise SelfExplainError(f"override {override!r}: the value is not YAML; quote it.") from error
    *sections, last = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise SelfExplainError(f"override {override!r}: {section} holds a value, not a section with keys.")
    data[last] = value


def _keys(cls: type, prefix: str = "") -> Iterator[str]:
    """All dotted keys of a dataclass and of the dataclasses in it."""
    hints = get_type_hints(cls)
    for item in fields(cls):
        yield prefix + item.name
        if is_dataclass(hints[item.name]):
            yield from _keys(hints[item.name], f"{prefix}{item.name}.")


def _check_keys(data: dict[Any, Any], cls: type, known: list[str], source: str) -> None:
    def likeness(wrong: str, candidate: str) -> tuple[float, float]:
        last_parts = wrong.rpartition(".")[2], candidate.rpartition(".")[2]
        return SequenceMatcher(None, *last_parts).ratio(), SequenceMatcher(None, wrong, candidate).ratio()

    def check(section: dict[Any, Any], cls: type, prefix: str) -> None:
        hints = get_type_hints(cls)
        for key, value in section.items():
            dotted = f"{prefix}{key}"
            if dotted not in known:
                nearest = max(known, key=lambda candidate: likeness(dotted, candidate))
                raise SelfExplainError(f"{source}: unknown key {dotted!r}. Did you mean {nearest!r}?")
            if is_dataclass(hints[key]) and isinstance(value, dict):
                check(value, hints[key], f"{dotted}.")

    check(data, cls, "")


def _explain(error: ValidationError, known: list[str], source: str, overrides: Sequence[str]) -> str:
    problems = error.errors()
    missing = [".".join(map(str, problem["loc"])) for problem in problems if problem["type"] == "missing"]
    if missing:
        values = " ".join(f"{key}={_PLACEHOLDERS.get(key, 'VALUE')}" for key in missing)
        command = " ".join(["selfexplain run", source, *overrides, values])
        return f"{source} leaves {' and '.join(missing)} to you. Run: {command}"
    problem = problems[0]
    if problem["type"] == "value_error":
        return f"{source}: {problem['msg'].removeprefix('Value error, ')}"
    parts = list(problem["loc"])
    while ".".join(part for part in parts if isinstance(part, str)) not in known:
        parts.pop()  # pydantic adds the name of a union's member
    key = ".".join(map(str, parts))
    expected = problem["msg"].removeprefix("Input should be ")
    return f"{source}: {key} is {problem['input']!r}, expected {expected}."
