"""The common tests of transformers that do not apply to explainers, with the reason of each."""

from fnmatch import fnmatch

NO_ROOT_WEIGHTS = (
    "The published form has no model.safetensors at its root: the base is loaded from its own repository or from "
    "merged/."
)
ROPE_PER_LAYER_TYPE = (
    "Gemma 3 has one rotary embedding per layer type. The tests change a single one, so transformers does not run them "
    "on Gemma 3 either."
)
ONLY_WITH_VECTORS = "The inputs of the model include the vectors, which a text without vectors does not have."
EXCEPTIONS = {
    "*Processor.test_model_input_names": ONLY_WITH_VECTORS,
    "*.test_base_model_prefix_loads_base_weights": NO_ROOT_WEIGHTS,
    "*.test_load_save_without_tied_weights": NO_ROOT_WEIGHTS,
    "*.test_model_weights_reload_no_missing_tied_weights": NO_ROOT_WEIGHTS,
    "TestGemma3*.test_model_rope_scaling_*": ROPE_PER_LAYER_TYPE,
}
"""`class.test`, both as shell patterns -> reason."""


def reason(cls: str, test: str) -> str | None:
    """Return why a test is an exception, or None if it has to pass."""
    return next((why for pattern, why in EXCEPTIONS.items() if fnmatch(f"{cls}.{test}", pattern)), None)
