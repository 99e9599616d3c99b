"""Typicality is a rank: uniform for the same kind, zero for what is far off."""

import torch

from lia_adapter.metrics.ranking import auroc
from lia_adapter.metrics.typicality import Typicality, z_size


def codes(n: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    return torch.randn(n, 6, generator=random) @ mixing + 3


def test_the_same_kind_has_uniform_ranks() -> None:
    typicality = Typicality.fit(codes(20_000, 1), torch.eye(6))
    ranks = typicality(codes(20_000, 2)).sort().values
    assert (ranks - torch.linspace(0, 1, 20_000)).abs().max() < 0.03  # Kolmogorov-Smirnov
    assert abs(float(typicality.distance(codes(20_000, 2)).mean()) - 1) < 0.05


def test_another_kind_ranks_low_although_each_entry_is_usual() -> None:
    """The same spread of every entry, without the correlations."""
    usual = codes(5000, 3)
    other = torch.stack([column[torch.randperm(5000)] for column in usual.t()], dim=1)
    typicality = Typicality.fit(codes(5000, 1), torch.eye(6))
    assert auroc(typicality(usual), typicality(other)) > 0.8
    assert (typicality(usual + 100) == 0).all()


def test_the_scale_of_the_generator_s_codes_plays_no_part() -> None:
    y, root = codes(4000, 1).double(), torch.diag(torch.tensor([1e-3, 1, 10, 1, 1, 100])).double()
    a = Typicality.fit(y, torch.eye(6).double())(codes(500, 2))
    b = Typicality.fit(y @ root, root)(codes(500, 2).double() @ root)
    assert (a - b).abs().max() < 0.01


def test_fewer_images_than_entries_still_give_a_score() -> None:
    typicality = Typicality.fit(torch.randn(8, 30), torch.eye(30))
    assert typicality(torch.randn(5, 30)).isfinite().all()


def test_z_size_of_the_prior_is_one() -> None:
    assert abs(float(z_size(torch.randn(2000, 64)).mean()) - 1) < 0.02
