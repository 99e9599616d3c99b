"""The invertible mapping: y = φ⁻¹(z), z = φ(y), exactly, with log-determinants (LIA, sec. 3.1).

    z ⇄ core ⇄ u ⇄ v = (u - centre) @ white.T ⇄ w = v · scale · |v|^(power - 1) ⇄ y = w @ colour.T + offset + c @ class_shift

all [N, y_dim]. What follows the core is measured, not trained: the affine steps carry y's mean and covariance, which LIA's
volume-preserving couplings cannot reach, the radial one the spread of its distance from the mean. The core bends z into
u. There are three to fit:

- `dense`: the checkpoint's own mapping network made invertible. Its dense layers are square and its leaky ReLU is a bijection,
  so all that keeps it from being one is the normalisation of z, which in high dimension changes next to nothing, and the tiny
  singular values of its weights. It starts with those values raised and is then trained, so it keeps the seeds.
- `additive`: LIA's own (NICE) couplings, of determinant 1.
- `affine`: the same with a bounded scale (RealNVP). Both work for any mapping, also one that is a black box.

and a fourth, `sigmoid`, for the files of LIA's code that have it.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.canonical import InvertibleConfig
from lia_adapter.errors import LIAError

__all__ = [
    "COUPLINGS",
    "AdditiveCouplings",
    "AffineCouplings",
    "DenseCore",
    "InvertibleMapping",
    "SigmoidCouplings",
    "covariance_root",
    "procrustes",
    "symmetric_root",
]

COUPLINGS = ("dense", "additive", "affine")
_PART = 8192  # samples of which statistics are taken at once
_LEAST_RADIUS = 1e-30  # keeps the logarithm of the centre itself finite


def _solve(matrix: Tensor, x: Tensor) -> Tensor:
    """The rows of x [N, D] times the inverse of matrix.T: undoes `v @ matrix.t()` to rounding."""
    solution: Tensor = torch.linalg.solve(matrix, x.t())
    return solution.t()


def covariance_root(y: Tensor, *, floor: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Mean [D] and symmetric root of the covariance [D, D] of samples y [N, D], in float64.

    Args:
        y: Samples.
        floor: Least eigenvalue as a fraction of the largest: where z is shorter than y, the covariance may be singular.
    """
    mean = y.mean(dim=0, dtype=torch.float64)
    # In parts, because a float64 copy of all samples would be the largest thing in memory.
    covariance = sum((part.double() - mean).t() @ (part.double() - mean) for part in y.split(_PART)) / (len(y) - 1)
    return mean, symmetric_root(covariance, floor=floor)


def symmetric_root(covariance: Tensor, *, floor: float = 1e-6) -> Tensor:
    """The symmetric R with R @ R = covariance [D, D]; eigenvalues below floor times the largest are raised to that."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=float(values[-1]) * floor).sqrt()) @ vectors.t()
    return root


def procrustes(a: Tensor, b: Tensor) -> Tensor:
    """The orthogonal R [D, D] that brings a @ R closest to b, both [N, D] (Schönemann 1966)."""
    u, _, vt = torch.linalg.svd(a.double().t() @ b.double())
    rotation: Tensor = u @ vt
    return rotation


class _Core(nn.Module):
    """A bijection z <-> u. The part of its log-determinant that the weights alone make takes long: `run` leaves it out."""

    def run(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z [N, D], c [N, c_dim] -> u and log|det du/dz| but for the weights' part."""
        raise AssertionError("a subclass defines it")

    def undo(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u [N, D], c [N, c_dim] -> z and log|det du/dz| (of the other direction) but for the weights' part."""
        raise AssertionError("a subclass defines it")

    def log_det_weights(self, like: Tensor) -> Tensor:
        """The weights' part of log|det du/dz|, in the dtype of another tensor."""
        raise AssertionError("a subclass defines it")

    def to_u(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z [N, D], c [N, c_dim] -> u and log|det du/dz|."""
        u, log_det = self.run(z, c)
        return u, log_det + self.log_det_weights(z)

    def to_z(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u [N, D], c [N, c_dim] -> z and log|det dz/du|."""
        z, log_det = self.undo(u, c)
        return z, -log_det - self.log_det_weights(u)


class DenseCore(_Core):
    """u = layer_L(… layer_1(z)), each layer x -> leaky_relu(x @ W.T + b) with a square W.

    Args:
        dim: Entries of z and u.
        layers: Number of layers L.
        alpha: Slope of the negative side, > 0.
        c_dim: Entries of the label, 0 for none.
        label_features: Width of the embedded label that enters the first layer.
    """

    def __init__(self, dim: int, layers: int, alpha: float = 0.2, c_dim: int = 0, label_features: int = 0) -> None:
        super().__init__()
        self.dim, self.alpha, self.c_dim = dim, alpha, c_dim
        self.weights = nn.ParameterList([nn.Parameter(torch.eye(dim)) for _ in range(layers)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(dim)) for _ in range(layers)])
        if c_dim:
            self.embed_weight = nn.Parameter(torch.zeros(label_features, c_dim))
            self.embed_bias = nn.Parameter(torch.zeros(label_features))
            self.label_weight = nn.Parameter(torch.zeros(dim, label_features))

    def config(self) -> dict[str, Any]:
        """The arguments of this class, as JSON."""
        return {
            "dim": self.dim, "layers": len(self.weights), "alpha": self.alpha, "c_dim": self.c_dim,
            "label_features": self.embed_bias.shape[0] if self.c_dim else 0,
        }  # fmt: skip

    def _shift(self, c: Tensor | None, like: Tensor) -> Tensor | float:
        """What the label adds before the first activation: as in StyleGAN2-ADA, embedded and normalised."""
        if c is None or not self.c_dim:
            return 0.0
        e = F.linear(c.to(like), self.embed_weight.to(like), self.embed_bias.to(like))
        e = e * (e.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        return e @ self.label_weight.to(like).t()

    def _log_slopes(self, x: Tensor) -> Tensor:
        """log|det| of the leaky ReLU at x [N, D] (before or after it: the sign is the same), [N]."""
        return (x < 0).to(x.dtype).sum(dim=1) * math.log(self.alpha)

    def run(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z [N, D], c [N, c_dim] -> u and log|det du/dz| but for the weights' part."""
        x, shift, slopes = z, self._shift(c, z), z.new_zeros(len(z))
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = x @ weight.to(x).t() + bias.to(x) + shift
            slopes = slopes + self._log_slopes(x)
            x, shift = F.leaky_relu(x, self.alpha), 0.0
        return x, slopes

    def undo(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u [N, D], c [N, c_dim] -> z and log|det du/dz| (of the other direction) but for the weights' part."""
        x, slopes = u, u.new_zeros(len(u))
        for i in reversed(range(len(self.weights))):
            slopes = slopes + self._log_slopes(x)
            x = F.leaky_relu(x, 1 / self.alpha) - self.biases[i].to(x)
            x = _solve(self.weights[i].to(x), x - self._shift(c, u) if i == 0 else x)
        return x, slopes

    def log_det_weights(self, like: Tensor) -> Tensor:
        """Of its square matrices."""
        return torch.stack([torch.linalg.slogdet(w.to(like))[1] for w in self.weights]).sum()


class _LIADense(nn.Module):
    """Dense layer as in LIA's code: equalised learning rate, gain sqrt(2), lr multiplier 0.01, leaky ReLU 0.2."""

    LR_MULTIPLIER = 0.01

    def __init__(self, in_features: int, out_features: int, *, zero: bool = False) -> None:
        super().__init__()
        weight = torch.zeros(out_features, in_features) if zero else torch.randn(out_features, in_features)
        self.weight = nn.Parameter(weight / self.LR_MULTIPLIER)
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.gain = math.sqrt(2 / in_features) * self.LR_MULTIPLIER

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(F.linear(x, self.weight * self.gain, self.bias * self.LR_MULTIPLIER), 0.2)


class _Couplings(_Core):
    """A chain of couplings, written in the direction y -> z as in LIA: reverse the features, then change one half by the other.

    Ends with a rotation of z, which no Gaussian notices and which brings z near the original seeds.
    """

    rotation: Tensor
    layers: nn.ModuleList

    def __init__(self, dim: int, depth: int, width: int, c_dim: int) -> None:
        super().__init__()
        if dim < 2:
            raise LIAError(f"couplings need at least 2 entries to split; y has {dim}.")
        self.dim, self.depth, self.width, self.c_dim = dim, depth, width, c_dim
        self.first = dim // 2  # entries that stay; the others are changed
        self.register_buffer("rotation", torch.eye(dim))

    def config(self) -> dict[str, Any]:
        """The arguments of this class, as JSON."""
        return {"dim": self.dim, "depth": self.depth, "width": self.width, "c_dim": self.c_dim}

    def randomise(self) -> None:
        """Draws the last layers, too, which are zeros at first: for a mapping that learns along with its generator."""
        for network in self.layers:
            last = list(network.children())[-1]
            nn.init.normal_(last.get_parameter("weight"), std=self.last_std())

    def last_std(self) -> float:
        """Standard deviation of the weights of a last layer that keeps the scale of what passes."""
        raise AssertionError("a subclass defines it")

    def coupling(self, i: int, kept: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Shift and bounded log-scale (None: no scale) of the changed half, from the kept half [N, D // 2]."""
        raise AssertionError("a subclass defines it")

    def _network(self, i: int, kept: Tensor, c: Tensor | None) -> Tensor:
        """Runs network i in the dtype of its weights, whatever the dtype of the chain."""
        x = torch.cat([kept, c.to(kept)], dim=1) if self.c_dim and c is not None else kept
        dtype = next(self.layers[i].parameters()).dtype
        answer: Tensor = self.layers[i](x.to(dtype))
        return answer.to(kept.dtype)

    def run(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z [N, D], c [N, c_dim] -> u and log|det du/dz| but for the rotation's part."""
        x, log_det = _solve(self.rotation.to(z).t(), z), z.new_zeros(len(z))
        for i in reversed(range(self.depth)):
            kept, changed = x.split([self.first, self.dim - self.first], dim=1)
            shift, log_scale = self.coupling(i, kept, c)
            changed = changed - shift
            if log_scale is not None:
                changed, log_det = changed * (-log_scale).exp(), log_det - log_scale.sum(dim=1)
            x = torch.cat([kept, changed], dim=1).flip(1)
        return x, log_det

    def undo(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u [N, D], c [N, c_dim] -> z and log|det du/dz| (of the other direction) but for the rotation's part."""
        x, log_det = u, u.new_zeros(len(u))
        for i in range(self.depth):
            kept, changed = x.flip(1).split([self.first, self.dim - self.first], dim=1)
            shift, log_scale = self.coupling(i, kept, c)
            if log_scale is not None:
                changed, log_det = changed * log_scale.exp(), log_det - log_scale.sum(dim=1)
            x = torch.cat([kept, changed + shift], dim=1)
        return x @ self.rotation.to(x), log_det

    def log_det_weights(self, like: Tensor) -> Tensor:
        """Of the rotation, which is one up to rounding."""
        log_det: Tensor = torch.linalg.slogdet(self.rotation.to(like))[1]
        return -log_det


class AdditiveCouplings(_Couplings):
    """LIA's coupling layers: z2 += F(z1), F = two dense layers, both with leaky ReLU (LIA, sec. 3.1; NICE, Dinh 2014).

    Args:
        dim: Entries of z and u.
        depth: Number of couplings; LIA has 4.
        width: Hidden units of F; LIA has 512.
        c_dim: Entries of the label, which enters F behind z1; 0 for none.
    """

    outputs = 1  # numbers that F gives for every changed entry

    def __init__(self, dim: int, depth: int = 4, width: int = 512, c_dim: int = 0) -> None:
        super().__init__(dim, depth, width, c_dim)
        changed = self.outputs * (dim - self.first)
        # A last layer of zeros makes the chain start as the identity, so that the fit starts at the whitening.
        self.layers = nn.ModuleList(
            nn.Sequential(_LIADense(self.first + c_dim, width), _LIADense(width, changed, zero=True)) for _ in range(depth)
        )

    def last_std(self) -> float:
        """Equalised learning rate: that of all stored weights."""
        return 1 / _LIADense.LR_MULTIPLIER

    def coupling(self, i: int, kept: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The shift alone."""
        return self._network(i, kept, c), None


class SigmoidCouplings(AdditiveCouplings):
    """LIA's other coupling, which files of its code may have: z2 = (z2 + F(z1)) * sigmoid(F'(z1) + 2) (Glow, Kingma 2018).

    F and F' are the even and the odd outputs of one network. Its scales are below 1 in the direction y -> z; nothing is fitted
    with it here: `AffineCouplings` does that better.
    """

    outputs = 2

    def coupling(self, i: int, kept: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Shift, scaled like what it is added to, and log-scale."""
        h = self._network(i, kept, c)
        log_scale = F.logsigmoid(h[:, 1::2] + 2)
        return h[:, 0::2] * log_scale.exp(), log_scale


class AffineCouplings(_Couplings):
    """z2 = z2 * exp(s(z1)) + t(z1), with |s| < 1/2 (RealNVP, Dinh 2017).

    The bound keeps the likelihood from running away: y lies on a surface of one dimension less, on which a density has none.

    Args:
        dim: Entries of z and u.
        depth: Number of couplings.
        width: Hidden units of the one network that gives s and t.
        c_dim: Entries of the label; 0 for none.
    """

    def __init__(self, dim: int, depth: int = 6, width: int = 256, c_dim: int = 0) -> None:
        super().__init__(dim, depth, width, c_dim)
        self.layers = nn.ModuleList()
        for _ in range(depth):
            last = nn.Linear(width, 2 * (dim - self.first))
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.layers.append(nn.Sequential(nn.Linear(self.first + c_dim, width), nn.LeakyReLU(0.2), last))

    def last_std(self) -> float:
        """Xavier's."""
        return float(self.width**-0.5)

    def coupling(self, i: int, kept: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Shift and log-scale."""
        shift, log_scale = self._network(i, kept, c).chunk(2, dim=1)
        return shift, 0.5 * torch.tanh(log_scale)


_CORES: dict[str, type[DenseCore] | type[AdditiveCouplings] | type[AffineCouplings]] = {
    "dense": DenseCore,
    "additive": AdditiveCouplings,
    "sigmoid": SigmoidCouplings,
    "affine": AffineCouplings,
}


class InvertibleMapping(nn.Module):
    """The bijection between z ~ N(0, I) and y; see the module's docstring.

    Args:
        coupling: dense, additive or affine; sigmoid in files of LIA's own code.
        y_dim: Entries of z and y.
        c_dim: Entries of the label, 0 for none.
        **core: Further arguments of the core's class.

    All is computed in float64 (in float32 on Apple's GPUs, which have no other). y comes in the dtype of the weights, z and
    log-determinants in float64: a mapping that keeps seeds squeezes some directions of z a thousandfold, and a z that was
    rounded to float32 on the way back would no longer give the same y.

    Example:
        >>> m = InvertibleMapping("affine", y_dim=4)
        >>> z = torch.randn(8, 4)
        >>> bool((m.to_z(m.to_y(z)) - z).abs().max() < 1e-5)
        True
    """

    core: DenseCore | AdditiveCouplings | AffineCouplings
    y_mean: Tensor
    centre: Tensor
    white: Tensor
    power: Tensor
    scale: Tensor
    colour: Tensor
    offset: Tensor
    class_shift: Tensor

    def __init__(self, coupling: str, y_dim: int, c_dim: int = 0, **core: Any) -> None:
        super().__init__()
        if coupling not in _CORES:
            raise LIAError(f"coupling is {coupling!r}; expected one of {', '.join(COUPLINGS)}.")
        self.coupling, self.y_dim, self.c_dim = coupling, y_dim, c_dim
        self.core = _CORES[coupling](y_dim, c_dim=c_dim, **core)
        self.register_buffer("y_mean", torch.zeros(y_dim))  # of the original mapping: a centre of truncation
        self.register_buffer("centre", torch.zeros(y_dim))
        self.register_buffer("white", torch.eye(y_dim))
        self.register_buffer("power", torch.ones([]))
        self.register_buffer("scale", torch.ones([]))
        self.register_buffer("colour", torch.eye(y_dim))
        self.register_buffer("offset", torch.zeros(y_dim))
        self.register_buffer("class_shift", torch.zeros(c_dim, y_dim))

    def config(self) -> InvertibleConfig:
        """JSON from which `from_config` builds an equal, untrained mapping."""
        core = {name: value for name, value in self.core.config().items() if name not in ("dim", "c_dim")}
        return cast(InvertibleConfig, {"coupling": self.coupling, "y_dim": self.y_dim, "c_dim": self.c_dim, **core})

    @staticmethod
    def from_config(config: InvertibleConfig) -> "InvertibleMapping":
        """The inverse of `config`."""
        return InvertibleMapping(**config)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """`to_y`: where a generator was trained with this mapping, it is its own."""
        return self.to_y(z, c)

    def to_y(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """φ⁻¹: z [N, y_dim], c [N, c_dim] -> y [N, y_dim]."""
        x, c = self._prepare(z, c, "z")
        return self.from_core(self.core.run(x, c)[0], c)[0].to(self.offset.dtype)

    def to_z(self, y: Tensor, c: Tensor | None = None) -> Tensor:
        """φ: y [N, y_dim], c [N, c_dim] -> z [N, y_dim], float64."""
        x, c = self._prepare(y, c, "y")
        return self.core.undo(self.to_core(x, c)[0], c)[0]

    def to_y_with_log_det(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y [N, y_dim] and log|det dy/dz| [N]."""
        x, c = self._prepare(z, c, "z")
        u, log_det = self.core.to_u(x, c)
        y, radius = self.from_core(u, c)
        return y.to(self.offset.dtype), log_det + self._log_det_measured(radius)

    def to_z_with_log_det(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z [N, y_dim] and log|det dz/dy| [N]."""
        x, c = self._prepare(y, c, "y")
        u, radius = self.to_core(x, c)
        z, log_det = self.core.to_z(u, c)
        return z, log_det - self._log_det_measured(radius)

    def from_core(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The measured steps: u [N, y_dim] -> y [N, y_dim] and |v| [N, 1]."""
        v = (u - self.centre.to(u)) @ self.white.to(u).t()
        radius = v.norm(dim=1, keepdim=True).clamp(min=_LEAST_RADIUS)
        w = v * self.scale.to(v) * radius ** (self.power.to(v) - 1)
        return w @ self.colour.to(w).t() + self._shift(w, c), radius

    def to_core(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The measured steps undone: y [N, y_dim] -> u [N, y_dim] and |v| [N, 1]."""
        w = _solve(self.colour.to(y), y - self._shift(y, c))
        scale, power = self.scale.to(y), self.power.to(y)
        radius = (w.norm(dim=1, keepdim=True) / scale).clamp(min=_LEAST_RADIUS) ** (1 / power)
        v = w / scale * radius ** (1 - power)
        return _solve(self.white.to(v), v) + self.centre.to(v), radius

    def log_prob(self, y: Tensor, c: Tensor | None = None) -> Tensor:
        """Log-density of y [N, y_dim] in nats, [N]: log N(φ(y); 0, I) + log|det dφ/dy| (change of variables)."""
        z, log_det = self.to_z_with_log_det(y, c)
        return log_det - 0.5 * (z.square().sum(dim=1) + self.y_dim * math.log(2 * math.pi))

    def _shift(self, like: Tensor, c: Tensor | None) -> Tensor:
        offset = self.offset.to(like)
        return offset if c is None else offset + c.to(like) @ self.class_shift.to(like)

    def _log_det_measured(self, radius: Tensor) -> Tensor:
        """log|det dy/du| [N] at |v| = radius [N, 1]: all directions are scaled alike but the radial one, by `power` more."""
        power, scale = self.power.to(radius), self.scale.to(radius)
        radial = self.y_dim * (scale.log() + (power - 1) * radius[:, 0].log()) + power.log()
        for matrix in (self.white, self.colour):
            radial = radial + torch.linalg.slogdet(matrix.to(radius))[1]
        return radial

    def _prepare(self, x: Tensor, c: Tensor | None, name: str) -> tuple[Tensor, Tensor | None]:
        """Checks shapes and moves to the dtype to compute in."""
        if x.ndim != 2 or x.shape[1] != self.y_dim:
            raise LIAError(f"{name} has shape {list(x.shape)}; expected [N, {self.y_dim}].")
        if self.c_dim and (c is None or c.shape != (len(x), self.c_dim)):
            found = "no label" if c is None else f"c of shape {list(c.shape)}"
            raise LIAError(f"this mapping is class-conditional: found {found}, expected c [{len(x)}, {self.c_dim}].")
        precise = torch.float32 if x.device.type == "mps" else torch.float64
        return x.to(precise), c if self.c_dim else None
