"""Makes a loaded network of NVlabs' or rosinality's programs run on the ops of this package.

These networks look their ops up by name at every call, in the Python modules that their classes and ops were defined in.
`patch` puts functions of the same signatures there: NVlabs' stylegan2-ada-pytorch and stylegan3 (`bias_act`, `upfirdn2d`,
`filtered_lrelu`), rosinality's stylegan2-pytorch (`fused_leaky_relu`, `upfirdn2d`), and programs derived from them.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from lia_adapter.errors import WrapError
from lia_adapter.ops import functions, reference
from lia_adapter.ops.reference import pair

__all__ = ["Patch", "patch"]


# -- the ops as those programs call them


def _nvlabs_bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "cuda",
) -> Tensor:
    # Residual blocks add to what a linear layer returns, in place; the kernels keep their result for the gradient.
    run = reference.bias_act if act == "linear" else functions.bias_act
    return run(x, b, dim=dim, act=act, alpha=alpha, gain=gain, clamp=clamp)


def _nvlabs_upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    return functions.upfirdn2d(x, f, up=up, down=down, padding=padding, flip_filter=flip_filter, gain=gain)


def _nvlabs_filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    impl: str = "cuda",
) -> Tensor:
    return functions.filtered_lrelu(
        x, fu, fd, b, up=up, down=down, padding=padding, gain=gain, slope=slope, clamp=clamp, flip_filter=flip_filter
    )  # fmt: skip


def _rosinality_fused_leaky_relu(
    input: Tensor, bias: Tensor | None = None, negative_slope: float = 0.2, scale: float = math.sqrt(2)
) -> Tensor:
    return functions.bias_act(input, bias, act="lrelu", alpha=negative_slope, gain=scale)


def _rosinality_upfirdn2d(
    input: Tensor,
    kernel: Tensor,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    pad: Sequence[int] = (0, 0),
) -> Tensor:
    # Two numbers are (before, after) of both axes here, where our upfirdn2d takes them as (x, y).
    padding = (*pad, *pad) if len(pad) == 2 else pad
    return functions.upfirdn2d(input, kernel, up=pair(up), down=pair(down), padding=padding)


# By the name of the function that is replaced. One with other parameters than its substitute is not taken for an op.
_SUBSTITUTES: dict[str, tuple[Callable[..., Tensor], ...]] = {
    "bias_act": (_nvlabs_bias_act,),
    "filtered_lrelu": (_nvlabs_filtered_lrelu,),
    "fused_leaky_relu": (_rosinality_fused_leaky_relu,),
    "upfirdn2d": (_nvlabs_upfirdn2d, _rosinality_upfirdn2d),
}
_OURS = {substitute for substitutes in _SUBSTITUTES.values() for substitute in substitutes}


# -- where the programs look them up

_Namespace = dict[str, Any]  # The globals of a Python module.


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _substitute(value: object) -> Callable[..., Tensor] | None:
    """Our function for an op of theirs; None for anything else."""
    if type(value) is FunctionType:
        for substitute in _SUBSTITUTES.get(value.__name__, ()):
            if _parameters(value) == _parameters(substitute):
                return substitute
    return None


def _of_torch(name: str) -> bool:
    return name.split(".")[0] == "torch"


def _classes(module: nn.Module) -> list[type]:
    """The classes of a module and of all its submodules, with their bases, but for those of torch."""
    bases = (cls for part in module.modules() for cls in type(part).__mro__)
    return [cls for cls in dict.fromkeys(bases) if cls is not object and not _of_torch(cls.__module__)]


def _imported(namespace: _Namespace) -> Iterator[_Namespace]:
    # type() and not isinstance(): asking some lazy objects for their class loads things or warns.
    for value in list(namespace.values()):
        if issubclass(type(value), ModuleType) and not _of_torch(value.__name__):
            yield vars(value)
        elif type(value) is FunctionType and not _of_torch(value.__module__ or ""):
            yield value.__globals__


def _namespaces(classes: list[type]) -> list[_Namespace]:
    """The globals that the methods of these classes see, and those of the Python modules and functions found there."""
    methods = (inspect.unwrap(value) for cls in classes for value in vars(cls).values() if isinstance(value, FunctionType))
    # Not sys.modules: classes that were unpickled or made from source text may not be listed there.
    found = {id(method.__globals__): method.__globals__ for method in methods if isinstance(method, FunctionType)}
    for _ in range(2):  # Networks import conv2d_resample, which imports upfirdn2d.
        found |= {id(inner): inner for namespace in found.values() for inner in _imported(namespace)}
    return [namespace for namespace in found.values() if namespace is not globals()]


# -- the public function


@dataclass(frozen=True)
class Patch:
    """What `patch` replaced; a context manager that puts it back at its end.

    Attributes:
        names: The functions replaced, such as "torch_utils.ops.bias_act.bias_act"; empty where an earlier patch did it all.
    """

    names: tuple[str, ...]
    _originals: tuple[tuple[_Namespace, str, Any], ...] = field(repr=False)

    def undo(self) -> None:
        """Puts the replaced functions back."""
        for namespace, name, original in self._originals:
            namespace[name] = original

    def __enter__(self) -> "Patch":
        """The patch itself: it is in force already."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Undoes the patch."""
        self.undo()


def patch(module: nn.Module) -> Patch:
    """Makes a loaded generator or discriminator of NVlabs' or rosinality's programs run on the ops of this package.

    The functions are replaced in the Python modules that define the classes of `module` and its submodules, and in the op
    modules that these import. All networks of the same program that live in this process run on ours from then on, copies and
    compiled ones included; pickles are as before. NVlabs' argument `impl` has no effect any more.

        with patch(G_ema):                       # or: patch(G_ema), for good
            image = G_ema(z, None)

    Args:
        module: The network itself, not the dictionary that a pickle of NVlabs holds.

    Returns:
        What was replaced, and the way back.

    Raises:
        WrapError: No known op was found.
    """
    if not isinstance(module, nn.Module):
        raise WrapError(
            f"patch() takes a network (torch.nn.Module), but found {type(module).__name__}. "
            "A pickle of NVlabs holds a dictionary: pass its entry 'G_ema' or 'D'."
        )
    classes = _classes(module)
    originals: list[tuple[_Namespace, str, Any]] = []
    replaced_before = False
    for namespace in _namespaces(classes):
        for name, value in list(namespace.items()):
            replaced_before |= type(value) is FunctionType and value in _OURS
            if (substitute := _substitute(value)) is not None:
                namespace[name] = substitute
                originals.append((namespace, name, value))
    if not originals and not replaced_before:
        places = ", ".join(dict.fromkeys(cls.__module__ for cls in classes)) or "torch alone"
        ops = "; ".join(f"{name}({', '.join(_parameters(ours))})" for name in _SUBSTITUTES for ours in _SUBSTITUTES[name])
        raise WrapError(
            f"Found no op to replace in {type(module).__name__} (its classes come from: {places}). Expected one of: {ops}. "
            "patch() knows the networks of stylegan2-ada-pytorch, stylegan3 and rosinality's stylegan2-pytorch, loaded as "
            "their own classes; those of lia_adapter run on its ops already."
        )
    names = tuple(f"{namespace.get('__name__', '?')}.{name}" for namespace, name, _ in originals)
    return Patch(names, tuple(originals))
