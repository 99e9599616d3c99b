"""The measures of z against closed forms: Gaussians whose likelihood, sizes and spreads are known, and mappings that cheat."""

import json
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lia_adapter.generators import Generator, MappingSampler
from lia_adapter.linalg import covariance_root
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.classifier import classifier_accuracy
from lia_adapter.metrics.distances import Moments, frechet_distance
from lia_adapter.metrics.features import PixelFeatures
from lia_adapter.metrics.intervals import mean_interval
from lia_adapter.metrics.mapping import compare_mappings
from lia_adapter.metrics.prior import NOISE, PriorRun, measure_prior, prior_summary, thicken
from lia_adapter.tensorfile import finite
from tests import toys

DIM = 4
MATRIX = torch.tensor([[2.0, 0, 0, 0], [1, 0.5, 0, 0], [0, 3, 1, 0], [0, 0, 1, 0.1]])
OFFSET = torch.tensor([5.0, -1, 0, 100])
VARIANCE = 1 + NOISE**2  # of whitened y with its noise


class Known(Generator):
    """A generator whose original mapping is a function of the test's own."""

    def __init__(self, function: Callable[[Tensor, Tensor | None], Tensor], dim: int = DIM, c_dim: int = 0) -> None:
        super().__init__()
        self.z_dim = self.y_dim = dim
        self.c_dim, self.num_ws, self.resolution, self.channels, self.function = c_dim, 1, (8, 8), 1, function

    def mapping(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self.function(z, c)

    def synthesis(self, ys: Tensor, *, noise_mode: str = "const") -> Tensor:
        return torch.tanh(ys[:, 0, :1, None, None].expand(-1, 1, 8, 8))


def affine(matrix: Tensor = MATRIX, c_dim: int = 0) -> InvertibleMapping:
    """y = matrix @ z + OFFSET: a Gaussian."""
    mapping = InvertibleMapping("affine", len(matrix), c_dim)
    mapping.colour.copy_(matrix)
    mapping.offset.copy_(OFFSET[: len(matrix)])
    return mapping.requires_grad_(False)


def measured(
    function: Callable[[Tensor, Tensor | None], Tensor], mapping: InvertibleMapping, count: int = 20_000, samples: int = 500
) -> PriorRun:
    dim = mapping.y_dim
    original = MappingSampler(Known(function, dim, mapping.c_dim))
    mean, root = covariance_root(original.pairs(count, torch.Generator().manual_seed(1))[1])
    random = torch.Generator().manual_seed(2)
    return measure_prior(original, mapping, mean, root, samples=samples, count=count, random=random)


# -- the noise


def test_noise_is_a_thousandth_of_the_variance_in_every_direction() -> None:
    y, root = torch.zeros(50_000, DIM), covariance_root(torch.randn(5000, DIM) @ MATRIX.t())[1]
    white = thicken(y, root, torch.Generator().manual_seed(0)) @ torch.linalg.inv(root)
    assert white.dtype == torch.float64
    assert torch.allclose(torch.cov(white.t()), 0.0315**2 * torch.eye(DIM).double(), atol=3e-5)


# -- Gaussians


def test_the_right_mapping_of_a_gaussian_has_the_figures_of_closed_forms() -> None:
    """z of y with noise is N(0, (1 + NOISE²) I), but for what is not known of the covariance."""
    figures = measured(affine().to_y, affine()).figures
    # |z|² is chi-square with 4 degrees of freedom: 95 % at 9.488, the median at 3.357.
    assert figures["z_size"] == pytest.approx((VARIANCE * 3.357 / 4, 3.357 / 4), rel=0.03)
    assert figures["z_size_95"] == pytest.approx((VARIANCE * 9.488 / 4, 9.488 / 4), rel=0.03)
    assert figures["z_spread"] == pytest.approx((VARIANCE, 1), rel=0.03)
    assert figures["z_spread_largest"] == pytest.approx((VARIANCE, 1), rel=0.05)
    # log N(y_σ; y's mean and covariance) + log|det root|, a dimension: -½ (log 2π + tr E[u uᵀ] / d), and an entropy.
    expected = -0.5 * (math.log(2 * math.pi) + VARIANCE), -0.5 * (math.log(2 * math.pi * VARIANCE) + 1)
    assert figures["log_likelihood"] == pytest.approx(expected, abs=0.01)


def test_likelihood_is_of_whitened_y_so_that_units_play_no_part() -> None:
    one = measured(affine().to_y, affine()).figures["log_likelihood"]
    larger = affine(50 * MATRIX)
    assert measured(larger.to_y, larger).figures["log_likelihood"] == pytest.approx(one, abs=1e-6)


def test_no_mapping_of_a_gaussian_is_likelier_than_that_gaussian() -> None:
    for scale in (0.8, 0.95, 1.0, 1.05, 1.3):
        value, gaussian = measured(affine().to_y, affine(scale * MATRIX)).figures["log_likelihood"]
        # Gibbs: the difference is what the scale costs, log s + (1 + σ²) / 2s² against that of s² = 1 + σ².
        cost = math.log(scale) + VARIANCE / (2 * scale**2) - 0.5 - 0.5 * math.log(VARIANCE)
        assert value - gaussian == pytest.approx(-cost, abs=0.01)
        assert value <= gaussian + 1e-4


@settings(max_examples=10, deadline=None)
@given(st.floats(0.2, 5))
def test_a_scaled_mapping_has_sizes_and_spreads_by_the_square(scale: float) -> None:
    one, other = (measured(affine().to_y, affine(s * MATRIX), 1000, 50).figures for s in (1.0, scale))
    for name in ("z_size", "z_size_95", "z_spread", "z_spread_largest"):
        assert other[name][0] == pytest.approx(one[name][0] / scale**2, rel=1e-4)
        assert other[name][1] == one[name][1]


def test_rotations_of_z_change_nothing_but_what_is_drawn_at_random() -> None:
    turned = affine()
    turned.core.rotation.copy_(torch.linalg.qr(torch.randn(DIM, DIM)).Q)  # type: ignore[operator]
    one, other = (measured(affine().to_y, mapping, 2000).figures for mapping in (affine(), turned))
    for name in ("z_size", "z_size_95", "z_spread", "z_spread_largest", "log_likelihood"):
        assert other[name] == pytest.approx(one[name], rel=1e-4)


def test_the_floor_of_the_largest_eigenvalue_is_marchenko_and_pasturs() -> None:
    mapping = InvertibleMapping("affine", 64).requires_grad_(False)
    for count in (500, 4000):
        run = measured(mapping.to_y, mapping, count, 50)
        assert run.figures["z_spread_largest"][1] == pytest.approx((1 + math.sqrt(64 / count)) ** 2, rel=0.05)
        assert len(run.sizes) == count


# -- mappings that cheat


def test_codes_on_a_surface_do_not_hide_a_mapping_that_is_right_on_it_alone() -> None:
    """The last entry of y hardly varies, and the mapping thinks that it does not: exact codes look right, others do not."""
    thin = torch.diag(torch.tensor([1.0, 1, 1, 1e-2]))
    original = affine(thin)

    def on_a_surface(z: Tensor, c: Tensor | None) -> Tensor:
        return original.to_y(torch.cat([z[:, :3], z[:, :1] * z[:, 1:2]], dim=1))  # the last one follows from the others

    squeezed = InvertibleMapping("affine", DIM).requires_grad_(False)
    squeezed.offset.copy_(OFFSET)
    squeezed.colour.copy_(torch.diag(torch.tensor([1.0, 1, 1, 1e-4])))
    figures = measured(on_a_surface, squeezed).figures
    assert figures["z_size"][0] > 100
    assert figures["log_likelihood"][0] < figures["log_likelihood"][1] - 100
    assert figures["z_classifier"][0] > 0.85 and abs(figures["z_classifier"][1] - 0.5) < 0.1


@pytest.mark.parametrize("tiny", [1e-12, 1e-30])
def test_what_is_too_large_is_told_and_never_raised(tiny: float) -> None:
    wild = affine(MATRIX @ torch.diag(torch.tensor([tiny] * DIM)))
    run = measured(affine().to_y, wild, 4000, 4000)
    assert run.figures["z_size"][0] > 1e20 and run.figures["z_classifier"][0] > 0.9
    json.dumps(finite(prior_summary([run, run], 0)), allow_nan=False)


def test_a_z_that_is_not_finite_has_no_figures_but_infinite_ones() -> None:
    broken = affine()
    broken.scale.fill_(0)  # divides by nothing
    run = measured(affine().to_y, broken, 4000, 4000)
    assert all(run.figures[name][0] == math.inf for name in ("z_size", "z_size_95", "z_spread", "z_spread_largest"))
    assert run.figures["z_sliced_wasserstein"][0] == math.inf and run.figures["log_likelihood"][0] == -math.inf
    assert run.figures["z_classifier"][0] > 0.9
    found = prior_summary([run, run], 0)
    assert "interval" not in found["z_size"] and found["z_size"]["ratio"] == math.inf
    assert json.loads(json.dumps(finite(found), allow_nan=False))["z_size"]["value"] is None


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan, 1e30])
def test_codes_that_are_not_finite_are_told_apart(odd: float) -> None:
    a, b = torch.randn(2000, 3), torch.randn(2000, 3)
    assert classifier_accuracy(torch.full_like(a, odd), b) > 0.95
    b[0, 0] = odd
    if not math.isfinite(odd):
        for many in (2000, 2):  # of fewer vectors than entries, too
            assert frechet_distance(a[:many], b[:many]) == math.inf
            assert frechet_distance(b[:many], a[:many]) == math.inf


# -- labels


def test_each_class_is_told_from_the_same_codes() -> None:
    """The mapping knows the classes' means but not that the second one spreads three times as far."""
    shift = torch.tensor([[0.0] * DIM, [50.0] * DIM, [-50.0] * DIM])
    mapping = affine(torch.eye(DIM), c_dim=3)
    mapping.class_shift.copy_(shift)

    def conditional(z: Tensor, c: Tensor | None) -> Tensor:
        assert c is not None
        return z * (1 + 2 * c[:, 1:2]) + OFFSET + c @ shift

    run = measured(conditional, mapping, 6000)
    assert run.classes is not None and run.classes.unique().tolist() == [0, 1, 2]
    # The noise is that of all classes together: 0.0315 times a spread of about 41 along the line of the means.
    of_each = prior_summary([run], 3)["z_size"]["of each class"]
    assert of_each[1] / of_each[0] > 3
    assert of_each[0] == pytest.approx(of_each[2], rel=0.1)
    pooled = sum((run.classes == k).double().mean() * float(run.sizes[run.classes == k].mean()) for k in range(3))
    assert float(pooled) == pytest.approx(float(run.sizes.mean()))


@pytest.mark.parametrize(("c_dim", "told"), [(0, False), (1, True), (16, True), (17, False)])
def test_few_classes_are_told_one_by_one(c_dim: int, told: bool) -> None:
    classes = torch.zeros(5).long() if c_dim else None
    found = prior_summary([PriorRun({"z_size": (1.0, 1.0)}, torch.ones(5), classes)], c_dim)
    assert ("of each class" in found["z_size"]) == told
    if told:
        assert found["z_size"]["of each class"] == [1.0] + [None] * (c_dim - 1)  # of which there was no code


# -- over seeds


def test_the_interval_of_a_mean_is_students() -> None:
    """Of 1, 2, 3: 2 ± 4.303 · 1 / √3."""
    low, high = mean_interval([1.0, 2.0, 3.0]) or (0, 0)
    assert (low, high) == pytest.approx((2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)), abs=2e-3)
    assert mean_interval([5.0]) is None and mean_interval([]) is None
    assert mean_interval([1.0, math.inf]) is None and mean_interval([math.nan, 1.0]) is None
    assert mean_interval([7.0] * 30) == (7, 7)


def test_the_interval_of_a_mean_holds_it_as_often_as_it_says() -> None:
    values = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)).double()
    held = [interval[0] <= 0 <= interval[1] for row in values if (interval := mean_interval(row.tolist()))]
    assert sum(held) / len(held) == pytest.approx(0.95, abs=0.02)


def test_every_seed_is_kept_and_compared_with_its_own_floor() -> None:
    figures: list[dict[str, tuple[float, float]]] = [
        {"z_size": (2.0, 1.0), "z_classifier": (0.6, 0.5), "log_likelihood": (-1.0, -1.5)},
        {"z_size": (6.0, 2.0), "z_classifier": (0.7, 0.4), "log_likelihood": (-2.0, -1.5)},
    ]
    found = prior_summary([PriorRun(run, torch.ones(1), None) for run in figures], 0)
    assert found["z_size"] == {
        "value": 4.0, "of each seed": [2.0, 6.0], "floor": 1.5, "floor of each seed": [1.0, 2.0], "ratio": 2.5,
        "interval": pytest.approx([2.5 - 12.71 * 0.5, 2.5 + 12.71 * 0.5]),
    }  # fmt: skip
    assert found["z_classifier"]["excess"] == pytest.approx(0.2) and "ratio" not in found["z_classifier"]
    likelihood = found["log_likelihood"]
    assert likelihood["excess"] == 0 and likelihood["gaussian of each seed"] == [-1.5, -1.5] and "floor" not in likelihood


# -- all together


def test_all_is_measured_where_mappings_are_compared() -> None:
    mapping = affine()
    told: list[tuple[str, int, int | None]] = []
    found = compare_mappings(
        Known(mapping.to_y), mapping, PixelFeatures(), samples=300, seeds=2, statistics_samples=5000, image_seconds=0,
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert found["z_samples"] == 5000 and found["noise"]["sigma"] == NOISE and found["noise"]["images"] == 16
    assert found["typical_z"]["value"] == pytest.approx(math.sqrt(3.357 / 4), rel=0.05)
    assert found["z_size"]["ratio"] == pytest.approx(1, abs=0.1) and len(found["z_size"]["of each seed"]) == 2
    assert found["z_size"]["of each seed"][0] != found["z_size"]["of each seed"][1]
    assert [step for step in told if step[0] == "measure, z"][-1] == ("measure, z", 10_000, 10_000)
    json.dumps(finite(found), allow_nan=False)


def test_noise_in_pictures_is_that_of_a_known_synthesis() -> None:
    """Pictures are tanh of one entry, which is N(0, 1e-2): nearly linear, so that the error is the noise, NOISE · 0.1."""
    mapping = affine(torch.eye(DIM) * 0.1)
    mapping.offset.zero_()
    noise = compare_mappings(
        Known(mapping.to_y), mapping, PixelFeatures(), samples=100, seeds=1, statistics_samples=5000, image_seconds=0
    )["noise"]
    # The mean of 10 log10(4 / e²) of normal e: the mean of log e² lies 1.27 below the logarithm of the variance.
    expected = 10 * math.log10(4 / (NOISE * 0.1) ** 2) + 10 * 1.27 / math.log(10)
    assert noise["psnr"] == pytest.approx(expected, abs=6)


def test_a_mapping_that_squeezes_loses_digits_in_float32_alone() -> None:
    squeezed = affine(torch.diag(torch.tensor([1.0, 1, 1, 1e-5])))
    squeezed.offset.fill_(1)
    found = compare_mappings(
        Known(squeezed.to_y), squeezed, PixelFeatures(), samples=100, seeds=1, statistics_samples=500, image_seconds=0
    )
    assert found["round_trip"]["value"] < 1e-3
    # y near 1 in float32 is known to 6e-8: of a deviation of 1e-5 that is 6e-3.
    assert 1e-3 < found["round_trip_z_float32"]["value"] < 2e-2
    plain = affine(torch.eye(DIM))
    plain.offset.zero_()
    found = compare_mappings(
        Known(plain.to_y), plain, PixelFeatures(), samples=100, seeds=1, statistics_samples=500, image_seconds=0
    )
    assert found["round_trip_float32"]["value"] < 1e-6 and found["round_trip_z_float32"]["value"] < 1e-6


def test_moments_of_infinite_vectors_are_no_numbers() -> None:
    moments = Moments()
    moments.add(torch.tensor([[1.0, math.inf], [2.0, 3.0]]))
    assert not moments.covariance.isfinite().all()


def test_an_original_of_real_layers_and_labels(reference_ops: None) -> None:
    lia = toys.stylegan(c_dim=3)
    mapping = InvertibleMapping("affine", 16, 3).requires_grad_(False)
    found = compare_mappings(
        lia.generator, mapping, PixelFeatures(), samples=100, seeds=1, statistics_samples=500, image_seconds=0
    )
    assert len(found["z_size"]["of each class"]) == 3 and "interval" not in found["z_size"]
