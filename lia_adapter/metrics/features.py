"""Image features for Fréchet distances between sets of images: a network from a local file, or the pixels themselves."""

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lia_adapter.errors import LIAError

__all__ = ["Features", "PixelFeatures", "SqueezeNetFeatures", "image_features", "load_features"]

_MAX_SIDE = 256
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Features(nn.Module):
    """Maps images x [N, C, H, W] in [-1, 1] to vectors [N, D]. `name` says which network, layer and input size."""

    name: str


class PixelFeatures(Features):
    """The image itself, averaged down to 16x16: sees colour and coarse structure, needs no file."""

    name = "pixels at 16x16 (no feature network was given)"

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C * 256]."""
        return F.interpolate(x, size=(16, 16), mode="area").flatten(1)


class SqueezeNetFeatures(Features):
    """SqueezeNet 1.0 up to its last Fire module, averaged over positions; inputs resized to 64x64, ImageNet-normalised.

    64x64 is the smallest side at which the last layer still sees several positions; it lets 10,000 images pass in well under
    a minute on two cores.

    Args:
        state: torchvision's state dict of `squeezenet1_0` (the classifier may be absent).
    """

    name = "SqueezeNet 1.0 (torchvision squeezenet1_0), layer features.12 averaged over positions, input 64x64"
    mean: Tensor
    std: Tensor

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        from torchvision.models import squeezenet1_0  # half a second that only those who ask for features shall pay

        network = squeezenet1_0()
        missing, unexpected = network.load_state_dict(state, strict=False)
        if unexpected or any(not name.startswith("classifier.") for name in missing):
            raise LIAError(
                "the feature file is not torchvision's squeezenet1_0; --features takes its state dict as .safetensors."
            )
        self.features = network.features.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).reshape(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 512]."""
        x = F.interpolate(x, size=(64, 64), mode="bilinear", antialias=True)
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3]
        x = (x.clamp(-1, 1) * 0.5 + 0.5 - self.mean) / self.std
        features: Tensor = self.features(x)
        return features.mean(dim=(2, 3))


def load_features(path: str | Path | None) -> Features:
    """The feature network in a `.safetensors` file, or pixels where there is none.

    Raises:
        LIAError: The file is missing, damaged, or holds another network.
    """
    if path is None:
        return PixelFeatures()
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise LIAError(
            f"cannot read the feature network {Path(path).name}: {error}. --features takes a .safetensors file."
        ) from error
    try:
        return SqueezeNetFeatures(state)
    except RuntimeError as error:  # shapes that do not fit
        raise LIAError(f"{Path(path).name} is not torchvision's squeezenet1_0: {str(error).splitlines()[0]}") from error


@torch.no_grad()
def image_features(features: Features, batches: Iterable[Tensor]) -> Tensor:
    """Features of many images [N, D]; images above 256 pixels are reduced to at most 256² first.

    Args:
        features: From `load_features`.
        batches: Images [n, C, H, W] in [-1, 1].
    """
    found = []
    for x in batches:
        longest = max(x.shape[2:])
        if longest > _MAX_SIDE:
            size = [max(1, round(side * _MAX_SIDE / longest)) for side in x.shape[2:]]
            x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
        found.append(features(x))
    return torch.cat(found)
