"""What may be known beside codes, and how images are drawn with it: noise images, a feature map, styles, weights."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from lia_adapter.errors import LIAError
from lia_adapter.generators import Generator, StyleGAN1, StyleGAN2, WrappedGenerator, shifted_styles
from lia_adapter.generators.guest import modules_behind

__all__ = [
    "NOISE",
    "SHIFT",
    "STYLES",
    "WEIGHTS",
    "Stage",
    "drawing_weights",
    "kept_names",
    "noise_sizes",
    "redraw",
    "tuned_weights",
    "with_noise",
    "with_weights",
]

_LEAST_SIDE, _SHARE = 8, 16  # a stage's maps have at least this side, and the image's divided by that
NOISE, SHIFT, STYLES, WEIGHTS = "noise.", "feature_shift", "style_shift", "weights."


class _Enough(Exception):
    """The stage has run: what follows is not needed."""


class Stage:
    """An early feature map of a generator: the last layer at the first size of at least 8, or a sixteenth of the image's.

    Any generator has one that is made of modules; it is found by running it once.

    Args:
        generator: Whose.

    Attributes:
        shape: Channels, height and width of the map.

    Raises:
        LIAError: No module of it answers with such a map.
    """

    @torch.no_grad()
    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        device = next((p.device for p in generator.parameters()), torch.device("cpu"))
        ys = torch.zeros(1, generator.num_ws, generator.y_dim, device=device)
        seen: list[tuple[nn.Module, tuple[int, ...]]] = []

        def note(module: nn.Module, _: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                seen.append((module, tuple(output.shape[1:])))

        with ExitStack() as stack:
            for root in drawing_modules(generator):
                for module in root.modules():
                    stack.callback(module.register_forward_hook(note).remove)
            generator.synthesis(ys)
        wanted = max(_LEAST_SIDE, min(generator.resolution) // _SHARE)
        once = [(module, shape) for module, shape in seen if sum(module is other for other, _ in seen) == 1]
        maps = [(module, shape) for module, shape in once if min(shape[1:]) >= wanted and shape[0] > generator.channels]
        if not maps:
            raise LIAError(f"{type(generator).__name__} has no layer whose feature maps are seen; this method needs one.")
        size = maps[0][1][1:]
        self.module, self.shape = next(item for item in reversed(maps) if item[1][1:] == size)

    def maps(self, ys: Tensor) -> Tensor:
        """The feature maps of codes ys [N, num_ws, y_dim]: [N, *shape]. What lies behind the stage is not run."""
        found: list[Tensor] = []

        def stop(_: nn.Module, __: object, output: Tensor) -> None:
            found.append(output.clone())  # what follows may overwrite it
            raise _Enough

        handle = self.module.register_forward_hook(stop)
        try:
            self.generator.synthesis(ys)
        except _Enough:
            pass
        finally:
            handle.remove()
        return found[0]

    @contextmanager
    def changed(self, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """In it, synthesis goes on with change(maps) in place of the stage's maps."""
        handle = self.module.register_forward_hook(lambda _, __, output: change(output))
        try:
            yield
        finally:
            handle.remove()


def drawing_modules(generator: Generator) -> tuple[nn.Module, ...]:
    """The modules that synthesis runs, and maybe others."""
    return generator.guests if isinstance(generator, WrappedGenerator) else modules_behind(generator.synthesis)


def _named(generator: Generator) -> dict[str, nn.Parameter]:
    return {
        f"{i}.{name}": parameter
        for i, module in enumerate(drawing_modules(generator))
        for name, parameter in module.named_parameters()
    }


def drawing_weights(generator: Generator) -> dict[str, Tensor]:
    """The parameters that images depend on, by names that begin with the number of their module."""
    named = _named(generator)
    leaves = {name: parameter.detach().requires_grad_(True) for name, parameter in named.items()}
    like = next(iter(leaves.values()))
    with torch.enable_grad(), with_weights(generator, leaves):
        x = generator.synthesis(like.new_zeros(1, generator.num_ws, generator.y_dim))
        found = torch.autograd.grad(x.sum(), list(leaves.values()), allow_unused=True)
    return {name: parameter for (name, parameter), gradient in zip(named.items(), found, strict=True) if gradient is not None}


@torch.no_grad()
def noise_sizes(generator: Generator) -> list[tuple[int, int]]:
    """(H, W) of the noise images that a generator draws with, in order; none where it has none of its own to choose."""
    if not isinstance(generator, StyleGAN1 | StyleGAN2):
        return []
    sizes: list[tuple[int, int]] = []
    like = next(generator.parameters())

    def note(height: int, width: int) -> Tensor:
        sizes.append((height, width))
        return like.new_zeros(1, 1, height, width)

    generator.synthesis(like.new_zeros(1, generator.num_ws, generator.y_dim), noise_mode=note)
    return sizes


def with_noise(generator: Generator, ys: Tensor, noise: Sequence[Tensor]) -> Tensor:
    """Images of ys [N, num_ws, y_dim] with these noise images [N, 1, H, W] each, in the order of `noise_sizes`."""
    if not noise:
        return generator.synthesis(ys)
    assert isinstance(generator, StyleGAN1 | StyleGAN2)  # noqa: S101  (others have none)
    following = iter(noise)
    x: Tensor = generator.synthesis(ys, noise_mode=lambda height, width: next(following))
    return x


@contextmanager
def with_weights(generator: Generator, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """In it, a generator draws with other weights, by the names of `drawing_weights`; gradients reach these."""
    held: list[tuple[nn.Module, str, nn.Parameter | None]] = []
    modules = drawing_modules(generator)
    try:
        for name, value in weights.items():
            number, _, path = name.partition(".")
            path, _, own = path.rpartition(".")
            owner = modules[int(number)].get_submodule(path)
            held.append((owner, own, owner._parameters.pop(own)))
            setattr(owner, own, value)
        yield
    finally:
        for owner, own, parameter in held:
            delattr(owner, own)
            owner._parameters[own] = parameter


def kept_names(names: Iterable[str]) -> list[str]:
    """Those of some tensors that `redraw` takes."""
    return [name for name in names if name in (SHIFT, STYLES) or name.startswith((NOISE, WEIGHTS))]


def redraw(generator: Generator, ys: Tensor, kept: Mapping[str, Tensor], stage: Stage | None = None) -> Tensor:
    """Draws codes with what a method found beside them, or an edit moved; other codes, such as edited ones, take it along.

    Args:
        generator: That it was found for.
        ys: [N, num_ws, y_dim].
        kept: `Inversion.kept`: noise images (noise.0, …), what is added to a feature map (feature_shift), differences of
            weights, a low-rank pair for each (weights.NAME.a [N, out, r], .b [N, r, in]); and what an edit adds to the styles
            (style_shift [N, S]).
        stage: Of the feature map; None: found anew.

    Returns:
        [N, C, H, W].
    """
    if any(name.startswith(WEIGHTS) for name in kept):  # of each image its own
        others = {name: value for name, value in kept.items() if not name.startswith(WEIGHTS)}
        drawn = []
        for i in range(len(ys)):
            with with_weights(generator, tuned_weights(generator, {name: value[i] for name, value in kept.items()})):
                drawn.append(
                    redraw(generator, ys[i : i + 1], {name: value[i : i + 1] for name, value in others.items()}, stage)
                )
        return torch.cat(drawn)
    noise = [kept[f"{NOISE}{i}"] for i in range(sum(name.startswith(NOISE) for name in kept))]
    with ExitStack() as stack:
        if SHIFT in kept:
            stack.enter_context((stage or Stage(generator)).changed(lambda maps: maps + kept[SHIFT]))
        stack.enter_context(shifted_styles(generator, kept.get(STYLES)))
        return with_noise(generator, ys, noise)


def tuned_weights(generator: Generator, pairs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of one image by name: each W + a @ b, of the shape of W."""
    found, weights = {}, _named(generator)
    for name in sorted(name for name in pairs if name.startswith(WEIGHTS) and name.endswith(".a")):
        own = name.removeprefix(WEIGHTS).removesuffix(".a")
        found[own] = weights[own] + (pairs[name] @ pairs[f"{WEIGHTS}{own}.b"]).reshape(weights[own].shape)
    return found
