"""Image features against torchvision's own forward pass, and against averages made by hand."""

import sys
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import squeezenet1_0  # type: ignore[import-untyped, unused-ignore]

from lia_adapter.cli.options import flag
from lia_adapter.errors import LIAError
from lia_adapter.metrics.features import FeatureSet, PixelFeatures, inception_features, load_features
from lia_adapter.resize import resize

INCEPTION = "torch_fidelity.feature_extractor_inceptionv3"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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
    path = tmp_path_factory.mktemp("features") / "squeezenet1_0.safetensors"
    save_file(state, path)
    return path


def test_squeezenet_features_are_those_of_torchvision(feature_file: Path) -> None:
    network = squeezenet1_0().eval()
    network.load_state_dict(load_file(feature_file))
    features = load_features(feature_file)
    # Reports of earlier versions have this name beside their figures.
    assert features.name == (
        "SqueezeNet 1.0 (torchvision squeezenet1_0), layer features.12 averaged over positions, input 64x64"
    )
    x = normal(2, 3, 64, 64).clamp(-1, 1)
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


def test_the_last_map_of_another_network_is_averaged(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    network = resnet18().eval()
    save_file(network.state_dict(), tmp_path / "resnet18.safetensors")
    features = load_features(tmp_path / "resnet18.safetensors")
    assert "ResNet 18 (torchvision resnet18), layer layer4.1" in features.name
    x = normal(2, 3, 64, 64).clamp(-1, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = network(((x + 1) / 2 - mean[:, None, None]) / std[:, None, None])
        torch.testing.assert_close(network.fc(features(x)), expected, rtol=1e-4, atol=1e-5)


def test_without_a_file_the_pixels_are_taken() -> None:
    assert isinstance(load_features(None), PixelFeatures)


def test_large_images_are_reduced_first(feature_file: Path) -> None:
    x = normal(1, 3, 300, 600).clamp(-1, 1)
    for features in (PixelFeatures(), load_features(feature_file)):
        torch.testing.assert_close(features(x), features(resize(x)))


def test_features_of_batches_are_those_of_the_images_in_order() -> None:
    x = normal(7, 3, 16, 16)
    seen = FeatureSet(PixelFeatures(), keep=5)
    for part in x.split(3):
        seen.add(part)
    torch.testing.assert_close(seen.kept, x.flatten(1)[:5])
    whole = seen.whole
    assert seen.count == 7 and isinstance(whole, Tensor)
    torch.testing.assert_close(whole.double(), x.flatten(1).double())
    constant = torch.full((1, 3, 512, 512), 0.25)
    torch.testing.assert_close(PixelFeatures()(constant), torch.full((1, 768), 0.25))


# -- torch-fidelity, which is not installed where the tests run


class Extractor(nn.Module):
    """Has the interface of torch-fidelity's network; its features are means of the bytes."""

    def __init__(self, name: str, features_list: list[str]) -> None:
        super().__init__()
        assert features_list == ["2048"]

    def forward(self, x: Tensor) -> tuple[Tensor]:
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        return (x.float().mean(dim=(2, 3)),)


class Offline(Extractor):
    def __init__(self, name: str, features_list: list[str]) -> None:
        raise URLError("no route to host")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(INCEPTION)
    monkeypatch.setitem(sys.modules, INCEPTION.partition(".")[0], ModuleType(INCEPTION.partition(".")[0]))
    monkeypatch.setitem(sys.modules, INCEPTION, module)
    return module


def test_inception_sees_the_bytes_of_the_picture(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "FeatureExtractorInceptionV3", Extractor, raising=False)
    features = inception_features()
    assert features.name == "Inception V3 (torch-fidelity)"
    levels = torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0]).reshape(6, 1, 1, 1).expand(6, 1, 300, 4)
    assert features(levels)[:, 0].tolist() == [0, 0, 128, 191, 255, 255]
    assert features(levels).shape == (6, 3)


def test_inception_that_cannot_be_had_is_explained(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "FeatureExtractorInceptionV3", Offline, raising=False)
    with pytest.raises(LIAError, match="no route to host.*features FILE") as told:
        inception_features()
    assert "give --features FILE" in told.value.told(flag)
    monkeypatch.setitem(sys.modules, INCEPTION, None)  # as if it were not installed
    with pytest.raises(LIAError, match=r"pip install lia-adapter\[fid\]"):
        inception_features()
