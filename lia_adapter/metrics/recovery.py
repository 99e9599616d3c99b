"""The known-answer test of an encoder: encode G(y) and compare with y.

The generator can draw these images, so what comes back otherwise is the encoder's fault. Of real images they say nothing: those
may have codes that the encoder misses, or none; that takes a search (`lia_adapter.training.encoder_search`).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lia_adapter.budget import in_parts, seconds_of
from lia_adapter.encoder import one_code
from lia_adapter.generators import Generator, MappingSampler, broadcast, draw_reduced, graphs_at_once, pictures_at_once
from lia_adapter.metrics.images import mse
from lia_adapter.metrics.intervals import jackknife
from lia_adapter.metrics.mapping import correlation
from lia_adapter.progress import Progress

__all__ = ["KnownAnswers", "pixel_directions", "pixel_spectrum"]

_IMAGES = 64  # that E[JᵀJ] is taken over, where time allows
_PROBES = 64  # random directions of each image that estimate JᵀJ
_LEAST = 4  # of both
_SHARE = 0.9  # of the trace


def pixel_spectrum(
    generator: Generator,
    y: Tensor,
    root: Tensor,
    *,
    seconds: float = math.inf,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """How strongly directions of whitened y move pixels: eigenvalues and eigenvectors of E[JᵀJ], J the Jacobian of the image.

    E over y and, within an image, over random directions v of the image (Hutchinson): E[(Jᵀv)(Jᵀv)ᵀ] = JᵀJ. Images are looked
    at with sides of at most 256 pixels. Where time allows fewer gradients than there are directions, the estimate is shrunk
    towards a multiple of the identity (Ledoit & Wolf 2004): of what was not seen it then says nothing, rather than "moves no
    pixels".

    Args:
        generator: Draws the images.
        y: Codes to take the expectation over [n, y_dim]; a few dozen are enough.
        root: Root of the covariance of y [y_dim, y_dim]: y = mean + u @ root.
        seconds: About how long it may take.
        progress: Is told of the gradients done and to do.

    Returns:
        Values [y_dim], falling, and vectors [y_dim, y_dim], one a column; both float64.
    """
    dim = y.shape[1]

    def gradients(numbers: range, probes: int) -> Tensor:
        """Σ (Jᵀv)(Jᵀv)ᵀ [y_dim, y_dim] over some of the codes."""
        # Of each code its own, so that what is worked on at once changes nothing.
        randoms = [torch.Generator(y.device).manual_seed(number) for number in numbers]
        total = y.new_zeros(dim, dim)
        with torch.enable_grad():
            leaf = y[numbers.start : numbers.stop].detach().clone().requires_grad_(True)
            x = draw_reduced(generator, broadcast(leaf, generator.num_ws))
            for _ in range(probes):
                probe = torch.stack([torch.randn(x.shape[1:], generator=r, device=x.device, dtype=x.dtype) for r in randoms])
                (gradient,) = torch.autograd.grad(x, leaf, probe, retain_graph=True)
                moved = gradient @ root.to(gradient).t()  # du = dy @ inv(root), so d/du = root d/dy
                total += moved.t() @ moved
        return total

    n, drawing = graphs_at_once(generator, reduced=True)
    total, done = y.new_zeros(dim, dim), 0
    with drawing():
        images, probes = _plan(gradients, len(y), n, seconds)
        for numbers, sums in in_parts(lambda numbers: (numbers, gradients(numbers, probes)), range(images), n):
            total += sums
            done += len(numbers)
            if progress:
                progress("directions", done, images)
    total = total.double()
    if images * probes < len(y) * _PROBES:
        weight = dim / (dim + images * probes)
        total = (1 - weight) * total + weight * (total.trace() / dim) * torch.eye(dim).to(total)
    values, vectors = torch.linalg.eigh(total)
    return values.flip(0).clamp(min=0), vectors.flip(1)


def _plan(gradients: Callable[[range, int], Tensor], codes: int, n: int, seconds: float) -> tuple[int, int]:
    """Over how many images and directions of each, as many of the one as of the other where time is short."""
    if seconds == math.inf:
        return codes, _PROBES
    first = range(min(n, codes))
    one, three = (seconds_of(functools.partial(gradients, first, probes)) for probes in (1, 3))
    gradient = max((three - one) / 2, 0.1 * one) / len(first)
    image = max(one / len(first) - gradient, 0.0)
    if codes * (image + _PROBES * gradient) <= seconds:
        return codes, _PROBES
    # Of i images with i gradients each: i * image + i² * gradient.
    images = int((((image**2 + 4 * gradient * seconds) ** 0.5) - image) / (2 * gradient))
    images = max(_LEAST, min(codes, images))
    return images, max(_LEAST, min(_PROBES, int((seconds / images - image) / gradient)))


def pixel_directions(
    generator: Generator, y: Tensor, root: Tensor, *, seconds: float = math.inf, progress: Progress | None = None
) -> Tensor:
    """The directions of whitened y that make 90 % of what moves pixels, the strongest first: [y_dim, k], orthonormal.

    Arguments as of `pixel_spectrum`.
    """
    return _moving(*pixel_spectrum(generator, y, root, seconds=seconds, progress=progress))


def _moving(values: Tensor, vectors: Tensor) -> Tensor:
    """`pixel_directions` of a spectrum."""
    k = int((values.cumsum(0) < _SHARE * values.sum()).sum()) + 1
    return vectors[:, :k]


class KnownAnswers:
    """Codes of the original mapping, whose images an encoder is to find the codes of again.

    Attributes:
        spectrum: See `pixel_spectrum`.
        directions: See `pixel_directions`.

    Args:
        generator: Draws the images.
        root: Root of the covariance of y [y_dim, y_dim].
        seed: Of the codes.
        seconds: About how long finding the directions that move pixels may take.
        progress: Is told what is done.
    """

    def __init__(
        self,
        generator: Generator,
        root: Tensor,
        *,
        seed: int = 0,
        seconds: float = math.inf,
        progress: Progress | None = None,
    ) -> None:
        self.generator, self.root, self.seed = generator, root, seed
        self.spectrum = pixel_spectrum(generator, self._codes(_IMAGES), root, seconds=seconds, progress=progress)
        self.directions = _moving(*self.spectrum)

    def _codes(self, n: int) -> Tensor:
        return MappingSampler(self.generator).pairs(n, torch.Generator(self.root.device).manual_seed(self.seed))[1]

    @torch.no_grad()
    def test(self, encode: Callable[[Tensor], Tensor], samples: int, progress: Progress | None = None) -> dict[str, Any]:
        """Encodes the images and compares.

        Args:
            encode: x [n, C, H, W] -> y [n, y_dim], or ys, of which the mean over layers is compared.
            samples: Number of images.
            progress: Is told of the images.

        Returns:
            correlation: Between true and found whitened y, on the directions that move pixels, and its "interval" (95 %);
            all: on all directions; directions: how many move pixels; mse: of the redrawn images, on [-1, 1]; images.
        """
        generator, y = self.generator, self._codes(samples)
        found, errors = [], []

        def look(part: Tensor) -> tuple[Tensor, Tensor]:
            x = generator.synthesis(broadcast(part, generator.num_ws))
            codes = encode(x)
            again = generator.synthesis(broadcast(codes, generator.num_ws))
            return one_code(codes), mse(again, x)

        def use(x: Tensor) -> Tensor:
            return generator.synthesis(broadcast(encode(x), generator.num_ws)) - x

        for codes, error in in_parts(look, y, pictures_at_once(generator, use)):
            found.append(codes)
            errors.append(error.double())
            if progress:
                progress("known answers", sum(map(len, found)), samples)
        into = torch.linalg.inv(self.root.double())
        a, b = y.double() @ into, torch.cat(found).double() @ into
        on_a, on_b = a @ self.directions, b @ self.directions
        interval = jackknife(lambda some: _atanh(correlation(on_a[some], on_b[some])), samples)
        return {
            "correlation": correlation(on_a, on_b),
            "interval": [-1.0, 1.0] if interval is None else [math.tanh(end) for end in interval],
            "all": correlation(a, b),
            "directions": self.directions.shape[1],
            "mse": float(torch.cat(errors).mean()),
            "images": samples,
        }


def _atanh(r: float) -> float:
    """Fisher's z of a correlation, finite also where it is 1."""
    return math.atanh(max(-1 + 1e-9, min(1 - 1e-9, r)))
