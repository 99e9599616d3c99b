"""Feature networks from a local file, and distances between images that they see (Zhang et al. 2018; LIA, eq. 13)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lia_adapter.download import Progress, fetch
from lia_adapter.errors import DownloadError, LIAError, argument
from lia_adapter.metrics.architectures import Architecture, NetworkFile, identify, read_network_file
from lia_adapter.resize import resize

__all__ = [
    "FeatureNetwork",
    "directions",
    "load_network",
    "paper_between",
    "paper_perceptual",
    "perceptual_between",
    "perceptual_distance",
    "vgg16_paper",
]

PAPER_URL = "https://download.pytorch.org/models/vgg16_features-amdegroot-88682ab5.pth"
"""VGG16 as its authors trained it, converted by M. deGroot; torchvision's `VGG16_Weights.IMAGENET1K_FEATURES`."""
PAPER_SHA256 = "88682ab5"
"""The first digits of its SHA-256, which is all that is published."""

_LEAST = 64
_CONV4_3 = 3  # its place among the taps of VGG16
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


class FeatureNetwork(nn.Module):
    """A frozen classification network that gives its feature maps. Made by `load_network`.

    It works in the dtype of its weights, float32: `network.double()` for float64. It stays in eval mode whatever module it
    is put into. Gradients flow to the images, and there are none for the weights.

    Attributes:
        name: Which network it is, for people.
        architecture: torchvision's name of it, such as "vgg16".
        layers: Names of the layers that are tapped, finest first.
        least: Images are enlarged until their short side has so many pixels. With fewer, the last layers see next to
            nothing: most networks halve the image five times, so that 64 pixels leave 2 (Inception, which pads nothing,
            needs 128 for that), and 32 leave one, which is mostly padding.
        is_paper: Whether it is the Caffe-derived VGG16 that `paper_perceptual` takes.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, architecture: Architecture, trunk: nn.Module, layers: Sequence[str], least: int, conv4_3: nn.Module | None
    ) -> None:
        super().__init__()
        self.name = f"{architecture.title} (torchvision {architecture.name}{', Caffe weights' if conv4_3 else ''})"
        self.architecture = architecture.name
        self.layers = tuple(layers)
        self.least = least
        self.is_paper = conv4_3 is not None
        self.trunk = trunk
        self.conv4_3 = conv4_3
        self.register_buffer("mean", torch.tensor(architecture.mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(architecture.std).reshape(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def taps(self, x: Tensor) -> list[Tensor]:
        """The last feature map of each spatial size, finest first: of VGG16, relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.

        Args:
            x: Images [N, C, H, W] in [-1, 1] (not clamped), gray or RGB, of any size: see `resize` and `least`.

        Returns:
            Maps [N, C_i, H_i, W_i].
        """
        found = self.trunk(self.prepared(resize(x, self.least)))
        return [found[layer] for layer in self.layers]

    def paper_features(self, x: Tensor) -> Tensor:
        """conv4_3 of VGG16, after its ReLU, of images as they are: not enlarged, and reduced only above 256 pixels.

        Args:
            x: Images [N, C, H, W] in [-1, 1] (not clamped), gray or RGB, with sides of 8 pixels or more.

        Returns:
            [N, 512, H / 8, W / 8].

        Raises:
            LIAError: The network is another one, or the images are too small.
        """
        if self.conv4_3 is None:
            raise LIAError(
                f"the paper's perceptual loss is defined for VGG16 with Caffe's weights, and this is {self.name}. Give "
                f"{argument('features')} {PAPER_URL.rpartition('/')[2]} (under that name), or choose the other perceptual loss."
            )
        if min(x.shape[2:]) < 8:
            raise LIAError(
                f"images of {x.shape[2]}x{x.shape[3]} are too small for VGG16's conv4_3, which needs 8x8. Give features=none."
            )
        found: Tensor = self.conv4_3(self.prepared(resize(x)))["conv4_3"]
        return found

    def train(self, mode: bool = True) -> "FeatureNetwork":
        """Stays in eval mode, in which batches do not matter and nothing is dropped."""
        return super().train(False)

    def prepared(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] in [-1, 1], gray or RGB, as the network was trained on them [N, 3, H, W]."""
        x = x.to(self.mean.dtype)
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3]
        # Channels last: three quarters of the time on a processor (SqueezeNet at 64x64, with the gradient).
        return ((x * 0.5 + 0.5 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def load_network(path: str | Path) -> FeatureNetwork:
    """A feature network from the state dict of any of torchvision's convolutional classification networks.

    Which one it is, its names and shapes tell; the classifier is not needed.

    Args:
        path: A .safetensors file, or torch's .pth or .pt, which is decoded and not executed.

    Raises:
        LIAError: The file is missing, damaged, holds no such network, or weights that are no numbers.
    """
    from torchvision.models.feature_extraction import create_feature_extractor

    file = read_network_file(path)
    architecture = identify(file)
    least, nodes = _find_taps(architecture.network)
    trunk = create_feature_extractor(architecture.network, nodes, suppress_diff_warning=True)
    _fill(trunk, file)
    conv4_3 = None
    if architecture.is_paper:  # a network of its own, because images of 8x8 do not reach conv5
        conv4_3 = create_feature_extractor(trunk, {list(nodes)[_CONV4_3]: "conv4_3"}, suppress_diff_warning=True)
    return FeatureNetwork(architecture, trunk, list(nodes.values()), least, conv4_3)


def perceptual_distance(network: FeatureNetwork, a: Tensor, b: Tensor) -> Tensor:
    """LPIPS without learned weights (Zhang et al. 2018, eq. 1 with w = 1), as a mean over layers.

    Each position's features are scaled to length 1; the squared difference is summed over channels, averaged over
    positions, and averaged over the taps of the network.

    Args:
        network: From `load_network`.
        a: Images [N, C, H, W] in [-1, 1].
        b: Images like a.

    Returns:
        Distances [N] in 0..4; 0 for equal images.
    """
    return perceptual_between(directions(network, a), directions(network, b))


def directions(network: FeatureNetwork, x: Tensor) -> list[Tensor]:
    """What `perceptual_distance` compares of images [N, C, H, W]: the taps, at each position of length 1."""
    return [_unit(tap) for tap in network.taps(x)]


def perceptual_between(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """`perceptual_distance` [N] by the `directions` of the images."""
    gaps = [(of_a - of_b).square().sum(dim=1).mean(dim=(1, 2)) for of_a, of_b in zip(a, b, strict=True)]  # [N] each
    return torch.stack(gaps).mean(dim=0)


def paper_perceptual(network: FeatureNetwork, a: Tensor, b: Tensor) -> Tensor:
    """LIA's perceptual loss (eq. 13): the mean squared difference of VGG16's conv4_3, without its weight of 5e-5.

    Args:
        network: The Caffe-derived VGG16; `is_paper` tells.
        a: Images [N, C, H, W] in [-1, 1]. They are not enlarged: the factor is for features of images as they are.
        b: Images like a.

    Returns:
        Distances [N], of features that go into the thousands.

    Raises:
        LIAError: The network is another one, or the images are smaller than 8x8.
    """
    return paper_between([network.paper_features(a)], [network.paper_features(b)])


def paper_between(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """`paper_perceptual` [N] by the `paper_features` of the images."""
    return (_full(a[0]) - _full(b[0])).square().mean(dim=(1, 2, 3))


def vgg16_paper(progress: Progress | None = None) -> Path:
    """Downloads the paper's VGG16 (528 MB) unless it is in the cache, and checks its hash.

    Args:
        progress: Called with the bytes that are there and the bytes in all, if known.

    Returns:
        The file, for `load_network`.

    Raises:
        LIAError: It cannot be had; the message says what to do without it.
    """
    try:
        return fetch(PAPER_URL, sha256=PAPER_SHA256, progress=progress)
    except DownloadError as error:
        raise LIAError(
            f"the paper's perceptual loss needs VGG16: {error} Without a network, give {argument('features')} FILE "
            "(a torchvision network on this machine), or features=none."
        ) from error


def _full(x: Tensor) -> Tensor:
    """Out of the half precision of autocast, in which squares overflow or lose all digits."""
    return x if x.dtype == torch.float64 else x.float()


def _unit(tap: Tensor) -> Tensor:
    """Features [N, C, H, W] of length 1 at each position; where all are zero, zero, and with a finite gradient."""
    tap = _full(tap)
    return tap * (tap.square().sum(dim=1, keepdim=True) + 1e-10).rsqrt()


def _find_taps(network: nn.Module) -> tuple[int, dict[str, str]]:
    """The side that images need, and the layers to tap: torchvision's name of the node -> the name of the layer."""
    try:
        return _LEAST, _taps_at(network, _LEAST)
    except RuntimeError:  # a kernel is larger than what is left of the image
        return 2 * _LEAST, _taps_at(network, 2 * _LEAST)


def _taps_at(network: nn.Module, side: int) -> dict[str, str]:
    """Of each spatial size above 1x1, the last map that the outermost modules give, finest first.

    Outermost, because a block's result is what follows it sees, while inside it maps of many sizes come and go. Poolings
    are left out: what they give is the map before them again.
    """
    best: dict[int, tuple[int, str, str]] = {}  # by size: depth, node, layer

    def note(node: str, layer: str, _module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3] > 1:
            size, depth = output.shape[2], node.count(".")
            if size not in best or depth <= best[size][0]:
                best[size] = (depth, node, layer)

    hooks = []
    for node, module in network.named_modules():
        layer, last = _last_of(node, module)
        if node and not isinstance(last, _POOLS):
            hooks.append(module.register_forward_hook(partial(note, node, layer)))
    try:
        network(torch.empty(1, 3, side, side, device="meta"))  # gives sizes and computes nothing
    finally:
        for hook in hooks:
            hook.remove()
    return {node: layer for _, (_, node, layer) in sorted(best.items(), reverse=True)}


def _last_of(name: str, module: nn.Module) -> tuple[str, nn.Module]:
    """The layer whose output a sequence of layers passes on."""
    while isinstance(module, nn.Sequential) and len(module):
        key, module = list(module.named_children())[-1]
        name = f"{name}.{key}"
    return name, module


def _fill(trunk: nn.Module, file: NetworkFile) -> None:
    """Gives a network on the meta device its weights."""
    trunk.to_empty(device="cpu")
    for name, target in trunk.state_dict().items():
        if target.is_floating_point():
            target.copy_(file.tensors[name])
            if not target.isfinite().all():
                raise LIAError(f"{file.name} is damaged: {name} holds values that are no numbers. Get the file again.")
