"""Test that `import selfexplain` imports no heavy module, and that the Auto classes load it in any import order."""

import os
import subprocess
import sys

import pytest

import selfexplain

HEAVY = "{'torch', 'transformers', 'numpy', 'pydantic', 'yaml', 'datasets'}"


def in_fresh_python(code: str) -> str:
    """Output of code in a new process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_loads_no_heavy_module():
    assert in_fresh_python(f"import sys, selfexplain; print({HEAVY} & set(sys.modules))").strip() == "set()"


def test_reading_a_recipe_does_not_load_torch():
    code = "import sys, selfexplain; selfexplain.load_recipe('tiny'); print('torch' in sys.modules)"
    assert in_fresh_python(code).strip() == "False"


@pytest.mark.parametrize("name", selfexplain.__all__)
def test_every_public_name_exists(name):
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
def test_an_auto_class_knows_the_self_explainer(auto):
    assert in_fresh_python("import selfexplain\n" + LOOK_UP[auto]).split() == NAMES[auto]


def test_auto_classes_that_were_imported_before_selfexplain_know_it():
    look_ups = "\n".join(LOOK_UP.values())
    code = f"from transformers import AutoModelForCausalLM, AutoProcessor\nimport selfexplain\n{look_ups}"
    assert in_fresh_python(code).split() == [name for names in NAMES.values() for name in names]


def test_a_model_class_that_was_imported_first_is_registered():
    code = "from selfexplain import SelfExplainerForCausalLM\n" + LOOK_UP["model"]
    assert in_fresh_python(code).split() == NAMES["model"]
