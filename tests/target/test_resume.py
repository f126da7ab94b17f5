"""Group token spans into batches."""

import torch

from selfexplain.target import resume


def test_batches_cover_every_span_once_with_little_padding():
    torch.manual_seed(0)
    spans = [(int(a), int(a) + int(n)) for a, n in torch.randint(1, 40, (3000, 2))]
    batches = list(resume.batches(spans, torch.device("cpu")))
    assert sorted(i for batch in batches for i in batch) == list(range(len(spans)))
    area = sum(len(b) * (max(spans[i][1] for i in b) - min(spans[i][0] for i in b)) for b in batches)
    small = len(batches) * resume.SMALL  # batches that are filled up
    assert area <= resume.PADDING * sum(b - a for a, b in spans) + small
    assert all(len(batch) <= resume.MAX_ROWS for batch in batches)
