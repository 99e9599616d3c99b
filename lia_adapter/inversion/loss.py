"""The losses of encoder training and of optimisation alike.

How far a drawn image is from the wanted one (LIA, eq. 13), and how far its code from those that the prior has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lia_adapter.errors import LIAError
from lia_adapter.keys import PYRAMID_WEIGHT
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.images import mse, pyramid_distance
from lia_adapter.metrics.networks import FeatureNetwork, directions, paper_between, perceptual_between

__all__ = ["IMAGE_LOSS", "ReconstructionLoss", "check_prior_weight", "prior_loss", "quick_z", "size_loss"]


@dataclass(frozen=True)
class ReconstructionLoss:
    """pixel_weight · mean (x̃ - x)² + weight · perceptual distance.

    The perceptual part is the paper's, mean (VGG16 conv4_3(x̃) - conv4_3(x))², where the network is the paper's; of another
    network it is the distance of normalised features (Zhang 2018), whose scale is another: each has a weight of its own.

    Attributes:
        network: None: pixels, and their pyramid if it has a weight.
        pixel_weight: Of the squared error on [-1, 1].
        vgg_weight: Of the paper's perceptual distance.
        perceptual_weight: Of any other network's.
        pyramid_weight: Of `pyramid_distance`, where there is no network; 0: none.
    """

    network: FeatureNetwork | None = None
    pixel_weight: float = 1.0
    vgg_weight: float = 5e-5
    perceptual_weight: float = 1.0
    pyramid_weight: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Of the `parts`, in their order."""
        more = "loss/perceptual" if self.network is not None else "loss/pyramid" if self.pyramid_weight else None
        return ("loss/pixel", *([] if more is None else [more]))

    def parts(self, drawn: Tensor, x: Tensor, seen: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Unweighted losses [N] by name: pixel, and perceptual (of a network) or pyramid.

        Args:
            drawn: Images [N, C, H, W] in [-1, 1].
            x: The images wanted.
            seen: What the network sees of these, where it is known.
        """
        found = {"loss/pixel": mse(drawn, x)}
        if self.network is not None:
            between = paper_between if self.network.is_paper else perceptual_between
            found["loss/perceptual"] = between(self._look(drawn), self._look(x) if seen is None else seen)
        elif self.pyramid_weight:
            found["loss/pyramid"] = pyramid_distance(drawn, x)
        return found

    def _look(self, x: Tensor) -> list[Tensor]:
        if (network := self.network) is None:
            return []
        return [network.paper_features(x)] if network.is_paper else directions(network, x)

    def towards(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """The loss of drawn images [N, C, H, W] -> [N] for wanted ones that stay: the network looks at these but once."""
        seen = [part.detach() for part in self._look(x)]
        return lambda drawn: self.weighted(self.parts(drawn, x, seen))

    def weighted(self, parts: dict[str, Tensor]) -> Tensor:
        """The loss [N] of what `parts` gave."""
        loss = self.pixel_weight * parts["loss/pixel"]
        if self.network is not None:
            weight = self.vgg_weight if self.network.is_paper else self.perceptual_weight
            loss = loss + weight * parts["loss/perceptual"]
        elif self.pyramid_weight:
            loss = loss + self.pyramid_weight * parts["loss/pyramid"]
        return loss

    def __call__(self, drawn: Tensor, x: Tensor) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] -> [N]."""
        return self.weighted(self.parts(drawn, x))


IMAGE_LOSS = ReconstructionLoss(pyramid_weight=PYRAMID_WEIGHT)
"""What an inversion minimises that has no network: squared errors alone make grey patches of what is hard to draw."""


def size_loss(z: Tensor) -> Tensor:
    """log(1 + |z|² / D) of z [N, D], [N]: near log 2 for usual z; far out it grows so slowly that pixels are still heard."""
    return z.square().mean(dim=1).log1p()


def quick_z(mapping: InvertibleMapping, codes: Tensor, c: Tensor | None = None) -> Tensor:
    """z = φ(y) of codes in their own dtype, for losses: [N, D], of ys [N · num_ws, D], layer after layer of each.

    What float32 rounds of a z spoils a round trip, but no loss, and float64 would take many times longer. Whether the
    mapping's weights get gradients is the caller's matter.

    Args:
        mapping: φ.
        codes: y [N, y_dim] or ys [N, num_ws, y_dim].
        c: Labels [N, c_dim] of a conditional mapping.
    """
    y = codes.reshape(-1, mapping.y_dim)
    c = c.to(y).repeat_interleave(codes.shape[1] if codes.ndim == 3 else 1, dim=0) if mapping.c_dim and c is not None else None
    z, _ = mapping.core.undo(mapping.to_core(y, c), c)
    return z


def prior_loss(mapping: InvertibleMapping, codes: Tensor, c: Tensor | None = None) -> Tensor:
    """`size_loss` of `quick_z`: keeps codes where the prior has some; [N], of ys the mean over layers."""
    return size_loss(quick_z(mapping, codes, c)).reshape(len(codes), -1).mean(dim=1)


def check_prior_weight(weight: float, mapping: InvertibleMapping | None) -> None:
    """Raises a LIAError where `prior_loss` has a weight that is negative, or one but no mapping to be taken by."""
    if not weight >= 0:
        raise LIAError(f"prior_weight is {weight}; expected at least 0.")
    if weight and mapping is None:
        raise LIAError(
            f"prior_weight is {weight:g}, but this checkpoint has no invertible mapping, by which codes would have a z. "
            "Run lia-adapt convert on it first."
        )
