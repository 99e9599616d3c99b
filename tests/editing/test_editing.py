"""Directions of factors: recovered where they are known."""

import torch

from lia_adapter.editing import fit_regression


def test_directions_of_a_linear_world() -> None:
    random = torch.Generator().manual_seed(0)
    factors = torch.rand(5000, 3, generator=random, dtype=torch.float64)
    truth = torch.randn(3, 8, generator=random, dtype=torch.float64)
    # What has nothing to do with the factors is large, and lies across the truth.
    nuisance = 3 * torch.randn(5000, 2, generator=random, dtype=torch.float64) @ torch.randn(2, 8, generator=random).double()
    y = factors @ truth + nuisance
    found = fit_regression(y, factors)
    torch.testing.assert_close(found.y.double(), truth, atol=0.6, rtol=0)
    assert (found.r2 > 0.999).all()
    moved = found.move(y.float(), 1, 0.5)
    read = moved @ found.weights.T + found.bias
    before = y.float() @ found.weights.T + found.bias
    torch.testing.assert_close((read - before).mean(dim=0), torch.tensor([0.0, 0.5, 0.0]), atol=0.02, rtol=0)


def test_a_factor_that_codes_do_not_tell() -> None:
    random = torch.Generator().manual_seed(0)
    found = fit_regression(torch.randn(2000, 4, generator=random), torch.rand(2000, 1, generator=random))
    assert abs(float(found.r2)) < 0.05
    assert float(found.y.norm()) < 0.3
