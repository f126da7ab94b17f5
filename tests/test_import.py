"""`import selfexplain` is quick, and the Auto classes know the self-explainer afterwards, in either import order."""

import os
import subprocess
import sys

import pytest

import selfexplain


def in_fresh_python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def cpu_seconds(code: str) -> float:
    """The least of three runs, in processor time: the clock also counts what else the machine does."""

    def once() -> float:
        before = os.times()
        in_fresh_python(code)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    return min(once() for _ in range(3))


def test_import_adds_at_most_300_ms():
    assert cpu_seconds("import selfexplain") - cpu_seconds("pass") < 0.3


def test_import_loads_nothing_heavy():
    heavy = "{'torch', 'transformers', 'numpy', 'pydantic', 'yaml'}"
    assert in_fresh_python(f"import sys, selfexplain; print({heavy} & set(sys.modules))").strip() == "set()"


def test_reading_a_recipe_does_not_load_torch():
    code = "import sys, selfexplain; selfexplain.load_recipe('tiny'); print('torch' in sys.modules)"
    assert in_fresh_python(code).strip() == "False"


@pytest.mark.parametrize("name", selfexplain.__all__)
def test_every_public_name_is_there(name):
    assert getattr(selfexplain, name)
    assert name in dir(selfexplain)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"selfexplain.*nonsense"):
        _ = selfexplain.nonsense


LOOK_UP = {
    "config": "from transformers import AutoConfig; print(type(AutoConfig.for_model('selfexplainer')).__name__)",
    "model": """
from transformers import AutoModel, AutoModelForCausalLM
from selfexplain import SelfExplainerConfig
for auto in (AutoModel, AutoModelForCausalLM):
    print(auto._model_mapping[SelfExplainerConfig].__name__)
""",
    "processor": """
from transformers import AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from selfexplain import SelfExplainerConfig
print(PROCESSOR_MAPPING[SelfExplainerConfig].__name__)
""",
}
NAMES = {
    "config": ["SelfExplainerConfig"],
    "model": ["SelfExplainerForCausalLM"] * 2,
    "processor": ["SelfExplainerProcessor"],
}


@pytest.mark.parametrize("auto", LOOK_UP)
def test_auto_class_knows_the_self_explainer(auto):
    assert in_fresh_python("import selfexplain\n" + LOOK_UP[auto]).split() == NAMES[auto]


def test_auto_classes_loaded_before_selfexplain_know_it_too():
    code = "from transformers import AutoModelForCausalLM, AutoProcessor\nimport selfexplain\n" + "\n".join(
        LOOK_UP.values()
    )
    assert in_fresh_python(code).split() == [name for names in NAMES.values() for name in names]


def test_the_model_imported_first_is_registered():
    code = "from selfexplain import SelfExplainerForCausalLM\n" + LOOK_UP["model"]
    assert in_fresh_python(code).split() == NAMES["model"]
