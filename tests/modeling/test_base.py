"""Bases load from safetensors, at a fixed commit."""

import pytest
import torch
from safetensors.torch import load_file

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.base import hub_options, load_base, pin_revision


def test_only_download_options_are_kept():
    options = {"token": "t", "dtype": "float32", "local_files_only": True, "revision": "main"}
    assert hub_options(options) == {"token": "t", "local_files_only": True}


def test_a_branch_is_resolved_to_its_commit(target_dir, tmp_path):
    cached = tmp_path / "cache" / "models--someone--model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (cached / "snapshots" / commit).mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots" / commit / "config.json").write_text("{}")
    assert pin_revision("someone/model", "main", {"cache_dir": str(tmp_path / "cache"), "dtype": "auto"}) == commit


@pytest.mark.parametrize("revision", [None, "v2"])
def test_a_revision_that_cannot_be_resolved_is_unchanged(target_dir, revision):
    assert pin_revision(str(target_dir), revision, {}) == revision
    assert pin_revision("nobody/nothing", revision, {}) == revision


def test_a_base_that_does_not_load_is_reported_with_name_revision_and_reason():
    with pytest.raises(SelfExplainError, match=r"'nobody/nothing' at revision v2 could not be loaded: "):
        load_base("nobody/nothing", "v2")


def test_pickled_weights_are_not_loaded(target_dir):
    torch.save(load_file(target_dir / "model.safetensors"), target_dir / "pytorch_model.bin")
    assert load_base(str(target_dir)).config.num_hidden_layers == 4
    (target_dir / "model.safetensors").unlink()
    with pytest.raises(SelfExplainError, match="safetensors"):
        load_base(str(target_dir))
