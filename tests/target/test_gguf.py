"""GGUF files become ordinary model directories, with the origin of their weights."""

import numpy as np
import pytest
import torch

from gguf_files import write_llama
from selfexplain.errors import SelfExplainError
from selfexplain.target.gguf import WeightsOrigin, convert, read_origin
from selfexplain.target.load import load_target, target_shape
from selfexplain.utils.hashing import file_sha256


@pytest.fixture
def gguf_file(target, tmp_path):
    path = tmp_path / "small.gguf"
    write_llama(path, target.model, target.tokenizer)
    return path


def test_a_converted_model_has_the_dequantised_weights(gguf_file, target, tmp_path):
    origin = convert(gguf_file, tmp_path / "model", hub_id="org/small", licence="mit")
    loaded = load_target(str(tmp_path / "model"))
    assert loaded.weights == target_shape(str(tmp_path / "model")).weights == "dequantised from Q4_1"
    assert origin == read_origin(tmp_path / "model")
    assert (origin.sha256, origin.hub_id) == (file_sha256(gguf_file), "org/small")
    for name, weight in target.model.state_dict().items():
        # 4 bits: 15 steps between the smallest and the largest of 32 weights; bfloat16: 8 bits.
        step = np.ptp(weight.numpy(), axis=-1).max() / 15 if weight.ndim == 2 else 0
        difference = (loaded.model.state_dict()[name] - weight).abs().max().item()
        assert difference <= step / 2 + weight.abs().max().item() * 2**-7, name
    text = "The capital of France is"
    assert loaded.tokenizer(text).input_ids[-4:] == target.tokenizer(text).input_ids[-4:]
    ids = torch.tensor([target.tokenizer(text).input_ids])
    assert torch.isfinite(loaded.model(ids).logits).all()


def test_a_finished_conversion_is_not_repeated_and_an_interrupted_one_is(gguf_file, tmp_path):
    partial = tmp_path / ".model.partial"
    partial.mkdir()
    (partial / "left over").write_text("")
    convert(gguf_file, tmp_path / "model")
    assert not partial.exists()
    assert sorted(path.name for path in (tmp_path / "model").iterdir())[0] == "config.json"
    written = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    convert(gguf_file, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == written


def test_a_directory_with_other_content_is_kept(gguf_file, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(SelfExplainError, match=r"exists and does not contain the weights of small\.gguf"):
        convert(gguf_file, tmp_path / "model")
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"


def test_files_that_cannot_be_converted_are_refused(gguf_file, target, tmp_path):
    with pytest.raises(SelfExplainError, match=r"missing\.gguf does not exist"):
        convert(tmp_path / "missing.gguf", tmp_path / "model")
    (tmp_path / "damaged.gguf").write_bytes(gguf_file.read_bytes()[:500])
    with pytest.raises(SelfExplainError, match=r"damaged\.gguf could not be read as a GGUF file"):
        convert(tmp_path / "damaged.gguf", tmp_path / "model")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(SelfExplainError, match=r"text\.gguf could not be read as a GGUF file"):
        convert(tmp_path / "text.gguf", tmp_path / "model")
    write_llama(tmp_path / "other.gguf", target.model, target.tokenizer, architecture="rwkv6")
    with pytest.raises(SelfExplainError, match="architecture 'rwkv6', which transformers cannot convert"):
        convert(tmp_path / "other.gguf", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_directory_without_an_origin_has_its_own_weights(target_dir):
    assert read_origin(target_dir) is None and load_target(str(target_dir)).weights is None


def test_a_damaged_origin_is_reported(target_dir):
    (target_dir / WeightsOrigin.file_name).write_text("{}")
    with pytest.raises(SelfExplainError, match=r"weights_origin\.json.*Convert the file again"):
        load_target(str(target_dir))
