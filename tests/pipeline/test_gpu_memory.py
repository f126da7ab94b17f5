"""Test the comparison of estimated memory with the memory of a GPU."""

import logging
from types import SimpleNamespace

import pytest
import torch

from selfexplain.pipeline import gpu_memory
from selfexplain.pipeline.gpu_memory import recipe_memory, warn_if_too_little_memory
from selfexplain.runs.recipe import load_recipe


def test_memory_is_estimated_from_configurations_of_local_models():
    alone = recipe_memory(load_recipe("quickstart"))
    crossed = recipe_memory(load_recipe("quickstart", ["explainer=selfexplain/tiny-sibling"]))
    assert 0.8e9 < alone.total < 4e9
    assert crossed.training > alone.training  # the target is loaded next to the explainer


@pytest.mark.parametrize(
    "values", [["target=nobody/none"], ["explainer=nobody/none"], ["explainer=selfexplain/tiny-selfexplainer"]]
)
def test_there_is_no_estimate_without_a_configuration_or_without_training(values):
    assert recipe_memory(load_recipe("quickstart", values)) is None


@pytest.mark.parametrize(("total", "warns"), [(100e9, False), (1e6, True)])
def test_a_run_on_a_gpu_that_is_too_small_logs_a_warning(monkeypatch, caplog, total, warns):
    monkeypatch.setattr(gpu_memory, "process_state", lambda: SimpleNamespace(device=torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=total))
    with caplog.at_level(logging.WARNING, logger="selfexplain"):
        warn_if_too_little_memory(load_recipe("quickstart"))
    assert ("needs about" in caplog.text) == warns


def test_a_run_without_a_gpu_logs_no_warning(monkeypatch, caplog):
    monkeypatch.setattr(gpu_memory, "process_state", lambda: SimpleNamespace(device=torch.device("cpu")))
    warn_if_too_little_memory(load_recipe("quickstart"))
    assert caplog.text == ""
