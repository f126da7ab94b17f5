"""Explainers with random weights, copies of their files, and changes to these copies."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path


def trained(base: Path, **options):
    """Return an explainer whose weights differ from their initial values, without training it."""
    import torch

    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    explainer = SelfExplainerForCausalLM.from_base(str(base), lora={"rank": 4, "alpha": 8}, **options)
    generator = torch.Generator().manual_seed(0)
    for parameter in explainer.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return explainer


def copied(published: Path, directory: Path) -> Path:
    """Copy `published/saved` and its base `published/base`, and return the directory of the copied explainer."""
    shutil.copytree(published, directory, dirs_exist_ok=True)
    for file in (directory / "saved" / "config.json", directory / "saved" / "lora" / "adapter_config.json"):
        file.write_text(file.read_text().replace(str(published), str(directory)))
    return directory / "saved"


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change the content of a JSON file in place."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def with_own_code(directory: Path) -> Path:
    """Change a Llama directory into a model of its own type, whose classes are in the directory itself."""
    kind = f"own-{directory.parent.name}"
    (directory / "configuration_own.py").write_text(
        f"from transformers import LlamaConfig\nclass OwnConfig(LlamaConfig):\n    model_type = {kind!r}\n"
    )
    (directory / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .configuration_own import OwnConfig\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    classes = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    fields = {"model_type": kind, "architectures": ["OwnForCausalLM"], "auto_map": classes}
    edit(directory / "config.json", lambda config: config.update(fields))
    return directory
