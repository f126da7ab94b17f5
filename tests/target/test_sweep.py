"""The sweep engine on interventions whose logits come from tables: results, checks, fallback and near-ties."""

import logging
import math
import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from selfexplain.errors import SelfExplainError
from selfexplain.target.sweep import Check, is_coarse, near_ties, run_sweep

LENGTH = 20


class Layer(nn.Module):
    """Returns the precision in which it computes."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=dtype))

    def forward(self):
        return self.weight.dtype


class Model(nn.Module):
    device = torch.device("cpu")

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.dtype, self.layer = dtype, Layer(dtype)


@dataclass
class Tables:
    """Interventions whose logits are given, and a record of how they were run.

    Attributes:
        owners: prompt of each intervention.
        clean_logits: logits of each prompt.
        changed: logits of each intervention.
        resumed: their logits if they resume from a clean run, or an error to raise.
        low: logits of prompts and interventions in the model's precision, if it is not float32.
        unchanged: interventions that change nothing.
        starts: first token of each intervention.
        calls: (interventions, resumed, precision) of each batch.
        clean_runs: (prompts, cached) of each clean run.
    """

    owners: list[int]
    clean_logits: Tensor
    changed: Tensor
    resumed: Tensor | Exception | None = None
    low: tuple[Tensor, Tensor] | None = None
    unchanged: tuple[int, ...] = ()
    starts: list[int] = field(default_factory=list)
    dtype: torch.dtype = torch.float32
    calls: list = field(default_factory=list)
    clean_runs: list = field(default_factory=list)

    def __post_init__(self):
        self.model = Model(self.dtype)

    def place(self, index):
        return self.owners[index], f"key {index % 2}", self.starts[index] if self.starts else 0, LENGTH

    def clean(self, prompts, cached):
        self.clean_runs.append((list(prompts), cached))
        table = self.clean_logits if self.model.layer() == torch.float32 else self.low[0]
        return SimpleNamespace(logits=table[list(prompts)], prompts=list(prompts))

    def logits(self, clean, rows, indices, resumed):
        self.check_rows(clean, rows, indices)
        assert len({index % 2 for index in indices}) == 1  # batches share the key
        precision = self.model.layer()
        self.calls.append((list(indices), resumed, precision))
        if isinstance(self.resumed, Exception) and resumed:
            raise self.resumed
        table = self.changed if precision == torch.float32 else self.low[1]
        return (self.resumed if resumed and self.resumed is not None else table)[list(indices)]

    def check_rows(self, clean, rows, indices):
        assert [clean.prompts[row] for row in rows] == [self.owners[i] for i in indices]

    def idle(self, clean, rows, indices):
        self.check_rows(clean, rows, indices)
        return torch.tensor([index in self.unchanged for index in indices])

    def run(self, **options):
        target = SimpleNamespace(model=self.model, name="tables", context_length=LENGTH)
        return run_sweep(target, [[1] * LENGTH] * len(self.clean_logits), self, len(self.owners), **options)


def random_tables(owners, n_tokens=6, **options):
    generator = torch.Generator().manual_seed(len(owners))
    clean, changed = (2 * torch.randn(n, n_tokens, generator=generator) for n in (max(owners) + 1, len(owners)))
    return Tables(owners, clean, changed, **options)


def log_softmax(logits):
    logits = logits.double().numpy()
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_results_are_next_tokens_log_probabilities_and_divergences():
    tables = random_tables([1, 0, 2, 1, 1, 0, 2], unchanged=(4,))
    results = tables.run()
    tables.changed[4] = tables.clean_logits[1]
    clean, changed = log_softmax(tables.clean_logits), log_softmax(tables.changed)
    ids, owned = clean.argmax(-1), clean[tables.owners]
    np.testing.assert_array_equal(results.clean_ids, ids)
    np.testing.assert_allclose(results.clean_log_probs, clean.max(-1), atol=1e-6)
    np.testing.assert_array_equal(results.ids, changed.argmax(-1))
    np.testing.assert_allclose(results.log_probs, changed.max(-1), atol=1e-6)
    np.testing.assert_allclose(results.kept_log_probs, changed[range(7), ids[tables.owners]], atol=1e-6)
    np.testing.assert_allclose(results.kl, (np.exp(owned) * (owned - changed)).sum(-1), atol=1e-5)
    assert results.kl[4] == 0 and results.log_probs[4] == results.clean_log_probs[1]
    assert results.ids.dtype == results.clean_ids.dtype == torch.long
    for values in (results.clean_log_probs, results.log_probs, results.kept_log_probs, results.kl):
        assert values.dtype == torch.float32
    assert results.method == "resumed" and results.check == Check(7, 0.0, 0.0, 0)


def test_divergences_are_never_negative():
    tables = random_tables([0] * 60, n_tokens=50)
    tables.changed = tables.clean_logits + 1e-4 * tables.changed  # rounding errors are larger than the divergences
    results = tables.run()
    assert (results.kl >= 0).all() and results.kl.max() < 1e-5


def test_without_interventions_nothing_is_checked():
    tables = Tables([], torch.randn(2, 6), torch.zeros(0, 6))
    results = tables.run()
    assert results.method == "resumed" and results.check == Check(0, 0.0, 0.0, 0)
    assert tables.clean_runs == [([0, 1], True)] and len(results.ids) == 0


def test_a_sample_is_compared_with_full_passes_of_one_prompt_at_a_time():
    tables = random_tables([0, 1] * 12)
    assert tables.run().check == Check(16, 0.0, 0.0, 0)
    full = [call for call in tables.calls if not call[1]]
    assert sorted(i for indices, *_ in full for i in indices) == sorted(random.Random(0).sample(range(24), 16))
    assert tables.clean_runs == [([0], False), ([1], False), ([0, 1], True), ([0, 1], True)]
    after = [sorted(i for indices, *_ in part for i in indices) for part in (tables.calls[2:4], tables.calls[4:])]
    assert after == [sorted(i for indices, *_ in full for i in indices), list(range(24))]


def test_the_compared_interventions_start_at_their_own_first_token():
    """If they were filled up to larger batches, they would run from the first token of another one."""
    tables = random_tables([0, 0, 0], starts=[0, 0, 15])
    tables.run()
    batches = [(sorted(indices), resumed) for indices, resumed, _ in tables.calls if 2 in indices]
    assert batches == [([0, 2], False), ([2], True), ([0, 2], True)]


@pytest.mark.parametrize(
    ("resumed", "method", "flip_rate"),
    [
        ([3.0, 0, 0], "resumed", 0),
        ([3.005, 0, 0], "resumed", 0),
        ([2.995, 0, 0], "resumed", 0),
        ([3.05, 0, 0], "hooks", 0),
        ([2.95, 0, 0], "hooks", 0),
        ([0, 3.0, 0], "hooks", 1 / 4),
    ],
)
def test_resuming_must_give_the_same_tokens_and_log_probabilities(resumed, method, flip_rate, caplog):
    changed = torch.tensor([[3.0, 0, 0]] * 4)
    tables = Tables([0, 0, 1, 1], torch.tensor([[1.0, 0, 0]] * 2), changed, changed.clone())
    tables.resumed[2] = torch.tensor(resumed)
    results = tables.run()
    assert results.method == method and results.check.sampled == 4
    log_prob, exact_log_prob = (-math.log(1 + 2 * math.exp(-logit)) for logit in (max(resumed), 3))
    assert results.check.max_difference == pytest.approx(abs(log_prob - exact_log_prob), abs=1e-6)
    assert results.check.flip_rate == flip_rate
    is_exact = method == "resumed"
    assert all(resumed is is_exact for _, resumed, _ in tables.calls[-2:])  # one batch per key
    assert tables.clean_runs[-1] == ([0, 1], is_exact)
    assert bool(caplog.messages) is not is_exact
    if not is_exact:
        assert results.ids.tolist() == [0] * 4


@pytest.mark.parametrize("error", [TypeError, RuntimeError, ValueError, IndexError, AttributeError])
def test_a_model_that_cannot_resume_uses_full_forward_passes(error, caplog):
    tables = random_tables([0, 1, 1], resumed=error("no cache here\nDetails follow."))
    with caplog.at_level(logging.WARNING):
        results = tables.run()
    assert results.method == "hooks" and results.check == Check(3, float("inf"), 1.0, 0)
    assert caplog.messages == [
        "tables: interventions use full forward passes, because resuming from the clean run is not exact here "
        "(no cache here)."
    ]


def test_the_warning_names_the_difference(caplog):
    tables = random_tables([0])
    tables.resumed = tables.changed.clone()
    tables.resumed[0, tables.changed[0].argmax()] += 1
    difference = tables.run().check.max_difference
    assert f"(log-probabilities differ by {difference:.2g})" in caplog.text


@pytest.mark.parametrize("error", [SelfExplainError("Patch 0 is invalid."), KeyError("unexpected")])
def test_other_errors_are_raised(error):
    with pytest.raises(type(error), match=r"Patch 0 is invalid|unexpected"):
        random_tables([0], resumed=error).run()


def test_near_ties_in_low_precision_are_recomputed_in_float32():
    """Prompt 1 and interventions 0, 1 and 4 are near-ties; intervention 3 changes nothing on prompt 1."""
    low_clean = torch.tensor([[9.0, 0, 0], [8.0, 7.9, 0], [0, 0, 5.0]])
    clean = torch.tensor([[9.1, 0, 0], [7.9, 8.0, 0], [0, 0, 5.1]])
    low_changed = torch.tensor([[8.0, 7.9, 0], [0, 6.0, 5.9], [7.0, 0, 0], [1.0, 0, 0], [0, 8.0, 7.9]])
    changed = torch.tensor([[7.9, 8.0, 0], [0, 6.1, 6.0], [7.1, 0, 0], [1.1, 0, 0], [0, 7.9, 8.0]])
    tables = Tables([0, 1, 2, 1, 0], clean, changed, low=(low_clean, low_changed), unchanged=(3,), dtype=torch.bfloat16)
    results = tables.run()
    assert results.check == Check(5, 0.0, 2 / 5, near_ties=3) and type(results.check.flip_rate) is float
    assert tables.clean_runs[-1] == ([0, 1], True)
    recomputed = tables.calls[-2:]  # one batch per key
    assert sorted(i for indices, *_ in recomputed for i in indices) == [0, 1, 4]
    assert all(resumed and precision == torch.float32 for _, resumed, precision in recomputed)
    in_model_dtype = [call for call in tables.calls if call[2] == torch.bfloat16]
    assert len(in_model_dtype) == 4 and all(resumed for _, resumed, _ in in_model_dtype)
    expected_clean = log_softmax(torch.stack([low_clean[0], clean[1], low_clean[2]]))
    np.testing.assert_array_equal(results.clean_ids, [0, 1, 2])
    np.testing.assert_allclose(results.clean_log_probs, expected_clean.max(-1), atol=1e-5)
    expected = log_softmax(torch.stack([changed[0], changed[1], low_changed[2], clean[1], changed[4]]))
    np.testing.assert_array_equal(results.ids, [1, 1, 0, 1, 2])
    np.testing.assert_allclose(results.log_probs, expected.max(-1), atol=1e-5)
    assert results.kl[3] == 0 and (results.kl[[0, 1, 2, 4]] > 0).all()


@pytest.mark.parametrize("resumed", [True, False])
def test_near_ties_are_recomputed_by_the_method_of_the_run(resumed):
    changed = torch.tensor([[8.0, 7.9, 0]])
    tables = Tables([0], torch.tensor([[9.0, 0, 0]]), changed, dtype=torch.bfloat16)
    tables.low = (tables.clean_logits, changed)
    if not resumed:
        tables.resumed = ValueError("no cache")
    assert tables.run().check.near_ties == 1
    assert tables.calls[-1] == ([0], resumed, torch.float32)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, [True, True, False, True, False, False]),
        (torch.float16, [True, False, False, False, False, False]),
        (torch.float32, [False] * 6),
        (torch.float64, [False] * 6),
    ],
)
def test_a_near_tie_is_closer_than_four_units_in_the_last_place_of_the_largest_logit(dtype, expected):
    logits = torch.tensor(
        [[8.0, 8.0, 0], [7.75, 0, 8.0], [0, 8.0, 7.7], [-8.0, -9.0, -8.25], [1.0, 0.9, 0], [-8.3, -8.0, -9.0]]
    )  # in bfloat16, a unit in the last place is 1/128 of the logit
    ties = near_ties(logits, dtype)
    assert ties.dtype == torch.bool and ties.tolist() == expected


def test_precisions_below_float32_are_coarse():
    assert is_coarse(Model(torch.bfloat16)) and is_coarse(Model(torch.float16))
    assert not is_coarse(Model(torch.float32)) and not is_coarse(Model(torch.float64))


def test_prompts_may_fill_the_context():
    tables = random_tables([0])
    target = SimpleNamespace(model=tables.model, name="tables", context_length=LENGTH)
    for length in (1, LENGTH):
        assert len(run_sweep(target, [[1] * length], tables, 1).ids) == 1
    for length in (0, LENGTH + 1):
        with pytest.raises(SelfExplainError, match=f"Prompt 1 has {length} tokens; the context of tables holds 20"):
            run_sweep(target, [[1], [1] * length], tables, 1)


def test_one_prompt_with_logits_that_are_not_finite_is_refused():
    tables = Tables([0], torch.zeros(2, 6), torch.ones(1, 6))  # prompt 1 has no intervention
    tables.clean_logits[1, 2] = torch.nan
    with pytest.raises(SelfExplainError, match="logits of tables are not finite"):
        tables.run()


def test_progress_is_shown_if_it_has_a_label(capsys):
    random_tables([0, 1, 1]).run(progress="patching")
    assert "patching: 100%" in (shown := capsys.readouterr().err) and "3.00/3.00" in shown
    random_tables([0, 1, 1]).run()
    assert not capsys.readouterr().err
