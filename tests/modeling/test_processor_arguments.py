"""The processor is called as processors of transformers are, or says what it expected."""

import numpy as np
import pytest
import torch

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.inputs import VECTOR_INPUTS
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
from selfexplain.tasks.question import PLACEHOLDER


@pytest.fixture
def processor(tokenizer):
    return SelfExplainerProcessor(tokenizer)


def row(prompt=f"At layer 1, {PLACEHOLDER} is", n=1):
    offsets = [prompt.index(PLACEHOLDER)] if n else []
    return {
        "prompt": prompt, "placeholder_offsets": offsets, "activations": [[0.5] * 4] * n, "activation_layers": [1] * n,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["The capital", ["The capital", "The capital of France"]])
@pytest.mark.parametrize(
    "options", [{}, {"return_tensors": "pt", "padding": True}, {"truncation": True, "max_length": 2}]
)
def test_text_is_encoded_as_by_the_tokenizer(processor, text, options):
    expected = dict(processor.tokenizer(text, **options))
    expected.pop("token_type_ids", None)
    for actual in (
        processor(text=text, **options),
        processor(text, **options),
        processor(text=text, text_kwargs=options),
    ):
        assert actual.keys() == expected.keys()
        for name in expected:
            assert (
                torch.equal(torch.as_tensor(actual[name]), torch.as_tensor(expected[name]))
                if options.get("return_tensors")
                else actual[name] == expected[name]
            )


def test_one_row_columns_and_any_iterable_are_rows(processor):
    one = processor([row()])
    columns = {name: [value] for name, value in row().items()}
    for same in (row(), columns, (row(),), iter([row()])):
        other = processor(same)
        assert other.keys() == one.keys() == set(processor.model_input_names)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert set(VECTOR_INPUTS) < set(processor.model_input_names)


def test_text_with_vectors_becomes_rows(processor):
    expected = processor([row()])
    vectors = torch.full((1, 4), 0.5)
    for actual in (
        processor(text=row()["prompt"], activations=vectors, activation_layers=[1]),
        processor(text=[row()["prompt"]], activations=[vectors], activation_layers=[[1]]),
    ):
        assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_rows_are_padded_as_the_options_say(processor):
    rows = [row("a", n=0), row()]
    left = processor(rows)
    n = left["input_ids"].shape[1]
    right = processor(rows, padding_side="right")
    assert right["attention_mask"][0].tolist() == left["attention_mask"][0].flip(0).tolist()
    assert processor(rows, padding="max_length", max_length=n + 5)["input_ids"].shape == (2, n + 5)
    longer = processor(rows, pad_to_multiple_of=64)
    assert longer["input_ids"].shape == (2, 64)
    slot = longer["activation_positions"][1, 0]
    assert longer["input_ids"][1, slot] == processor.slot_id and slot == left["activation_positions"][1, 0] + 64 - n
    arrays = processor(rows, return_tensors="np")
    assert all(isinstance(values, np.ndarray) for values in arrays.values())
    assert processor(rows, truncation=True, max_length=n)["input_ids"].shape == (2, n)
    assert processor([row(), row()], padding=False)["input_ids"].shape == (2, n)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "Give either rows or text"),
        ({"rows": [row()], "text": "a"}, "Give either rows or text"),
        ({"rows": []}, "No rows were given"),
        ({"rows": 3}, "rows is int, expected rows"),
        ({"rows": [3]}, "Row 0: It is int, expected a dictionary with prompt"),
        ({"rows": [row(), {"prompt": "a"}]}, r"Row 1: placeholder_offsets, activations, activation_layers is missing"),
        ({"rows": [row() | {"prompt": None}]}, "Row 0: prompt is missing"),
        ({"rows": [row() | {"prompt": 3}]}, "Row 0: prompt is 3. Expected text"),
        (
            {"rows": [row() | {"placeholder_offsets": [1.5]}]},
            r"Row 0: placeholder_offsets\[0\] is 1.5. Expected an integer",
        ),
        ({"rows": [row() | {"placeholder_offsets": 3}]}, r"Row 0: placeholder_offsets is 3. Expected a list"),
        ({"rows": [row(), row() | {"placeholder_offsets": [1]}]}, "Row 1: Placeholder offset 1 does not point at"),
        ({"rows": [row()], "max_length": 3}, r"Row 0 has \d+ tokens, but max_length is 3.*cannot be truncated"),
        ({"rows": [row()], "max_length": 3, "truncation": True}, "cannot be truncated"),
        ({"rows": [row()], "max_length": 0}, "max_length is 0. Give a positive integer"),
        ({"rows": [row()], "padding": "max_length"}, "max_length is None. Give max_length"),
        ({"rows": [row()], "padding": "shortest"}, "padding is 'shortest'. For rows, it must be one of True, False"),
        ({"rows": [row("a", 0), row()], "padding": False}, r"padding is off, but the rows have \d+ to \d+ tokens"),
        ({"rows": [row()], "return_tensors": "tf"}, "return_tensors is 'tf'"),
        ({"rows": [row()], "return_offsets_mapping": True}, "return_offsets_mapping does not apply to rows"),
        ({"rows": [row()], "pading": True}, "no option pading. It has rows, text, activations"),
        ({"text": "a", "pading": True}, "no option pading"),
        ({"text": "a", "images": [1]}, "images was given, but explainers read text and vectors only"),
        ({"text": "a", "max_length": 3, "text_kwargs": {"max_length": 4}}, "max_length is given twice"),
        ({"text": 3}, "text is int, expected a text"),
        ({"text": row()["prompt"]}, "contains <activation>, but no vectors were given"),
        ({"text": "a", "activations": []}, "activations and activation_layers belong together"),
        ({"text": "a", "activations": [[1.0]], "activation_layers": [1]}, "contains <activation> 0 times, but has 1"),
        ({"text": ["a"], "activations": [], "activation_layers": []}, "There are 1 texts, 0 lists of activations"),
        ({"rows": [row()], "activations": [], "activation_layers": []}, "Rows contain their own vectors"),
    ],
)
def test_invalid_calls_are_refused(processor, call, message):
    with pytest.raises(SelfExplainError, match=message):
        processor(**call)
