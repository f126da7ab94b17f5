"""Fixtures for tests that ask explainers."""

from copy import deepcopy

import pytest


@pytest.fixture(scope="session")
def shipped():
    """The trained explainer that ships with the package. Tests must not change it."""
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    return SelfExplainerForCausalLM.from_pretrained("selfexplain/tiny-selfexplainer")


@pytest.fixture
def explainer(target):
    """An untrained explainer of the tiny random target; a test may change it."""
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    return SelfExplainerForCausalLM.from_base(deepcopy(target.model), target.tokenizer)
