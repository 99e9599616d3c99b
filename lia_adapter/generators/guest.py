"""The user's own modules as guests: used as they are, and left as they were found."""

import functools
import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["ConstantNoise", "at_rest", "bare", "modules_behind", "same_random_state", "weights_of"]

_DEPTH = 3  # functions that call functions that call functions


def bare(module: nn.Module) -> nn.Module:
    """The module itself, out of what `torch.compile`, `DataParallel` or DDP put around it."""
    while isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or "_orig_mod" in module._modules:
        module = getattr(module, "_orig_mod" if "_orig_mod" in module._modules else "module")
    return module


def modules_behind(*parts: object) -> tuple[nn.Module, ...]:
    """The modules that callables run: themselves, what they are methods of, and what functions name or close over."""
    found: dict[int, nn.Module] = {}
    for part in parts:
        for module in _behind(part, _DEPTH):
            found.setdefault(id(module), module)
    inner = {id(child) for module in found.values() for child in module.modules() if child is not module}
    return tuple(module for key, module in found.items() if key not in inner)


def _behind(part: object, depth: int) -> Iterator[nn.Module]:
    if isinstance(part, nn.Module):
        yield bare(part)
    elif isinstance(part, MethodType):
        yield from _behind(part.__self__, depth)
    elif isinstance(part, functools.partial):
        for value in (part.func, *part.args, *part.keywords.values()):
            yield from _behind(value, depth)
    elif isinstance(part, FunctionType) and depth:
        named = inspect.getclosurevars(part)
        for value in (*named.nonlocals.values(), *named.globals.values(), *(part.__defaults__ or ())):
            yield from _behind(value, depth - 1)
    elif isinstance(part, (list, tuple, Mapping)):
        for value in part.values() if isinstance(part, Mapping) else part:
            yield from _behind(value, depth)
    elif depth and not isinstance(part, type) and type(part).__module__ != "builtins":  # a trainer that holds the networks
        for value in getattr(part, "__dict__", {}).values() if not inspect.ismodule(part) else ():
            if isinstance(value, nn.Module):
                yield bare(value)


def weights_of(modules: Iterable[nn.Module]) -> dict[str, Tensor]:
    """All parameters and buffers by name, the same whether or not a part is compiled."""
    roots = list(modules)
    names = ["module"] if len(roots) == 1 else [f"module{i}" for i in range(len(roots))]
    return {
        f"{name}.{key}".replace("_orig_mod.", ""): tensor
        for name, root in zip(names, roots, strict=True)
        for key, tensor in root.state_dict().items()
        if isinstance(tensor, Tensor)
    }


@contextmanager
def at_rest(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Every module in eval mode and no weight in need of a gradient; afterwards all is as it was.

    Every module has a mode of its own: a frozen layer in a module that trains must stay frozen.
    """
    everything = [module for root in modules for module in root.modules()]
    training = [module for module in everything if module.training]
    weights = [p for module in everything for p in module._parameters.values() if p is not None and p.requires_grad]
    try:
        for module in training:
            module.training = False
        for weight in weights:
            weight.requires_grad = False
        yield
    finally:
        for module in training:
            module.training = True
        for weight in weights:
            weight.requires_grad = True


@contextmanager
def same_random_state(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, torch, numpy and Python draw afterwards what they would have drawn."""
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


class ConstantNoise(TorchFunctionMode):
    """Noise that a generator draws at random becomes the same for every image and every time, or zero.

    Many programs draw noise afresh with every image and have no switch for it. Noise number i is drawn by seed i, for one
    image, and given to all, so that an image depends on nothing but its code.

    Args:
        batch: Images that are drawn.
        zero: Zeros in the place of noise.
        kept: Noise that was drawn before, by number, shape and kind; what is drawn is added.

    Attributes:
        drawn: How often noise was drawn.
    """

    NEW = (torch.randn, torch.rand)
    LIKE = {torch.randn_like: torch.randn, torch.rand_like: torch.rand}
    FILL = {Tensor.normal_: torch.randn, Tensor.uniform_: torch.rand}

    def __init__(self, batch: int, *, zero: bool = False, kept: dict[Any, Tensor] | None = None) -> None:
        super().__init__()
        self.batch, self.zero, self.drawn = batch, zero, 0
        self.kept = {} if kept is None else kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.LIKE:
            like = args[0] if args else kwargs["input"]
            made = {key: kwargs.get(key) or getattr(like, key) for key in ("dtype", "device")}
            return self._noise(self.LIKE[func], like.shape, **made)
        if func in self.NEW:
            size = kwargs["size"] if "size" in kwargs else args
            shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
            given = {key: kwargs[key] for key in ("dtype", "device") if kwargs.get(key) is not None}
            return self._noise(func, shape, **given)
        if func in self.FILL:
            target, low, high = self._ends(func, *args, **kwargs)
            noise = self._noise(self.FILL[func], target.shape, dtype=target.dtype, device=target.device)
            return target.copy_(low + (high - low) * noise if func is Tensor.uniform_ else low + high * noise)
        return func(*args, **kwargs)

    @staticmethod
    def _ends(func: Any, target: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, float, float]:
        """Tensor and range of `uniform_`, or mean and deviation of `normal_`."""
        names = ("from", "to") if func is Tensor.uniform_ else ("mean", "std")
        given = dict(zip(names, args, strict=False)) | kwargs
        return target, given.get(names[0], 0.0), given.get(names[1], 1.0)

    def _noise(self, draw: Callable[..., Tensor], shape: Any, **made: Any) -> Tensor:
        shape = tuple(shape)
        number, self.drawn = self.drawn, self.drawn + 1
        # Rays and patches fold the batch into their first dimension, image by image.
        times = self.batch if shape and shape[0] % self.batch == 0 else 1
        one = (shape[0] // times, *shape[1:]) if shape else shape
        device = torch.device(made.get("device", torch.get_default_device()))
        if self.zero:
            return torch.zeros(shape, **made)
        key = (number, one, device, made.get("dtype"))
        if key not in self.kept:
            self.kept[key] = draw(one, generator=torch.Generator(device).manual_seed(number), **made)
        noise = self.kept[key]
        return noise.repeat(times, *[1] * (len(shape) - 1)) if times > 1 else noise.clone()
