import dataclasses
import json
import shutil

import pytest
import torch
from sae_lens import SAE

from selfexplain.errors import SelfExplainError
from selfexplain.features.saes import collect, directions, load_sae, load_saes, residual_batches, train_saes
from selfexplain.target.capture import capture


def test_saes_reconstruct_the_residual_stream_with_k_features(target, token_ids, saes):
    for layer, sae in saes[0].items():
        activations = collect(target, token_ids, [layer], 5000, torch.Generator().manual_seed(1))[0]
        features = sae.encode(activations)
        assert (features > 0).sum(-1).max() <= 3
        error = (sae.decode(features) - activations).pow(2).sum()
        assert error < 0.5 * (activations - activations.mean(0)).pow(2).sum()


def test_decoder_directions_have_unit_norm(saes):
    for sae in saes[0].values():
        assert torch.allclose(sae.W_dec.norm(dim=-1), torch.ones(48), atol=1e-5)
        assert torch.allclose(directions(sae), sae.W_dec.cpu(), atol=1e-5)


def test_saved_saes_are_sae_lens_directories_with_model_and_layer(target, saes):
    trained, out_dir = saes
    loaded = SAE.load_from_disk(out_dir / "layer_2")
    assert torch.equal(loaded.W_enc, trained[2].W_enc)
    assert (loaded.cfg.metadata.model_name, loaded.cfg.metadata.layer) == (target.name, 2)
    assert loaded.cfg.metadata.hook_name == "model.layers.2"


def test_training_is_reproducible_and_leaves_the_global_generator_alone(target, token_ids, tmp_path):
    settings = {"n_features": 8, "k": 2, "n_tokens": 600, "learning_rate": 1e-3}
    state = torch.get_rng_state()
    first, again, other = (
        train_saes(target, token_ids, [1], tmp_path / str(n), **settings, seed=n // 2)[1].W_dec for n in range(3)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_residual_batches_are_the_block_outputs_without_special_tokens_and_padding(target, token_ids):
    seen = 0
    for batch in residual_batches(target, token_ids, [0, 2], "test"):
        for row, index in enumerate(batch.sequences.tolist()):
            ids = token_ids[index]
            assert batch.keep[row].tolist() == [0 < place < len(ids) for place in range(batch.keep.shape[1])]
            if seen % 50 == 0:
                alone = capture(target.model, torch.tensor([ids]), [0, 2])[:, 0]
                assert torch.allclose(batch.hidden[:, row, : len(ids)], alone, atol=1e-5)
            seen += 1
    assert seen == len(token_ids)


def test_an_sae_of_another_width_model_or_layer_is_refused(target, saes, tmp_path):
    path = shutil.copytree(saes[1] / "layer_0", tmp_path / "layer_0")
    config = json.loads((path / "cfg.json").read_text())

    def recorded(**metadata):
        (path / "cfg.json").write_text(json.dumps(config | {"metadata": config["metadata"] | metadata}))

    load_saes(tmp_path, target, [0])
    with pytest.raises(SelfExplainError, match=r"model\.layers\.0; expected the output of decoder block 1"):
        load_sae(path, target, 1)
    recorded(model_name="gpt2")
    with pytest.raises(SelfExplainError, match="trained on gpt2"):
        load_sae(path, target, 0)
    recorded(hook_name="blocks.0.hook_resid_pre")
    with pytest.raises(SelfExplainError, match="hook_resid_pre"):
        load_sae(path, target, 0)
    recorded(hook_name="blocks.0.hook_resid_post", model_name="/elsewhere/tiny-llama")
    load_sae(path, target, 0)
    (path / "cfg.json").write_text(json.dumps(config | {"d_in": 7}))
    with pytest.raises(SelfExplainError, match="width 7"):
        load_sae(path, target, 0)
    with pytest.raises(SelfExplainError, match="no SAE at"):
        load_sae(tmp_path / "layer_1", target, 1)


def test_a_corpus_of_special_tokens_alone_is_refused(target):
    with pytest.raises(SelfExplainError, match="no token"):
        collect(dataclasses.replace(target), [[1], [1]], [0], 10, torch.Generator())
