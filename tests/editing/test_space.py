"""The metric of codes: what is one standard deviation, what is unrelated, and what is left without something else."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lia_adapter.editing import CodeSpace
from lia_adapter.editing.space import oriented

DIM = 6


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stretched(seed: int = 0) -> CodeSpace:
    """A space of a covariance that is far from round, and not diagonal."""
    a = random(seed, DIM, DIM) * torch.tensor([3.0, 1.0, 0.3, 1.0, 2.0, 0.5], dtype=torch.float64)
    return CodeSpace(random(seed + 1, DIM), a @ a.t() + 0.05 * torch.eye(DIM))


def unit(v: Tensor) -> Tensor:
    length: Tensor = v.norm()
    return v / length


def test_a_step_is_the_standard_deviation_of_samples_along_it() -> None:
    space = stretched()
    codes = space.mean + random(5, 200_000, DIM) @ space.root
    for v in random(6, 3, DIM):
        assert float(space.step(v).norm()) == pytest.approx(float((codes @ unit(v)).std()), rel=0.01)
        torch.testing.assert_close(unit(space.step(v)), unit(v))


def test_white_codes_are_white_and_coloured_is_its_inverse() -> None:
    space = stretched()
    codes = random(5, 100_000, DIM) @ space.root
    torch.testing.assert_close(torch.cov(space.white(codes).t()), torch.eye(DIM).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(space.coloured(space.white(codes[:5])), codes[:5])


def test_without_one_other_is_the_projection_of_the_paper() -> None:
    space = stretched()
    a, b = random(2, 2, DIM)
    n1, n2 = unit(space.white(a)), unit(space.white(b))
    left = unit(space.white(space.without(a, b[None])))
    torch.testing.assert_close(left, unit(n1 - (n1 @ n2) * n2))


@given(st.integers(0, 10_000), st.integers(1, DIM - 1))
def test_what_is_left_is_independent_of_all_that_stays(seed: int, count: int) -> None:
    space, v, others = stretched(seed), random(seed + 1, DIM), random(seed + 2, count, DIM)
    left = space.without(v, others)
    assert float(space.alike(left[None], others).abs().max()) < 1e-6
    torch.testing.assert_close(space.without(left, others), left, rtol=1e-6, atol=1e-9)  # a projection
    # Attributes are linear functions of codes; that of another is not correlated with that of what is left.
    codes = random(seed + 3, 20_000, DIM) @ space.root
    readings = torch.stack([codes @ space.white(space.white(w)) for w in (left, others[0])])
    assert abs(float(torch.corrcoef(readings)[0, 1])) < 0.04


def test_others_that_say_the_same_twice_are_no_harm() -> None:
    space = stretched()
    v, other = random(2, 2, DIM)
    torch.testing.assert_close(space.without(v, torch.stack([other, other])), space.without(v, other[None]))


def test_standard_space_is_that_of_z() -> None:
    space, (a, b) = CodeSpace.standard(DIM), random(0, 2, DIM)
    assert float(space.alike(a[None], b[None])) == pytest.approx(float(unit(a) @ unit(b)))
    torch.testing.assert_close(space.step(a), unit(a))


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_alike_knows_no_length_and_changes_sign(seed: int, scale: float) -> None:
    space, (a, b) = stretched(), random(seed, 2, DIM)
    alike = float(space.alike(a[None], b[None]))
    assert float(space.alike(scale * a[None], -b[None])) == pytest.approx(-alike, abs=1e-9)
    assert -1 - 1e-9 <= alike <= 1 + 1e-9
    assert float(space.alike(a[None], a[None])) == pytest.approx(1)


def test_a_flat_covariance_has_a_root_all_the_same() -> None:
    space = CodeSpace(torch.zeros(3), torch.diag(torch.tensor([4.0, 0.0, 0.0])))
    assert space.root.isfinite().all() and float(space.step(torch.tensor([1.0, 0, 0])).norm()) == pytest.approx(2)
    assert math.isfinite(float(space.alike(torch.eye(3)[:1], torch.eye(3)[1:2])))


def test_signs_are_of_the_largest_entry() -> None:
    v = torch.tensor([[0.5, -2.0, 1.0], [3.0, 1.0, -1.0]])
    assert torch.equal(oriented(v), torch.tensor([[-0.5, 2.0, -1.0], [3.0, 1.0, -1.0]]))
    assert torch.equal(oriented(-v), oriented(v))
