"""Distances, the two-sample classifier and image features against closed forms."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.models import squeezenet1_0  # type: ignore[import-untyped, unused-ignore]

from lia_adapter.errors import LIAError
from lia_adapter.metrics.classifier import classifier_accuracy
from lia_adapter.metrics.distances import frechet_distance, sliced_wasserstein
from lia_adapter.metrics.features import PixelFeatures, SqueezeNetFeatures, image_features, load_features


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


# -- features


@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
def test_pixel_features_are_averages_of_the_image(size: tuple[int, int]) -> None:
    x = normal(2, 3, *size)
    expected = x.reshape(2, 3, 16, size[0] // 16, 16, size[1] // 16).mean(dim=(3, 5)).reshape(2, -1)
    torch.testing.assert_close(PixelFeatures()(x), expected)


@pytest.fixture(scope="module")
def feature_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = squeezenet1_0().state_dict()
    path = tmp_path_factory.mktemp("features") / "squeezenet.safetensors"
    save_file(state, path)
    return path


def test_squeezenet_features_are_those_of_torchvision(feature_file: Path) -> None:
    network = squeezenet1_0().eval()
    network.load_state_dict(load_file(feature_file))
    features = load_features(feature_file)
    assert isinstance(features, SqueezeNetFeatures)
    x = normal(2, 3, 64, 64).float().clamp(-1, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = network.features(((x + 1) / 2 - mean[:, None, None]) / std[:, None, None]).mean(dim=(2, 3))
        found = features(x)
        assert found.shape == (2, 512) and found.std() > 0
        torch.testing.assert_close(found, expected)
        gray = x[:, :1]
        torch.testing.assert_close(features(gray), features(gray.repeat(1, 3, 1, 1)))
        # Other sizes are resized, values beyond the range of images are clamped.
        large = F.interpolate(x, size=(96, 128), mode="nearest") * 5
        assert features(large).shape == (2, 512)
        torch.testing.assert_close(features(5 * x), features((5 * x).clamp(-1, 1)))
    assert not any(parameter.requires_grad for parameter in features.parameters())


def test_the_classifier_of_the_feature_network_may_be_absent(feature_file: Path, tmp_path: Path) -> None:
    state = {name: t for name, t in load_file(feature_file).items() if not name.startswith("classifier.")}
    save_file(state, tmp_path / "f.safetensors")
    x = normal(1, 3, 64, 64).float()
    with torch.no_grad():
        assert torch.equal(load_features(tmp_path / "f.safetensors")(x), load_features(feature_file)(x))


FAULTS = ["absent", "no safetensors", "other names", "names missing", "other shapes", "a folder"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_no_feature_network_is_refused(fault: str, feature_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    state = load_file(feature_file)
    match fault:
        case "no safetensors":
            path.write_bytes(b"not a network")
        case "other names":
            save_file({"a": torch.zeros(2)}, path)
        case "names missing":
            del state["features.3.squeeze.weight"]
            save_file(state, path)
        case "other shapes":
            state["features.3.squeeze.weight"] = torch.zeros(2)
            save_file(state, path)
        case "a folder":
            path.mkdir()
    with pytest.raises(LIAError, match="safetensors") as caught:
        load_features(path)
    assert "\n" not in str(caught.value)


def test_without_a_file_the_pixels_are_taken() -> None:
    assert isinstance(load_features(None), PixelFeatures)


class Sizes(PixelFeatures):
    """Answers the size of what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor(x.shape[2:]).expand(len(x), 2)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 32), [64, 32]), ((512, 512), [256, 256]), ((300, 600), [128, 256]), ((3, 3000), [1, 256])],
)
def test_large_images_are_reduced(size: tuple[int, int], expected: list[int]) -> None:
    assert image_features(Sizes(), [torch.zeros(1, 1, *size)]).tolist() == [expected]


def test_features_of_batches_are_those_of_the_images_in_order() -> None:
    x = normal(7, 3, 16, 16)
    torch.testing.assert_close(image_features(PixelFeatures(), x.split(3)), x.flatten(1))
    constant = torch.full((1, 3, 512, 512), 0.25)
    torch.testing.assert_close(image_features(PixelFeatures(), [constant]), torch.full((1, 768), 0.25))
