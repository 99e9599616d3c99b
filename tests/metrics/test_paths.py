"""Perceptual path length on generators whose paths have a length in closed form."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from lia_adapter.errors import LIAError
from lia_adapter.metrics import paths
from lia_adapter.metrics.paths import slerp

path_length = partial(paths.path_length, batch=16)


def squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).square().sum(dim=1)


def image(y: Tensor) -> Tensor:
    return y[:, None, None, :]


def same(z: Tensor) -> Tensor:
    return z


def test_slerp_turns_evenly_and_keeps_lengths() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 8, generator=draw, dtype=torch.float64)
    for t in (0.0, 0.3, 1.0):
        c = slerp(a, b, torch.full((5, 1), t, dtype=torch.float64))
        whole = torch.arccos(torch.cosine_similarity(a, b))
        torch.testing.assert_close(torch.arccos(torch.cosine_similarity(a, c).clamp(-1, 1)), t * whole, atol=1e-7, rtol=1e-7)
        torch.testing.assert_close(c.norm(dim=1), (1 - t) * a.norm(dim=1) + t * b.norm(dim=1))
    torch.testing.assert_close(slerp(a, a, torch.full((5, 1), 0.5, dtype=torch.float64)), a)


def trimmed_mean(values: Tensor) -> float:
    """Between the 1st and the 99th percentile, both included."""
    n = len(values)
    ordered = values.sort().values
    return float(ordered[math.floor(0.01 * (n - 1)) : math.ceil(0.99 * (n - 1)) + 1].mean())


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_length_of_a_straight_path_is_that_of_its_ends(scale: float) -> None:
    # x = scale · y and y = z: the squared speed along a line is scale² |b - a|² at every t, of mean scale² · 2 D.
    dim, samples = 24, 4000
    found = path_length(same, lambda y: image(scale * y), squared, space="y", dim=dim, samples=samples, dtype=torch.float64)
    assert found == pytest.approx(scale**2 * 2 * dim, rel=0.02)


def test_the_length_of_an_arc() -> None:
    # Directions alone: the squared speed is the squared angle between two random directions, at every t.
    dim, samples = 16, 500
    found = path_length(
        lambda z: z / z.norm(dim=1, keepdim=True), image, squared, space="z", dim=dim, samples=samples, dtype=torch.float64
    )
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(samples, 2, dim, generator=draw, dtype=torch.float64).unbind(1)
    assert found == pytest.approx(trimmed_mean(torch.arccos(torch.cosine_similarity(a, b)) ** 2), rel=1e-5)


def test_in_y_the_mapping_is_applied_to_the_ends_alone() -> None:
    # y = z³: a straight line between cubes; in z the same mapping bends the path.
    arguments = {"dim": 6, "samples": 300, "dtype": torch.float64}
    found = path_length(lambda z: z**3, image, squared, space="y", **arguments)  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(300, 2, 6, generator=draw, dtype=torch.float64).unbind(1)
    assert found == pytest.approx(trimmed_mean((b**3 - a**3).square().sum(dim=1)), rel=1e-6)
    assert path_length(lambda z: z**3, image, squared, space="z", **arguments) != pytest.approx(found, rel=0.01)  # type: ignore[arg-type]


def test_single_precision_is_enough_and_batches_change_nothing() -> None:
    def draw(y: Tensor) -> Tensor:
        return torch.tanh(torch.outer(y.sum(dim=1), torch.arange(1.0, 50.0, device=y.device, dtype=y.dtype))).reshape(
            -1, 1, 7, 7
        )

    for space in ("z", "y"):
        exact = path_length(same, draw, squared, space=space, dim=32, samples=200, dtype=torch.float64)
        single = path_length(same, draw, squared, space=space, dim=32, samples=200, batch=7)
        assert single == pytest.approx(exact, rel=0.01)


def test_the_seed_is_all_that_matters() -> None:
    arguments = {"space": "z", "dim": 8, "samples": 50}
    before = torch.get_rng_state()
    first = path_length(same, image, squared, **arguments)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
    assert first == path_length(same, image, squared, **arguments)  # type: ignore[arg-type]
    assert first != path_length(same, image, squared, seed=1, **arguments)  # type: ignore[arg-type]
    assert torch.backends.cudnn.allow_tf32 is True


def test_a_length_that_is_no_number_is_an_error() -> None:
    with pytest.raises(LIAError, match="not finite"):
        path_length(same, lambda y: image(y / 0), squared, space="y", dim=4, samples=10)
