"""Small sources, and a target whose outputs change when it is patched."""

import json

import pytest

from selfexplain.groundtruth.config import PairSource, PatchingConfig
from selfexplain.tiny.sources import world_corpus
from selfexplain.tiny.world import World


@pytest.fixture
def sensitive_target(target):
    """A random target whose outputs change when it is patched."""
    import torch

    torch.manual_seed(0)
    for name, parameter in target.model.named_parameters():
        if parameter.ndim == 2 and "embed" not in name:
            parameter.data.mul_(4)
    return target


@pytest.fixture(scope="session")
def world():
    return world_corpus(seed=0, n_texts=0)


@pytest.fixture
def relations(tmp_path):
    """A directory with two relation tables."""
    by_name = World().by_name
    directory = tmp_path / "relations"
    directory.mkdir()
    for name in ("capital", "currency"):
        samples = [{"subject": s, "object": o} for s, o in by_name[name].facts.items()]
        table = {"name": name, "prompt_templates": [f"The {name} of {{}} is"], "samples": samples}
        (directory / f"{name}.json").write_text(json.dumps(table))
    return directory


@pytest.fixture
def pairs_config(relations):
    """Sixty pairs of bare statements, two blocks."""
    source = PairSource(kind="relations", path=str(relations), n_options=0)
    return PatchingConfig(n_pairs=60, n_blocks=2, n_rows=200, source=source)
