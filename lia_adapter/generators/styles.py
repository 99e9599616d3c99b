"""The style space S (Wu et al. 2021, "StyleSpace Analysis"): s is what all style layers make of their y, one behind another.

An entry of s is one channel of one layer: what scales it, or in StyleGAN1 and in StyleGAN3's input also moves it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from lia_adapter.errors import LIAError
from lia_adapter.generators.base import Generator

__all__ = ["shifted_styles", "style_sizes", "styles_of"]


def style_sizes(generator: Generator) -> dict[str, int]:
    """The style layers in the order of s, and how many entries of it each makes.

    Raises:
        LIAError: The style layers of this generator are not known.
    """
    affines = zip(generator.style_layers(), generator.affines(), strict=True)
    return {layer.name: len(affine.bias) for layer, affine in affines}


def styles_of(generator: Generator, ys: Tensor) -> Tensor:
    """s [N, S] of ys [N, num_ws, y_dim].

    Raises:
        LIAError: The style layers of this generator are not known.
    """
    return torch.cat([one.affine(ys[:, one.layer]) for one in generator.style_layers()], dim=1)


@contextmanager
def shifted_styles(generator: Generator, shift: Tensor | None, n: int | None = None) -> Iterator[None]:
    """In it, a generator draws with other styles: those that its layers make of ys, and this in addition.

    Args:
        generator: Whose style layers are known.
        shift: [1, S], or as many as images are drawn at once [N, S]; None: nothing is added.
        n: How many images that is, where the caller knows.

    Raises:
        LIAError: The style layers of this generator are not known, or make another number of styles.
    """
    if shift is None:
        yield
        return
    sizes = style_sizes(generator)
    if shift.ndim != 2 or shift.shape[1] != sum(sizes.values()):
        raise LIAError(f"styles have shape {list(shift.shape)}; expected [N, {sum(sizes.values())}] for this generator.")
    if n is not None and len(shift) not in (1, n):
        raise LIAError(f"there are {len(shift)} styles to add and {n} codes; expected one for all, or for each.")
    with ExitStack() as stack:
        for layer, part in zip(generator.style_layers(), shift.split(list(sizes.values()), dim=1), strict=True):

            def add(_: nn.Module, __: object, style: Tensor, part: Tensor = part) -> Tensor:
                return style + part.to(style)

            stack.callback(layer.affine.register_forward_hook(add).remove)
        yield
