"""Finds how many layers of somebody's generator take a y of their own: the last changes the image, and one more would not."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lia_adapter.errors import WrapError
from lia_adapter.generators.answers import Unreadable, check_image, is_channels_last
from lia_adapter.generators.probe import Answer, Trials, announced, first_line, listed, same

__all__ = ["LayerProbe"]

_LAYER_NAMES = (
    "num_ws", "n_latent", "num_latent", "num_latents", "n_latents", "num_styles", "n_styles", "num_layers", "n_layers", "num_w",
)  # fmt: skip
_LAYERS = (64, 256)  # more than generators have
_STAGES = 12  # doublings of resolution


class LayerProbe:
    """Finds num_ws.

    Args:
        trials: Runs the synthesis.
        owners: Modules that may say sizes by their attributes.
        y: Two codes [2, y_dim].
        rows: Layers in the answer of the mapping, or 0.
    """

    def __init__(self, trials: Trials, owners: Sequence[object], y: Tensor, rows: int) -> None:
        self.trials, self.runner, self.random = trials, trials.runner, trials.random
        self.y, self.rows, self._owners = y, rows, owners
        self._any, self._searching = False, False
        self.first: Exception | None = None
        self.odd: str | None = None

    def find(self, given: int | None) -> tuple[int, bool, Tensor]:
        """num_ws, whether synthesis takes y [N, y_dim] alone, and two images.

        Args:
            given: The num_ws that the user says.

        Raises:
            WrapError: The synthesis does not run or gives no images, or several sizes are possible.
        """
        numbers = [given] if given else list(dict.fromkeys([*([self.rows] if self.rows else []), *self._said()]))
        self._set_calls(numbers)
        for layers in numbers:
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
            if isinstance(x, Tensor) and (not isinstance(alone, Tensor) or same(alone, x) or sizes[0] == 1):
                return sizes[0], False, x
        if isinstance(alone, Tensor) and not sizes and not self._any:
            return 1, True, alone
        if not sizes and not self._any:
            raise self._no_synthesis()
        found = listed(sizes) if sizes else "any number of"
        also = ", or one y [N, y_dim] (num_ws=1)," if isinstance(alone, Tensor) else ""
        raise WrapError(
            f"synthesis draws from ys of {found} layers{also} and every layer changes the image, so that the right number "
            f"can't be told. Pass num_ws=… ({'the largest is the likeliest' if len(sizes) > 1 else 'your generator’s own'})."
        )

    def _said(self) -> list[int]:
        return announced(self._owners, _LAYER_NAMES)

    def _no_synthesis(self, more: str = "") -> WrapError:
        found = self.odd or (first_line(self.first) if self.first is not None else "nothing")
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
        x = self.trials.quietly(lambda: self.runner.images(ys))
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

    def _set_calls(self, numbers: list[int]) -> None:
        """Chooses the resolution of a generator that can draw several: the largest."""
        call = self.runner.draw
        if call.stage is None:
            return
        for layers in (*numbers, *_LAYERS, None):
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
        return same(before, after) or (said and same(before, more))

    def _is_broadcast(self, layers: int) -> bool:
        return same(self._draw(1), self._draw(layers))

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

        found = self.trials.quietly(gradient)
        if isinstance(found, Tensor):
            quiet = [i for i in quiet if not bool(found[0, i].ne(0).any())]
        before = self._draw(layers, start)
        matter = set(range(layers)) - set(quiet)

        def changes(some: list[int]) -> bool:
            ys = start.clone()
            ys[:, some] = self._others(len(some))
            return not same(before, self._draw(layers, ys), exactly=True)

        if quiet and changes(quiet):
            matter |= {i for i in quiet if changes([i])}
        return sorted(matter)
