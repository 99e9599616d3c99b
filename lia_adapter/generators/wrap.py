"""`wrap`: anybody's module as a `Generator`, sizes found by running it once with one tiny batch."""

from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import Tensor, nn

from lia_adapter.errors import WrapError
from lia_adapter.generators.base import broadcast

__all__ = ["WrappedGenerator", "wrap"]

_USUAL = (512, 256, 128, 64, 100, 32, 1024)  # sizes of z, tried in this order where the module does not say its own ...
_Z_SIZES = (*_USUAL, *(size for size in range(1, 1024) if size not in _USUAL))  # ... and then the others
_MAX_LAYERS = 64


class WrappedGenerator(nn.Module):
    """A third-party generator behind the `Generator` protocol. Made by `wrap`; the module itself is not changed.

    Args:
        module: The user's module.
        mapping: z [N, z_dim] -> y [N, y_dim].
        synthesis: ys [N, num_ws, y_dim] (or y [N, y_dim] when `takes_one_y`) -> x.
        z_dim: Entries of z.
        y_dim: Entries of y.
        num_ws: Layers that take a y of their own.
        takes_one_y: Whether synthesis takes y [N, y_dim] rather than ys.
        resolution: (H, W).
        channels: Channels of the image.
    """

    c_dim = 0
    y_mean: Tensor | None = None

    def __init__(
        self,
        module: nn.Module | None,
        mapping: Callable[[Tensor], Tensor],
        synthesis: Callable[[Tensor], Tensor],
        *,
        z_dim: int,
        y_dim: int,
        num_ws: int,
        takes_one_y: bool,
        resolution: tuple[int, int],
        channels: int,
    ) -> None:
        super().__init__()
        self.module = module
        self._mapping, self._synthesis, self._takes_one_y = mapping, synthesis, takes_one_y
        self.z_dim, self.y_dim, self.num_ws = z_dim, y_dim, num_ws
        self.resolution, self.channels = resolution, channels

    def mapping(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """z [N, z_dim] -> y [N, y_dim]; the label is ignored: wrapped generators are unconditional."""
        return _one_y(self._mapping(z))

    def synthesis(self, ys: Tensor, *, noise_mode: str = "const") -> Tensor:
        """ys [N, num_ws, y_dim] -> x [N, C, H, W]; noise is whatever the module itself does."""
        ys = broadcast(ys, self.num_ws)
        return self._synthesis(ys[:, 0] if self._takes_one_y else ys)


def wrap(
    module: nn.Module | None = None,
    *,
    mapping: str | Callable[[Tensor], Tensor] = "mapping",
    synthesis: str | Callable[[Tensor], Tensor] = "synthesis",
    z_dim: int | None = None,
    y_dim: int | None = None,
    num_ws: int | None = None,
) -> WrappedGenerator:
    """Makes any generator with a mapping and a synthesis usable by lia-adapter.

    `z_dim` and `num_ws`, where not given, are read from attributes of the module or probed with a batch of two; the other
    sizes are what the parts answer. A mapping that answers [N, num_ws, y_dim] with equal rows (as NVlabs' does)
    counts as one y.

    Args:
        module: The generator. May be None when both parts are given as callables.
        mapping: Dotted name of the part of `module` that maps z [N, z_dim] to y, or a callable that does so.
        synthesis: Dotted name or callable that draws x [N, C, H, W] from ys [N, num_ws, y_dim] or y [N, y_dim].
        z_dim: Entries of z.
        y_dim: Entries of y; must be what the mapping gives.
        num_ws: Number of layers that take a y of their own.

    Returns:
        A generator for `lia_adapter.convert`.

    Raises:
        WrapError: A part is missing or does not answer as expected; the message says which and what to pass.
    """
    run_mapping = _part(module, mapping, "mapping")
    run_synthesis = _part(module, synthesis, "synthesis")
    z_dim = z_dim or _attribute(module, "z_dim")
    probe = _Probe(module, run_mapping, run_synthesis)
    z_dim, y = _probe_mapping(probe, run_mapping, z_dim)
    if y_dim is not None and y.shape[1] != y_dim:
        raise WrapError(f"mapping gave y of {y.shape[1]} entries for y_dim={y_dim}; leave y_dim out or correct it.")
    num_ws = num_ws or _attribute(module, "num_ws")
    num_ws, takes_one_y, x = _probe_synthesis(probe, run_synthesis, y, num_ws)
    return WrappedGenerator(
        module, run_mapping, run_synthesis,
        z_dim=z_dim, y_dim=y.shape[1], num_ws=num_ws, takes_one_y=takes_one_y,
        resolution=(x.shape[2], x.shape[3]), channels=x.shape[1],
    )  # fmt: skip


def _part(module: nn.Module | None, part: str | Callable[[Tensor], Tensor], what: str) -> Callable[[Tensor], Tensor]:
    if callable(part):
        return part
    found: object = module
    for name in part.split("."):
        if not hasattr(found, name):
            has = ", ".join(name for name, _ in module.named_children()) if module is not None else "nothing (no module given)"
            raise WrapError(
                f"the generator has no part {part!r} for {what}; it has: {has}. Pass {what}='dotted.name' or a callable."
            )
        found = getattr(found, name)
    if not callable(found):
        raise WrapError(f"{part!r}, given for {what}, is a {type(found).__name__} and cannot be called.")
    return found


def _attribute(module: nn.Module | None, name: str) -> int | None:
    value = getattr(module, name, None)
    return value if isinstance(value, int) and value > 0 else None


class _Probe:
    """Runs a part once on the module's own device and dtype, without gradients, training mode or a changed random state."""

    def __init__(self, *parts: object) -> None:
        # A part that was given as a method belongs to a module, too.
        owners = [getattr(part, "__self__", part) for part in parts]
        roots = [owner for owner in owners if isinstance(owner, nn.Module)]
        # Every module has a mode of its own: a frozen layer in a module that trains must stay frozen.
        self.modules = {module for root in roots for module in root.modules()}
        self.like = next((p for root in roots for p in root.parameters()), torch.zeros(()))

    def __call__(self, part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | Exception:
        training = [module for module in self.modules if module.training]
        for module in training:
            module.training = False
        try:
            with torch.no_grad(), torch.random.fork_rng():
                answer = part(x.to(self.like))
        except Exception as error:  # the user's code may raise anything; the message goes into a WrapError
            return error
        finally:
            for module in training:
                module.training = True
        return answer if isinstance(answer, Tensor) else TypeError(f"it returned a {type(answer).__name__}, not a tensor")


def _one_y(y: Tensor) -> Tensor:
    return y[:, 0] if y.ndim == 3 else y


def _probe_mapping(probe: _Probe, part: Callable[[Tensor], Tensor], z_dim: int | None) -> tuple[int, Tensor]:
    answer: Tensor | Exception = TypeError("no size was tried")
    for size in [z_dim] if z_dim else _Z_SIZES:
        answer = probe(part, torch.randn(2, size, generator=torch.Generator().manual_seed(0)))
        if isinstance(answer, Tensor):
            z_dim = size
            break
    if isinstance(answer, Exception) or z_dim is None:
        hint = f"z_dim={z_dim}" if z_dim else f"any size up to {max(_Z_SIZES)}"
        raise WrapError(f"mapping did not run on z of {hint}: {_first_line(answer)}. Pass z_dim=… (and check `mapping`).")
    if answer.ndim == 3 and not torch.equal(answer, answer[:, :1].expand_as(answer)):
        raise WrapError(
            f"mapping gives each of its {answer.shape[1]} layers a y of its own; such a mapping can be sampled but not "
            "replaced by an invertible one. Pass a callable that returns one y [N, y_dim]."
        )
    y = _one_y(answer)
    if y.ndim != 2 or len(y) != 2 or not y.is_floating_point():
        raise WrapError(f"mapping gave a tensor of shape {list(answer.shape)} for z [2, {z_dim}]; expected [2, y_dim].")
    return z_dim, y


def _probe_synthesis(
    probe: _Probe, part: Callable[[Tensor], Tensor], y: Tensor, num_ws: int | None
) -> tuple[int, bool, Tensor]:
    """Finds out whether synthesis takes ys [N, num_ws, y_dim] or one y [N, y_dim]."""
    tried = probe(part, y[:, None].expand(-1, num_ws, -1)) if num_ws else probe(part, y)
    if _is_pair_of_images(tried):
        return num_ws or 1, not num_ws, tried
    if num_ws:  # the attribute may not mean what it does in StyleGAN
        tried = probe(part, y)
        if _is_pair_of_images(tried):
            return 1, True, tried
    else:
        for layers in range(1, _MAX_LAYERS + 1):
            answer = probe(part, y[:, None].expand(-1, layers, -1))
            if _is_pair_of_images(answer):
                return layers, False, answer
    found = f"a tensor of shape {list(tried.shape)}" if isinstance(tried, Tensor) else _first_line(tried)
    raise WrapError(
        f"synthesis did not give images [N, C, H, W] from y [2, {y.shape[1]}] or ys [2, num_ws, {y.shape[1]}]: {found}. "
        "Pass num_ws=… (and check `synthesis`)."
    )


def _is_pair_of_images(answer: Tensor | Exception) -> TypeGuard[Tensor]:
    """Whether it is [2, C, H, W]: a reshape that swallows the layers gives more images than codes."""
    return isinstance(answer, Tensor) and answer.ndim == 4 and len(answer) == 2


def _first_line(answer: object) -> str:
    text = str(answer).strip().splitlines()
    return f"{type(answer).__name__}: {text[0][:160]}" if text else type(answer).__name__
