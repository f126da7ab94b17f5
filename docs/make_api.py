"""Write docs/api.md from the docstrings of the public names."""

import inspect
import re
from importlib import import_module
from pathlib import Path

PAGE = Path(__file__).parent / "api.md"

# Where to look, in the order of use; classes with their public methods, functions as they are.
NAMES = {
    "The model": [
        "selfexplain.SelfExplainerForCausalLM",
        "selfexplain.SelfExplainerConfig",
        "selfexplain.SelfExplainerProcessor",
        "selfexplain.InjectionConfig",
    ],
    "Questions and answers": [
        "selfexplain.FeatureQuery",
        "selfexplain.PatchQuery",
        "selfexplain.AblationQuery",
        "selfexplain.Explanation",
        "selfexplain.Verification",
    ],
    "The target": ["selfexplain.load_target", "selfexplain.Target", "selfexplain.capture"],
    "Interventions": [
        "selfexplain.target.patching.Patch",
        "selfexplain.target.patching.run_patches",
        "selfexplain.target.ablation.run_variants",
        "selfexplain.target.sweep.SweepResults",
    ],
    "Ground truth": [
        "selfexplain.groundtruth.build.build",
        "selfexplain.groundtruth.formats.read_rows",
        "selfexplain.groundtruth.config.FeatureConfig",
        "selfexplain.groundtruth.config.PatchingConfig",
        "selfexplain.groundtruth.config.AblationConfig",
    ],
    "Training and evaluation": [
        "selfexplain.training.config.TrainingConfig",
        "selfexplain.training.train.train",
        "selfexplain.evaluation.config.EvaluationConfig",
        "selfexplain.evaluation.evaluate.evaluate",
        "selfexplain.evaluation.config.ComparisonConfig",
        "selfexplain.evaluation.comparison.compare",
        "selfexplain.features.endpoint.Endpoint",
    ],
    "Recipes": ["selfexplain.load_recipe", "selfexplain.run"],
    "Errors": ["selfexplain.SelfExplainError"],
}


def page() -> str:
    """The page as it should be."""
    parts = ["# API reference", "Written by `python docs/make_api.py` from the docstrings."]
    for title, names in NAMES.items():
        parts.append(f"## {title}")
        for path in names:
            module, name = path.rsplit(".", 1)
            parts += entry(getattr(import_module(module), name), name, level=3)
    return "\n\n".join(parts) + "\n"


def entry(thing, name: str, level: int) -> list[str]:
    """Heading, signature and docstring; of a class also those of its own public methods."""
    parts = [f"{'#' * level} `{name}`", f"```python\n{signature(thing, name)}\n```", text(inspect.getdoc(thing) or "")]
    if inspect.isclass(thing):
        for method in methods(thing):
            parts += entry(getattr(thing, method), f"{name}.{method}", level + 1)
    return parts


def methods(cls: type) -> list[str]:
    """Public, documented methods that this package defines, in the order of the source."""
    ours = [base for base in reversed(cls.__mro__) if base.__module__.startswith("selfexplain")]
    named = {name: value for base in ours for name, value in vars(base).items() if not name.startswith("_")}
    return [name for name, value in named.items() if inspect.isroutine(getattr(cls, name)) and inspect.getdoc(value)]


def signature(thing, name: str) -> str:
    """The call as it is written, one parameter a line where it is long; no addresses of objects in it."""
    try:
        found = inspect.signature(thing)
    except ValueError:
        return name
    own = vars(thing).get("__annotations__") if inspect.isclass(thing) else None
    shown = [p for p in found.parameters.values() if p.name != "self" and (not own or p.name in own)]
    parameters = [str(p.replace(annotation=_plain(p.annotation))) for p in shown]
    returns = "" if found.return_annotation is found.empty else f" -> {_plain(found.return_annotation)}"
    line = f"{name}({', '.join(parameters)}){returns}"
    return line if len(line) <= 100 else f"{name}(\n    " + ",\n    ".join(parameters) + f",\n){returns}"


def _plain(annotation):
    if annotation is inspect.Parameter.empty:
        return annotation
    name = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _Name(re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", name.strip("'\"")))


class _Name:
    """Prints as the name of a type."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return self.name


def text(docstring: str) -> str:
    """Google-style sections as bold words and lists."""
    lines = []
    for line in docstring.splitlines():
        if re.fullmatch(r"(Args|Attributes|Returns|Raises|Yields):", line):
            lines += [f"**{line[:-1]}**", ""]
        elif item := re.match(r"    ([^\s`][^`]*?): (.*)", line):
            lines.append(f"- `{item[1]}`: {item[2]}")
        else:
            lines.append(f"  {line.strip()}" if line.startswith("        ") else line.strip())
    return "\n".join(lines).strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
