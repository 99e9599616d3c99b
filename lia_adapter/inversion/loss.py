"""How far a drawn image is from the wanted one: the loss of encoder training and of optimisation alike (LIA, eq. 13)."""

from dataclasses import dataclass

from torch import Tensor

from lia_adapter.metrics.images import mse
from lia_adapter.metrics.networks import FeatureNetwork, paper_perceptual, perceptual_distance

__all__ = ["ReconstructionLoss"]


@dataclass(frozen=True)
class ReconstructionLoss:
    """pixel_weight · mean (x̃ - x)² + weight · perceptual distance.

    The perceptual part is the paper's, mean (VGG16 conv4_3(x̃) - conv4_3(x))², where the network is the paper's; of another
    network it is the distance of normalised features (Zhang 2018), whose scale is another: each has a weight of its own.

    Attributes:
        network: None: pixels alone.
        pixel_weight: Of the squared error on [-1, 1].
        vgg_weight: Of the paper's perceptual distance.
        perceptual_weight: Of any other network's.
    """

    network: FeatureNetwork | None = None
    pixel_weight: float = 1.0
    vgg_weight: float = 5e-5
    perceptual_weight: float = 1.0

    def parts(self, drawn: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Unweighted losses [N] of images [N, C, H, W] in [-1, 1], by name: pixel and, with a network, perceptual."""
        found = {"loss/pixel": mse(drawn, x)}
        if self.network is not None:
            distance = paper_perceptual if self.network.is_paper else perceptual_distance
            found["loss/perceptual"] = distance(self.network, drawn, x)
        return found

    def weighted(self, parts: dict[str, Tensor]) -> Tensor:
        """The loss [N] of what `parts` gave."""
        loss = self.pixel_weight * parts["loss/pixel"]
        if self.network is not None:
            weight = self.vgg_weight if self.network.is_paper else self.perceptual_weight
            loss = loss + weight * parts["loss/perceptual"]
        return loss

    def __call__(self, drawn: Tensor, x: Tensor) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] -> [N]."""
        return self.weighted(self.parts(drawn, x))
