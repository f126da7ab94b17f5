"""Run many interventions on prompts, check a sample of them, and read the next tokens."""

import logging
import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from selfexplain.errors import SelfExplainError
from selfexplain.target.load import Target
from selfexplain.target.precision import in_float32
from selfexplain.target.resume import CleanRun, batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

SAMPLE = 16  # interventions per run that are checked
TOLERANCE = 1e-3  # maximum difference of their log-probabilities in float32, in nats
NEAR_TIE = 4  # in units in the last place of the largest logit; a different batch shape changes logits by about one


class Interventions(Protocol):
    """Interventions on prompts, as a sweep runs them."""

    def place(self, index: int) -> tuple[int, Hashable, int, int]:
        """The prompt of an intervention, a key that all interventions of a batch share, and its token span."""

    def clean(self, prompts: Sequence[int], cached: bool) -> CleanRun:
        """The clean run of the prompts with the given indices."""

    def logits(self, clean: CleanRun, rows: Tensor, indices: Sequence[int], resumed: bool) -> Tensor:
        """Next-token logits `(N, vocabulary)` of interventions whose prompts are at `rows (N,)` of the clean run."""

    def idle(self, clean: CleanRun, rows: Tensor, indices: Sequence[int]) -> Tensor:
        """Whether each intervention changes nothing, bit by bit, `(N,)`."""


@dataclass(frozen=True)
class Check:
    """The comparison of a sample of a run with full forward passes in float32 without padding.

    Attributes:
        sampled: number of interventions that were compared.
        max_difference: largest difference of the log-probabilities of their outputs, both in float32.
        flip_rate: fraction whose output differs in the model's precision, before near-ties are recomputed.
        near_ties: number of interventions of the run that were recomputed in float32, because the model's precision
            cannot separate their two most likely tokens.
    """

    sampled: int
    max_difference: float
    flip_rate: float
    near_ties: int = 0


@dataclass(frozen=True)
class SweepResults:
    """The most likely next token of each prompt and each intervention.

    Attributes:
        clean_ids: next token of each prompt, `(n_prompts,)`.
        clean_log_probs: log-probabilities of `clean_ids`, `(n_prompts,)`.
        ids: next token of each intervention, `(n_interventions,)`.
        log_probs: log-probabilities of `ids`, `(n_interventions,)`.
        kept_log_probs: log-probability of the clean output under each intervention, `(n_interventions,)`.
        kl: KL(clean || changed) of the next-token distributions, in nats, `(n_interventions,)`.
        method: "resumed", or "hooks" if resuming was not exact.
        check: comparison that decided the method.
    """

    clean_ids: Tensor
    clean_log_probs: Tensor
    ids: Tensor
    log_probs: Tensor
    kept_log_probs: Tensor
    kl: Tensor
    method: Literal["resumed", "hooks"]
    check: Check


def run_sweep(
    target: Target, prompts: Sequence[Sequence[int]], interventions: Interventions, n: int, progress: str | None = None
) -> SweepResults:
    """Run interventions on prompts, reusing the clean run of each prompt.

    A sample is compared with full forward passes. If outputs differ, the whole run uses full forward passes in batches,
    after one warning. If the model's precision is lower than float32, near-ties are recomputed in float32.

    Args:
        prompts: token ids of each prompt.
        interventions: interventions to run.
        n: number of interventions.
        progress: label of the progress bar; None for no bar.

    Raises:
        SelfExplainError: a prompt is empty or longer than the context, or the target's logits are not finite.
    """
    for index, ids in enumerate(prompts):
        if not 0 < len(ids) <= target.context_length:
            raise SelfExplainError(
                f"Prompt {index} has {len(ids)} tokens; the context of {target.name} holds "
                f"{target.context_length}. Give 1 to {target.context_length} tokens."
            )
    work = _Work(target, prompts, interventions)
    resumed, check = _checked(work, n)
    with tqdm(total=n, desc=progress, unit="patch", unit_scale=True, mininterval=2, disable=progress is None) as bar:
        clean, changed = work.run(range(len(prompts)), range(n), resumed, bar)
    owners = torch.tensor([interventions.place(i)[0] for i in range(n)], dtype=torch.long)
    idle = changed[:, IDLE].bool()  # in the model's precision
    if is_coarse(target.model):
        ties = changed[:, NEAR].nonzero()[:, 0]
        clean_ties = clean[:, NEAR].nonzero()[:, 0]
        involved = torch.cat([owners[ties], clean_ties]).unique()
        with in_float32(target.model):
            exact_clean, changed[ties] = work.run(involved.tolist(), ties.tolist(), resumed)
        clean[clean_ties] = exact_clean[torch.isin(involved, clean_ties)]
        check = replace(check, near_ties=len(ties))
    changed[idle] = clean[owners[idle]]
    changed[idle, KL] = 0
    return SweepResults(
        clean[:, ID].long(), clean[:, LOG_PROB].float(), changed[:, ID].long(), changed[:, LOG_PROB].float(),
        changed[:, KEPT].float(), changed[:, KL].float().clamp(min=0),
        "resumed" if resumed else "hooks", check,
    )  # fmt: skip


def _checked(work: "_Work", n: int) -> tuple[bool, Check]:
    """Whether resuming is exact on a sample of the `n` interventions, and the comparison."""
    if not n:
        return True, Check(0, 0.0, 0.0)
    sample = random.Random(0).sample(range(n), min(n, SAMPLE))
    owners = [work.interventions.place(i)[0] for i in sample]
    prompts = sorted(set(owners))
    alone = torch.zeros(len(sample), 6, dtype=torch.float64)
    with in_float32(work.target.model):
        for prompt in prompts:  # separately, so that nothing is padded
            members = [n for n, owner in enumerate(owners) if owner == prompt]
            alone[members] = work.run([prompt], [sample[n] for n in members], resumed=False)[1]
    try:
        with in_float32(work.target.model):
            together = work.run(prompts, sample, resumed=True, fill=False)[1]  # none starts before its first token
        in_model_dtype = work.run(prompts, sample, resumed=True)[1] if is_coarse(work.target.model) else together
    except (TypeError, RuntimeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, SelfExplainError):
            raise
        difference, flips, reason = float("inf"), 1.0, str(error).split("\n")[0]
    else:
        difference = (alone[:, LOG_PROB] - together[:, LOG_PROB]).abs().max().item()
        flips = (alone[:, ID] != in_model_dtype[:, ID]).double().mean().item()
        reason = f"log-probabilities differ by {difference:.2g}"
    exact = difference < TOLERANCE and torch.equal(alone[:, ID], together[:, ID])
    if not exact:
        logger.warning(
            "%s: interventions use full forward passes, because resuming from the clean run is not exact here (%s).",
            work.target.name,
            reason,
        )
    return exact, Check(len(sample), difference, flips)


ID, LOG_PROB, KEPT, KL, NEAR, IDLE = range(6)  # columns of `_read`


@dataclass(frozen=True)
class _Work:
    """A sweep: runs prompts and interventions in batches."""

    target: Target
    prompts: Sequence[Sequence[int]]
    interventions: Interventions

    def run(
        self,
        prompts: Sequence[int],
        indices: Sequence[int],
        resumed: bool,
        bar: "tqdm | None" = None,
        fill: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Columns (see `_read`) of the clean runs of `prompts` and of the interventions `indices` on them, float64."""
        device = self.target.model.device
        clean_read = torch.zeros(len(prompts), 6, dtype=torch.float64)
        read = torch.zeros(len(indices), 6, dtype=torch.float64)
        places = [self.interventions.place(i) for i in indices]
        of_prompt = defaultdict(list)
        for n, (prompt, *_) in enumerate(places):
            of_prompt[prompt].append(n)
        for chunk in batches([(0, len(self.prompts[i])) for i in prompts], device):
            chosen = [prompts[i] for i in chunk]
            clean = self.interventions.clean(chosen, cached=resumed)
            clean_outputs = _Clean.of(clean.logits)
            clean_read[chunk] = _read(
                clean.logits, clean_outputs, torch.arange(len(chunk)), self.target.model.dtype
            ).cpu()
            if not clean_read[chunk, LOG_PROB].isfinite().all():
                raise SelfExplainError(
                    f"The logits of {self.target.name} are not finite. Load the model in float32 or bfloat16."
                )
            groups: dict[Hashable, list[tuple[int, int]]] = defaultdict(list)
            for row, prompt in enumerate(chosen):
                for n in of_prompt[prompt]:
                    groups[places[n][1]].append((row, n))
            for group in groups.values():
                spans = [(places[n][2] if resumed else 0, places[n][3]) for _, n in group]
                for part in batches(spans, device, fill):
                    rows = torch.tensor([group[i][0] for i in part], device=device)
                    batch = [group[i][1] for i in part]
                    ids = [indices[n] for n in batch]
                    logits = self.interventions.logits(clean, rows, ids, resumed)
                    columns = _read(logits, clean_outputs, rows, self.target.model.dtype)
                    columns[:, IDLE] = self.interventions.idle(clean, rows, ids)
                    read[batch] = columns.cpu()
                    if bar is not None:
                        bar.update(len(batch))
        return clean_read, read


def is_coarse(model: "PreTrainedModel") -> bool:
    """Whether a model's precision is lower than float32, so that the batch shape can flip near-ties."""
    return torch.finfo(model.dtype).bits < 32


def near_ties(logits: Tensor, dtype: torch.dtype, margin: float = NEAR_TIE) -> Tensor:
    """Whether `dtype` cannot separate the two largest logits of each row, `(N,)`; never in float32.

    Args:
        logits: `(N, vocabulary)`.
        dtype: precision in which the logits were computed.
        margin: maximum difference, in units in the last place of the largest logit.
    """
    if torch.finfo(dtype).bits >= 32:
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    best = logits.topk(2, -1).values
    return best[:, 0] - best[:, 1] <= margin * torch.finfo(dtype).eps * best[:, 0].abs()


def _read(logits: Tensor, clean: "_Clean", rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Summarise next-token logits `(N, vocabulary)` of variants of the clean prompts `rows (N,)` as columns `(N, 6)`.

    The columns are the next token, its log-probability, the log-probability of the clean next token, the KL divergence,
    whether the row is a near-tie, and 0.
    """
    rows = rows.to(logits.device)
    log_probs = logits.log_softmax(-1)
    log_prob, ids = log_probs.max(-1)
    kept = log_probs.gather(1, clean.ids[rows, None])[:, 0]
    kl = clean.negative_entropy[rows] - torch.linalg.vecdot(clean.probs[rows], log_probs)
    near = near_ties(logits, dtype)
    return torch.stack([column.double() for column in (ids, log_prob, kept, kl, near, torch.zeros_like(kl))], 1)


@dataclass(frozen=True)
class _Clean:
    """Next-token distributions of clean prompts.

    Attributes:
        probs: probabilities, `(B, vocabulary)`.
        negative_entropy: negative entropies in nats, `(B,)`.
        ids: most likely tokens, `(B,)`.
    """

    probs: Tensor
    negative_entropy: Tensor
    ids: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> "_Clean":
        log_probs = logits.log_softmax(-1)
        probs = log_probs.exp()
        return cls(probs, torch.linalg.vecdot(probs, log_probs), log_probs.argmax(-1))
