"""What is fuzzed: for each area a strategy, and a function that may return or raise SelfExplainError, nothing else."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from hypothesis import strategies as st

from fuzz.values import anything, changed, json_values, numbers, scalars, texts

AREAS: dict[str, "Area"] = {}
"""Name -> area."""


@dataclass(frozen=True)
class Area:
    """A kind of input.

    Attributes:
        strategy: generates one input.
        check: uses it.
        share: share of all inputs.
        uses_model: whether the shipped explainer is loaded first.
    """

    strategy: st.SearchStrategy
    check: Callable[[Any], None]
    share: float
    uses_model: bool = False


def area(strategy: st.SearchStrategy, share: float, uses_model: bool = False) -> Callable[[Callable], Callable]:
    """Register a function as the check of an area that has its name."""

    def register(check: Callable) -> Callable:
        AREAS[check.__name__] = Area(strategy, check, share, uses_model)
        return check

    return register


@cache
def directory() -> Path:
    """A directory for files that are read; deleted when the process ends."""
    _keep.append(TemporaryDirectory(prefix="fuzz-"))
    return Path(_keep[-1].name)


_keep: list[TemporaryDirectory] = []


@cache
def explainer():
    import selfexplain.groundtruth.sources
    import selfexplain.modeling.third_party.load  # noqa: F401
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    return SelfExplainerForCausalLM.from_pretrained("selfexplain/tiny-selfexplainer")


@cache
def recipe_data() -> dict[str, Any]:
    """The keys and values of a whole recipe."""
    from selfexplain.runs.recipe import dump_recipe, load_recipe

    return yaml.safe_load(dump_recipe(load_recipe("quickstart")))


@cache
def keys() -> list[str]:
    from selfexplain.runs.recipe import Recipe, dotted_keys

    return [key for key, _, _ in dotted_keys(Recipe)]


def load(text: str, overrides=()) -> None:
    from selfexplain.runs.recipe import dump_recipe, load_recipe

    path = directory() / "recipe.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    dump_recipe(load_recipe(path, overrides))


@area(st.deferred(lambda: changed(recipe_data())), share=0.06)
def recipes(data):
    load(json.dumps(data) if isinstance(data, dict) else yaml.safe_dump(data))


REQUIRED = "name: a\ndescription: b\nexpected: {minutes: 1, memory_gb: 1}\ntarget: selfexplain/tiny\ncorpus: c.txt\n"


@area(st.tuples(st.sampled_from(["", REQUIRED]), st.lists(texts, max_size=6).map("\n".join)), share=0.06)
def yaml_text(parts):
    load("".join(parts))


values = texts | json_values.map(lambda value: json.dumps(value)) | scalars.map(str)


@area(st.tuples(st.deferred(lambda: st.sampled_from(keys())) | texts, values), share=0.3)
def overrides(pair):
    from selfexplain.runs.recipe import dump_recipe, load_recipe

    dump_recipe(load_recipe("quickstart", ["=".join(pair)]))


@area(texts | json_values.map(json.dumps), share=0.2)
def parsers(text):
    from selfexplain.features.description import Description
    from selfexplain.tasks import outcome
    from selfexplain.utils.names import is_hub_id, is_reserved, looks_like_path
    from selfexplain.utils.parsing import parse_json

    for sentence in (text, f"the words {text}", f"words after {text}", outcome.render(outcome.Outcome(True, text))):
        outcome.parse(sentence), outcome.claim_spans(sentence)
        description = Description.parse(sentence, {"countries": {"Peru"}})
        if description is not None:
            assert Description.parse(str(description), {"countries": {"Peru"}}) == description
            description.matches([text, "Peru"])
    is_hub_id(text), is_reserved(text), looks_like_path(text)
    parse_json(text, "text")


@cache
def record_examples() -> list[tuple[type, dict[str, Any]]]:
    from selfexplain.evaluation.predictions import Prediction
    from selfexplain.groundtruth.dataset_directory import DatasetManifest
    from selfexplain.groundtruth.statistics import DatasetStatistics
    from selfexplain.runs.lock import LockHolder
    from selfexplain.runs.manifest import RunManifest

    step = {"input_hash": "0", "status": "done", "seconds": 1.0, "outputs": {"a/b": 1}, "after": ["x"], "amends": ["c"]}
    run = {"schema_version": 1, "identity": {"recipe": "r"}, "seed": 0, "versions": {"torch": "2"}, "revisions": {}}
    answer = {"row": 0, "group": "g", "prompt": "p", "completion": "c", "confidence": 0.5, "answers": {"a": True}}
    statistics = {"splits": {"test": {"rows": 1, "groups": 1}}, "out_of_distribution": {"new": {"n": 1}}, "n": 3}
    return [
        (RunManifest, {**run, "stages": {"train": step}}),
        (Prediction, {"schema_version": 1, **answer}),
        (DatasetStatistics, {"schema_version": 1, **statistics}),
        (DatasetManifest, {"schema_version": 1, "inputs": "0", "files": {"a.parquet": "0"}}),
        (LockHolder, LockHolder.here().to_data()),
    ]


@st.composite
def damaged_records(draw):
    record, data = draw(st.sampled_from(record_examples()))
    text = json.dumps(draw(changed(data)))
    if draw(st.booleans()) and draw(st.booleans()):
        cut = draw(st.integers(0, len(text)))
        text = text[:cut] + draw(texts) + text[cut:]
    return record, text


@area(damaged_records(), share=0.1)
def records(pair):
    record, text = pair
    record.parse(text, "file").to_json()


CONFIG = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 4, "vocab_size": 512}
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "a/b", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
ORACLE = {
    "schema_version": 1, "special_token": " ?", "prefix_template": "Layer: {layer}\\n{special_token} * {num_positions}",
    "hook_onto_layer": 1, "steering_coefficient": 1.0, "act_layer_combinations": [[1], [2]],
    "created_at_utc": "2025-12-01T08:00:00+00:00",
}  # fmt: skip
SIDECAR = {
    "schema_version": 2, "kind": "nla_model", "role": "av", "base_checkpoint": "a/b", "d_model": 32,
    "extraction_layer_index": 2, "extraction": {"injection_scale": 150.0, "mse_scale": "sqrt_d_model"},
    "tokens": {"injection_char": "?", "injection_token_id": 5, "injection_left_neighbor_id": 1},
    "prompt_templates": {"av": "Say what <concept>{injection_char}</concept> means", "ar": "{explanation}"},
}  # fmt: skip


@area(
    st.sampled_from([
        ("config.json", CONFIG), ("adapter_config.json", ADAPTER),
        ("ao_config.json", ORACLE), ("nla_meta.yaml", SIDECAR),
    ]).flatmap(lambda pair: st.tuples(st.just(pair[0]), changed(pair[1]), st.none() | texts)),
    share=0.12,
    uses_model=True,
)  # fmt: skip
def sidecars(file):
    from selfexplain.modeling.third_party.checkpoint import read_checkpoint
    from selfexplain.modeling.third_party.contracts import find_marker_ids, recognise, settle

    name, data, text = file
    place = directory() / "checkpoint"
    place.mkdir(exist_ok=True)
    for other in place.iterdir():
        other.unlink()
    (place / "adapter_config.json").write_text(json.dumps(ADAPTER))
    if name == "nla_meta.yaml":
        (place / "config.json").write_text(json.dumps(CONFIG))
    content = text if text is not None else json.dumps(data)
    (place / name).write_text(content, encoding="utf-8", errors="surrogatepass")
    tokenizer = explainer().processor.tokenizer
    files = read_checkpoint(str(place), {"revision": None, "subfolder": ""})
    contract = settle(files, recognise(files), tokenizer)
    contract.describe()
    if contract.markers:
        find_marker_ids(files, tokenizer)


vectors = (
    st.lists(st.floats(-3, 3, width=32), min_size=96, max_size=96)
    | st.lists(numbers, max_size=4)
    | st.sampled_from([[0.0] * 96, [float("nan")] * 96, [float("inf")] * 96])
)
layers = st.integers(-1, 8) | numbers | scalars


@st.composite
def row_values(draw):
    """A row for the processor, in which a field may be missing or have any value."""
    prompt = draw(texts) + draw(st.sampled_from(["", "<activation>", " <activation> "])) + draw(texts)
    slots = [prompt.find("<activation>")] if "<activation>" in prompt else []
    row = {"prompt": prompt, "placeholder_offsets": slots, "activations": [draw(vectors) for _ in slots]}
    row["activation_layers"] = [draw(layers) for _ in slots]
    if draw(st.booleans()):
        row[draw(st.sampled_from(sorted(row)))] = draw(anything)
    if draw(st.integers(0, 9)) == 0:
        del row[draw(st.sampled_from(sorted(row)))]
    return row


@area(st.lists(row_values(), max_size=3), share=0.08, uses_model=True)
def processor(rows):
    explainer().processor(rows)


@area(
    st.dictionaries(st.sampled_from(["question", "choices", "answer", "subject"]), json_values),
    share=0.05,
    uses_model=True,
)
def dataset_rows(row):
    from selfexplain.groundtruth.config import QuestionSource
    from selfexplain.groundtruth.sources import table_questions
    from selfexplain.target.load import Target

    model = explainer()
    path = directory() / "rows.jsonl"
    good = {"question": "Which?", "choices": ["x", "y"], "answer": 0}
    path.write_text("".join(json.dumps(one) + "\n" for one in (good, {**good, **row}, row)))
    target = Target(model.language_model, model.processor.tokenizer, "tiny")
    table_questions(QuestionSource(kind="multiple_choice", path=str(path)), target, 4, 0)


@st.composite
def questions(draw):
    """A method of an explainer with its arguments."""
    text = draw(texts | st.just("The capital of France is Paris.\nHint: The answer is Rome.\nAnswer:"))
    vector, layer = draw(vectors), draw(layers)
    position = draw(st.integers(-9, 9) | scalars)
    template = draw(st.integers(-1, 5) | scalars)
    return draw(st.sampled_from([
        ("explain_feature", (vector, layer, template)),
        ("explain_patch", (text, vector, draw(st.lists(layers, max_size=3)), position, template)),
        ("explain_ablation", (text, draw(st.none() | texts), draw(texts), draw(st.lists(texts, max_size=3)), template)),
        ("capture", (text, draw(st.lists(layers, max_size=3)))),
        ("ask", (draw(st.none() | texts), [vector] * draw(st.integers(0, 2)), draw(st.lists(layers, max_size=2)))),
    ]))  # fmt: skip


@area(questions(), share=0.03, uses_model=True)
def explain_and_verify(call):
    import torch

    name, arguments = call
    model = explainer()
    tensors = [tensor_of(argument) for argument in arguments]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        explanation = getattr(model, name)(*tensors)
        if name.startswith("explain"):
            model.verify(explanation, texts=["The capital of France is Paris."])


def tensor_of(argument):
    """Lists of numbers become tensors, as a caller would pass them."""
    import torch

    if isinstance(argument, list) and argument and all(isinstance(one, float) for one in argument):
        return torch.tensor(argument)
    if isinstance(argument, list) and argument and isinstance(argument[0], list):
        return [tensor_of(one) for one in argument]
    return argument
