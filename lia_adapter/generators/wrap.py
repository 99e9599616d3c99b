"""`wrap`: anybody's module as a `Generator`, its ways to be called recognised and its sizes proved by running it."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from lia_adapter.errors import LIAError, WrapError
from lia_adapter.generators.base import Generator, broadcast, check_noise_mode
from lia_adapter.generators.calls import Replaced, find_parts, mapping_call, synthesis_call
from lia_adapter.generators.guest import bare, modules_behind, weights_of
from lia_adapter.generators.probe import Trials
from lia_adapter.generators.probe_codes import CodeProbe
from lia_adapter.generators.probe_images import look
from lia_adapter.generators.probe_layers import LayerProbe
from lia_adapter.generators.runner import Runner

__all__ = ["WrappedGenerator", "as_generator", "wrap"]

_AVERAGES = ("w_avg", "x_avg", "latent_avg", "avg_latent", "dlatent_avg", "w_mean")
_CLASSES = ("c_dim", "label_dim", "label_size", "n_classes", "num_classes")


class WrappedGenerator(Generator):
    """A third-party generator as a `Generator`. Made by `wrap`; the module itself is not changed.

    The user's modules are guests: none of them is a part of this one, so that neither `eval`, `requires_grad_` nor
    `state_dict` of what holds it reaches them. They run in eval mode and without gradients of their weights, and are left
    as they were found. `to` moves them.

    Args:
        runner: Runs the two halves.
        z_dim: Entries of z.
        y_dim: Entries of y.
        c_dim: Entries of the label, 0 where none is to be given.
        num_ws: Layers that take a y of their own.
        takes_one_y: Whether synthesis takes y [N, y_dim] rather than ys.
        resolution: (H, W).
        channels: Channels of the image.
        average: Gives the program's own average of y, of any shape, or None.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        z_dim: int,
        y_dim: int,
        c_dim: int,
        num_ws: int,
        takes_one_y: bool,
        resolution: tuple[int, int],
        channels: int,
        average: Callable[[], Tensor | None],
    ) -> None:
        super().__init__()
        self._runner, self._takes_one_y, self._average = runner, takes_one_y, average
        self.z_dim, self.y_dim, self.c_dim, self.num_ws = z_dim, y_dim, c_dim, num_ws
        self.resolution, self.channels = resolution, channels

    @property
    def guests(self) -> tuple[nn.Module, ...]:
        """The user's modules."""
        return self._runner.owners

    @property
    def y_mean(self) -> Tensor | None:
        """The program's own centre of truncation, [y_dim] or [num_ws * y_dim]; None where it keeps none."""
        average = self._average()
        if average is None or average.ndim == 2 and len(average) == self.c_dim != 1:
            return None
        rows = average.float().reshape(-1, self.y_dim)
        return rows[0] if len(rows) == 1 or bool((rows == rows[0]).all()) else rows.flatten()

    @property
    def y_means(self) -> Tensor | None:
        """The centres of all classes [c_dim, y_dim], where the program keeps them (StyleGAN-XL)."""
        average = self._average()
        classes = average is not None and average.shape == (self.c_dim, self.y_dim) and self.c_dim > 1
        return average.float() if average is not None and classes else None

    def mapping(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """z [N, z_dim] and c [N, c_dim] -> y [N, y_dim]; c is ignored by a generator that takes no label."""
        return _one(self._runner.map(z, c))

    def synthesis(self, ys: Tensor, *, noise_mode: str = "const") -> Tensor:
        """ys [N, num_ws, y_dim] -> x [N, C, H, W]."""
        check_noise_mode(noise_mode)
        ys = broadcast(ys, self.num_ws)
        return self._runner.images(ys[:, 0] if self._takes_one_y else ys, noise_mode)

    @property
    def precision(self) -> torch.dtype:
        """In what the mapping computes: float64 where that is the user's, else float32."""
        return torch.float64 if self._runner.like().dtype == torch.float64 else torch.float32

    def mapping_on_cpu(self) -> Callable[[Tensor], Tensor]:
        """The mapping alone, where all of it is one module a copy on the CPU in `precision`."""
        call = self._runner.to_y
        if isinstance(call.part, nn.Module) and self._runner.like().device.type != "cpu":
            call = replace(call, part=copy.deepcopy(bare(call.part)).to("cpu", self.precision))
        runner = Runner(modules_behind(call.part) or self.guests, call, call)
        return lambda z: _one(runner.map(z))

    def weights(self) -> dict[str, Tensor]:
        """All weights of the user's modules, by name."""
        return weights_of(self.guests)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Those of the user's modules, for who asks where they are and how many."""
        for guest in self.guests:
            yield from guest.parameters(recurse)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "WrappedGenerator":
        for guest in self.guests:
            guest._apply(fn)
        return self

    def extra_repr(self) -> str:
        """What is wrapped and how it is called."""
        runner = self._runner
        parts = [f"{what}={_name(call.part)}" for what, call in (("mapping", runner.to_y), ("synthesis", runner.draw))]
        sizes = f"z {self.z_dim}, y {self.y_dim}, c {self.c_dim}, {self.num_ws} layers, {self.channels} x {self.resolution}"
        label = runner.to_y.label_vector if runner.to_y.label_vector is not None else runner.draw.label_vector
        fixed = "" if label is None else ", with the label or camera that was given"
        return f"{', '.join(parts)}{fixed}: {sizes}"


def wrap(
    module: nn.Module | None = None,
    *,
    mapping: str | Callable[..., Any] | None = None,
    synthesis: str | Callable[..., Any] | None = None,
    z_dim: int | None = None,
    y_dim: int | None = None,
    num_ws: int | None = None,
    label: int | Sequence[float] | Tensor | None = None,
    image_range: tuple[float, float] | None = None,
) -> WrappedGenerator:
    """Makes any generator with a mapping and a synthesis usable by lia-adapter.

    The ways of public programs to name and call the two are known (`lia_adapter.generators.calls`). Sizes that are not given
    are asked of the module and proved by running it: every entry of z must change y, the code of the last layer must
    change the image, and one layer more must not run or not change it. Where two sizes are possible, the error names them.

    Args:
        module: The generator. May be None when both parts are given as callables.
        mapping: Dotted name of the part of `module` that maps z [N, z_dim] to y, or a callable that does so.
        synthesis: Dotted name or callable that draws x [N, C, H, W] from ys [N, num_ws, y_dim] or y [N, y_dim].
        z_dim: Entries of z.
        y_dim: Entries of y; must be what the mapping gives.
        num_ws: Number of layers that take a y of their own.
        label: Of a conditional generator, one class, or the numbers of one label or camera [c_dim], for all images. Without
            it, labels are given with every z.
        image_range: Black and white of its images, where that is not (-1, 1), such as (0, 1).

    Returns:
        A generator for `lia_adapter.convert`.

    Raises:
        WrapError: A part is missing or does not answer as expected; the message says which and what to pass.
    """
    whole = None if module is None else bare(module)
    to_y, draw = find_parts(whole, mapping, synthesis)
    owners = modules_behind(*([] if whole is None else [whole]), to_y, draw)
    if whole is not None and not callable(mapping) and not callable(synthesis):
        owners = (whole,)
    lazy = [n for root in owners for n, p in root.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise WrapError(f"the weight {lazy[0]} has no size yet. Run the generator once before it is wrapped.")
    asked = [[getattr(part, "module", part), getattr(part, "__self__", None), whole, *owners] for part in (to_y, draw)]
    said = (getattr(owner, name, None) for owner in asked[0] for name in _CLASSES)
    c_dim = next((size for size in said if _is_size(size)), 0)
    vector = _vector(label, c_dim)
    runner = Runner(owners, mapping_call(to_y, vector, c_dim), synthesis_call(draw, asked[1], vector))
    runner.image_range = image_range or (-1.0, 1.0)
    if vector is not None or runner.to_y.label is None:
        c_dim = 0
    trials, c = Trials(runner), torch.eye(c_dim)[0] if c_dim else None
    codes = CodeProbe(trials, asked[0], c)
    z_dim, y = codes.find(z_dim)
    if y_dim is not None and y.shape[1] != y_dim:
        raise WrapError(f"mapping gave y of {y.shape[1]} entries for y_dim={y_dim}; leave y_dim out or correct it.")
    if isinstance(draw, Replaced):
        draw.z_dim = z_dim
    num_ws, takes_one_y, x = LayerProbe(trials, asked[1], y, codes.rows).find(num_ws)
    wrapped = WrappedGenerator(
        runner, z_dim=z_dim, y_dim=y.shape[1], c_dim=c_dim, num_ws=num_ws, takes_one_y=takes_one_y,
        resolution=(x.shape[2], x.shape[3]), channels=x.shape[1],
        average=_average(asked, y.shape[1], num_ws, c_dim, label),
    )  # fmt: skip
    look(trials, x, y, c, wrapped, checked=image_range is None)
    return wrapped


def as_generator(module: nn.Module) -> Generator:
    """A module as a `Generator`: itself where its class derives from that, else with all members, else wrapped.

    Args:
        module: Where it has the members (`isinstance` says so), the answer shares all that it holds, of a class that derives
            from its own and from `Generator`. Any other is given to `wrap`.

    Raises:
        LIAError: It is no module, or `wrap` does not understand it.
    """
    kind = type(module)
    if not isinstance(module, nn.Module):
        raise LIAError(f"a generator is a torch module, or what lia_adapter.wrap returns; got a {kind.__name__}.")
    if not isinstance(module, Generator):
        return wrap(module)
    if issubclass(kind, Generator):
        return module

    def member(name: str) -> property:
        return property(lambda self: vars(self)[name] if name in vars(self) else kind.__getattr__(self, name))

    # What the module has of its own but not by its class (a buffer), the defaults of `Generator` must not hide.
    public = [name for name in vars(Generator) if not name.startswith("_")]
    own = {name: member(name) for name in public if hasattr(module, name) and not hasattr(kind, name)}
    same: Generator = object.__new__(type(kind.__name__, (kind, Generator), own))
    object.__setattr__(same, "__dict__", vars(module))
    return same


def _one(y: Tensor) -> Tensor:
    return y[:, 0] if y.ndim == 3 else y


def _is_size(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _vector(label: int | Sequence[float] | Tensor | None, c_dim: int) -> Tensor | None:
    """A label as numbers [c_dim]."""
    if label is None:
        return None
    if isinstance(label, int):
        if not 0 <= label < c_dim:
            expected = f"0 to {c_dim - 1}" if c_dim else "none: the generator says of no classes; give the label's numbers"
            raise WrapError(f"label is {label}; expected {expected}.")
        return torch.eye(c_dim)[label]
    vector = torch.as_tensor(label, dtype=torch.float32).flatten()
    if c_dim and len(vector) != c_dim:
        raise WrapError(f"label has {len(vector)} numbers; the generator takes {c_dim}.")
    return vector


def _average(
    asked: Sequence[Sequence[object]], y_dim: int, num_ws: int, c_dim: int, label: object
) -> Callable[[], Tensor | None]:
    """How to look up the program's average of y each time: `to` replaces it, and training moves it."""
    shapes = {(y_dim,), (1, y_dim), (1, 1, y_dim), (num_ws, y_dim), (1, num_ws, y_dim), (num_ws * y_dim,)}
    roots = [owner for owner in (asked[0][0], asked[1][0], asked[0][2]) if isinstance(owner, nn.Module)]
    for root in roots:
        for path, tensor in (*root.named_buffers(), *root.named_parameters()):
            if not set(path.split(".")) & set(_AVERAGES):
                continue
            holder, _, name = path.rpartition(".")
            owner = root.get_submodule(holder)
            of_classes = tensor.ndim == 2 and tensor.shape[1] == y_dim
            if of_classes and isinstance(label, int) and label < len(tensor) > 1 and len(tensor) != num_ws:
                return partial(_looked_up, owner, name, label)
            if tuple(tensor.shape) in shapes or (of_classes and len(tensor) == c_dim):
                return partial(_looked_up, owner, name)
    return lambda: None


def _looked_up(owner: nn.Module, name: str, row: int | None = None) -> Tensor:
    tensor: Tensor = getattr(owner, name)
    return tensor if row is None else tensor[row]


def _name(part: object) -> str:
    return getattr(part, "__qualname__", type(part).__name__)
