"""Feature networks against torchvision's own forward passes, and the distances against their definitions."""

import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import models  # type: ignore[import-untyped, unused-ignore]

from lia_adapter.cli.options import flag
from lia_adapter.errors import LIAError
from lia_adapter.metrics import architectures, networks
from lia_adapter.metrics.architectures import NetworkFile, identify, read_network_file
from lia_adapter.metrics.networks import (
    FeatureNetwork,
    load_network,
    paper_perceptual,
    perceptual_distance,
    vgg16_paper,
)
from lia_adapter.resize import resize
from tests import test_download
from tests.test_download import Site

site = test_download.site

CAFFE = "vgg16_features-amdegroot-88682ab5"
IMAGENET = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def normalised(x: Tensor) -> Tensor:
    mean, std = IMAGENET
    return ((x + 1) / 2 - mean[:, None, None]) / std[:, None, None]


def random_network(name: str, **arguments: Any) -> nn.Module:
    """One of torchvision's with random weights, and with statistics that matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = models.get_model(name, **arguments)
        for key, value in network.state_dict().items():
            if key.endswith("running_mean"):
                value.normal_(0, 0.1)
            elif key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("networks") / "squeezenet1_0.safetensors"
    save_file(random_network("squeezenet1_0").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def vgg16_layers() -> nn.Sequential:
    """VGG16's features, without the classifier, whose 500 MB take seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: nn.Sequential = models.vgg.make_layers(models.vgg.cfgs["D"])
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
    return layers.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory, vgg16_layers: nn.Sequential) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_file({f"features.{name}": t for name, t in vgg16_layers.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def caffe(vgg16: Path) -> FeatureNetwork:
    path = vgg16.with_name(f"{CAFFE}.safetensors")
    path.write_bytes(vgg16.read_bytes())
    return load_network(path)


# -- taps


def test_taps_of_vgg16_are_the_layers_of_lpips(vgg16: Path, vgg16_layers: nn.Sequential) -> None:
    network = load_network(vgg16)
    assert network.name == "VGG16 (torchvision vgg16)"
    x = images(2, 3, 64, 80).double()  # in float32 a convolution's sums depend on how channels lie in memory
    taps = network.double().taps(x)
    for tap, last in zip(taps, (3, 8, 15, 22, 29), strict=True):  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
        torch.testing.assert_close(tap, copy.deepcopy(vgg16_layers).double()[: last + 1](normalised(x)))
        assert tap.min() == 0 and tap.std() > 0


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 5),
        ("mobilenet_v3_small", 5),
        ("shufflenet_v2_x0_5", 5),
        pytest.param("regnet_y_400mf", 5, marks=pytest.mark.slow),
        pytest.param("mnasnet0_5", 5, marks=pytest.mark.slow),
        pytest.param("googlenet", 5, marks=pytest.mark.slow),
        pytest.param("densenet121", 5, marks=pytest.mark.slow),
        ("squeezenet1_1", 4),
        pytest.param("inception_v3", 7, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 5, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", 4, marks=pytest.mark.slow),
        pytest.param("resnet50", 5, marks=pytest.mark.slow),
    ],
)
def test_the_last_tap_is_what_the_classifier_sees(name: str, count: int, tmp_path: Path) -> None:
    arguments = {"init_weights": True, "transform_input": True} if name in ("googlenet", "inception_v3") else {}
    whole = random_network(name, **arguments)
    torch.save(whole.state_dict(), tmp_path / f"{name}.pth")
    network, whole = load_network(tmp_path / f"{name}.pth").double(), whole.double()
    x = images(2, 3, network.least, network.least).double()
    taps = network.taps(x)
    sizes = [tap.shape[2] for tap in taps]
    assert len(taps) == count and sizes == sorted(sizes, reverse=True) and sizes[-1] > 1
    last = taps[-1].relu() if name == "densenet121" else taps[-1]
    mean = last.mean(dim=(2, 3), keepdim=True)
    head = whole.get_submodule("classifier" if hasattr(whole, "classifier") else "fc")
    if name == "squeezenet1_1":
        found = head(last).flatten(1)
    else:
        found = head(mean if name == "convnext_tiny" else mean.flatten(1))
    torch.testing.assert_close(found, whole(normalised(x)))


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (8, 8), (300, 200)])
def test_images_are_resized_until_all_layers_see_something(size: tuple[int, int], squeezenet: Path) -> None:
    network = load_network(squeezenet)
    x = images(1, 3, *size)
    expected = {(32, 32): (64, 64), (64, 48): (85, 64), (8, 8): (64, 64), (300, 200): (256, 171)}[size]
    scaled = F.interpolate(x, size=expected, mode="bilinear", antialias=True)
    for found, tap in zip(network.taps(x), network.taps(scaled), strict=True):
        torch.testing.assert_close(found, tap)


@pytest.mark.parametrize(
    ("size", "least", "expected"),
    [
        ((64, 32), 1, (64, 32)),
        ((512, 512), 1, (256, 256)),
        ((300, 600), 1, (128, 256)),
        ((3, 3000), 1, (1, 256)),
        ((3, 3000), 64, (64, 256)),
        ((100, 50), 64, (128, 64)),
        ((1, 1), 64, (64, 64)),
    ],
)
def test_resize(size: tuple[int, int], least: int, expected: tuple[int, int]) -> None:
    found = resize(torch.full((1, 3, *size), 0.25), least)
    torch.testing.assert_close(found, torch.full((1, 3, *expected), 0.25))


def test_gray_images_count_as_rgb(squeezenet: Path) -> None:
    network = load_network(squeezenet)
    gray = images(1, 1, 64, 64)
    for found, expected in zip(network.taps(gray), network.taps(gray.repeat(1, 3, 1, 1)), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_feature_network_is_frozen(tmp_path: Path) -> None:
    torch.save(random_network("mobilenet_v3_small").state_dict(), tmp_path / "mobilenet_v3_small.pth")
    network = load_network(tmp_path / "mobilenet_v3_small.pth")
    x = images(2, 3, 64, 64)
    before = network.taps(x)[-1]
    nn.Sequential(network).train()
    after = network.taps(x)[-1]  # batch statistics or dropout would change it
    assert torch.equal(before, after)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    torch.testing.assert_close(network.taps(x[:1])[-1], before[:1])


# -- the distances


def test_the_perceptual_distance_is_that_of_lpips(squeezenet: Path) -> None:
    network = load_network(squeezenet).double()
    a, b = images(3, 3, 64, 64).double(), images(3, 3, 64, 64, seed=1).double()
    expected = []
    for n in range(3):
        layers = []
        for f, g in zip(network.taps(a[n : n + 1]), network.taps(b[n : n + 1]), strict=True):
            places = []
            for i in range(f.shape[2]):
                for j in range(f.shape[3]):
                    u, v = f[0, :, i, j], g[0, :, i, j]
                    places.append(float((u / (u.norm() + 1e-20) - v / (v.norm() + 1e-20)).square().sum()))
            layers.append(sum(places) / len(places))
        expected.append(sum(layers) / len(layers))
    assert perceptual_distance(network, a, b).tolist() == pytest.approx(expected, rel=1e-6)
    assert perceptual_distance(network, a, a).tolist() == [0, 0, 0]


def test_gradients_of_the_distance_are_its_slope(squeezenet: Path) -> None:
    network = load_network(squeezenet).double()
    a, b, way = (images(1, 3, 32, 32, seed=seed).double() for seed in range(3))
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(perceptual_distance(network, a, b).sum(), a)
    with torch.no_grad():
        step = 1e-6
        ahead, behind = (perceptual_distance(network, a + sign * step * way, b).sum() for sign in (1, -1))
    assert float((gradient * way).sum()) == pytest.approx(float(ahead - behind) / (2 * step), rel=1e-5)


def test_gradients_are_finite_where_features_are_zero_or_equal(tmp_path: Path) -> None:
    state = {name: torch.zeros_like(t) for name, t in random_network("squeezenet1_1").state_dict().items()}
    save_file(state, tmp_path / "squeezenet1_1.safetensors")
    network = load_network(tmp_path / "squeezenet1_1.safetensors")
    x = images(1, 3, 64, 64).requires_grad_()
    (gradient,) = torch.autograd.grad(perceptual_distance(network, x, x.detach()).sum(), x)
    assert gradient.isfinite().all()


def test_the_distance_works_under_autocast(squeezenet: Path) -> None:
    network = load_network(squeezenet)
    a, b = images(2, 3, 64, 64).requires_grad_(), images(2, 3, 64, 64, seed=1)
    exact = perceptual_distance(network, a, b)
    with torch.autocast("cpu", torch.bfloat16):
        rough = perceptual_distance(network, a, b)
        assert perceptual_distance(network, a.bfloat16(), b).dtype == torch.float32
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.0)
    (gradient,) = torch.autograd.grad(rough.sum(), a)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("size", [(8, 8), (32, 48)])
def test_the_papers_distance_compares_conv4_3_of_images_as_they_are(
    size: tuple[int, int], caffe: FeatureNetwork, vgg16_layers: nn.Sequential
) -> None:
    assert caffe.is_paper and caffe.name == "VGG16 (torchvision vgg16, Caffe weights)"
    a, b = images(2, 3, *size), images(2, 3, *size, seed=1)
    # 0..255 RGB less the mean that the authors published, 123, 117 and 104; after the ReLU.
    mean = torch.tensor([123.0, 117.0, 104.0])[:, None, None]
    features = [vgg16_layers[:23]((x + 1) * 127.5 - mean) for x in (a, b)]
    assert features[0].shape[1:] == (512, size[0] // 8, size[1] // 8) and features[0].min() == 0
    expected = (features[0] - features[1]).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(paper_perceptual(caffe, a, b), expected, rtol=1e-3, atol=0)
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(paper_perceptual(caffe, a, b).sum(), a)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_the_papers_distance_wants_the_papers_network(vgg16: Path, caffe: FeatureNetwork) -> None:
    x = images(1, 3, 32, 32)
    with pytest.raises(LIAError, match=f"this is VGG16.*{CAFFE}"):
        paper_perceptual(load_network(vgg16), x, x)
    with pytest.raises(LIAError, match="4x32 are too small"):
        paper_perceptual(caffe, x[:, :, :4], x[:, :, :4])


# -- files


def test_the_caffe_weights_are_known_by_the_nan_in_their_classifier(vgg16: Path) -> None:
    tensors = load_file(vgg16)
    file = NetworkFile("vgg16.pth", {**tensors, "classifier.0.bias": torch.full([4096], torch.nan)}, "")
    assert identify(file).is_paper
    assert not identify(NetworkFile("vgg16.pth", {**tensors, "classifier.0.bias": torch.zeros(4096)}, "")).is_paper


def test_the_caffe_weights_are_known_by_the_hash(vgg16: Path) -> None:
    tensors = load_file(vgg16)
    assert identify(NetworkFile("vgg16.pth", tensors, f"88682ab5{'0' * 56}")).is_paper
    assert not identify(NetworkFile("vgg16.pth", tensors, "0" * 64)).is_paper


def test_a_network_is_known_by_its_shapes_and_loading_it_draws_no_random_numbers(squeezenet: Path, tmp_path: Path) -> None:
    path = tmp_path / "resnet18.safetensors"  # a name that misleads
    state = {name: t for name, t in load_file(squeezenet).items() if not name.startswith("classifier.")}
    save_file(state, path)
    before = torch.get_rng_state()
    found = load_network(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.name == "SqueezeNet 1.0 (torchvision squeezenet1_0)"
    x = images(1, 3, 64, 64)
    assert torch.equal(found.taps(x)[-1], load_network(squeezenet).taps(x)[-1])


def test_the_old_names_of_densenet_are_understood(tmp_path: Path) -> None:
    state = models.densenet121().state_dict()
    for number in "12":
        for layer in ("norm", "conv"):
            state = {
                name.replace(f".{layer}{number}.", f".{layer}.{number}.") if "denselayer" in name else name: t
                for name, t in state.items()
            }
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "densenet121-a639ec97.pth")
    assert identify(read_network_file(tmp_path / "densenet121-a639ec97.pth")).name == "densenet121"


def test_half_precision_files_are_widened(squeezenet: Path, tmp_path: Path) -> None:
    state = {name: t.half() for name, t in load_file(squeezenet).items()}
    save_file(state, tmp_path / "squeezenet1_0.safetensors")
    x = images(1, 3, 64, 64)
    found, exact = (load_network(folder / "squeezenet1_0.safetensors").taps(x)[-1] for folder in (tmp_path, squeezenet.parent))
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.05)


def test_normalisation_is_that_of_the_published_file() -> None:
    with torch.device("meta"):
        state = models.efficientnet_v2_l().state_dict()
    found = identify(NetworkFile("efficientnet_v2_l-59c71312.pth", state, ""))
    assert (found.mean, found.std, found.title) == ((0.5,) * 3, (0.5,) * 3, "EfficientNet V2 L")


@pytest.mark.parametrize("fault", ["absent", "no safetensors", "a folder", "other shapes", "a transformer", "not finite"])
def test_a_file_that_is_no_feature_network_is_refused(
    fault: str, squeezenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "squeezenet1_0.safetensors"
    state = load_file(squeezenet)
    message = "cannot read the feature network"
    match fault:
        case "no safetensors":
            path.write_bytes(b"not a network")
        case "a folder":
            path.mkdir()
        case "other shapes":
            state["features.3.squeeze.weight"] = torch.zeros(2)
            save_file(state, path)
            # To build all the others takes seconds.
            monkeypatch.setattr(models, "list_models", lambda module: ["vgg11", "squeezenet1_1", "squeezenet1_0", "alexnet"])
            message = (
                r"holds 52 tensors .* The nearest is squeezenet1_0, but its features.3.squeeze.weight is \[2\] and not "
                r"\[16, 96, 1, 1\]"
            )
        case "a transformer":
            path = tmp_path / "swin_t.safetensors"
            save_file(models.swin_t().state_dict(), path)
            message = "holds swin_t, a transformer"
        case "not finite":
            state["features.0.weight"][0] = torch.inf
            save_file(state, path)
            message = "features.0.weight holds values that are no numbers"
    with pytest.raises(LIAError, match=message) as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "holds no state dict"), ({}, "holds no state dict"), ({"a": 3}, "a is an int"), (None, "does not exist")],
)
def test_a_torch_file_that_is_no_state_dict_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    if content is not None:
        torch.save(content, tmp_path / "f.pth")
    with pytest.raises(LIAError, match=message):
        load_network(tmp_path / "f.pth")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_a_torch_file_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"features.0.weight": Bomb()}, tmp_path / "vgg16.pth")
    with pytest.raises(LIAError):
        load_network(tmp_path / "vgg16.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_no_two_networks_of_torchvision_have_the_same_names_and_shapes() -> None:
    names = models.list_models(module=models)
    trunks = {name: architectures._trunk(architectures.without_weights(name).state_dict()) for name in names}
    assert len(trunks) >= 80 and all(trunks.values())
    assert len({str(sorted(trunk.items())) for trunk in trunks.values()}) == len(names)


# -- the paper's file


def test_the_papers_file_is_downloaded_and_checked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "PAPER_URL", site.url)
    monkeypatch.setattr(networks, "PAPER_SHA256", hashlib.sha256(site.content).hexdigest()[:8])
    seen: list[int] = []
    assert vgg16_paper(lambda done, _: seen.append(done)).read_bytes() == site.content
    assert seen[-1] == len(site.content)
    monkeypatch.setattr(networks, "PAPER_SHA256", "0" * 8)
    with pytest.raises(LIAError, match="has the SHA-256 .* give features FILE .* or features=none") as told:
        vgg16_paper()
    assert "give --features FILE" in told.value.told(flag)


def test_without_a_connection_it_is_said_what_to_do(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "PAPER_URL", site.url)
    site.drops = [0] * 5
    with pytest.raises(LIAError, match="no connection.* give features FILE .* or features=none") as caught:
        vgg16_paper()
    assert "\n" not in str(caught.value) and "give --features FILE" in caught.value.told(flag)


def test_the_papers_file_is_torchvisions() -> None:
    published = models.VGG16_Weights.IMAGENET1K_FEATURES.url
    assert published == networks.PAPER_URL
    assert f"-{networks.PAPER_SHA256}.pth" in published


# -- a trained network


def test_a_trained_network_finds_a_shift_smaller_than_another_picture(shared: Path) -> None:
    network = load_network(shared / "data" / "squeezenet1_0_imagenet.safetensors")
    coarse = images(2, 3, 9, 9)
    x = F.interpolate(coarse, size=(66, 66), mode="bicubic").clamp(-1, 1)
    a, shifted, other = x[:1, :, 1:-1, 1:-1], x[:1, :, :-2, :-2], x[1:, :, 1:-1, 1:-1]
    near, far = float(perceptual_distance(network, a, shifted)), float(perceptual_distance(network, a, other))
    assert 0 < near < far / 2
