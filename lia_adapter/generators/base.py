"""What the rest of the project expects of a generator, and the few things that all generators share."""

import math
from abc import ABCMeta
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.generators.labels import Label, label_words
from lia_adapter.generators.layers import Dense
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.ops.native import as_chosen

__all__ = [
    "NOISE_MODES",
    "Affine",
    "DrawsImages",
    "Generator",
    "MapsCodes",
    "StyleLayer",
    "broadcast",
    "check_images",
    "check_label",
    "check_noise_mode",
    "checkpointed",
    "filled",
    "one_class",
    "run_part",
    "truncate",
]

NOISE_MODES = ("none", "const", "random")

M = TypeVar("M", bound=nn.Module)

_checkpoints: ContextVar[bool] = ContextVar("checkpoints", default=False)


class MapsCodes(Protocol):
    """A mapping: z [N, z_dim] and c [N, c_dim] -> y [N, y_dim], or [N, num_ws * y_dim] where every layer gets its own."""

    def __call__(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Maps codes; c is None for an unconditional generator."""


class DrawsImages(Protocol):
    """A synthesis: ys [N, num_ws, y_dim] -> x [N, channels, H, W], about in [-1, 1] (not clamped)."""

    def __call__(self, ys: Tensor, *, noise_mode: str = "const") -> Tensor:
        """Draws images, with noise as one of `NOISE_MODES` says."""


class Affine(NamedTuple):
    """What makes the style of one layer of its y: style = y @ weight.T + bias.

    Attributes:
        weight: [features, y_dim], the gain of its learning rate included.
        bias: [features], likewise.
        layer: Which y the style is made of: ys[:, layer]. StyleGAN2's ToRGB shares it with the convolution that follows.
    """

    weight: Tensor
    bias: Tensor
    layer: int


class StyleLayer(NamedTuple):
    """What makes one style, and can be told to make another.

    Attributes:
        name: Of the layer that the style is for, such as "b4.conv1".
        affine: y [N, y_dim] -> style [N, features]: a `Dense`, or a torch.nn.Linear with a bias.
        layer: Which y the style is made of: see `Affine`.
    """

    name: str
    affine: nn.Module
    layer: int


class _ByMembers(ABCMeta):
    """Whoever has the members is a `Generator`, as are the classes that derive from it: see `as_generator`."""

    def __instancecheck__(cls, instance: object) -> bool:
        if super().__instancecheck__(instance):
            return True
        return cls is Generator and isinstance(instance, nn.Module) and all(hasattr(instance, name) for name in _MEMBERS)


_MEMBERS = ("z_dim", "y_dim", "c_dim", "num_ws", "resolution", "channels", "y_mean", "mapping", "synthesis")


class Generator(nn.Module, metaclass=_ByMembers):
    """A generator whose mapping and synthesis can be run apart: z -> y -> x.

    The base class of all generators here, and of your own: set the attributes in `__init__`, with mapping and synthesis as
    modules or as methods. A module of another class that has all of `y_mean` and the attributes but `makes` is an instance of
    this one, too; `as_generator` adds what it lacks.

    Attributes:
        z_dim: Entries of z.
        y_dim: Entries of y (StyleGAN's w).
        c_dim: Entries of the label c, 0 for an unconditional generator.
        num_ws: Number of layers that take a y of their own.
        resolution: (H, W) of the images.
        channels: Channels of the images.
        makes: "images", or what else synthesis gives ("planes": EG3D's backbone).
        mapping: z [N, z_dim], c [N, c_dim] or None -> y [N, y_dim].
        synthesis: ys [N, num_ws, y_dim], noise_mode -> x [N, channels, H, W], about in [-1, 1].
    """

    z_dim: int
    y_dim: int
    c_dim: int
    num_ws: int
    resolution: tuple[int, int]
    channels: int
    makes: str = "images"
    mapping: MapsCodes
    synthesis: DrawsImages

    @property
    def y_mean(self) -> Tensor | None:
        """Centre of truncation, [y_dim] ([num_ws * y_dim]: one for each layer), or None where it is not known."""
        return None

    @property
    def y_means(self) -> Tensor | None:
        """Centre of truncation of each class [c_dim, y_dim]; None unless there is one for each (StyleGAN-XL)."""
        return None

    @property
    def learnt_mapping(self) -> InvertibleMapping | None:
        """Its mapping, where that is an invertible one with which it was trained (LIA, stage 1): nothing is to be converted."""
        mapping = self.mapping
        return mapping if isinstance(mapping, InvertibleMapping) else None

    def style_layers(self) -> list[StyleLayer]:
        """What makes the styles, in the order in which synthesis runs the layers; all styles together are s [N, S].

        What a layer does with its style is its own: StyleGAN1 scales by 1 + the first half of it and shifts by the second;
        StyleGAN2's ToRGB has one, too; StyleGAN3's first turns and shifts the waves by its four numbers.

        Raises:
            LIAError: They are not known.
        """
        raise LIAError(
            f"the style layers of this generator ({type(self).__name__}) are not known. Open its checkpoint with "
            "lia_adapter.load, where its program is among those that are read, or derive its class from "
            "lia_adapter.generators.Generator and define style_layers()."
        )

    def affines(self) -> list[Affine]:
        """The style layers' weights and biases, in order: what each layer itself computes with, in the dtype of its weights.

        Raises:
            LIAError: They are not known.
        """
        layers = self.style_layers()
        return [
            Affine(*(a.effective() if isinstance(a, Dense) else (a.weight, a.bias)), layer)  # type: ignore[arg-type]
            for _, a, layer in layers
        ]


def broadcast(y: Tensor, num_ws: int, y_dim: int | None = None) -> Tensor:
    """Gives every layer the same y: [N, y_dim] -> [N, num_ws, y_dim]; ys pass unchanged.

    Args:
        y: Codes.
        num_ws: Layers.
        y_dim: Where given, [N, num_ws * y_dim] is taken as well, from a mapping that gives every layer its own.

    Raises:
        LIAError: The tensor has neither shape.
    """
    if y.ndim == 2 and y_dim is not None and y.shape[1] == num_ws * y_dim != y_dim:
        return y.reshape(-1, num_ws, y_dim)
    if y.ndim == 2:
        return y[:, None].expand(-1, num_ws, -1)
    if y.ndim == 3 and y.shape[1] == num_ws:
        return y
    raise LIAError(f"y has shape {list(y.shape)}; expected [N, y_dim] or [N, {num_ws}, y_dim].")


def truncate(ys: Tensor, y_mean: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
    """Moves ys towards their mean: y_mean + psi * (y - y_mean) (Karras 2019, app. B).

    Args:
        ys: [N, num_ws, y_dim].
        y_mean: [y_dim], or what broadcasts against ys: one for each sample or layer.
        psi: 1 leaves ys as they are, 0 gives the mean.
        cutoff: Only the first `cutoff` layers are truncated; None means all.

    Returns:
        A tensor like ys (ys itself where psi is 1).

    Raises:
        ConfigError: psi is no finite number.
    """
    if psi == 1:
        return ys
    if not math.isfinite(psi):
        raise ConfigError(f"{argument('psi')} is {psi}; expected a number, such as 0.7.")
    moved = y_mean.lerp(ys, psi)
    if cutoff is None:
        return moved
    return torch.cat([moved[:, :cutoff], ys[:, cutoff:]], dim=1)


def check_images(x: Tensor, channels: int, resolution: tuple[int, ...]) -> None:
    """Refuses what an encoder does not take.

    Args:
        x: Images, to be [N, channels, H, W].
        channels: Of the generator's images.
        resolution: (H, W) of them.

    Raises:
        LIAError: They have another size or number of channels.
    """
    if x.ndim != 4 or tuple(x.shape[1:]) != (channels, *resolution):
        expected = ", ".join(map(str, (channels, *resolution)))
        raise LIAError(f"x has shape {list(x.shape)}; expected [N, {expected}]. lia_adapter.data fits images to that size.")


def check_label(c: Tensor | None, c_dim: int, n: int) -> Tensor | None:
    """Returns c if it fits [n, c_dim], None for an unconditional generator.

    Raises:
        LIAError: The label is missing or has another shape.
    """
    if c_dim == 0:
        return None
    if c is None:
        raise LIAError(
            f"This generator is class-conditional, or takes numbers: give c of shape [{n}, {c_dim}], {label_words(c_dim)} each."
        )
    if c.shape != (n, c_dim):
        raise LIAError(f"c has shape {list(c.shape)}; expected [{n}, {c_dim}].")
    return c


def one_class(label: Label, c_dim: int, n: int, like: Tensor) -> Tensor:
    """Labels c [n, c_dim] of one and the same class, or all of the same numbers, on the device of a tensor and in its dtype."""
    if not isinstance(label, int):
        return like.new_tensor(label).expand(n, c_dim)
    c = like.new_zeros(n, c_dim)
    c[:, label] = 1
    return c


def check_noise_mode(noise_mode: str) -> None:
    """Raises a LIAError unless noise_mode is none, const or random."""
    if noise_mode not in NOISE_MODES:
        raise LIAError(f"noise_mode is {noise_mode!r}; expected one of {', '.join(NOISE_MODES)}.")


@contextmanager
def checkpointed() -> Iterator[None]:
    """In it, synthesis networks draw images whose graph keeps little: the backward pass runs each part again (Chen 2016).

    Values and gradients are the same, for a forward pass more. Random noise could not be drawn again: there all is kept.

    >>> with checkpointed():
    ...     pass  # x = generator.synthesis(ys); backward may follow outside
    """
    token = _checkpoints.set(True)
    try:
        yield
    finally:
        _checkpoints.reset(token)


def run_part(part: Callable[..., Any], *inputs: Any, noise_mode: object = "none") -> Any:
    """What a part of a synthesis network makes of its inputs, with a graph that keeps them alone under `checkpointed`.

    Args:
        part: A block or a layer.
        inputs: What it is called with.
        noise_mode: What it draws noise by.
    """
    if _checkpoints.get() and torch.is_grad_enabled() and noise_mode in ("none", "const"):
        return checkpoint(as_chosen(part), *inputs, use_reentrant=False, preserve_rng_state=False)
    return part(*inputs)


def filled(make: Callable[[], M], tensors: Mapping[str, Tensor], prefix: str) -> M:
    """A module whose weights are these tensors, in float32, in eval mode, without gradients.

    Tensors that are float32 and contiguous already are taken as they are: the module shares their memory.

    Args:
        make: Makes the module. What it draws at random is not drawn, and what it fills with zeros is not filled.
        tensors: The weights, and maybe others.
        prefix: What the names of the module's own begin with.

    Raises:
        RuntimeError: A tensor is missing, left over, or has another shape.
    """
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    with _Unfilled(len(own)):
        module = make()
    module.load_state_dict(_apart(own), assign=True)
    return module.eval().requires_grad_(False)


class _Unfilled(TorchFunctionMode):
    """Leaves the memory of new weights untouched, so that it takes no room and no time: they are about to be replaced.

    Torch's meta device would do, but it loads half of torch's compiler, 150 MB in a second, for the first division on it.

    Args:
        tensors: How many there are to replace them. A config that asks for a million layers is to fail here, and not when the
            memory is full of them.
    """

    MAKE = (torch.randn, torch.rand, torch.zeros)
    FILL = (Tensor.zero_, nn.init.uniform_, nn.init.kaiming_uniform_)

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.calls_left = 1_000 + 100 * tensors  # our modules need some ten calls of torch a tensor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise RuntimeError("the config asks for far more layers than there are tensors")
        if func == torch.eye:
            return torch.empty(args[0], args[0], **(kwargs or {}))
        if func in self.FILL:
            return None
        if func == Tensor.div:  # by a learning rate
            return args[0]
        return (torch.empty if func in self.MAKE else func)(*args, **(kwargs or {}))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in float32 and contiguous; copied where they share memory: to change one must not change another."""
    apart: dict[str, Tensor] = {}
    end = 0  # of the memory that is in use
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_ptr()):
        whole = tensor.detach().float().contiguous()
        if whole.data_ptr() == tensor.data_ptr():
            if whole.data_ptr() < end:
                whole = whole.clone()
            else:
                end = whole.data_ptr() + whole.nbytes
        apart[name] = whole
    return apart
