"""Small pictures of large generators, for who looks at small ones: encoders, feature networks, reports."""

from torch import Tensor

from lia_adapter.generators.base import Generator
from lia_adapter.generators.stylegan2 import StyleGAN2
from lia_adapter.resize import MAX_SIDE, resize

__all__ = ["draw_reduced", "has_lower_layers"]


def has_lower_layers(generator: Generator, max_side: int = MAX_SIDE) -> bool:
    """Whether some layers of a generator alone draw images with sides up to max_side: its whole images are larger.

    A StyleGAN2 adds an image of each resolution to the smaller ones' sum (Karras 2020, fig. 7, "output skips"). Those sums are
    what `draw_reduced` gives. They are not the larger image made smaller, but a paler one without its finer layers: 24 dB from
    it at half the size of a 32² network.
    """
    return isinstance(generator, StyleGAN2) and generator.synthesis.lower(max_side) != generator.synthesis.names


def draw_reduced(generator: Generator, ys: Tensor, max_side: int = MAX_SIDE, noise_mode: str = "const") -> Tensor:
    """Draws images with sides up to max_side: by lower layers where the generator has them, else made smaller when drawn.

    Args:
        generator: Any.
        ys: [N, num_ws, y_dim].
        max_side: Of the images. What is no larger is drawn as by `synthesis`.
        noise_mode: See `Generator.synthesis`.

    Returns:
        [N, C, h, w]. Lower layers give one of the generator's resolutions, others images that max_side limits exactly.
    """
    if isinstance(generator, StyleGAN2) and has_lower_layers(generator, max_side):
        x: Tensor = generator.synthesis(ys, noise_mode=noise_mode, max_side=max_side)
        return x
    return resize(generator.synthesis(ys, noise_mode=noise_mode), most=max_side)
