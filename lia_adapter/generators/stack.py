"""Whether a generator's mapping is a stack of square linear layers with leaky ReLUs between them, and which.

A mapping of our own is read off its weights. One that is somebody else's is run: its operations are recorded, cut at the leaky
ReLUs, and each piece is fed with codes that tell its matrix. So names and classes do not matter.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lia_adapter.generators.base import Generator
from lia_adapter.generators.guest import same_random_state
from lia_adapter.generators.pictures import device_of
from lia_adapter.generators.stylegan2 import MappingNetwork
from lia_adapter.generators.wrap import WrappedGenerator
from lia_adapter.ops import ACTIVATIONS, using

__all__ = ["DenseStack", "dense_stack"]

_EXACT = 1e-4  # relative error, above which a piece is not affine


@dataclass(frozen=True)
class DenseStack:
    """y = last(h), h = layer_L(… layer_1(z)), each layer x -> leaky_relu(x @ weight.T + bias).

    Attributes:
        weights: A matrix [D, D] a layer, float64.
        biases: [D] a layer, float64.
        alpha: Slope of the negative side.
        matrix: Of `last`, [D, D]: y = h @ matrix.T + offset.
        offset: Of `last`, [D].
        label: embed_weight, embed_bias and label_weight of `DenseCore`, for a label that enters the first layer; or empty.
    """

    weights: list[Tensor]
    biases: list[Tensor]
    alpha: float
    matrix: Tensor
    offset: Tensor
    label: dict[str, Tensor]

    def to(self, device: torch.device) -> "DenseStack":
        """The same on a device."""
        weights, biases = ([t.to(device) for t in part] for part in (self.weights, self.biases))
        label = {key: tensor.to(device) for key, tensor in self.label.items()}
        return DenseStack(weights, biases, self.alpha, self.matrix.to(device), self.offset.to(device), label)


@torch.no_grad()
def dense_stack(generator: Generator) -> DenseStack | None:
    """The stack that a generator's mapping is; None where it is something else."""
    network: Any = generator.mapping
    if isinstance(generator, WrappedGenerator):
        return _by_running(generator) if generator.z_dim == generator.y_dim and not generator.c_dim else None
    fits = (
        type(network) is MappingNetwork  # not StyleGAN-XL's
        and network.act == "lrelu"
        and not (network.concat and network.c_dim)  # there one norm runs over z and label
        and {generator.z_dim, *(layer.weight.shape[0] for layer in network.layers)} == {generator.y_dim}
    )
    return _by_weights(network, generator.y_dim, generator.c_dim) if fits else None


def _by_weights(network: MappingNetwork, dim: int, c_dim: int) -> DenseStack:
    weights, biases, label = [], [], {}
    for i, layer in enumerate(network.layers):
        # The activation's gain goes into the weights: a leaky ReLU lets positive factors pass.
        weight, bias = (t.double() * ACTIVATIONS["lrelu"].gain for t in layer.effective())
        if i == 0 and network.fixed_label is not None:  # one class alone: what its label adds is a constant
            bias = bias + weight[:, dim:] @ network.label_code(None, 1)[0].double()
        if i == 0 and c_dim and weight.shape[1] > dim:
            embed_weight, embed_bias = network.embed.effective()
            label = {"label_weight": weight[:, dim:], "embed_weight": embed_weight, "embed_bias": embed_bias}
        weights.append(weight[:, :dim])
        biases.append(bias)
    eye = torch.eye(dim, dtype=torch.float64, device=weights[0].device)
    return DenseStack(weights, biases, ACTIVATIONS["lrelu"].alpha, eye, torch.zeros_like(eye[0]), label)


def _by_running(generator: WrappedGenerator) -> DenseStack | None:
    """Records the mapping, on the CPU, where programs use no ops of their own; None where that fails or it is another kind."""
    z = torch.randn(4 * generator.z_dim + 8, generator.z_dim, generator=torch.Generator().manual_seed(0))
    # All on a sphere: mappings normalise z, and on it that changes nothing but the scale.
    z = z * (generator.z_dim**0.5 / z.norm(dim=1, keepdim=True))
    device = device_of(generator)
    try:
        with same_random_state(device), using("reference"):  # ours, too, where the user patched them in
            stack = _Pieces(generator.mapping_on_cpu(), z.to(generator.precision)).stack()
    except Exception:  # the user's code may do anything; what can't be recorded is no stack that we know
        return None
    return stack and stack.to(device)


class _Pieces:
    """A recorded function z -> y, cut at its leaky ReLUs."""

    def __init__(self, function: Callable[[Tensor], Tensor], z: Tensor) -> None:
        self.z = z
        from torch.fx.experimental.proxy_tensor import make_fx  # half a second, which nobody else should wait for

        self.module = make_fx(lambda z: function(z))(z)  # make_fx wants no other arguments
        nodes = list(self.module.graph.nodes)
        self.start = next(node for node in nodes if node.op == "placeholder")
        aten = torch.ops.aten
        bends = (aten.leaky_relu.default, aten.leaky_relu_.default)
        self.bends = [node for node in nodes if node.target in bends]
        self.slopes = {float(node.args[1]) if len(node.args) > 1 else 0.01 for node in self.bends}
        self.end = next(node for node in nodes if node.op == "output").args[0]

    def run(self, start: Any, end: Any, x: Tensor) -> Tensor:
        """The value of a node where another one has the value x; fails where it needs more than that."""
        values: dict[Any, Tensor] = {start: x}

        def value(node: Any) -> Any:
            if node in values:
                return values[node]
            if node.op == "placeholder":
                raise ValueError("this piece needs z besides its input")
            if node.op == "get_attr":
                found: Any = self.module
                for name in node.target.split("."):
                    found = getattr(found, name)
                return found
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), value)
            values[node] = node.target(*args, **kwargs)
            return values[node]

        found: Tensor = value(end)
        return found

    def affine(self, start: Any, end: Any, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Weight and bias, float64, of the piece between two nodes, which is fitted on half of x and tried on the other."""
        y = self.run(start, end, x.clone()).double()
        if y.shape != x.shape:
            return None
        ones = torch.ones(len(x), 1, dtype=torch.float64, device=x.device)
        given, half = torch.cat([x.double(), ones], dim=1), len(x) // 2
        solution = torch.linalg.lstsq(given[:half], y[:half]).solution
        error = (given[half:] @ solution - y[half:]).abs().max()
        return (solution[:-1].t(), solution[-1]) if float(error) <= _EXACT * float(y.abs().max()) else None

    def stack(self) -> DenseStack | None:
        """The stack, where every piece is affine."""
        if not self.bends or len(self.slopes) != 1 or min(self.slopes) <= 0:
            return None
        starts = [self.start, *self.bends]
        ends = [*(bend.args[0] for bend in self.bends), self.end]
        pieces = [self.affine(start, end, self.z) for start, end in zip(starts, ends, strict=True)]
        if any(piece is None for piece in pieces):
            return None
        found = [piece for piece in pieces if piece is not None]
        weights, biases = [list(part) for part in zip(*found, strict=True)]
        matrix, offset = weights.pop(), biases.pop()
        stack = DenseStack(weights, biases, self.slopes.pop(), matrix, offset, {})
        return _balanced(stack)


def _balanced(stack: DenseStack) -> DenseStack:
    """A gain behind the last leaky ReLU goes into the first layer: leaky ReLUs let positive factors pass."""
    gain = float(stack.matrix.diagonal().mean())
    eye = torch.eye(len(stack.matrix)).to(stack.matrix)
    if gain <= 0 or float((stack.matrix - gain * eye).abs().max()) > _EXACT * gain or float(stack.offset.abs().max()) > _EXACT:
        return stack
    weights = [stack.weights[0] * gain, *stack.weights[1:]]
    return replace(stack, weights=weights, biases=[bias * gain for bias in stack.biases], matrix=eye, offset=0 * stack.offset)
