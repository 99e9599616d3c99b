"""The other codes of a picture: which of z its pixels tell, and what the prior says of the rest.

A picture moves with some directions of z and hardly with others, of which an encoder, trained on pictures, answers the mean:
there, its z is the prior's mode, and no sample of the prior. Around a code z₀ the picture is nearly linear,
x(z) = x(z₀) + J (z - z₀), so that with the prior N(0, I) and an error of variance s a pixel the posterior is normal (Laplace's
approximation): along an eigenvector of JᵀJ of eigenvalue λ it has the mean z₀ λ / (λ + s) and the variance s / (λ + s).
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.encoder import for_layers, one_code
from lia_adapter.generators import Generator, broadcast, draw_reduced, pictures_at_once
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.images import mse
from lia_adapter.metrics.typicality import usual_size, z_size

__all__ = ["ADDED_ERROR", "Answers", "Posterior"]

ADDED_ERROR = 0.03
"""How much larger than that of the code itself the error of samples may be, as a share of it."""
_PROBES = 128  # directions of a picture's pixels that are traced back to z: gradients
_CORRECTIONS = 8
_STEP = 0.05  # of finite differences, in standard deviations of z
_HALVINGS = 6  # of the added error, where the picture is not linear enough
_BISECTIONS = 60


@dataclass(frozen=True)
class Answers:
    """Codes of one picture.

    Attributes:
        codes: y [n, y_dim], or ys [n, num_ws, y_dim] where the picture's own code is such a one.
        z: [n, y_dim], float64.
        mse: Of each to the picture [n], on [-1, 1].
    """

    codes: Tensor
    z: Tensor
    mse: Tensor


class Posterior:
    """The codes that one picture could have, around one that it has.

    What it takes are 128 gradients of the picture and some hundreds of drawings, of at most 256 pixels a side (`draw_reduced`).

    Args:
        generator: Draws.
        mapping: Whose prior it is.
        code: y [1, y_dim] or ys [1, num_ws, y_dim]: what an encoder or a search answered. What the layers of ys differ by from
            their mean is kept.
        x: The picture [1, C, H, W] in [-1, 1].
        c: Label [1, c_dim] of a conditional generator.
        random: Of the directions that are looked at, on the device of the code.

    Attributes:
        z: Of the code [1, y_dim], float64.
        mse: Of what the code draws to the picture.
        visible: Eigenvalues of JᵀJ a pixel, falling [k], and their eigenvectors [y_dim, k], float64.
        rest: That of each other direction, on average.
        moves: J times the eigenvectors [pixels, k], of the picture as `draw_reduced` draws it.
    """

    moves: Tensor

    @torch.no_grad()
    def __init__(
        self,
        generator: Generator,
        mapping: InvertibleMapping,
        code: Tensor,
        x: Tensor,
        c: Tensor | None,
        random: torch.Generator,
    ) -> None:
        self.generator, self.mapping, self.x, self.c = generator, mapping, x, c
        y = one_code(code)
        self.offset = code - for_layers(y, code)  # [1, y_dim] or [1, num_ws, y_dim]
        self.z = mapping.to_z(y, c)
        self.mse = float(mse(self._draw(self.z), x))
        self.visible, self.rest = self._spectrum(random)

    @torch.no_grad()
    def samples(self, n: int, random: torch.Generator, added: float = ADDED_ERROR) -> Answers:
        """n codes by the posterior whose error of a pixel makes them differ from the picture by a given share more.

        That share, as a mean over the codes, is measured on what is drawn, and what is left to the prior reduced until it is
        kept. Where six halvings are not enough, it is the picture's own code, n times.

        Args:
            n: Codes.
            random: Of the samples, on the device of the code.
            added: The share of the code's own squared error.
        """
        noise = torch.randn(n, self.z.shape[1], generator=random, device=self.z.device, dtype=torch.float64)
        at_first = self._variance(functools.partial(self._adds_at_most, added * self.mse))
        for i in range(_HALVINGS):
            s = self._variance(functools.partial(self._adds_at_most, added * self.mse / 2**i))
            found = self._answers(self._corrected(self._posterior(s, noise), at_first))
            if float(found.mse.mean()) <= (1 + added) * self.mse:
                return found
        return self._answers(self.z.expand(n, -1))  # nothing is left to the prior

    @torch.no_grad()
    def usual(self) -> Answers:
        """The nearest usual code: of those no larger than 95 % of the prior's, the one that moves the picture least.

        That is the mean of a posterior (by Lagrange's method), of the one with the smallest error of a pixel that is enough.
        """
        most = usual_size(self.z.shape[1])
        if float(z_size(self.z)) <= most:
            return self._answers(self.z)
        large = self._variance(lambda s: float(z_size(self._mean(s))) > most)
        return self._answers(self._mean(large * (1 + 1e-9)))

    def _codes(self, z: Tensor) -> Tensor:
        """z [n, y_dim] -> the codes that are drawn, y or ys."""
        y = self.mapping.to_y(z, None if self.c is None else self.c.expand(len(z), -1))
        return self.offset + for_layers(y, self.offset)

    def _draw(self, z: Tensor, *, reduced: bool = False) -> Tensor:
        ys = broadcast(self._codes(z), self.generator.num_ws)
        x: Tensor = draw_reduced(self.generator, ys) if reduced else self.generator.synthesis(ys)
        return x

    def _answers(self, z: Tensor) -> Answers:
        n = pictures_at_once(self.generator)
        errors = in_parts(lambda part: mse(self._draw(part), self.x.expand(len(part), -1, -1, -1)), z, n)
        return Answers(self._codes(z), z.contiguous(), torch.cat(list(errors)))

    def _spectrum(self, random: torch.Generator) -> tuple[tuple[Tensor, Tensor], float]:
        """Eigenvalues and eigenvectors of JᵀJ a pixel on the span of gradients (Halko 2011), and the mean of the rest.

        Gradients of random sums of pixels span what moves these most, and their mean square is the trace of JᵀJ. On the span,
        J is measured by differences of pictures.
        """
        dim = self.z.shape[1]
        with torch.enable_grad():
            leaf = self.z.clone().requires_grad_(True)
            x = self._draw(leaf, reduced=True)
            probes = min(_PROBES, dim)
            gradients = []
            for _ in range(probes):
                probe = torch.randn(x.shape, generator=random, device=x.device, dtype=x.dtype)
                gradients.append(torch.autograd.grad(x, leaf, probe, retain_graph=True)[0])
        pixels = x.numel()
        del x
        seen = torch.cat(gradients)
        span = torch.linalg.qr(seen.t())[0]

        def moved(part: Tensor) -> Tensor:
            """J times some directions [n, dim], [n, pixels]."""
            ahead, back = (self._draw(self.z + way * _STEP * part, reduced=True) for way in (1, -1))
            return (ahead - back).flatten(1) / (2 * _STEP)

        columns = torch.cat(list(in_parts(moved, span.t(), pictures_at_once(self.generator, reduced=True))))
        values, vectors = torch.linalg.eigh((columns @ columns.t()).double() / pixels)
        self.moves = columns.t() @ vectors.flip(1).to(columns)
        trace = float(seen.square().sum(dim=1).mean()) / pixels
        left = dim - probes
        rest = max(0.0, trace - float(values.sum())) / left if left else 0.0
        rest = min(rest, max(0.0, float(values[0])))  # the trace is a mean of few, and the span has what moves most
        return (values.flip(0).clamp(min=0), span @ vectors.flip(1)), rest

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [n, y_dim] along the eigenvectors [n, k], and what is left of it [n, y_dim]."""
        along = z @ self.visible[1]
        return along, z - along @ self.visible[1].t()

    def _corrected(self, z: Tensor, damping: float) -> Tensor:
        """Samples [n, y_dim] whose pictures differ from the code's by what was to be expected of a linear picture.

        What is not seen around the code is seen a standard deviation away, as mappings bend. So the visible coordinates make up
        for the rest: damped Gauss-Newton steps by the Jacobian of the code (Levenberg 1944).
        """
        values, vectors = self.visible
        here = self._draw(self.z, reduced=True).flatten(1)

        def step(z: Tensor, wanted: Tensor) -> Tensor:
            missed = wanted - self._draw(z, reduced=True).flatten(1)
            along = (missed @ self.moves).double() / len(self.moves)
            return z + (along / (values + damping)) @ vectors.t()

        def corrected(z: Tensor) -> Tensor:
            wanted = here + ((z - self.z) @ vectors).to(here) @ self.moves.t()
            for _ in range(_CORRECTIONS):
                z = step(z, wanted)
            return z

        return torch.cat(list(in_parts(corrected, z, pictures_at_once(self.generator, reduced=True))))

    def _posterior(self, s: float, noise: Tensor) -> Tensor:
        """Samples [n, y_dim] from standard normal ones."""
        along, left = self._split(noise)
        values = self.visible[0]
        scaled: Tensor = (along * (s / (values + s)).sqrt()) @ self.visible[1].t() + left * (s / (self.rest + s)) ** 0.5
        return self._mean(s) + scaled

    def _mean(self, s: float) -> Tensor:
        along, left = self._split(self.z)
        values = self.visible[0]
        mean: Tensor = (along * (values / (values + s))) @ self.visible[1].t() + left * (self.rest / (self.rest + s))
        return mean

    def _added(self, s: float) -> float:
        """The squared error a pixel that samples are expected to add."""
        along, left = self._split(self.z)
        values = self.visible[0]
        share, others = s / (values + s), s / (self.rest + s)
        count = self.z.shape[1] - len(values)
        seen = (values * (share + (share * along[0]).square())).sum()
        return float(seen + self.rest * (count * others + others**2 * left.square().sum()))

    def _adds_at_most(self, budget: float, s: float) -> bool:
        return self._added(s) <= budget

    def _variance(self, small: Callable[[float], bool]) -> float:
        """The largest error of a pixel s for which something holds that holds for small ones, by bisection of its logarithm."""
        low, high = -60.0, 20.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if small(math.exp(middle)) else (low, middle)
        return math.exp(low)
