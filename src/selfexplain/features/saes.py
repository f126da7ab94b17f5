"""Sparse autoencoders of the residual stream: trained with sae-lens, kept in its format, read back with checks.

An SAE directory holds one `layer_<i>/` per layer, each as sae-lens's `SAE.save_model` writes it.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from selfexplain.errors import SelfExplainError
from selfexplain.target.blocks import decoder_blocks
from selfexplain.target.capture import capture, check_layers
from selfexplain.target.load import Target

if TYPE_CHECKING:
    from sae_lens import SAE

TOKENS_PER_BATCH = 4096
SAE_BATCH = 512
BLOCK_OUTPUT = re.compile(r"(?:.+\.)?(?:layers|h|blocks)\.(\d+)(?:\.hook_resid_post)?")


@dataclass(frozen=True)
class ResidualBatch:
    """Block outputs of some sequences.

    sequences `(B,)` are indices into the corpus, keep `(B, T)` is False at padding and special tokens,
    hidden is `(n_layers, B, T, d)`.
    """

    sequences: Tensor
    keep: Tensor
    hidden: Tensor


def residual_batches(
    target: Target, token_ids: Sequence[Sequence[int]], layers: Sequence[int], desc: str
) -> Iterator[ResidualBatch]:
    """Run the target over the sequences, those of similar length together, with a progress bar."""
    special = torch.tensor(target.tokenizer.all_special_ids)
    order = sorted(range(len(token_ids)), key=lambda index: len(token_ids[index]))
    start = 0
    with tqdm(total=len(order), desc=desc, unit="text") as bar:
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * len(token_ids[order[stop]]) <= TOKENS_PER_BATCH:
                stop += 1
            sequences = torch.tensor(order[start:stop])
            lengths = torch.tensor([len(token_ids[index]) for index in order[start:stop]])
            mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, T)
            input_ids = torch.full(mask.shape, target.pad_token_id)
            input_ids[mask] = torch.tensor([token for index in order[start:stop] for token in token_ids[index]])
            device = target.model.device
            hidden = capture(target.model, input_ids.to(device), layers, mask.to(device))
            yield ResidualBatch(sequences, mask & ~torch.isin(input_ids, special), hidden.float())
            bar.update(stop - start)
            start = stop


def train_saes(
    target: Target,
    token_ids: Sequence[Sequence[int]],
    layers: Sequence[int],
    out_dir: Path,
    *,
    n_features: int,
    k: int,
    n_tokens: int,
    learning_rate: float,
    seed: int,
) -> dict[int, "SAE"]:
    """Train one TopK SAE per layer, write each to `out_dir/layer_<i>/`, return layer -> SAE.

    One pass of the target collects the activations of every layer; they are held in memory
    (at most `n_layers * n_tokens * d * 4` bytes). Special tokens are skipped: the first token's norm would dominate.

    Args:
        token_ids: tokenised texts, special tokens included.
        k: features active per token.
        n_tokens: activations each SAE is trained on, of texts drawn at random; a smaller corpus is repeated.

    Raises:
        SelfExplainError: a layer that does not exist, no token to train on, or k above n_features.
    """
    from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.sae import SAEMetadata

    if not 0 < k <= n_features:
        raise SelfExplainError(f"k {k} given for an SAE of {n_features} features; expected 1 to {n_features}.")
    layers = check_layers(layers, target.n_layers)
    device = target.model.device
    names = {module: name for name, module in target.model.named_modules()}
    generator = torch.Generator().manual_seed(seed)
    activations = collect(target, token_ids, layers, n_tokens, generator)  # (n_layers, n, d)
    batch_size = min(SAE_BATCH, activations.shape[1])
    n_steps = max(1, n_tokens // batch_size)
    batches_per_epoch = activations.shape[1] // batch_size
    with tqdm(total=len(layers) * n_steps, desc="training SAEs", unit="step") as bar, torch.random.fork_rng(devices=[]):
        for layer, rows in zip(layers, activations, strict=True):
            torch.manual_seed(seed + layer)
            metadata = SAEMetadata(
                model_name=target.name,
                model_revision=target.revision,
                hook_name=names[decoder_blocks(target.model)[layer]],
                layer=layer,
            )
            rows = rows.to(device)
            sae = TopKTrainingSAE(
                TopKTrainingSAEConfig(target.d_model, n_features, k=k, device=str(device), metadata=metadata)
            )
            trainer = SAETrainer(
                SAETrainerConfig(
                    total_training_samples=n_steps * batch_size,
                    train_batch_size_samples=batch_size,
                    lr=learning_rate,
                    lr_decay_steps=n_steps // 5,
                    lr_end=0.0,
                    device=str(device),
                    # the auxiliary loss revives what has not fired for this many steps
                    dead_feature_window=max(1, min(50, n_steps // 10)),
                ),
                sae,
                data_provider=iter(()),
            )
            # sae-lens expects activations of mean norm sqrt(d); a small model's are far smaller
            scale = target.d_model**0.5 / float(rows.norm(dim=-1).mean())
            with torch.no_grad():
                sae.b_dec.copy_(rows.mean(0) * scale)
            for step in range(n_steps):
                if step % batches_per_epoch == 0:
                    order = torch.randperm(len(rows), generator=generator)
                start = step % batches_per_epoch * batch_size
                trainer.step(rows[order[start : start + batch_size]] * scale)
                trainer.n_training_steps += 1
                bar.update()
            trainer.set_final_sae_metadata()
            sae.fold_activation_norm_scaling_factor(scale)
            sae.save_inference_model(out_dir / f"layer_{layer}")  # folds the decoder's norms into the encoder
    return load_saes(out_dir, target, layers)


def collect(
    target: Target, token_ids: Sequence[Sequence[int]], layers: Sequence[int], n_tokens: int, generator: torch.Generator
) -> Tensor:
    """Activations of randomly drawn texts, `(n_layers, n, d)` with n at most about `n_tokens`, on the CPU."""
    chosen, budget = [], n_tokens
    for index in torch.randperm(len(token_ids), generator=generator).tolist():
        if budget <= 0:
            break
        chosen.append(token_ids[index])
        budget -= len(token_ids[index])
    # filled in place: a list of pieces and their concatenation would take the memory twice
    activations = torch.empty(len(layers), sum(map(len, chosen)), target.d_model)
    n_filled = 0
    for batch in residual_batches(target, chosen, layers, "activations for the SAEs"):
        rows = batch.hidden[:, batch.keep.to(batch.hidden.device)]  # (n_layers, n, d)
        activations[:, n_filled : n_filled + rows.shape[1]] = rows
        n_filled += rows.shape[1]
    if not n_filled:
        raise SelfExplainError("the corpus has no token to train SAEs on: give texts of at least one word.")
    return activations[:, :n_filled]


def load_saes(directory: Path, target: Target, layers: Sequence[int]) -> dict[int, "SAE"]:
    """Read the SAEs of `layers` from `directory/layer_<i>/`: ours, or any that sae-lens has saved there.

    Raises:
        SelfExplainError: a layer without SAE, or one that belongs to another model, layer or width.
    """
    return {layer: load_sae(directory / f"layer_{layer}", target, layer) for layer in layers}


def load_sae(path: Path, target: Target, layer: int) -> "SAE":
    """Read one SAE after checking that it was made for the output of block `layer` of this target.

    What its metadata does not record is not checked; models are compared by the last part of their name.

    Raises:
        SelfExplainError: no SAE there, or one that belongs to another model, layer or width.
    """
    from sae_lens import SAE

    try:
        config = json.loads((path / "cfg.json").read_text())
    except (OSError, ValueError) as error:
        raise SelfExplainError(
            f"no SAE at {path}: expected a directory written by sae-lens's SAE.save_model ({error})."
        ) from error
    metadata = config.get("metadata", config)
    if config.get("d_in") != target.d_model:
        raise SelfExplainError(
            f"the SAE at {path} reads vectors of width {config.get('d_in')}; {target.name} has width {target.d_model}."
        )
    model_name = metadata.get("model_name")
    if model_name and PurePath(model_name).name != PurePath(target.name).name:
        raise SelfExplainError(f"the SAE at {path} was trained on {model_name}, not on {target.name}.")
    if hook_name := metadata.get("hook_name"):
        block_output = BLOCK_OUTPUT.fullmatch(hook_name)
        if not block_output or int(block_output[1]) != layer:
            raise SelfExplainError(
                f"the SAE at {path} reads {hook_name}; expected the output of decoder block {layer}. "
                "Move it to the layer_<i> directory of its layer."
            )
    return SAE.load_from_disk(path).to(target.model.device).requires_grad_(False)


def directions(sae: "SAE") -> Tensor:
    """The decoder directions at unit norm, `(n_features, d)` float32 on the CPU."""
    return torch.nn.functional.normalize(sae.W_dec.detach().float().cpu(), dim=-1)
