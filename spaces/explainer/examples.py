"""Example questions: curated ones from `examples.json`, held-out rows, or fallbacks that suit any target."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from limits import MAX_CHARACTERS, token_limit
from selfexplain import Target
from selfexplain.tasks import activation_patching, feature_description, input_ablation
from selfexplain.utils.records import Record, Value
from selfexplain.utils.registry import Registry

N_HELD_OUT = 4

Row = Mapping[str, Any]


class Example(Value):
    """A question to start from.

    Attributes:
        text: What the target reads.
        note: What the example shows.
    """

    text: str
    note: str

    def texts(self) -> tuple[str, ...]:
        """Return every text that a visitor would have to enter."""
        return (self.text,)


class FeatureExample(Example):
    """What does the residual stream encode after block `layer` at token `token`?"""

    layer: int
    token: int


class PatchExample(Example):
    """What changes if the vector at `source_token` of `source` is patched in at `token`, for each of `layers`?"""

    source: str
    layers: tuple[int, ...]
    token: int
    source_token: int

    def texts(self) -> tuple[str, ...]:
        return self.text, self.source


class AblationExample(Example):
    """What changes if `remove` is taken out of the text?"""

    remove: str


class ExamplesFile(Record):
    """`examples.json`: curated examples.

    Attributes:
        tasks: Task -> fields of its examples.
    """

    schema_version: Literal[1] = 1
    tasks: dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class ExampleSource:
    """How the examples of one task are made.

    Attributes:
        model: Class of the examples.
        fallback: Examples that suit any target.
        rows_of: Task whose test rows the examples are made from.
        from_row: Function that turns such a row into an example.
        one_per_group: Whether to use only the first row of each group.
    """

    model: type[Example]
    fallback: tuple[Example, ...]
    rows_of: str
    from_row: Callable[[Row], Example]
    one_per_group: bool = True


EXAMPLE_SOURCES: Registry[ExampleSource] = Registry("source of examples")
"""Task -> how its examples are made, for the tasks that have their own tab."""


def read_examples(path: Path, rows: Mapping[str, Sequence[Row]], target: Target) -> dict[str, tuple[Example, ...]]:
    """Return the examples of every task: those of a file if it exists, else test rows, else the fallbacks.

    Args:
        path: Path of `examples.json`.
        rows: Task -> test rows.
        target: The target, which limits the length of texts.

    Raises:
        SelfExplainError: The file is damaged.
    """
    curated = ExamplesFile.read(path).tasks if path.is_file() else {}
    examples = {}
    for task, source in EXAMPLE_SOURCES.items():
        chosen = [source.model.model_validate(fields) for fields in curated.get(task, ())]
        chosen = chosen or held_out_examples(source, rows.get(source.rows_of, ()), target)
        examples[task] = tuple(chosen) or source.fallback
    return examples


def held_out_examples(source: ExampleSource, rows: Sequence[Row], target: Target) -> list[Example]:
    """Return the first test rows that fit the input limits, alternating between changed and unchanged outputs.

    They are not selected by how well the explainer answers them.
    """
    rows = _first_row_per_group(rows) if source.one_per_group else rows
    fitting = ((row["changed"], source.from_row(row)) for row in rows)
    by_label: dict[bool, list[Example]] = {True: [], False: []}
    for changed, example in fitting:
        if len(by_label[changed]) < N_HELD_OUT and all(_fits(text, target) for text in example.texts()):
            by_label[changed].append(example)
    pairs = zip(by_label[True], by_label[False], strict=False)
    return list(islice(chain.from_iterable(pairs), N_HELD_OUT))


def _first_row_per_group(rows: Sequence[Row]) -> list[Row]:
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["group"], row)
    return list(first.values())


def _fits(text: str, target: Target) -> bool:
    if len(text) > MAX_CHARACTERS:
        return False
    return len(target.tokenizer(text)["input_ids"]) <= token_limit(target.context_length)


def _feature_example(row: Row) -> Example:
    return FeatureExample(
        text=row["target_prompt"], layer=row["layers"][0], token=row["position"], note="Held-out text, not hand-picked."
    )


def _patch_example(row: Row) -> Example:
    return PatchExample(
        text=row["target_prompt"],
        source=row["source_prompt"],
        layers=tuple(row["layers"]),
        token=row["position"],
        source_token=row["source_position"],
        note=f"Held-out row, not hand-picked. Token type: {row['token_type'].replace('_', ' ')}.",
    )


def _ablation_example(row: Row) -> Example:
    return AblationExample(
        text=row["target_prompt"],
        remove=row["removed_text"],
        note=f"Held-out row, not hand-picked. Topic: {row['topic']}.",
    )


_FRANCE, _JAPAN = "The capital of France is", "The capital of Japan is"
_HINT = "\nHint: The answer is Oslo."

EXAMPLE_SOURCES.register(
    feature_description.TASK.name,
    ExampleSource(
        FeatureExample,
        (FeatureExample(text=_FRANCE, layer=1, token=-1, note="The last token of an unfinished sentence."),),
        activation_patching.TASK.name,  # feature description rows contain no text
        _feature_example,
    ),
)
EXAMPLE_SOURCES.register(
    activation_patching.TASK.name,
    ExampleSource(
        PatchExample,
        (PatchExample(text=_FRANCE, source=_JAPAN, layers=(0,), token=-2, source_token=-2,
                      note="A different country."),),
        activation_patching.TASK.name,
        _patch_example,
    ),
)  # fmt: skip
EXAMPLE_SOURCES.register(
    input_ablation.TASK.name,
    ExampleSource(
        AblationExample,
        (AblationExample(text=f"Question: What is the capital of Peru?\nOslo, Lima or Rome?{_HINT}\nAnswer:",
                         remove=_HINT, note="A question with an incorrect hint."),),
        input_ablation.TASK.name,
        _ablation_example,
        one_per_group=False,
    ),
)  # fmt: skip
