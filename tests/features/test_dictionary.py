"""Dictionaries have the directions and activations of their source, and incompatible sources raise errors."""

import json
import shutil

import numpy as np
import pytest
import torch
from sae_lens import SAE, GatedSAE, GatedSAEConfig, JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig
from safetensors.torch import save_file

from selfexplain.errors import SelfExplainError
from selfexplain.features.dictionary import (
    dictionary_from_directions,
    dictionary_from_sae,
    load_dictionaries,
    load_matrix,
)
from selfexplain.features.sae_metadata import number_in_id
from selfexplain.target.load import Target


@pytest.fixture
def hidden():
    return torch.randn(50, 32, generator=torch.Generator().manual_seed(0))


def load(source, target, layers, **settings):
    return load_dictionaries(str(source), target, layers, centers=dict, **settings)


def test_a_directory_of_saes_gives_unit_directions_and_activations(target, trained, hidden):
    first, second = load(trained, target, [0, 2])
    sae = SAE.load_from_disk(trained / "layer_2")
    assert (first.layer, second.layer, second.sae_id, second.release) == (0, 2, "layer_2", str(trained))
    assert torch.allclose(second.directions, sae.W_dec, atol=1e-5)
    assert torch.equal(second.encode(hidden), sae.encode(hidden))


def test_all_saes_of_a_layer_are_loaded(target, trained, tmp_path):
    for name in ("layer_0", "layer_0_seed_1", "layer_0_other"):
        shutil.copytree(trained / "layer_0", tmp_path / name)
    assert [d.sae_id for d in load(tmp_path, target, [0])] == ["layer_0", "layer_0_other", "layer_0_seed_1"]


@pytest.mark.parametrize("kind", ["topk", "standard", "jumprelu", "gated"])
def test_selected_features_have_the_same_activations_as_in_the_full_sae(kind, target, trained, hidden):
    torch.manual_seed(0)
    sae = {
        "topk": lambda: SAE.load_from_disk(trained / "layer_0"),
        "standard": lambda: StandardSAE(StandardSAEConfig(32, 40)),
        "jumprelu": lambda: JumpReLUSAE(JumpReLUSAEConfig(32, 40)),
        "gated": lambda: GatedSAE(GatedSAEConfig(32, 40)),
    }[kind]()
    for parameter in sae.parameters():
        parameter.data.normal_()
    selected = np.array([3, 8, 30])
    full, part = dictionary_from_sae(sae, 0, "r", "s"), dictionary_from_sae(sae, 0, "r", "s", selected)
    assert part.n_features == 3 and part.indices.tolist() == selected.tolist()
    assert torch.allclose(part.encode(hidden), full.encode(hidden)[:, selected], atol=1e-5)
    assert (full.encode(hidden)[:, selected] > 0).any()
    assert torch.equal(part.directions, full.directions[selected])


def test_drawn_features_depend_only_on_the_seed(target, trained):
    first, again, other = (load(trained, target, [0], max_features=10, seed=seed)[0] for seed in (1, 1, 2))
    assert first.indices.tolist() == again.indices.tolist() != other.indices.tolist()
    assert len(set(first.indices.tolist())) == 10
    assert load(trained, target, [0], max_features=1000)[0].n_features == 48


@pytest.mark.parametrize("suffix", ["safetensors", "npy"])
def test_features_of_a_matrix_are_positive_projections_of_the_centred_residual(suffix, target, tmp_path, hidden):
    matrix = 3 * torch.randn(6, 32)
    if suffix == "npy":
        np.save(tmp_path / "layer_1_probes.npy", matrix.numpy())
    else:
        save_file({"directions": matrix, "bias": torch.zeros(6)}, tmp_path / "layer_1_probes.safetensors")
    center = torch.ones(32)
    (dictionary,) = load_dictionaries(str(tmp_path), target, [1], centers=lambda: {1: center})
    unit = matrix / matrix.norm(dim=-1, keepdim=True)
    assert dictionary.sae_id == "layer_1_probes" and torch.allclose(dictionary.directions, unit)
    assert torch.allclose(dictionary.encode(hidden), ((hidden - center) @ unit.T).clamp(min=0), atol=1e-5)
    part = dictionary_from_directions(matrix, 1, "r", "s", center, np.array([4, 2]))
    assert torch.allclose(part.encode(hidden), dictionary.encode(hidden)[:, [4, 2]], atol=1e-5)


def test_an_invalid_matrix_raises_an_error(target, tmp_path):
    save_file({"a": torch.zeros(6, 32), "b": torch.zeros(6, 32)}, tmp_path / "two.safetensors")
    np.save(tmp_path / "narrow.npy", np.zeros((6, 31)))
    np.save(tmp_path / "broken.npy", np.full((6, 32), np.nan))
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "text.safetensors").write_text("hello")
    for name, message in {
        "two.safetensors": r"\[\(6, 32\), \(6, 32\)\]; expected one matrix \(n_features, 32\)",
        "narrow.npy": r"\(6, 31\)",
        "broken.npy": "not finite",
        "pickled.npy": "cannot be read as a matrix",
        "text.safetensors": "cannot be read as a matrix",
        "none.npy": "cannot be read as a matrix",
    }.items():
        with pytest.raises(SelfExplainError, match=message):
            load_matrix(tmp_path / name, target)


def test_an_sae_of_another_width_model_or_layer_raises_an_error(target, trained, tmp_path):
    path = shutil.copytree(trained / "layer_0", tmp_path / "layer_0")
    config = json.loads((path / "cfg.json").read_text())

    def record(**metadata):
        (path / "cfg.json").write_text(json.dumps(config | {"metadata": config["metadata"] | metadata}))

    load(tmp_path, target, [0])
    shutil.copytree(path, tmp_path / "layer_1")
    with pytest.raises(SelfExplainError, match=r"model\.layers\.0, which is the output of block 0; expected"):
        load(tmp_path, target, [1])
    record(model_name="gpt2")
    with pytest.raises(SelfExplainError, match="trained on gpt2"):
        load(tmp_path, target, [0])
    record(hook_name="blocks.0.hook_resid_pre")
    with pytest.raises(SelfExplainError, match=r"encodes blocks\.0\.hook_resid_pre, which is the embeddings"):
        load(tmp_path, target, [0])
    for site in ("hook_resid_mid", "hook_mlp_out", "attn.hook_z", "ln1.hook_normalized"):
        record(hook_name=f"blocks.0.{site}")
        with pytest.raises(SelfExplainError, match="not the residual stream between two blocks"):
            load(tmp_path, target, [0])
    for hook_name in ("blocks.1.hook_resid_pre", "blocks.1.hook_in", "blocks.0.hook_out", "transformer.h.0"):
        record(hook_name=hook_name)
        assert load(tmp_path, target, [0])[0].layer == 0
    record(hook_name="blocks.0.hook_resid_post", model_name="/elsewhere/Tiny-Llama")
    load(tmp_path, target, [0])
    record(model_name="gpt2-small")  # the alias of TransformerLens
    load(tmp_path, Target(target.model, target.tokenizer, "openai-community/gpt2"), [0])
    (path / "cfg.json").write_text(json.dumps(config | {"d_in": 7}))
    with pytest.raises(SelfExplainError, match="has width 7"):
        load(tmp_path, target, [0])
    with pytest.raises(SelfExplainError, match="contains no dictionary of layer 2"):
        load(tmp_path, target, [2])


def test_an_sae_of_a_different_model_is_accepted_on_request(target, trained):
    other = Target(target.model, target.tokenizer, "lab/Tiny-Llama-Instruct")
    with pytest.raises(SelfExplainError, match=r"set feature_description\.saes_trained_on=local/tiny-llama"):
        load(trained, other, [0])
    assert load(trained, other, [0], trained_on="local/tiny-llama")[0].layer == 0
    with pytest.raises(SelfExplainError, match="was trained on local/tiny-llama"):
        load(trained, other, [0], trained_on="lab/third")


def test_a_directory_in_the_cache_of_the_hub_is_the_model_of_its_repository(target, trained):
    path = f"/cache/hub/models--lab--tiny-llama/snapshots/{'0a' * 20}"
    assert load(trained, Target(target.model, target.tokenizer, path), [0])[0].layer == 0


def test_residuals_are_centred_if_the_model_of_the_sae_had_centred_weights(trained, tmp_path, target, hidden):
    """TransformerLens centres only models with LayerNorm."""
    from battery import tiny_model

    path = shutil.copytree(trained / "layer_0", tmp_path / "layer_0")
    config = json.loads((path / "cfg.json").read_text())
    config["metadata"]["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    (path / "cfg.json").write_text(json.dumps(config))
    plain = load(trained, target, [0])[0].encode(hidden)
    gpt2 = Target(tiny_model("gpt2"), target.tokenizer, target.name)
    centred = load(tmp_path, gpt2, [0])[0].encode(hidden)
    expected = load(trained, target, [0])[0].encode(hidden - hidden.mean(-1, keepdim=True))
    torch.testing.assert_close(centred, expected)
    assert not torch.allclose(centred, plain)
    torch.testing.assert_close(load(tmp_path, target, [0])[0].encode(hidden), plain)  # this model has RMSNorm


def test_ids_with_the_input_of_a_block_are_numbered_by_block():
    assert number_in_id("blocks.{layer}.hook_resid_pre", 3) == 4
    assert number_in_id("layer_{layer}/width_16k", 3) == 3


@pytest.fixture
def release(trained, tmp_path, monkeypatch):
    """The id of a repository of SAEs in the local Hub cache, which sae-lens loads as a release."""
    root = tmp_path / "models--org--saes"
    shutil.copytree(trained / "layer_2", root / "snapshots" / ("a" * 40) / "blocks/2")
    (root / "refs").mkdir()
    (root / "refs/main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return "org/saes"


def test_a_release_is_loaded_with_sae_lens_and_checked(release, target, trained, hidden):
    (dictionary,) = load(release, target, [2], sae_id="blocks/{layer}", max_features=5)
    full = load(trained, target, [2])[0]
    assert (dictionary.release, dictionary.sae_id, dictionary.layer) == ("org/saes", "blocks/2", 2)
    assert torch.allclose(dictionary.encode(hidden), full.encode(hidden)[:, dictionary.indices], atol=1e-5)
    with pytest.raises(SelfExplainError, match=r"'blocks/2' of org/saes encodes model\.layers\.2"):
        load(release, target, [1], sae_id="blocks/2")
    with pytest.raises(SelfExplainError, match="was trained on local/tiny-llama, not on gpt2"):
        load(release, Target(target.model, target.tokenizer, "gpt2"), [2], sae_id="blocks/{layer}")
    with pytest.raises(SelfExplainError, match="could not load SAE 'blocks/0'"):
        load(release, target, [0], sae_id="blocks/{layer}")
    with pytest.raises(SelfExplainError, match="which is not a directory"):
        load(release, target, [2])
    with pytest.raises(SelfExplainError, match=r"could not load SAE 'blocks\.3\.hook_resid_pre'"):
        load(release, target, [2], sae_id="blocks.{layer}.hook_resid_pre")
    with pytest.raises(SelfExplainError, match="not found in pretrained SAEs directory"):
        load("no-such-release", target, [2], sae_id="x")
