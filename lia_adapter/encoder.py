"""The encoder: x → y (LIA, sec. 3.3), a residual network sized by the resolution.

    x → at most 256² → stem → stages (halve, residual block) until at most 4×4 → dense → norm → a → y = mean + a @ turn @ root

a @ turn [N, y_dim] is whitened y: mean and root are those of the original mapping's samples, so that an untrained encoder
starts where the generator is at home. Entries of a are the directions that move pixels, the strongest first, each with a scale
that is trained: what a picture does not tell can become small, and does not share an entry with what it tells.

With more passes than one a second such network sees the image and what the last answer draws, and answers what to add (as
ReStyle does: Alaluf 2021).
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lia_adapter.errors import LIAError
from lia_adapter.keys import SPACES
from lia_adapter.resize import reduced_size, resize

__all__ = ["BatchNorm", "Encoder", "encoded", "for_layers", "one_code"]

_LAST_SIDE = 4
_MOMENTUM = 0.1  # of the running statistics
_LARGE = 2**25  # entries of the first layer's maps of a batch: 128 MB each, of some forty such maps in all

_learning: ContextVar[bool] = ContextVar("learning", default=True)


@contextlib.contextmanager
def _again() -> Iterator[None]:
    """While what a checkpoint forgot is computed again: batch normalisation has seen that batch."""
    token = _learning.set(False)
    try:
        yield
    finally:
        _learning.reset(token)


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return contextlib.nullcontext(), _again()


def one_code(codes: Tensor) -> Tensor:
    """The one y [N, y_dim] of codes y or ys [N, num_ws, y_dim]: their mean over layers."""
    return codes if codes.ndim == 2 else codes.mean(dim=1)


def encoded(encoder: nn.Module, x: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """The codes of images, after all passes of an encoder.

    Args:
        encoder: An `Encoder`, or any other network, which has one pass.
        x: Images [N, C, H, W] in [-1, 1].
        draw: y [N, y_dim] or ys [N, num_ws, y_dim] -> images [N, C, H, W].
    """
    codes: Tensor = encoder(x)
    if isinstance(encoder, Encoder):
        for _ in range(encoder.passes - 1):
            codes = encoder.corrected(codes, x, draw(codes))
    return codes


def for_layers(y: Tensor, codes: Tensor) -> Tensor:
    """y [N, y_dim] in the form of codes, so that it can be added to them: the same, or [N, 1, y_dim] for ys."""
    return y if codes.ndim == 2 else y[:, None]


class _Gather(torch.autograd.Function):
    """The tensors of all processes, stacked; the gradient of each goes back to where it came from."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe 2015) whose statistics are those of the batch over all processes.

    torch's own SyncBatchNorm is for CUDA alone. A batch of one sample says nothing of the spread over samples: it is
    normalised by the running statistics, which it helps to find.

    Args:
        features: Entries of the second dimension.
        scale: Whether a trained scale follows; a trained shift always does.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, *, scale: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features)) if scale else None
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] or [N, C, H, W] -> the same shape."""
        ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        lone = len(x) * ranks == 1
        if not self.training or lone:
            if self.training and _learning.get():
                self._learn_from_one(x.detach())
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)
        if ranks == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias,
                training=True, momentum=_MOMENTUM if _learning.get() else 0.0,
            )  # fmt: skip
        return self._over_ranks(x, ranks)

    def _over_ranks(self, x: Tensor, ranks: int) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        axes = [0, *range(2, x.ndim)]
        var, mean = torch.var_mean(wide, dim=axes, correction=0)
        means, variances = _Gather.apply(torch.stack([mean, var])).unbind(dim=1)  # each [ranks, C]
        mean = means.mean(dim=0)
        var = (variances + (means - mean).square()).mean(dim=0)
        count = ranks * x.numel() // x.shape[1]
        if _learning.get():
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean), _MOMENTUM)
                self.running_var.lerp_((var * count / (count - 1)).to(self.running_var), _MOMENTUM)
        shape = [1, -1] + [1] * (x.ndim - 2)
        scale = (var + 1e-5).rsqrt() if self.weight is None else self.weight * (var + 1e-5).rsqrt()
        answer: Tensor = (wide - mean.reshape(shape)) * scale.reshape(shape) + self.bias.reshape(shape)
        return answer.to(x.dtype)

    @torch.no_grad()
    def _learn_from_one(self, x: Tensor) -> None:
        values = x.transpose(0, 1).flatten(1).to(self.running_mean)  # [C, values]
        spread = (values - self.running_mean[:, None]).square().mean(dim=1)
        self.running_var.lerp_(spread, _MOMENTUM)
        self.running_mean.lerp_(values.mean(dim=1), _MOMENTUM)


def _activated(x: Tensor) -> Tensor:
    """Leaky ReLU in place: its own gradient follows from its result, and that of batch normalisation from its input."""
    return F.leaky_relu(x, 0.2, inplace=True)


class _Stage(nn.Module):
    """Average pooling by two and a residual block of two conv-norm-leaky ReLU; a 1×1 shortcut where widths differ."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm0 = BatchNorm(out_channels)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = BatchNorm(out_channels)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, ceil(H / 2), ceil(W / 2)]."""
        x = F.avg_pool2d(x, 2, ceil_mode=True)
        y = _activated(self.norm0(self.conv0(x)))
        y = _activated(self.norm1(self.conv1(y)))
        answer: Tensor = self.skip(x) + y
        return answer


class Encoder(nn.Module):
    """x [N, C, H, W] in [-1, 1] -> y [N, y_dim], or ys [N, num_ws, y_dim].

    Args:
        resolution: (H, W) of the images; H and W may differ and may be odd.
        channels: Of the images.
        y_dim: Entries of y.
        num_ws: Layers of the generator.
        space: "y": one code; "ys": one a layer, y plus an offset each, which starts at zero.
        width: Feature maps of the stem; each stage doubles them. The paper has 64.
        width_max: Up to this many. The paper has 1024.
        passes: Answers to give: each but the first by looking at what the last one draws. See `encoded`.
        turned: Whether there are directions and scales; encoders of before have a as whitened y, its entries of equal spread.
    """

    mean: Tensor
    root: Tensor
    turn: Tensor

    def __init__(
        self,
        resolution: tuple[int, int],
        channels: int,
        y_dim: int,
        num_ws: int,
        *,
        space: str = "y",
        width: int = 64,
        width_max: int = 1024,
        passes: int = 1,
        turned: bool = False,
    ) -> None:
        super().__init__()
        if space not in SPACES:
            raise LIAError(f"the encoder's space is {space!r}; expected {' or '.join(SPACES)}.")
        self.resolution = (int(resolution[0]), int(resolution[1]))
        self.channels, self.y_dim, self.num_ws = channels, y_dim, num_ws
        self.space, self.width, self.width_max = space, width, width_max
        self.passes, self.turned = passes, turned
        h, w = self.looks_at = reduced_size(self.resolution)
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = BatchNorm(width)
        self.stages = nn.ModuleList()
        maps = width
        while max(h, w) > _LAST_SIDE:
            wider = min(2 * maps, width_max)
            self.stages.append(_Stage(maps, wider))
            maps, h, w = wider, -(-h // 2), -(-w // 2)
        self.dense = nn.Linear(maps * h * w, y_dim)
        self.last_norm = BatchNorm(y_dim, scale=turned)
        if space == "ys":
            self.offsets = nn.Linear(maps * h * w, num_ws * y_dim)
            nn.init.zeros_(self.offsets.weight)
            nn.init.zeros_(self.offsets.bias)
        self.register_buffer("mean", torch.zeros(y_dim))
        self.register_buffer("root", torch.eye(y_dim))
        if turned:
            self.register_buffer("turn", torch.eye(y_dim))
        self.corrector: Encoder | None = None
        if passes > 1:
            self.corrector = Encoder(
                resolution, 2 * channels, y_dim, num_ws, space=space, width=width, width_max=width_max, turned=True
            )
            nn.init.zeros_(self.corrector.scales)  # what it adds is nothing, until it has learnt what

    @property
    def scales(self) -> nn.Parameter:
        """Of the entries of a [y_dim]."""
        assert self.last_norm.weight is not None  # noqa: S101  (`turned`)
        return self.last_norm.weight

    @torch.no_grad()
    def place(self, mean: Tensor, root: Tensor, turn: Tensor | None = None) -> None:
        """Says where codes are: mean [y_dim] and root [y_dim, y_dim] of y, and the directions that move pixels, one a row."""
        self.mean.copy_(mean)
        self.root.copy_(root)
        if turn is not None:
            self.turn.copy_(turn)
        if self.corrector is not None:
            self.corrector.place(torch.zeros_like(mean), root, turn)

    def corrected(self, codes: Tensor, x: Tensor, drawn: Tensor) -> Tensor:
        """A better answer than codes, which draw drawn [N, C, H, W] where x was wanted; both as `forward` takes them."""
        assert self.corrector is not None  # noqa: S101  (there are passes)
        small = (resize(image) if tuple(image.shape[2:]) == self.resolution else image for image in (x, drawn))
        better: Tensor = codes + self.corrector(torch.cat(list(small), dim=1))
        return better

    def config(self) -> dict[str, Any]:
        """The arguments of this class, as JSON."""
        return {
            "resolution": list(self.resolution), "channels": self.channels, "y_dim": self.y_dim, "num_ws": self.num_ws,
            "space": self.space, "width": self.width, "width_max": self.width_max,
            **({"passes": self.passes, "turned": True} if self.turned else {}),
        }  # fmt: skip

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Encoder":
        """The inverse of `config`: an equal encoder with random weights."""
        return Encoder(**config)

    def _first(self, x: Tensor) -> Tensor:
        return _activated(self.norm(self.stem(x)))

    def _run(self, stage: Callable[[Tensor], Tensor], x: Tensor, lean: bool) -> Tensor:
        return checkpoint(stage, x, use_reentrant=False, context_fn=_contexts) if lean else stage(x)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> y [N, y_dim], or ys [N, num_ws, y_dim] where `space` is "ys"; of more passes the first.

        Args:
            x: Images at the generator's resolution, or as `resize` makes them of those, which is all that is looked at.

        Raises:
            LIAError: The images have another size or number of channels.
        """
        small = resize(x) if tuple(x.shape[2:]) == self.resolution else x
        if x.ndim != 4 or x.shape[1] != self.channels or tuple(small.shape[2:]) != self.looks_at:
            expected = ", ".join(map(str, (self.channels, *self.resolution)))
            raise LIAError(f"x has shape {list(x.shape)}; expected [N, {expected}]. lia_adapter.data fits images to that size.")
        # All that a batch leaves behind for its gradient would be gigabytes at 256²: of each stage its input must do.
        learning = self.stem.weight.requires_grad and torch.is_grad_enabled()
        lean = learning and len(x) * self.width * math.prod(self.looks_at) > _LARGE
        x = self._run(self._first, small, lean)
        for stage in self.stages:
            x = self._run(stage, x, lean)
        x = x.flatten(1)
        root = self.root
        # Autocast would compute y, which the invertible mapping amplifies, with the eight bits of bfloat16.
        with torch.autocast(x.device.type, enabled=False):
            u = self.last_norm(self.dense(x.to(root)))
            y: Tensor = self.mean + (u @ self.turn if self.turned else u) @ root
            if self.space == "ys":
                offsets = self.offsets(x.to(root)).reshape(-1, self.num_ws, self.y_dim)
                y = y[:, None] + offsets @ root
        return y
