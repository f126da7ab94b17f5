"""Peak memory and speed of QLoRA training at real model sizes, with random weights: no checkpoint, no network access.

    python benchmarks/gpu.py          # on a GPU; writes benchmarks/results/gpu.json
    python benchmarks/gpu.py --tiny   # the same code on any machine in seconds; prints the figures, writes nothing

The base is in NF4 with double quantisation, every linear module has LoRA of rank 16, and every token has a loss, which
is the most expensive case.
"""

import argparse
import json
import logging
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.quantization_config import QuantizationMethod
from trl import SFTConfig

from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.runs.versions import library_versions
from selfexplain.training.trainer import SelfExplainerTrainer

RESULTS = Path(__file__).parent / "results" / "gpu.json"
logger = logging.getLogger("gpu")


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, and `limit_gb`, the memory that its training may reserve (GB of 1e9 bytes)."""

    name: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    tie_word_embeddings: bool
    limit_gb: float

    def config(self) -> LlamaConfig:
        sizes = {name: value for name, value in vars(self).items() if name not in ("name", "limit_gb")}
        return LlamaConfig(**sizes, max_position_embeddings=131_072, pad_token_id=0, bos_token_id=1, eos_token_id=2)


SHAPES = (
    Shape("Llama-3.1-8B", 128_256, 4096, 14_336, 32, 32, 8, False, 12.0),
    Shape("Llama-3.2-3B", 128_256, 3072, 8192, 28, 24, 8, True, 8.0),
)
TINY = (Shape("tiny", 512, 64, 128, 4, 4, 2, True, 12.0),)
RANK, LENGTH, MICRO_BATCH, STEPS = 16, 512, 4, 6


def random_base(config: LlamaConfig, device: torch.device) -> PreTrainedModel:
    """A random base in NF4, built on the meta device and quantised one matrix at a time to save memory."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=dtype)
    head = base.get_output_embeddings()
    for name, module in list(base.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            quantized = Linear4bit(
                module.in_features, module.out_features, bias=False, compute_dtype=dtype, compress_statistics=True,
                quant_type="nf4", device="meta",
            )  # fmt: skip
            weight = 0.02 * torch.randn(module.weight.shape, dtype=dtype, device=device)
            quantized.weight = Params4bit(
                weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=quantized
            ).to(device)
            base.set_submodule(name, quantized)
    for module in base.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                drawn = torch.empty(parameter.shape, dtype=dtype, device=device)
                drawn = drawn.fill_(1.0) if parameter.ndim == 1 else drawn.normal_(std=0.02)
                setattr(module, name, nn.Parameter(drawn, requires_grad=False))
    base.model.rotary_emb = type(base.model.rotary_emb)(config).to(device)  # its frequencies are buffers
    base.tie_weights()
    for module in base.modules():
        module._is_hf_initialized = True  # otherwise wrapping the base would initialise its weights again
    base.is_loaded_in_4bit = base.is_quantized = True
    base.quantization_method = QuantizationMethod.BITS_AND_BYTES
    return base


def random_rows(config: LlamaConfig, n: int) -> Dataset:
    """Tokenised rows of `LENGTH` tokens with one vector each."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, config.vocab_size, (n, LENGTH), generator=generator).tolist()
    vectors = torch.randn(n, 1, config.hidden_size, generator=generator).tolist()
    extra = {"positions": [8], "activation_layers": [1], "length": LENGTH}
    rows = [{"input_ids": i, "labels": i, "activations": v, **extra} for i, v in zip(ids, vectors, strict=True)]
    return Dataset.from_list(rows)


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "?": 3}, unk_token="?"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def measure(shape: Shape, device: torch.device, output_dir: str) -> dict:
    """Train `STEPS` steps and time all of them except the first."""
    cuda = device.type == "cuda"
    torch.manual_seed(0)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    config = shape.config()
    explainer = SelfExplainerForCausalLM.from_base(
        random_base(config, device), word_tokenizer(), lora={"rank": RANK, "alpha": 2 * RANK}
    )
    arguments = SFTConfig(
        output_dir=output_dir, max_steps=STEPS, per_device_train_batch_size=MICRO_BATCH, bf16=cuda, use_cpu=not cuda,
        activation_checkpointing=True, optim="paged_adamw_8bit", learning_rate=1e-4, max_length=None, report_to=[],
        remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}, save_strategy="no", logging_steps=1,
        disable_tqdm=True,
    )  # fmt: skip
    rows = random_rows(config, STEPS * MICRO_BATCH)
    trainer = SelfExplainerTrainer(explainer, args=arguments, train_dataset=rows)
    ends: list[float] = []
    training_step = trainer.training_step

    def timed(*args, **kwargs):
        loss = training_step(*args, **kwargs)
        if cuda:
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        return loss

    trainer.training_step = timed
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == STEPS and all(loss < float("inf") for loss in losses), losses
    seconds = (ends[-1] - ends[0]) / (STEPS - 1)
    reserved = torch.cuda.max_memory_reserved() / 1e9 if cuda else None
    return {
        "shape": shape.name,
        "parameters": sum(p.numel() * (2 if p.dtype == torch.uint8 else 1) for p in explainer.parameters()),
        "trained_parameters": sum(p.numel() for p in explainer.parameters() if p.requires_grad),
        "peak_allocated_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if cuda else None,
        "peak_reserved_gb": None if reserved is None else round(reserved, 2),
        "limit_gb": shape.limit_gb,
        "within_limit": None if reserved is None else reserved <= shape.limit_gb,
        "seconds_per_step": round(seconds, 3),
        "tokens_per_second": round(MICRO_BATCH * LENGTH / seconds),
        "first_loss": round(losses[0], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="run the same code on a tiny model and write nothing")
    tiny = parser.parse_args().tiny
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not tiny and not torch.cuda.is_available():
        parser.exit(
            1, "This benchmark needs a CUDA GPU, and none is available. Use --tiny to run the same code on the CPU.\n"
        )
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    runs = []
    with tempfile.TemporaryDirectory() as output_dir:
        for shape in TINY if tiny else SHAPES:
            runs.append(measure(shape, device, output_dir))
            logger.info("%s", runs[-1])
    if tiny:
        return
    results = {
        "what": f"QLoRA: NF4 base, LoRA r {RANK}, sequence {LENGTH}, micro-batch {MICRO_BATCH}, checkpointed gradients",
        "device": torch.cuda.get_device_name(device),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": library_versions(),
        "runs": runs,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    logger.info("Results are in %s.", RESULTS)


if __name__ == "__main__":
    main()
