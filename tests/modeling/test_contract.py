"""Injection contracts are described in one line, and impossible ones are refused."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
from selfexplain.modeling.contract import InjectionConfig


@pytest.mark.parametrize(
    ("contract", "description"),
    [
        (InjectionConfig(), "selfexplain: |h| v/|v| at the input embedding, token '?', between two markers"),
        (
            InjectionConfig(
                site="block_output", block=2, operation="add", norm="unit", scale=2.5, placeholder_id=7, markers=False,
                layers=((1, 2), (3,)), template="{activation}{question}", family="custom",
            ),
            "custom: h + 2.5 v/|v| at the output of block 2, token '?' (7), target layers 1+2 or 3, "
            "asked as '{activation}{question}'",
        ),
        (
            InjectionConfig(site="block_input", block=1, norm="raw", scale=-1, markers=False),
            "selfexplain: -1 v at the input of block 1, token '?'",
        ),
    ],
)  # fmt: skip
def test_a_contract_is_described_as_a_formula_and_a_prompt(contract, description):
    assert contract.describe() == description


@pytest.mark.parametrize("block", [-1, 4])
def test_a_block_that_does_not_exist_is_refused(block):
    message = f"injection.block is {block}, but the explainer has blocks 0 to 3"
    with pytest.raises(SelfExplainError, match=message):
        InjectionConfig(site="block_output", block=block).check(4)
    InjectionConfig(site="embedding", block=block).check(4)  # the block is not used there


@pytest.mark.parametrize("site", ["embedding", "block_input", "block_output"])
@pytest.mark.parametrize("block", [0, 3])
def test_the_first_and_the_last_block_are_accepted(site, block):
    InjectionConfig(site=site, block=block).check(4)


def test_lists_from_json_become_tuples():
    contract = InjectionConfig(neighbour_ids=[3, 4], layers=[[1, 2], [3]])
    assert contract.neighbour_ids == (3, 4) and contract.layers == ((1, 2), (3,))


def test_layers_of_a_task_are_those_of_its_training_rows_if_they_are_known():
    config = SelfExplainerConfig(target={"model": None, "revision": None, "n_layers": 3, "d_model": 8})
    assert config.layers == config.layers_of("feature_description") == [0, 1, 2]
    config.trained_layers = {"feature_description": [2]}
    assert config.layers_of("feature_description") == [2] and config.layers_of("activation_patching") == []
    config.adapter = {"kind": "linear", "layers": [0, 2], "d_target": 8}
    assert config.layers == [0, 2]
