"""Finds how many entries the z of somebody's generator has: every one of them changes y."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lia_adapter.errors import WrapError
from lia_adapter.generators.answers import Unreadable
from lia_adapter.generators.guest import modules_behind
from lia_adapter.generators.probe import NAMED, Answer, Trials, announced, first_line, listed

__all__ = ["CodeProbe"]

_USUAL = (512, 256, 128, 64, 100, 32, 1024)  # sizes of z, tried in this order where the module does not say its own ...
_Z_SIZES = (*_USUAL, *(size for size in range(1, 1024) if size not in _USUAL))  # ... and then the others
_Z_NAMES = (
    "z_dim", "dim_z", "z_space_dim", "input_space_dim", "latent_size", "latent_dim", "dim_latent", "nz", "z_size", "noise_dim",
    "input_dim", "style_dim", "num_style_feat", "w_dim", "dim",
)  # fmt: skip


class CodeProbe:
    """Finds z_dim.

    Args:
        trials: Runs the mapping.
        owners: Modules that may say sizes by their attributes.
        c: The label to give [c_dim], or None.

    Attributes:
        rows: Layers in the answer of the mapping, which gives each the same y; 0 where it gives one y alone.
    """

    def __init__(self, trials: Trials, owners: Sequence[object], c: Tensor | None) -> None:
        self.trials, self.runner, self.random = trials, trials.runner, trials.random
        self.rows = 0
        self._owners, self._c = owners, c
        self._failed: Exception | None = None
        self._known: dict[int, int] = {}  # sizes of z, and how many entries of them change y

    def find(self, given: int | None) -> tuple[int, Tensor]:
        """z_dim, and y [2, y_dim] of two random z.

        Args:
            given: The z_dim that the user says.

        Raises:
            WrapError: The mapping does not run, or several sizes are possible.
        """
        if given:
            answer = self._map(given)
            if isinstance(answer, Exception):
                raise self._no_mapping(f"z_dim={given}", answer)
            return given, self._one_y(answer, given)
        said = announced(self._owners, _Z_NAMES)
        for size in said:
            if size > 1 and self._entries(size) == size:  # a single entry may be broadcast
                return size, self._y_of(size)
        lying = [size for size in said if self._entries(size)]
        proper: list[int] = []
        ignoring: list[int] = []
        for size in dict.fromkeys((*said, *self._widths(), *_Z_SIZES)):
            matter = self._entries(size)
            if not matter:
                continue
            if matter < size and self._entries(matter) != matter:
                ignoring.append(size)
                if len(ignoring) > NAMED:
                    break
                continue
            near = {1, matter // 2, matter - 1, matter + 1, 2 * matter, 3 * matter, max(_Z_SIZES), *self._widths()}
            proper = sorted(n for n in {matter, *near} if n and self._entries(n) == n)
            break
        if lying:
            raise WrapError(
                f"the generator says that z has {lying[0]} entries, but not all of them change y"
                f"{f'; with z_dim={listed(proper)} all do' if proper else ''}. Pass z_dim=… to say which is right."
            )
        if len(proper) == 1:
            return proper[0], self._y_of(proper[0])
        if proper:
            raise WrapError(
                f"mapping runs on z of {listed(proper)} entries, and all of them change y. Pass z_dim=… to say which."
            )
        if ignoring:
            raise WrapError(
                f"mapping runs on z of {listed(sorted(ignoring))} entries, but some never change y. Pass z_dim=… to say which."
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
        return WrapError(f"mapping did not run on z of {sizes}: {first_line(error)}. Pass z_dim=… (and check `mapping`).{hint}")

    def _map(self, size: int, z: Tensor | None = None) -> Answer:
        z = torch.randn(2, size, generator=torch.Generator().manual_seed(0)) if z is None else z
        like = self.runner.like()
        z = z.to(like.device)
        c = None if self._c is None else self._c.to(like.device)[None].expand(len(z), -1)
        return self.trials.quietly(lambda: self.runner.map(z, c))

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
