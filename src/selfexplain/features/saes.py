"""Train sparse autoencoders of the residual stream with sae-lens, and keep them in its format."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from selfexplain.errors import SelfExplainError
from selfexplain.features.residuals import residual_batches
from selfexplain.target.blocks import decoder_blocks
from selfexplain.target.capture import check_layers
from selfexplain.target.load import Target

SAE_BATCH = 512


def train_saes(
    target: Target,
    token_ids: Sequence[Sequence[int]],
    layers: Sequence[int],
    out_dir: Path,
    *,
    n_saes: int = 1,
    n_features: int,
    k: int,
    n_tokens: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Train `n_saes` TopK SAEs per layer, to `out_dir/layer_<i>/` and, of further seeds, `layer_<i>_seed_<n>/`.

    One pass of the target collects the activations of every layer; they are held in memory
    (at most `n_layers * n_tokens * d * 4` bytes). Special tokens and attention sinks are skipped: their norm would
    dominate. SAEs of other seeds find other features of the same layer.

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

    if not 0 < k <= n_features or n_saes < 1:
        raise SelfExplainError(
            f"n_saes {n_saes} and k {k} given for SAEs of {n_features} features; expected n_saes of at least 1 and "
            f"k from 1 to {n_features}."
        )
    layers = check_layers(layers, target.n_layers)
    device = target.model.device
    names = {module: name for name, module in target.model.named_modules()}
    generator = torch.Generator().manual_seed(seed)
    activations = sample_activations(target, token_ids, layers, n_tokens, generator)  # (n_layers, n, d)
    batch_size = min(SAE_BATCH, activations.shape[1])
    n_steps = max(1, n_tokens // batch_size)
    batches_per_epoch = activations.shape[1] // batch_size
    plan = [(number, *layer) for number in range(n_saes) for layer in zip(layers, activations, strict=True)]
    with tqdm(total=len(plan) * n_steps, desc="training SAEs", unit="step") as bar, torch.random.fork_rng(devices=[]):
        for number, layer, rows in plan:
            torch.manual_seed(seed + layer + number * target.n_layers)
            metadata = SAEMetadata(
                model_name=target.name,
                model_revision=target.revision,
                hook_name=names[decoder_blocks(target.model)[layer]],
                layer=layer,
            )
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
                sae.b_dec.copy_(rows.mean(0) * scale)  # from the CPU: on a small GPU there is no room for all
            for step in range(n_steps):
                if step % batches_per_epoch == 0:
                    order = torch.randperm(len(rows), generator=generator)
                start = step % batches_per_epoch * batch_size
                trainer.step(rows[order[start : start + batch_size]].to(device) * scale)
                trainer.n_training_steps += 1
                bar.update()
            trainer.set_final_sae_metadata()
            sae.fold_activation_norm_scaling_factor(scale)
            # writing it out folds the decoder's norms into the encoder
            sae.save_inference_model(out_dir / (f"layer_{layer}" + (f"_seed_{number}" if number else "")))


def sample_activations(
    target: Target, token_ids: Sequence[Sequence[int]], layers: Sequence[int], n_tokens: int, generator: torch.Generator
) -> Tensor:
    """Activations of randomly drawn texts, `(n_layers, n, d)` with n at most about `n_tokens`, on the CPU.

    Raises:
        SelfExplainError: no token but special ones.
    """
    chosen, budget = [], n_tokens
    for index in torch.randperm(len(token_ids), generator=generator).tolist():
        if budget <= 0:
            break
        chosen.append(token_ids[index])
        budget -= len(token_ids[index])
    # filled in place: a list of pieces and their concatenation would take the memory twice
    activations = torch.empty(len(layers), sum(map(len, chosen)), target.d_model)
    n_filled = 0
    for batch in residual_batches(target, chosen, layers, "sampling activations"):
        rows = batch.hidden[:, batch.keep.all(0)]  # (n_layers, n, d)
        activations[:, n_filled : n_filled + rows.shape[1]] = rows
        n_filled += rows.shape[1]
    if not n_filled:
        raise SelfExplainError("the corpus has no token but special ones: give texts of at least one word.")
    return activations[:, :n_filled]
