"""The metrics as modules for the `evaluate` library: loaded from a path, or published as repositories on the Hub.

    evaluate.load(metric_path("exact_match"))
    evaluate.load("ORGANISATION/exact_match")

A module is a few generated lines that call `metric_class`, so `METRICS` is the only implementation of a score.
"""

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.evaluation.metrics import METRICS, OFFLINE, Simulator
from selfexplain.utils.formatting import format_name

if TYPE_CHECKING:
    import evaluate
    import gradio

_PREDICTIONS = {
    "completion": "answers of an explainer",
    "scoring_exemplars": "descriptions of features",
}
_REFERENCES = {
    "completion": "true completions, sentences of `selfexplain.tasks.outcome`",
    "scoring_exemplars": "`scoring_exemplars` of each feature: windows of tokens with their activations",
}

_MODULE = '''"""{meaning}"""

from selfexplain.evaluation.metric_modules import metric_class

{class_name} = metric_class("{name}")
'''

_APP = '''"""Compute {title} in the browser."""

from selfexplain.evaluation.metric_modules import demo

demo("{name}").launch()
'''

_REQUIREMENTS = "selfexplain[space]\n"

_CARD = """---
title: {title}
sdk: gradio
app_file: app.py
pinned: false
license: mit
tags:
- evaluate
- metric
- selfexplain
description: >-
  {meaning}
---

# {title}

{meaning}

## How to use

```python
import evaluate

metric = evaluate.load("{repo}")
metric.compute(predictions=predictions, references=references)
```

This returns `{{"{name}": score}}`. The package `selfexplain` must be installed. It contains the implementation, which
also computes the scores in its results tables.

## Inputs

- `predictions`: list of strings, {predictions}.
- `references`: list of the same length, {references}.
{classes}
## Limitations

Rows about the same fact, question or feature are not independent. For confidence intervals, resample groups of rows
with `selfexplain.evaluation.statistics`.
"""

_CLASSES = """- `classes` (optional): mapping from a class that descriptions may name to its tokens.

Descriptions are read by the offline simulator, so they have to follow the grammar of
`selfexplain.features.description`.

"""


def metric_class(name: str) -> "type[evaluate.Metric]":
    """The `evaluate.Metric` class of a metric.

    Raises:
        SelfExplainError: there is no such metric.
    """
    import evaluate

    metric = METRICS[name]

    def info(self: "evaluate.Metric") -> "evaluate.MetricInfo":
        return evaluate.MetricInfo(
            description=metric.meaning,
            citation="",
            inputs_description=(
                f"predictions: {_PREDICTIONS[metric.reference]}; references: {_REFERENCES[metric.reference]}."
            ),
            features=_features(metric.reference),
        )

    def compute(
        self: "evaluate.Metric",
        predictions: Sequence[str],
        references: Sequence[Any],
        classes: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, float]:
        simulator = Simulator({key: set(tokens) for key, tokens in classes.items()}) if classes else OFFLINE
        return {name: metric(predictions, references, simulator)}

    return type(_class_name(name), (evaluate.Metric,), {"_info": info, "_compute": compute})


def metric_path(name: str) -> str:
    """A directory from which `evaluate.load` loads a metric without network access.

    The directory exists until the process ends.

    Raises:
        SelfExplainError: there is no such metric.
    """
    directory = _temporary_directory() / name
    _write_module(name, directory)
    return str(directory)


def write_metric_repository(name: str, directory: Path, repo: str | None = None) -> None:
    """Write a metric as a repository for the Hub: the module, a demo, a card and the requirements.

    Args:
        name: name of a metric.
        directory: directory to write to; the repository must be called `name`, because `evaluate.load` looks for a
            module of that name.
        repo: id of the repository on the Hub, for the card; None for the name alone.

    Raises:
        SelfExplainError: there is no such metric.
    """
    metric = METRICS[name]
    _write_module(name, directory)
    title = format_name(name)
    (directory / "app.py").write_text(_APP.format(title=title, name=name), encoding="utf-8")
    (directory / "requirements.txt").write_text(_REQUIREMENTS, encoding="utf-8")
    card = _CARD.format(
        title=title[0].upper() + title[1:],
        name=name,
        repo=repo or name,
        meaning=metric.meaning,
        predictions=_PREDICTIONS[metric.reference],
        references=_REFERENCES[metric.reference],
        classes=_CLASSES if metric.reference == "scoring_exemplars" else "",
    )
    (directory / "README.md").write_text(card, encoding="utf-8")


def demo(name: str) -> "gradio.Interface":
    """A web page that computes a metric from JSON lists of predictions and references.

    `evaluate.utils.launch_gradio_widget` needs gradio 3, so metric repositories use this page.
    """
    import json

    import gradio

    metric = METRICS[name]

    def compute(predictions: str, references: str) -> float:
        return metric(json.loads(predictions), json.loads(references))

    return gradio.Interface(
        compute,
        [
            gradio.Textbox(label="predictions, a JSON list of strings", lines=5),
            gradio.Textbox(label="references, a JSON list", lines=5),
        ],
        gradio.Number(label=name),
        title=format_name(name),
        description=metric.meaning,
        flagging_mode="never",
    )


def _features(reference: str) -> Any:
    from datasets import Features, List, Value

    text = Value("string")
    exemplars = List({"tokens": List(text), "activations": List(Value("float64"))})
    return Features({"predictions": text, "references": text if reference == "completion" else exemplars})


def _class_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _write_module(name: str, directory: Path) -> None:
    text = _MODULE.format(meaning=METRICS[name].meaning, class_name=_class_name(name), name=name)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.py").write_text(text, encoding="utf-8")


@cache
def _temporary_directory() -> Path:
    """A directory that is deleted when the process ends."""
    directory = tempfile.mkdtemp(prefix="selfexplain-metrics-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)
