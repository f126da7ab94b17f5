"""The common model and training tests of transformers and generation tests, run on explainers."""

import unittest

import pytest
import transformers_tests.test_modeling_common as common
from generation import GenerationTests
from tester import BASES, ExplainerTester
from transformers_tests.test_training_mixin import TrainingTesterMixin

from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM, SelfExplainerModel

KINDS = {
    **{f"{base}_{kind}": (base, kind == "vectors", None) for base in BASES for kind in ("text", "vectors")},
    "llama_block": ("llama", True, {"site": "block_output", "block": 0}),
}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Enter the classes in the tables that tell the tests which kind of model each class is."""
    for table, name in (
        ("MODEL_MAPPING_NAMES", "SelfExplainerModel"),
        ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "SelfExplainerForCausalLM"),
    ):
        monkeypatch.setattr(common, table, {**getattr(common, table), "selfexplainer": name})


def model_test(name: str) -> type:
    """Return a test class for one kind of explainer."""
    base, vectors, injection = KINDS[name]

    class Test(common.ModelTesterMixin, GenerationTests, TrainingTesterMixin, unittest.TestCase):
        all_model_classes = (SelfExplainerModel, SelfExplainerForCausalLM)
        config_class = SelfExplainerConfig
        model_tester = None
        _is_composite = True
        test_all_params_have_gradient = vectors  # the markers take part in passes with vectors only

        def setUp(self):
            self.model_tester = ExplainerTester(self, base, vectors, injection)

    Test.__name__ = Test.__qualname__ = "Test" + "".join(part.title() for part in name.split("_"))
    return Test


for _name in KINDS:
    _class = model_test(_name)
    globals()[_class.__name__] = _class
del _class  # otherwise the last class would be collected twice
