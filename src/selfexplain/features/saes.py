"""Train sparse autoencoders on the residual stream with sae-lens and save them in its format."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from selfexplain.errors import SelfExplainError
from selfexplain.features.residuals import residual_batches
from selfexplain.target.blocks import decoder_blocks
from selfexplain.target.capture import check_layers
from selfexplain.target.load import Target

if TYPE_CHECKING:
    from sae_lens import TopKTrainingSAE

SAE_BATCH = 512  # activations per training step


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
    """Train TopK SAEs and save them to `out_dir/layer_<i>/` and, for further seeds, `out_dir/layer_<i>_seed_<n>/`.

    One pass of the target collects the activations of all layers in memory (at most `n_layers * n_tokens * d * 4`
    bytes). Special tokens and attention sinks are skipped, because their norm would dominate the loss. SAEs with
    different seeds find different features of the same layer.

    Args:
        target: model whose residual stream is encoded.
        token_ids: tokenised texts, including special tokens.
        layers: decoder blocks whose outputs are encoded.
        out_dir: directory to write to.
        n_saes: number of SAEs per layer, each with its own seed.
        n_features: number of features per SAE.
        k: number of active features per token.
        n_tokens: number of activations each SAE is trained on, from randomly drawn texts. A smaller corpus is repeated.
        learning_rate: learning rate.
        seed: seed of the first SAE.

    Raises:
        SelfExplainError: a layer does not exist, the texts have only special tokens, or `k` or `n_saes` is invalid.
    """
    if not 0 < k <= n_features or n_saes < 1:
        raise SelfExplainError(
            f"n_saes is {n_saes} and k is {k} for SAEs of {n_features} features. Set n_saes to at least 1 and k to a "
            f"number from 1 to {n_features}."
        )
    layers = check_layers(layers, target.n_layers)
    generator = torch.Generator().manual_seed(seed)
    activations = sample_activations(target, token_ids, layers, n_tokens, generator)  # (n_layers, n, d)
    n_steps = max(1, n_tokens // min(SAE_BATCH, activations.shape[1]))
    plan = [(number, *layer) for number in range(n_saes) for layer in zip(layers, activations, strict=True)]
    with tqdm(total=len(plan) * n_steps, desc="training SAEs", unit="step") as bar, torch.random.fork_rng(devices=[]):
        for number, layer, rows in plan:
            torch.manual_seed(seed + layer + number * target.n_layers)
            sae = _train_sae(target, layer, rows, n_features, k, n_steps, learning_rate, generator, bar)
            # Saving folds the norms of the decoder into the encoder.
            sae.save_inference_model(out_dir / (f"layer_{layer}" + (f"_seed_{number}" if number else "")))


def _train_sae(
    target: Target,
    layer: int,
    rows: Tensor,
    n_features: int,
    k: int,
    n_steps: int,
    learning_rate: float,
    generator: torch.Generator,
    bar: tqdm,
) -> "TopKTrainingSAE":
    """Train one TopK SAE.

    Args:
        rows: activations of the layer, `(n, d)`, on the CPU.
        generator: source of randomness for the order of the rows.
    """
    from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.sae import SAEMetadata

    device = target.model.device
    batch_size = min(SAE_BATCH, len(rows))
    batches_per_epoch = len(rows) // batch_size
    names = {module: name for name, module in target.model.named_modules()}
    metadata = SAEMetadata(
        model_name=target.name,
        model_revision=target.revision,
        hook_name=names[decoder_blocks(target.model)[layer]],
        layer=layer,
    )
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(target.d_model, n_features, k=k, device=str(device), metadata=metadata))
    config = SAETrainerConfig(
        total_training_samples=n_steps * batch_size,
        train_batch_size_samples=batch_size,
        lr=learning_rate,
        lr_decay_steps=n_steps // 5,
        lr_end=0.0,
        device=str(device),
        # The auxiliary loss revives features that have not fired for this many steps.
        dead_feature_window=max(1, min(50, n_steps // 10)),
    )
    trainer = SAETrainer(config, sae, data_provider=iter(()))
    # sae-lens expects activations of mean norm sqrt(d); those of a small model are far smaller.
    scale = target.d_model**0.5 / float(rows.norm(dim=-1).mean())
    with torch.no_grad():
        sae.b_dec.copy_(rows.mean(0) * scale)  # on the CPU, because all activations may not fit on a GPU
    for step in range(n_steps):
        if step % batches_per_epoch == 0:
            order = torch.randperm(len(rows), generator=generator)
        start = step % batches_per_epoch * batch_size
        trainer.step(rows[order[start : start + batch_size]].to(device) * scale)
        trainer.n_training_steps += 1
        bar.update()
    trainer.set_final_sae_metadata()
    sae.fold_activation_norm_scaling_factor(scale)
    return sae


def sample_activations(
    target: Target, token_ids: Sequence[Sequence[int]], layers: Sequence[int], n_tokens: int, generator: torch.Generator
) -> Tensor:
    """Activations of randomly drawn texts, `(n_layers, n, d)` on the CPU.

    Args:
        token_ids: tokenised texts, including special tokens.
        layers: decoder blocks whose outputs are returned.
        n_tokens: approximate maximum of n. Texts are drawn until they have this many tokens.
        generator: source of randomness for drawing texts.

    Raises:
        SelfExplainError: the texts consist of special tokens only.
    """
    chosen, budget = [], n_tokens
    for index in torch.randperm(len(token_ids), generator=generator).tolist():
        if budget <= 0:
            break
        chosen.append(token_ids[index])
        budget -= len(token_ids[index])
    # Filled in place, because a list of parts and their concatenation would need twice the memory.
    activations = torch.empty(len(layers), sum(map(len, chosen)), target.d_model)
    n_filled = 0
    for batch in residual_batches(target, chosen, layers, "sampling activations"):
        rows = batch.hidden[:, batch.keep.all(0)]  # (n_layers, n, d)
        activations[:, n_filled : n_filled + rows.shape[1]] = rows
        n_filled += rows.shape[1]
    if not n_filled:
        raise SelfExplainError("The corpus contains only special tokens. Give texts with at least one word.")
    return activations[:, :n_filled]
