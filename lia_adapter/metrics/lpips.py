"""LPIPS with its learned weights (Zhang et al. 2018, eq. 1): those that the package `lpips` ships, read and never executed."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from lia_adapter.errors import LIAError, argument
from lia_adapter.metrics.architectures import read_network_file, without_weights
from lia_adapter.metrics.networks import FeatureNetwork
from lia_adapter.resize import resize

__all__ = ["LearnedDistance", "load_lpips"]

_LAYERS = {  # by torchvision's name: the package's, and the layers whose maps it compares
    "alexnet": ("alex", (1, 4, 7, 9, 11)),
    "vgg16": ("vgg", (3, 8, 15, 22, 29)),
    "squeezenet1_1": ("squeeze", (1, 4, 7, 9, 10, 11, 12)),
}
_TINY = 1e-10  # the package's


class LearnedDistance(nn.Module):
    """LPIPS, version 0.1. Made by `load_lpips`.

    Attributes:
        name: Which it is, for people.
    """

    def __init__(self, network: FeatureNetwork, layers: Sequence[int], weights: Sequence[Tensor]) -> None:
        super().__init__()
        from torchvision.models.feature_extraction import create_feature_extractor

        nodes = {f"features.{layer}": str(layer) for layer in layers}
        self.name = f"LPIPS 0.1 of {network.name}"
        self.network, self.layers = network, tuple(layers)
        # A new one, since the network's own trunk was traced, and knows its blocks no more.
        trunk = create_feature_extractor(without_weights(network.architecture).eval(), nodes, suppress_diff_warning=True)
        trunk.to_empty(device=network.mean.device).load_state_dict(network.trunk.state_dict())
        self.trunk = trunk
        for layer, weight in zip(layers, weights, strict=True):
            self.register_buffer(f"weight{layer}", weight.reshape(1, -1, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances [N], 0 of equal images.

        Args:
            a: Images [N, C, H, W] in [-1, 1]: reduced to 256 pixels a side, as papers on inversion do, and enlarged to the
                network's least; between these the result is the package's.
            b: Images like a.
        """
        maps_a, maps_b = (self.trunk(self.network.prepared(resize(x, self.network.least))) for x in (a, b))
        total = a.new_zeros(len(a))
        for layer in self.layers:
            gap = (_unit(maps_a[str(layer)]) - _unit(maps_b[str(layer)])).square() * self.get_buffer(f"weight{layer}")
            total = total + gap.sum(dim=1).mean(dim=(1, 2))
        return total


def load_lpips(network: FeatureNetwork) -> LearnedDistance:
    """LPIPS on a network from a file, which must hold torchvision's ImageNet weights: the learned ones are for these.

    Raises:
        LIAError: The package is not installed, or has no weights for this network.
    """
    if network.architecture not in _LAYERS or network.is_paper:
        raise LIAError(
            f"LPIPS has no learned weights for {network.name}: it has some for torchvision's AlexNet, VGG16 and SqueezeNet "
            f"1.1. Give {argument('features')} a file of one of these, or leave {argument('lpips')} out."
        )
    spec = find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise LIAError(
            f"LPIPS needs the weights of the package lpips. Run pip install lia-adapter[lpips], or leave {argument('lpips')} "
            f"out: {argument('features')} alone gives a distance without learned weights."
        )
    name, layers = _LAYERS[network.architecture]
    file = Path(spec.submodule_search_locations[0]) / "weights" / "v0.1" / f"{name}.pth"
    tensors = read_network_file(file).tensors
    try:
        weights = [tensors[f"lin{i}.model.1.weight"] for i in range(len(layers))]
    except KeyError as error:
        raise LIAError(f"{file} holds no {error.args[0]}; install the package lpips again.") from error
    return LearnedDistance(network, layers, weights).to(network.mean.device)


def _unit(x: Tensor) -> Tensor:
    answer: Tensor = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + _TINY)
    return answer
