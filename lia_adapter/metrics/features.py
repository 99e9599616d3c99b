"""Image features for Fréchet distances between sets of images: a network from a local file, or the pixels themselves."""

import importlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.errors import LIAError, argument
from lia_adapter.metrics.distances import Moments
from lia_adapter.metrics.networks import FeatureNetwork, load_network
from lia_adapter.resize import resize

__all__ = ["FeatureSet", "Features", "NetworkFeatures", "PixelFeatures", "inception_features", "load_features"]


class Features(nn.Module):
    """Maps images x [N, C, H, W] in [-1, 1] to vectors [N, D]. `name` says which network, layer and input size."""

    name: str


class PixelFeatures(Features):
    """The image itself, averaged down to 16x16: sees colour and coarse structure, needs no file."""

    name = "pixels at 16x16 (no feature network was given)"

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C * 256]."""
        return F.interpolate(resize(x), size=(16, 16), mode="area").flatten(1)


class NetworkFeatures(Features):
    """The last feature map of a network, averaged over positions; inputs resized to 64x64 (Inception's to 128x128).

    64x64 is the smallest side at which the last layer still sees several positions; it lets 10,000 images pass SqueezeNet
    in well under a minute on two cores. The price is that what is finer in large images does not count.

    Args:
        network: From `load_network`.
    """

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__()
        self.network = network
        side, layer = network.least, network.layers[-1]
        self.name = f"{network.name}, layer {layer} averaged over positions, input {side}x{side}"

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, D]."""
        side = self.network.least
        x = F.interpolate(resize(x), size=(side, side), mode="bilinear", antialias=True)
        return self.network.taps(x.clamp(-1, 1))[-1].mean(dim=(2, 3))


class InceptionFeatures(Features):
    """Inception V3 as FID was defined with it (Heusel 2017), in the port of torch-fidelity, which resizes to 299x299.

    Args:
        network: torch-fidelity's, which maps bytes [N, 3, H, W] to a tuple of features.
    """

    name = "Inception V3 (torch-fidelity)"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 2048]."""
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3]
        levels = ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)  # the bytes that a PNG of it would have
        features: Tensor = self.network(levels)[0]
        return features


def load_features(path: str | Path | None) -> Features:
    """The feature network in a file, or pixels where there is none.

    Args:
        path: What `load_network` takes.

    Raises:
        LIAError: The file is missing, damaged, or holds no such network.
    """
    return PixelFeatures() if path is None else NetworkFeatures(load_network(path))


def inception_features() -> Features:
    """The features of the usual FID. The package torch-fidelity gets the weights from its own site, once.

    Raises:
        LIAError: The package is not installed, or its weights cannot be had.
    """
    instead = f"or give {argument('features')} FILE (a torchvision network on this machine)."
    try:
        # By name: it is an extra and no dependency.
        package = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    except ImportError as error:
        raise LIAError(f"Inception features need torch-fidelity. Run pip install lia-adapter[fid], {instead}") from error
    try:
        network = package.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    except (OSError, RuntimeError) as error:  # no connection, no space; a file that was cut off
        raise LIAError(
            f"torch-fidelity cannot get the weights of Inception V3: {' '.join(str(error).split())[:200]}. "
            f"Check the connection, {instead}"
        ) from error
    return InceptionFeatures(network)


class FeatureSet:
    """Features of images that come one batch after another.

    Up to D vectors are kept as they are, of more the moments, which take the room of D vectors and are slow to work with.

    Args:
        features: From `load_features`.
        keep: How many vectors are kept in any case.

    Attributes:
        count: Vectors so far.
        kept: The first, [≤ keep, D].
    """

    def __init__(self, features: Features, keep: int = 0) -> None:
        self._features, self._keep = features, keep
        self._few: list[Tensor] = []
        self._moments = Moments()
        self.count = 0
        self.kept = torch.zeros(0)

    @property
    def whole(self) -> Tensor | Moments:
        """All vectors [N, D] where they are at most D, else their moments: what `frechet_distance` takes."""
        return torch.cat(self._few) if self._few else self._moments

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Looks at images [n, C, H, W] in [-1, 1]."""
        found = self._features(x).cpu()
        self.count += len(found)
        if self.count > found.shape[1]:
            for vectors in (*self._few, found):
                self._moments.add(vectors)
            self._few = []
        else:
            self._few.append(found)
        if len(self.kept) < self._keep:
            some = found[: self._keep - len(self.kept)]
            self.kept = torch.cat([self.kept, some]) if len(self.kept) else some
