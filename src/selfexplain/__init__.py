"""Train language models to explain their own computations.

Public names are imported on first use, and the self-explainer is registered with the Auto classes of transformers when
transformers loads them. `import selfexplain` alone therefore imports neither torch nor transformers.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import wrapt

from selfexplain.version import __version__

_CONFIGURATION = "selfexplain.modeling.configuration_selfexplainer"
_MODELING = "selfexplain.modeling.modeling_selfexplainer"
_PROCESSING = "selfexplain.modeling.processing_selfexplainer"
_PIPELINE = "selfexplain.modeling.pipeline"
_EXPLANATION = "selfexplain.modeling.explanation"
_QUERIES = "selfexplain.modeling.queries"

_HOMES = {
    "SelfExplainerConfig": _CONFIGURATION,
    "SelfExplainerForCausalLM": _MODELING,
    "SelfExplainerProcessor": _PROCESSING,
    "Query": _QUERIES,
    "WordedQuery": _QUERIES,
    "FeatureQuery": _QUERIES,
    "PatchQuery": _QUERIES,
    "AblationQuery": _QUERIES,
    "Explanation": _EXPLANATION,
    "Verification": _EXPLANATION,
    "InjectionConfig": "selfexplain.modeling.contract",
    "SelfExplainError": "selfexplain.errors",
    "Target": "selfexplain.target.load",
    "load_target": "selfexplain.target.load",
    "capture": "selfexplain.target.capture",
    "load_recipe": "selfexplain.runs.recipe",
    "run": "selfexplain.pipeline.driver",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'selfexplain' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _register_config(home: ModuleType) -> None:
    from transformers import AutoConfig

    AutoConfig.register("selfexplainer", home.SelfExplainerConfig)


def _register_models(home: ModuleType) -> None:
    from transformers import AutoModel, AutoModelForCausalLM

    for auto in (AutoModel, AutoModelForCausalLM):
        auto.register(home.SelfExplainerConfig, home.SelfExplainerForCausalLM)


def _register_processor(home: ModuleType) -> None:
    auto = sys.modules.get("transformers.models.auto.processing_auto")
    if not hasattr(home, "SelfExplainerProcessor") or (auto is not None and not hasattr(auto, "AutoProcessor")):
        return  # one of the two modules is still loading, and its own hook will call this function
    from transformers import AutoProcessor

    from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig

    AutoProcessor.register(SelfExplainerConfig, home.SelfExplainerProcessor, exist_ok=True)


def _register_pipeline(home: ModuleType) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.pipelines import PIPELINE_REGISTRY

    PIPELINE_REGISTRY.register_pipeline(
        home.TASK, pipeline_class=home.ExplainActivationsPipeline, pt_model=AutoModelForCausalLM
    )


def _importer(home: str) -> Callable[[ModuleType], None]:
    def load(_: ModuleType) -> None:
        module = import_module(home)
        if home == _PROCESSING:  # may have been complete before the Auto module was
            _register_processor(module)

    return load


# When an Auto module of transformers loads, its hook imports our module, and our module registers itself once it is
# complete. The hook of the Auto module cannot register it: if our module is imported first, it loads the Auto module
# while it is itself only partly initialised.
for _auto, _home, _register in (
    ("transformers.models.auto.configuration_auto", _CONFIGURATION, _register_config),
    ("transformers.models.auto.modeling_auto", _MODELING, _register_models),
    ("transformers.models.auto.processing_auto", _PROCESSING, _register_processor),
    ("transformers.pipelines", _PIPELINE, _register_pipeline),
):
    wrapt.register_post_import_hook(_register, _home)
    wrapt.register_post_import_hook(_importer(_home), _auto)
