"""Finds the sizes of somebody's generator by running it, and proves them.

A size that runs may be wrong: `zip` truncates, slices ignore, single rows are broadcast. So a size counts only where its last
entry matters and one more either does not run or changes nothing; of z, every entry must matter. Where two sizes are left, the
user is asked.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lia_adapter.errors import WrapError
from lia_adapter.generators.answers import Unreadable, check_image, is_channels_last
from lia_adapter.generators.base import Generator, broadcast
from lia_adapter.generators.guest import modules_behind, same_random_state
from lia_adapter.generators.runner import Runner

__all__ = ["Probe"]

_USUAL = (512, 256, 128, 64, 100, 32, 1024)  # sizes of z, tried in this order where the module does not say its own ...
_Z_SIZES = (*_USUAL, *(size for size in range(1, 1024) if size not in _USUAL))  # ... and then the others
_LAYERS = (64, 256)  # more than generators have
_Z_NAMES = (
    "z_dim", "dim_z", "z_space_dim", "input_space_dim", "latent_size", "latent_dim", "dim_latent", "nz", "z_size", "noise_dim",
    "input_dim", "style_dim", "num_style_feat", "w_dim", "dim",
)  # fmt: skip
_LAYER_NAMES = (
    "num_ws", "n_latent", "num_latent", "num_latents", "n_latents", "num_styles", "n_styles", "num_layers", "n_layers", "num_w",
)  # fmt: skip
_SAME = 1e-4  # relative difference, below which images count as equal
_EQUAL = 1e-7  # likewise for what a single layer changes
_SCALED = 100  # images that are looked at for a value below 0
_NAMED = 8  # sizes, at most, that an error lists
_STAGES = 12  # doublings of resolution

Answer = Tensor | Exception


class Probe:
    """Finds sizes; what it runs leaves no trace.

    Args:
        runner: The generator; what is found out about its calls is set in it.
        owners: Modules that may say sizes by their attributes: of the mapping, of the synthesis, and the whole.
    """

    def __init__(self, runner: Runner, mapping: Sequence[object], synthesis: Sequence[object]) -> None:
        self.runner, self._mapping, self._synthesis = runner, mapping, synthesis
        self.random = torch.Generator().manual_seed(0)
        self.rows = 0  # layers in the answer of the mapping

    # z

    def find_z(self, given: int | None, c: Tensor | None) -> tuple[int, Tensor]:
        """z_dim, and y [2, y_dim] of two random z."""
        self._c = c
        self._failed: Exception | None = None
        self._known: dict[int, int] = {}  # sizes of z, and how many entries of them change y
        if given:
            answer = self._map(given)
            if isinstance(answer, Exception):
                raise self._no_mapping(f"z_dim={given}", answer)
            return given, self._one_y(answer, given)
        announced = _announced(self._mapping, _Z_NAMES)
        for size in announced:
            if size > 1 and self._entries(size) == size:  # a single entry may be broadcast
                return size, self._y_of(size)
        lying = [size for size in announced if self._entries(size)]
        proper: list[int] = []
        ignoring: list[int] = []
        for size in dict.fromkeys((*announced, *self._widths(), *_Z_SIZES)):
            matter = self._entries(size)
            if not matter:
                continue
            if matter < size and self._entries(matter) != matter:
                ignoring.append(size)
                if len(ignoring) > _NAMED:
                    break
                continue
            near = {1, matter // 2, matter - 1, matter + 1, 2 * matter, 3 * matter, max(_Z_SIZES), *self._widths()}
            proper = sorted(n for n in {matter, *near} if n and self._entries(n) == n)
            break
        if lying:
            raise WrapError(
                f"the generator says that z has {lying[0]} entries, but not all of them change y"
                f"{f'; with z_dim={_listed(proper)} all do' if proper else ''}. Pass z_dim=… to say which is right."
            )
        if len(proper) == 1:
            return proper[0], self._y_of(proper[0])
        if proper:
            raise WrapError(
                f"mapping runs on z of {_listed(proper)} entries, and all of them change y. Pass z_dim=… to say which."
            )
        if ignoring:
            raise WrapError(
                f"mapping runs on z of {_listed(sorted(ignoring))} entries, but some never change y. Pass z_dim=… to say which."
            )
        raise self._no_mapping(f"any size up to {max(_Z_SIZES)}", self._failed or TypeError("no size was tried"))

    def _widths(self) -> list[int]:
        """Sizes of the matrices that the mapping has: one of them takes z."""
        modules = modules_behind(self.runner.to_y.part)
        return sorted(
            {size for module in modules for p in module.parameters() if p.ndim == 2 for size in p.shape if size < 1 << 14}
        )

    def _y_of(self, size: int) -> Tensor:
        answer = self._map(size)
        assert isinstance(answer, Tensor)  # noqa: S101  (it ran before)
        return self._one_y(answer, size)

    def _no_mapping(self, sizes: str, error: Exception) -> WrapError:
        unknown = self.runner.to_y.unknown
        hint = f" It needs {', '.join(unknown)}, too: pass mapping=lambda z: … with it." if unknown else ""
        return WrapError(
            f"mapping did not run on z of {sizes}: {_first_line(error)}. Pass z_dim=… (and check `mapping`).{hint}"
        )

    def _map(self, size: int, z: Tensor | None = None) -> Answer:
        z = torch.randn(2, size, generator=torch.Generator().manual_seed(0)) if z is None else z
        like = self.runner.like()
        z = z.to(like.device)
        c = None if self._c is None else self._c.to(like.device)[None].expand(len(z), -1)
        return self._quietly(lambda: self.runner.map(z, c))

    def _one_y(self, answer: Tensor, size: int) -> Tensor:
        """y [2, y_dim] of what the mapping gave for z [2, size]."""
        if answer.ndim == 3 and not torch.equal(answer, answer[:, :1].expand_as(answer)):
            raise WrapError(
                f"mapping gives each of its {answer.shape[1]} layers a y of its own; such a mapping can be sampled but not "
                "replaced by an invertible one. Pass a callable that returns one y [N, y_dim]."
            )
        y = answer[:, 0] if answer.ndim == 3 else answer
        if y.ndim != 2 or len(y) != 2 or not y.is_floating_point():
            raise WrapError(f"mapping gave a tensor of shape {list(answer.shape)} for z [2, {size}]; expected [2, y_dim].")
        self.rows = answer.shape[1] if answer.ndim == 3 else 0
        return y

    def _entries(self, size: int) -> int:
        """How many entries of z change y, 0 where z of that size does not run; a dead unit is given three chances."""
        if size not in self._known:
            self._known[size] = self._count_entries(size)
        return self._known[size]

    def _count_entries(self, size: int) -> int:
        answer = self._map(size)
        if isinstance(answer, Unreadable):
            raise WrapError(f"mapping ran, but {answer}. Pass mapping=lambda z: … that picks y [N, y_dim] from it.")
        if isinstance(answer, Exception):
            self._failed = self._failed or answer
            return 0
        self._one_y(answer, size)
        changed = torch.zeros(size, dtype=torch.bool)
        for _ in range(3):
            z = torch.randn(1, size, generator=self.random)
            other = z.repeat(size, 1)
            other.diagonal().copy_(torch.randn(size, generator=self.random) * 2)
            answer = self._map(size, torch.cat([z, other]))
            if isinstance(answer, Exception):
                return 0
            y = answer.flatten(1).cpu()
            changed |= (y[1:] - y[0]).abs().amax(dim=1) > 0
            if bool(changed.all()):
                break
        return int(changed.sum())

    # layers

    def find_layers(self, y: Tensor, given: int | None) -> tuple[int, bool, Tensor]:
        """num_ws, whether synthesis takes y [N, y_dim] alone, and two images."""
        self.y, self._any, self._searching = y, False, False
        self.first: Exception | None = None
        self.odd: str | None = None
        announced = [given] if given else list(dict.fromkeys([*([self.rows] if self.rows else []), *self._said()]))
        self._set_calls(announced)
        for layers in announced:
            x = self._draw(layers)
            if isinstance(x, Tensor) and (given or self._is_fixed(layers, x, said=True)):
                return layers, False, x
        alone = self._draw(None)
        if given:
            if given == 1 and isinstance(alone, Tensor):
                return 1, True, alone
            raise self._no_synthesis(" It does take one y [N, y_dim] (num_ws=1)." if isinstance(alone, Tensor) else "")
        sizes = self._sizes(isinstance(alone, Exception) and self.odd is not None)
        if len(sizes) > 1 and sizes[0] == 1 and self._is_broadcast(sizes[1]):
            sizes = sizes[1:]
        if len(sizes) == 1:
            x = self._draw(sizes[0])
            if isinstance(x, Tensor) and (not isinstance(alone, Tensor) or _same(alone, x) or sizes[0] == 1):
                return sizes[0], False, x
        if isinstance(alone, Tensor) and not sizes and not self._any:
            return 1, True, alone
        if not sizes and not self._any:
            raise self._no_synthesis()
        found = _listed(sizes) if sizes else "any number of"
        also = ", or one y [N, y_dim] (num_ws=1)," if isinstance(alone, Tensor) else ""
        raise WrapError(
            f"synthesis draws from ys of {found} layers{also} and every layer changes the image, so that the right number "
            f"can't be told. Pass num_ws=… ({'the largest is the likeliest' if len(sizes) > 1 else 'your generator’s own'})."
        )

    def _said(self) -> list[int]:
        return _announced(self._synthesis, _LAYER_NAMES)

    def _no_synthesis(self, more: str = "") -> WrapError:
        found = self.odd or (_first_line(self.first) if self.first is not None else "nothing")
        unknown = self.runner.draw.unknown
        hint = f" It needs {', '.join(unknown)}, too: pass synthesis=lambda ys: … with it" if unknown else ""
        if {"c", "label", "labels"} & set(unknown) or (self.runner.draw.label and self.runner.draw.label_vector is None):
            hint = " It draws by a label or camera: pass label=… to fix it"
        width = self.y.shape[1]
        return WrapError(
            f"synthesis did not give images [N, C, H, W] from y [2, {width}] or ys [2, num_ws, {width}]: {found}. "
            f"Pass num_ws=… (and check `synthesis`).{hint}{more}"
        )

    def _draw(self, layers: int | None, ys: Tensor | None = None) -> Answer:
        """Two images by ys of so many layers, or by y alone; an exception where that fails or gives no images."""
        if ys is None:
            ys = self.y if layers is None else self.y[:, None].expand(-1, layers, -1)
        x = self._quietly(lambda: self.runner.images(ys))
        if isinstance(x, Exception):
            if "noise_mode" in str(x) and self.runner.draw.noise == "noise_mode":
                self.runner.draw = replace(self.runner.draw, noise=None)
                return self._draw(layers, ys)
            if isinstance(x, Unreadable):
                raise WrapError(f"synthesis ran, but {x}. Pass synthesis=lambda ys: … that picks the images from it.")
            self.first = self.first or x
            return x
        if x.ndim == 4 and len(x) == len(ys) and is_channels_last(x):
            self.runner.channels_last = True
            x = x.movedim(3, 1)
        if x.ndim == 4 and len(x) == len(ys) or (x.ndim == 5 and not self._searching):
            check_image(x, len(ys))
        if x.ndim != 4 or len(x) != len(ys):
            self.odd = self.odd or f"a tensor of shape {list(x.shape)}"
            return TypeError(f"it returned {self.odd}")
        return x

    def _set_calls(self, announced: list[int]) -> None:
        """Chooses the resolution of a generator that can draw several: the largest."""
        call = self.runner.draw
        if call.stage is None:
            return
        for layers in (*announced, *_LAYERS, None):
            sides: dict[int, int] = {}
            for number in range(_STAGES):
                self.runner.draw = call.at_stage(number)
                x = self._draw(layers)
                if isinstance(x, Exception):
                    if sides or number > 1:
                        break
                    continue
                sides[number] = x.shape[2]
            if sides:
                self.runner.draw = call.at_stage(max(sides, key=lambda number: sides[number]))
                return
        self.runner.draw = call

    def _sizes(self, hopeless: bool) -> list[int]:
        """All numbers of layers at which the last of them matters and one more would not."""
        self._any = False
        for most in _LAYERS:
            x = self._draw(most)
            if isinstance(x, Exception):
                break
            n = self._used(most)
            if 0 < n < most and isinstance(self._draw(n), Tensor) and self._is_fixed(n):
                return [n]
        else:
            self._any = True
            return []
        if hopeless and self.odd is not None:  # it returned something, and the number of layers does not change its kind
            return []
        self._searching = True
        ran = [n for n in range(1, _LAYERS[0] + 1) if isinstance(self._draw(n), Tensor)]
        whole = [n for n in ran if self._used(n) == n]
        fixed = [n for n in whole if self._is_fixed(n)]
        return fixed or whole or ran

    def _is_fixed(self, layers: int, x: Tensor | None = None, said: bool = False) -> bool:
        """Whether the last layer matters and one more does not run or changes nothing.

        Args:
            layers: The number.
            x: What it draws, if it is known.
            said: The module said it. It is then believed also where one more layer would count, as in a mean over layers,
                as long as that draws the same image from one y.
        """
        if self._used(layers) != layers:
            return False
        more = self._draw(layers + 1)
        if isinstance(more, Exception):
            return True
        ys = self.y[:, None].repeat(1, layers + 1, 1)
        ys[:, -1] = self._others(1)[:, 0]
        before, after = self._draw(layers) if x is None else x, self._draw(layers + 1, ys)
        return _same(before, after) or (said and _same(before, more))

    def _is_broadcast(self, layers: int) -> bool:
        return _same(self._draw(1), self._draw(layers))

    def _others(self, layers: int) -> Tensor:
        """Other codes for so many layers [2, layers, y_dim]."""
        spread = self.y.float().std() + 0.1
        noise = torch.randn(2, layers, self.y.shape[1], generator=self.random) * spread.cpu()
        return self.y.flip(0)[:, None] + noise.to(self.y)

    def _used(self, layers: int) -> int:
        """How many layers there are up to the last that changes the image: one before it may do nothing, as in StyleGAN-T."""
        matter = self._layers_that_matter(layers)
        return matter[-1] + 1 if matter else 0

    def _layers_that_matter(self, layers: int) -> list[int]:
        """Which layers change the image: by its gradient, and by trying where that is zero."""
        start = self.y[:, None].repeat(1, layers, 1)
        quiet = list(range(layers))
        leaf = start[:1].clone().requires_grad_(True)

        def gradient() -> Tensor:
            with torch.enable_grad():
                x = self.runner.images(leaf)
                x = x * torch.randn(x.shape, generator=self.random).to(x)
                return torch.autograd.grad(x.sum(), leaf)[0]

        found = self._quietly(gradient)
        if isinstance(found, Tensor):
            quiet = [i for i in quiet if not bool(found[0, i].ne(0).any())]
        before = self._draw(layers, start)
        matter = set(range(layers)) - set(quiet)

        def changes(some: list[int]) -> bool:
            ys = start.clone()
            ys[:, some] = self._others(len(some))
            return not _same(before, self._draw(layers, ys), exactly=True)

        if quiet and changes(quiet):
            matter |= {i for i in quiet if changes([i])}
        return sorted(matter)

    # images

    def look(self, x: Tensor, generator: Generator, *, checked: bool) -> None:
        """Looks at the scale and the steadiness of images.

        Args:
            x: The first two.
            generator: Draws more.
            checked: Whether their scale is to be looked at.

        Raises:
            WrapError: They are not in [-1, 1], or another one is drawn each time.
        """
        runner = self.runner
        c = None if self._c is None else self._c.to(x.device)[None].expand(8, -1)

        def more() -> Tensor:
            z = torch.randn(8, generator.z_dim, generator=self.random).to(x.device)
            return generator.synthesis(broadcast(generator.mapping(z, c), generator.num_ws))

        again = self._quietly(lambda: generator.synthesis(broadcast(self.y, generator.num_ws)))
        if not _same(x, again):
            raise WrapError(
                "synthesis draws another image each time that it is given the same code, by a randomness of its own. Pass "
                "synthesis=lambda ys: … that keeps its noise still."
            )
        runner.draws_noise = runner.drawn > 0
        seen, largest = len(x), float(x.max())
        while checked and float(x.min()) >= 0:
            found = self._quietly(more)
            if isinstance(found, Exception):
                raise WrapError(f"synthesis draws 2 images, but not 8: {_first_line(found)}.") from found
            x = found
            seen, largest = seen + len(x), max(largest, float(x.max()))
            if seen >= _SCALED and float(x.min()) >= 0:
                scale = (0, 1) if largest <= 2 else (0, 255)
                raise WrapError(
                    f"in {seen} images nothing is below 0, and the largest value is {largest:.3g}; expected [-1, 1]. Pass "
                    f"image_range={scale} where that is black and white, or image_range=(-1, 1) where it is chance."
                )

    def _quietly(self, work: Callable[[], Tensor]) -> Answer:
        try:
            with torch.no_grad(), same_random_state(self.runner.like().device):
                return work()
        except WrapError:
            raise
        except Exception as error:  # the user's code may raise anything; the message goes into a WrapError
            return error


def _same(a: Answer, b: Answer, exactly: bool = False) -> bool:
    """Whether two sets of images are equal but for rounding, of which `exactly` allows next to none."""
    if isinstance(a, Exception) or isinstance(b, Exception) or a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= (_EQUAL if exactly else _SAME) * (a.abs().max() + 1e-6))


def _announced(owners: Iterable[object], names: Sequence[str]) -> list[int]:
    """What modules say about a size, in the order of names, the nearest module first."""
    found = []
    for name, owner in itertools.product(names, owners):
        value = getattr(owner, name, None)
        value = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 1 << 16:
            found.append(value)
    return list(dict.fromkeys(found))


def _listed(sizes: Sequence[int]) -> str:
    if len(sizes) > _NAMED:
        return f"{', '.join(map(str, sizes[:4]))} and other numbers of"
    return " or ".join(map(str, sizes))


def _first_line(answer: object) -> str:
    text = str(answer).strip().splitlines()
    return f"{type(answer).__name__}: {text[0][:160]}" if text else type(answer).__name__
