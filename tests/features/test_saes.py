"""Train SAEs: they reconstruct activations, are reproducible, and are saved in the format of sae-lens."""

import pytest
import torch
from sae_lens import SAE

from selfexplain.errors import SelfExplainError
from selfexplain.features.saes import sample_activations, train_saes


def test_saes_reconstruct_the_residual_stream_with_at_most_k_features(target, token_ids, trained):
    for layer in (0, 2):
        sae = SAE.load_from_disk(trained / f"layer_{layer}")
        activations = sample_activations(target, token_ids, [layer], 5000, torch.Generator().manual_seed(1))[0]
        features = sae.encode(activations)
        assert (features > 0).sum(-1).max() <= 3
        error = (sae.decode(features) - activations).pow(2).sum()
        assert error < 0.5 * (activations - activations.mean(0)).pow(2).sum()
        assert torch.allclose(sae.W_dec.norm(dim=-1), torch.ones(48), atol=1e-5)


def test_saved_saes_record_their_model_and_layer(target, trained):
    metadata = SAE.load_from_disk(trained / "layer_2").cfg.metadata
    assert (metadata.model_name, metadata.layer, metadata.hook_name) == (target.name, 2, "model.layers.2")


def test_training_is_reproducible_and_does_not_change_the_global_generator(target, token_ids, tmp_path):
    settings = {"n_features": 8, "k": 2, "n_tokens": 600, "learning_rate": 1e-3}
    state = torch.get_rng_state()
    for n in range(3):
        train_saes(target, token_ids, [1], tmp_path / str(n), **settings, seed=n // 2)
    first, again, other = (SAE.load_from_disk(tmp_path / str(n) / "layer_1").W_dec for n in range(3))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_further_saes_of_a_layer_have_different_seeds(target, token_ids, tmp_path):
    settings = {"n_features": 8, "k": 2, "n_tokens": 600, "learning_rate": 1e-3, "seed": 0}
    train_saes(target, token_ids, [0, 1], tmp_path / "two", n_saes=2, **settings)
    train_saes(target, token_ids, [0, 1], tmp_path / "one", **settings)
    names = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert names == ["layer_0", "layer_0_seed_1", "layer_1", "layer_1_seed_1"]
    weights = {name: SAE.load_from_disk(tmp_path / "two" / name).W_dec for name in names}
    assert not torch.allclose(weights["layer_1"], weights["layer_1_seed_1"])
    assert torch.equal(weights["layer_1"], SAE.load_from_disk(tmp_path / "one/layer_1").W_dec)


def test_a_corpus_of_special_tokens_raises_an_error(target):
    with pytest.raises(SelfExplainError, match="contains only special tokens"):
        sample_activations(target, [[1], [1]], [0], 10, torch.Generator())
