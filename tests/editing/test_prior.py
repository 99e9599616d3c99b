"""Variations and paths in z keep the prior N(0, I)."""

import pytest
import torch

from lia_adapter.editing import between, vary
from lia_adapter.errors import LIAError


@pytest.mark.parametrize("amount", [0.0, 0.3, 1.0])
def test_variations_of_the_priors_codes_are_codes_of_the_prior(amount: float) -> None:
    random = torch.Generator().manual_seed(0)
    z = torch.randn(100_000, 3, generator=random)
    moved = vary(z, amount, random)
    torch.testing.assert_close(moved.t().cov(), torch.eye(3), atol=0.02, rtol=0)
    torch.testing.assert_close((moved * z).mean(), torch.tensor((1 - amount**2) ** 0.5), atol=0.02, rtol=0)
    assert amount > 0 or torch.equal(moved, z)


def test_a_path_keeps_the_size_and_turns_evenly() -> None:
    a, b = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 4.0])
    path = between(a, b, 5)
    torch.testing.assert_close(path[[0, -1]], torch.stack([a, b]))
    torch.testing.assert_close(path.norm(dim=1), torch.tensor([2.0, 2.5, 3.0, 3.5, 4.0]))
    angles = torch.atan2(path[:, 2], path[:, 0])
    torch.testing.assert_close(angles, torch.linspace(0, torch.pi / 2, 5))


@pytest.mark.parametrize("b", [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
def test_a_path_that_no_circle_tells_is_straight(b: list[float]) -> None:
    a, end = torch.tensor([1.0, 0.0]), torch.tensor(b)
    torch.testing.assert_close(between(a, end, 3)[1], (a + end) / 2)


def test_wrong_arguments() -> None:
    with pytest.raises(LIAError, match="amount is 2"):
        vary(torch.zeros(1, 2), 2.0, torch.Generator())
    with pytest.raises(LIAError, match="at least 2"):
        between(torch.zeros(2), torch.zeros(2), 1)
