"""Distances and the two-sample classifier against closed forms."""

import math

import pytest
import torch
from torch import Tensor

from lia_adapter.metrics.classifier import classifier_accuracy
from lia_adapter.metrics.distances import frechet_distance, frechet_of_rows, sliced_wasserstein
from lia_adapter.metrics.images import pyramid_distance


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(n: int, mean: Tensor, root: Tensor, seed: int = 0) -> Tensor:
    """n vectors whose sample mean and sample covariance root @ rootᵀ are exact."""
    x = normal(n, len(mean), seed=seed)
    x = x - x.mean(dim=0)
    cov = torch.cov(x.t()).reshape(len(mean), len(mean))
    exact: Tensor = x @ torch.linalg.inv(torch.linalg.cholesky(cov)).t() @ root.t() + mean
    return exact


def rotation(size: int, seed: int = 0) -> Tensor:
    q: Tensor = torch.linalg.qr(normal(size, size, seed=seed)).Q
    return q


# -- distances


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize(("n", "m"), [(50, 50), (40, 90)])
def test_frechet_distance_of_axis_aligned_gaussians(size: int, n: int, m: int) -> None:
    mean_a, mean_b = normal(size, seed=1), normal(size, seed=2)
    std_a, std_b = normal(size, seed=3).abs() + 0.1, normal(size, seed=4).abs() + 0.1
    expected = float((mean_a - mean_b).square().sum() + (std_a - std_b).square().sum())
    a, b = with_moments(n, mean_a, std_a.diag(), 5), with_moments(m, mean_b, std_b.diag(), 6)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)
    turn = rotation(size)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * expected, rel=1e-9)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    # In two dimensions tr (AB)^½ = sqrt(tr AB + 2 sqrt(det AB)).
    zero, root_a, root_b = torch.zeros(2).double(), normal(2, 2, seed=1), normal(2, 2, seed=2)
    cov_a, cov_b = root_a @ root_a.t(), root_b @ root_b.t()
    both = cov_a @ cov_b
    cross = math.sqrt(float(both.trace()) + 2 * math.sqrt(float(torch.linalg.det(both))))
    expected = float(cov_a.trace() + cov_b.trace()) - 2 * cross
    found = frechet_distance(with_moments(30, zero, root_a, 3), with_moments(30, zero, root_b, 4))
    assert found == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    for n in (100, 6):  # 6 vectors of 8 numbers: a covariance without full rank
        a = normal(n, 8)
        assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("distance", [0.0, 2.0, -3.0])
def test_sliced_wasserstein_of_a_shift_in_one_dimension(distance: float) -> None:
    a = normal(100, 1)
    assert sliced_wasserstein(a, (a + distance)[torch.randperm(100)]) == pytest.approx(abs(distance), abs=1e-9)


def test_sliced_wasserstein_of_a_shift_is_its_length_over_the_root_of_the_dimension() -> None:
    a, shift = normal(50, 20), 3 * normal(20, seed=1)
    found = sliced_wasserstein(a, a + shift, projections=20_000)
    assert found == pytest.approx(float(shift.norm()) / math.sqrt(20), rel=0.02)


def test_sliced_wasserstein_of_a_scale_is_the_spread() -> None:
    # Along any direction the k-th value moves by its own size: the root mean square of the projections.
    a = with_moments(2000, torch.zeros(4).double(), torch.eye(4).double())
    expected = math.sqrt(1999 / 2000)  # the sample covariance divides by n - 1
    assert sliced_wasserstein(a, 2 * a) == pytest.approx(expected, rel=1e-9)


def test_sliced_wasserstein_depends_on_nothing_but_its_arguments() -> None:
    a, b = normal(64, 6).float(), normal(64, 6, seed=1).float()
    before = torch.get_rng_state()
    first = sliced_wasserstein(a, b, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert sliced_wasserstein(a, b, seed=3) == first != sliced_wasserstein(a, b, seed=4)
    assert sliced_wasserstein(a, b[torch.randperm(64)], seed=3) == pytest.approx(first, rel=1e-5)


# -- the classifier


def test_a_classifier_is_at_chance_where_nothing_differs() -> None:
    accuracies = [classifier_accuracy(normal(1000, 8).float(), normal(1000, 8, seed=s).float(), seed=s) for s in (1, 2)]
    # 1,000 fair guesses have a standard deviation of 0.016.
    assert all(abs(accuracy - 0.5) < 0.065 for accuracy in accuracies)


@pytest.mark.parametrize("difference", ["mean", "size"])
def test_a_classifier_tells_apart_what_differs(difference: str) -> None:
    a, b = normal(1000, 8).float(), normal(1000, 8, seed=1).float()
    b = b + 2 if difference == "mean" else b * 4
    assert classifier_accuracy(a, b) > 0.9


def test_the_classifier_depends_on_nothing_but_its_arguments() -> None:
    a, b = normal(200, 4).float(), normal(200, 4, seed=1).float() + 0.3
    before = torch.get_rng_state()
    with torch.no_grad():  # callers measure without gradients; the classifier still learns
        first = classifier_accuracy(a, b, epochs=2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert classifier_accuracy(a, b, epochs=2) == first


@pytest.mark.parametrize(("n", "dim"), [(7, 5), (12, 40), (30, 700)])
def test_distances_between_rows_are_those_between_the_sets_of_them(n: int, dim: int) -> None:
    random = torch.Generator().manual_seed(n)
    a, b = torch.randn(n, dim, generator=random) + 3, torch.randn(n, dim, generator=random) * 2 + 3.5
    distance = frechet_of_rows(a, b)
    for rows in (torch.arange(n), torch.arange(0, n, 2), torch.randperm(n, generator=random)[:4]):
        assert distance(rows) == pytest.approx(frechet_distance(a[rows].double(), b[rows].double()), rel=1e-6)


@pytest.mark.parametrize("size", [(7, 9), (8, 12), (33, 20)])
def test_a_pyramid_sees_edges_that_squares_do_not(size: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, *size, generator=random)
    assert torch.equal(pyramid_distance(x, x), torch.zeros(3))
    torch.testing.assert_close(pyramid_distance(x + 0.5, x), torch.full((3,), 0.5))  # a shift lies in the last level alone
    torch.testing.assert_close(pyramid_distance(3 * x, 0 * x), 3 * pyramid_distance(x, 0 * x))
    if min(size) >= 8:
        flat, fine = 0.1 * torch.ones(1, 1, *size), 0.1 * (-1.0) ** torch.arange(size[1]).expand(1, 1, *size)
        assert float(pyramid_distance(fine, 0 * fine)) > 0.9 * float(pyramid_distance(flat, 0 * flat))
