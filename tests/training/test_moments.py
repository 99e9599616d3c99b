"""Moving moments: values and gradients against closed forms."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lia_adapter.training.moments import MovingMoments


def _apart(mean: Tensor, second: Tensor) -> Tensor:
    return (mean.square().sum() + (second - torch.eye(6)).square().sum()) / 6


def _unlike(mean: Tensor, second: Tensor) -> Tensor:
    wide = second + 1e-3 * second.detach().diagonal().mean() * torch.eye(6)
    answer: Tensor = ((1 + (wide @ wide).trace() / 6) / 2).log() - torch.linalg.eigvalsh(wide).log().mean()
    return answer


@pytest.mark.parametrize(("name", "formula"), [("apart", _apart), ("unlike", _unlike)])
def test_values_and_gradients(name: str, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Those of the formula by autograd, where the moving moments are those of the batch."""
    u = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1
    u.requires_grad_(True)
    mean, second = u.mean(dim=0), u.t() @ u / len(u)
    expected = formula(mean, second)
    moments = MovingMoments(6, 1000).double()
    moments.mean.copy_(mean.detach())
    moments.second.copy_(second.detach())
    value: Tensor = getattr(moments, name)(u)
    torch.testing.assert_close(value.detach(), expected.detach())
    for found, right in zip(torch.autograd.grad(value, u), torch.autograd.grad(expected, u), strict=True):
        torch.testing.assert_close(found, right)


def test_unlike_is_least_for_a_standard_normal() -> None:
    """It pulls the largest variance down and the others up; what is a million times too large no harder than what is twice."""
    for scales, signs in (([2.0, 1.0, 0.3, 1.0], [1, -1, -1, -1]), ([1e6] * 4, [1] * 4), ([0.1] * 4, [-1] * 4)):
        scale = torch.tensor(scales, requires_grad=True)
        moments, random = MovingMoments(4, 512 / 0.03), torch.Generator().manual_seed(0)
        for _ in range(300):
            value = moments.unlike(torch.randn(512, 4, generator=random) * scale)
        (gradient,) = torch.autograd.grad(value, scale)
        found = (gradient * scale.detach()).tolist()
        assert [0 if abs(share) < 0.1 else round(share / abs(share)) for share in found] == signs
        assert value > 0.05 and max(map(abs, found)) < 3
    assert float(MovingMoments(4, math.inf).unlike(torch.randn(8, 4))) == pytest.approx(0, abs=1e-5)


def test_they_point_from_where_samples_are_to_where_they_should_be() -> None:
    moments = MovingMoments(4, 512 / 0.03)
    random = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.3, 1.0, 0.8, 1.0], requires_grad=True)
    shift = torch.tensor([0.0, 0.5, 0.0, 0.0], requires_grad=True)
    for _ in range(300):
        far = moments.apart(torch.randn(512, 4, generator=random) * scale + shift)
    expected = (0.5**2 + (1.69 - 1) ** 2 + (0.64 - 1) ** 2 + 0.5**4) / 4  # second moments are about 0
    assert float(far.detach()) == pytest.approx(expected, abs=0.03)
    of_scale, of_shift = torch.autograd.grad(far, [scale, shift])
    assert of_scale[0] > 0.1 and of_scale[2] < -0.1 and of_scale[3].abs() < 0.1
    assert of_shift[1] > 0.1 and of_shift[[0, 2, 3]].abs().max() < 0.1


def test_unlike_of_what_is_far_out_and_of_what_is_no_number() -> None:
    """Mappings that keep seeds have z of 1e5; a training that diverged has none, which the loop tells in words."""
    random = torch.Generator().manual_seed(0)
    far = (torch.randn(8, 64, generator=random) * torch.logspace(0, 9, 64)).requires_grad_(True)
    value = MovingMoments(64, 8).unlike(far)
    assert value.isfinite() and torch.autograd.grad(value, far)[0].isfinite().all()
    assert not MovingMoments(64, 8).unlike(far.detach() * torch.nan).isfinite()
