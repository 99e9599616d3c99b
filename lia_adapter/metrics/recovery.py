"""The known-answer test of an encoder: encode G(y) and compare with y.

It tells an encoder's fault from a generator's: if codes of drawn images come back but real images do not, then the generator
cannot draw them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lia_adapter.encoder import one_code
from lia_adapter.generators import Generator, Original, broadcast
from lia_adapter.metrics.mapping import correlation

__all__ = ["known_answer", "pixel_directions", "pixel_spectrum"]

_DIRECTION_IMAGES = 64  # that E[JᵀJ] is taken over
_PIXELS = 32 * 256**2  # of all images drawn at once
_PROBES = 64  # random directions of the image that estimate J^T J
_SHARE = 0.9  # of the trace


def pixel_spectrum(generator: Generator, y: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """How strongly directions of whitened y move pixels: eigenvalues and eigenvectors of E[JᵀJ], J the Jacobian of the image.

    E over y and, within an image, over random directions v of the image (Hutchinson): E[(Jᵀv)(Jᵀv)ᵀ] = JᵀJ.

    Args:
        generator: Draws the images.
        y: Codes to take the expectation over [n, y_dim]; a few dozen are enough.
        root: Root of the covariance of y [y_dim, y_dim]: y = mean + u @ root.

    Returns:
        Values [y_dim], falling, and vectors [y_dim, y_dim], one a column; both float64.
    """
    random = torch.Generator(y.device).manual_seed(0)
    total = y.new_zeros(y.shape[1], y.shape[1])
    for part in y.split(_at_once(generator)):
        with torch.enable_grad():
            leaf = part.detach().clone().requires_grad_(True)
            x = generator.synthesis(broadcast(leaf, generator.num_ws))
            for _ in range(_PROBES):
                probe = torch.randn(x.shape, generator=random, device=x.device, dtype=x.dtype)
                (gradient,) = torch.autograd.grad(x, leaf, probe, retain_graph=True)
                moved = gradient @ root.to(gradient).t()  # du = dy @ inv(root), so d/du = root d/dy
                total += moved.t() @ moved
    values, vectors = torch.linalg.eigh(total.double())
    return values.flip(0).clamp(min=0), vectors.flip(1)


def pixel_directions(generator: Generator, y: Tensor, root: Tensor) -> Tensor:
    """The directions of whitened y that make 90 % of what moves pixels, the strongest first: [y_dim, k], orthonormal.

    Arguments as of `pixel_spectrum`.
    """
    values, vectors = pixel_spectrum(generator, y, root)
    k = int((values.cumsum(0) < _SHARE * values.sum()).sum()) + 1
    return vectors[:, :k]


@torch.no_grad()
def known_answer(
    generator: Generator, encode: Callable[[Tensor], Tensor], root: Tensor, *, samples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Encodes images of the original mapping's codes and compares.

    Args:
        generator: Draws the images.
        encode: x [n, C, H, W] -> y [n, y_dim], or ys, of which the mean over layers is compared.
        root: Root of the covariance of y [y_dim, y_dim].
        samples: Number of images.
        seed: Of the codes.

    Returns:
        correlation: Between true and found whitened y, on the directions that move pixels; all: on all directions;
        directions: how many move pixels; mse: of the redrawn images, on [-1, 1].
    """
    device = root.device
    original = Original(generator)
    _, y, _ = original.pairs(samples, torch.Generator(device).manual_seed(seed))
    directions = pixel_directions(generator, y[:_DIRECTION_IMAGES], root)
    found, errors = [], []
    for part in y.split(_at_once(generator)):
        x = generator.synthesis(broadcast(part, generator.num_ws))
        codes = encode(x)
        again = generator.synthesis(broadcast(codes, generator.num_ws))
        found.append(one_code(codes))
        errors.append((again - x).double().square().mean(dim=(1, 2, 3)))
    into = torch.linalg.inv(root.double())
    a, b = y.double() @ into, torch.cat(found).double() @ into
    return {
        "correlation": correlation(a @ directions, b @ directions),
        "all": correlation(a, b),
        "directions": directions.shape[1],
        "mse": float(torch.cat(errors).mean()),
    }


def _at_once(generator: Generator) -> int:
    """How many images to draw at once: a 1024² generator has no room for many graphs."""
    h, w = generator.resolution
    return max(1, min(32, _PIXELS // (h * w)))
