"""Cores: the step of a mapping that is trained, which bends z into u; see the package's docstring."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.errors import LIAError
from lia_adapter.linalg import solve_rows
from lia_adapter.mapping.steps import Solve

__all__ = ["CORES", "LARGE", "AdditiveCouplings", "AffineCouplings", "DenseCore", "ShuffledCouplings", "SigmoidCouplings"]


LARGE = 64
"""Components of y, the largest, whose joint distribution the picture shows; see benchmarks/RESULTS.md."""


class _Core(nn.Module):
    """A `Step` z ⇄ u that is trained. It keeps its log-determinant but for the part that the weights alone make."""

    weight_scale = 1.0
    """How much larger stored weights are than those that count: by so much larger steps they want to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.solve: Solve = solve_rows

    def run(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z [N, D], c [N, c_dim] -> u and log|det du/dz| but for the weights' part."""
        raise AssertionError("a subclass defines it")

    def undo(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u [N, D], c [N, c_dim] -> z and log|det du/dz| (of the other direction) but for the weights' part."""
        raise AssertionError("a subclass defines it")

    def log_det_weights(self, like: Tensor) -> Tensor:
        """The weights' part of log|det du/dz|, in the dtype of another tensor."""
        raise AssertionError("a subclass defines it")

    def log_det(self, kept: Tensor) -> Tensor:
        """log|det du/dz| [N] from what `run` or `undo` kept."""
        return kept + self.log_det_weights(kept)

    def to_u(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z [N, D], c [N, c_dim] -> u and log|det du/dz|."""
        u, kept = self.run(z, c)
        return u, self.log_det(kept)

    def to_z(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u [N, D], c [N, c_dim] -> z and log|det dz/du|."""
        z, kept = self.undo(u, c)
        return z, -self.log_det(kept)


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

    @property
    def gain(self) -> float:
        """Of a layer that keeps the scale of what passes: leaky ReLU leaves (1 + alpha²) / 2 of a mean square (He 2015)."""
        return math.sqrt(2 / (1 + self.alpha**2))

    def randomise(self) -> None:
        """Draws weights for a mapping that learns along with its generator: orthogonal ones, which squeeze no direction."""
        for weight in self.weights:
            nn.init.orthogonal_(weight, self.gain)
        if self.c_dim:
            nn.init.normal_(self.embed_weight)
            nn.init.normal_(self.label_weight, std=self.dim**-0.5)

    def unevenness(self) -> Tensor:
        """How far weights are from what `randomise` draws: mean square of singular values² / gain² less 1 (Brock 2017), []."""
        one = torch.eye(self.dim).to(self.weights[0])
        return torch.stack([(w.t() @ w / self.gain**2 - one).square().sum() / self.dim for w in self.weights]).mean()

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
            x = self.solve(self.weights[i].to(x), x - self._shift(c, u) if i == 0 else x)
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
        x, log_det = self.solve(self.rotation.to(z).t(), z), z.new_zeros(len(z))
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

    # Adam moves stored weights, which the multiplier makes that much too large.
    weight_scale = 1 / _LIADense.LR_MULTIPLIER

    def last_std(self) -> float:
        """Equalised learning rate: that of all stored weights."""
        return self.weight_scale

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
        self.layers = nn.ModuleList(_dense_layers([self.first + c_dim, width], 2 * (dim - self.first)) for _ in range(depth))

    def last_std(self) -> float:
        """Xavier's."""
        return float(self.width**-0.5)

    def coupling(self, i: int, kept: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shift and log-scale."""
        shift, log_scale = self._network(i, kept, c).chunk(2, dim=1)
        return shift, 0.5 * torch.tanh(log_scale)


def _dense_layers(sizes: Sequence[int], outputs: int) -> nn.Sequential:
    """Dense layers of the given sizes with leaky ReLU, and a last one of zeros."""
    last = nn.Linear(sizes[-1], outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(*hidden, last)


class ShuffledCouplings(AffineCouplings):
    """Affine couplings in two scales that split the entries anew each time: u in the order of principal components.

    The first entries, the large components, make the picture: they get couplings of their own, which see no others, so that
    their density is fitted as it is, and what is easily told of the small ones cannot bend it (the factors of RealNVP's scales,
    Dinh 2017, sec. 3.6). The others are changed in the light of all the large ones and of half of themselves.

    In pairs: one half is changed by the other, then the other by the one. Between pairs the entries of a scale are dealt like
    cards onto two piles, so that each pair splits them by another digit of their number. That is exact and costs nothing.

    Args:
        dim: Entries of z and u.
        depth: Couplings of each scale.
        width: Hidden units of a network, of which those of the large components have two layers.
        c_dim: Entries of the label; 0 for none.
        large: Entries of the first scale; None: 64, or half where there are few.
    """

    def __init__(self, dim: int, depth: int = 6, width: int = 256, c_dim: int = 0, large: int | None = None) -> None:
        super().__init__(dim, 0, width, c_dim)
        self.large = min(LARGE, dim // 2) if large is None else large
        self.scale_depth = depth
        small, all_large = torch.arange(self.large, dim), torch.arange(self.large)
        splits = [(torch.cat([all_large, kept]), changed, False) for kept, changed in _dealt(small, depth)]
        splits += [(kept, changed, True) for kept, changed in _dealt(all_large, depth)]
        splits = [split for split in splits if len(split[0]) and len(split[1])]  # of two or three entries
        self.depth, self._large = len(splits), [large for _, _, large in splits]
        for i, (kept, changed, is_large) in enumerate(splits):
            sizes = [len(kept) + c_dim, width] + [width] * is_large
            self.layers.append(_dense_layers(sizes, 2 * len(changed)))
            self.register_buffer(f"kept_{i}", kept, persistent=False)
            self.register_buffer(f"changed_{i}", changed, persistent=False)

    def parameters_of_large(self) -> list[nn.Parameter]:
        """The parameters of the couplings of large components."""
        layers = (layer for layer, large in zip(self.layers, self._large, strict=True) if large)
        return [parameter for layer in layers for parameter in layer.parameters()]

    def config(self) -> dict[str, Any]:
        """The arguments of this class, as JSON."""
        return {"dim": self.dim, "depth": self.scale_depth, "width": self.width, "c_dim": self.c_dim, "large": self.large}

    def run(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z [N, D], c [N, c_dim] -> u and log|det du/dz| but for the rotation's part."""
        x, log_det = self.solve(self.rotation.to(z).t(), z), z.new_zeros(len(z))
        for i in reversed(range(self.depth)):
            kept, changed = self.get_buffer(f"kept_{i}"), self.get_buffer(f"changed_{i}")
            shift, log_scale = self.coupling(i, x[:, kept], c)
            x = x.index_copy(1, changed, (x[:, changed] - shift) * (-log_scale).exp())
            log_det = log_det - log_scale.sum(dim=1)
        return x, log_det

    def undo(self, u: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u [N, D], c [N, c_dim] -> z and log|det du/dz| (of the other direction) but for the rotation's part."""
        x, log_det = u, u.new_zeros(len(u))
        for i in range(self.depth):
            kept, changed = self.get_buffer(f"kept_{i}"), self.get_buffer(f"changed_{i}")
            shift, log_scale = self.coupling(i, x[:, kept], c)
            x = x.index_copy(1, changed, x[:, changed] * log_scale.exp() + shift)
            log_det = log_det - log_scale.sum(dim=1)
        return x @ self.rotation.to(x), log_det


def _dealt(entries: Tensor, depth: int) -> list[tuple[Tensor, Tensor]]:
    """The kept and the changed entries of each coupling of a scale."""
    splits = []
    for i in range(depth):
        halves = entries.tensor_split(2)
        splits.append((halves[i % 2], halves[1 - i % 2]))
        if i % 2:
            entries = torch.cat([entries[0::2], entries[1::2]])
    return splits


CORES: dict[str, type[DenseCore] | type[AdditiveCouplings] | type[AffineCouplings]] = {
    "flow": ShuffledCouplings,
    "dense": DenseCore,
    "additive": AdditiveCouplings,
    "sigmoid": SigmoidCouplings,
    "affine": AffineCouplings,
}
