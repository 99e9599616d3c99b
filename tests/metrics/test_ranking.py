"""AUROC against a count of all pairs."""

import pytest
import torch

from lia_adapter.metrics.ranking import auroc


def test_auroc_counts_pairs_and_ties_half() -> None:
    draw = torch.Generator().manual_seed(0)
    usual = torch.randint(0, 8, [40], generator=draw).float()
    unusual = torch.randint(-2, 6, [25], generator=draw).float()
    pairs = [(u > v) + 0.5 * (u == v) for u in usual.tolist() for v in unusual.tolist()]
    assert auroc(usual, unusual) == pytest.approx(sum(pairs) / len(pairs), rel=1e-12)
    assert auroc(unusual, usual) == pytest.approx(1 - auroc(usual, unusual), rel=1e-12)


def test_auroc_of_what_a_score_separates_and_of_what_it_does_not() -> None:
    low, high = torch.arange(5.0), torch.arange(5.0, 9.0)
    assert auroc(high, low) == 1 and auroc(low, high) == 0
    assert auroc(torch.zeros(3), torch.zeros(7)) == 0.5
