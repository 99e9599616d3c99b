"""The encoder of LIA's own code, x -> y in one pass (LIA, sec. 3.3), and of idinvert, x -> ys: for files that have one.

    x -> stem -> stages (halve, residual block) until 4x4 -> dense -> norm -> y

It differs from `lia_adapter.encoder`, which is to be trained, in two places: where a block changes its width, the shortcut has
a normalisation and an activation of its own, and the hidden layer is as narrow as the narrower side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.canonical import PublishedEncoderConfig, whole_encoder
from lia_adapter.generators.base import check_images

__all__ = ["OfficialLIAEncoder"]


class _Norm(nn.Module):
    """Batch normalisation by the statistics of the training (eps 1e-5); LIA's has no scale, idinvert's has one."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, scale: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features)) if scale else None
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class _Conv(nn.Module):
    """Convolution, norm, leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, bias: bool, scale: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)
        self.norm = _Norm(out_channels, scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), 0.2)


class _Stage(nn.Module):
    """Average pooling by two and a residual block."""

    def __init__(self, in_channels: int, out_channels: int, scale: bool) -> None:
        super().__init__()
        hidden = min(in_channels, out_channels)
        self.conv1 = _Conv(in_channels, hidden, 3, bias=True, scale=scale)
        self.conv2 = _Conv(hidden, out_channels, 3, bias=True, scale=scale)
        widens = in_channels != out_channels
        self.shortcut = _Conv(in_channels, out_channels, 1, bias=False, scale=scale) if widens else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 2)
        answer: Tensor = self.conv2(self.conv1(x)) + self.shortcut(x)
        return answer


class OfficialLIAEncoder(nn.Module):
    """x [N, C, H, W] in [-1, 1] -> y [N, y_dim] of LIA, ys [N, num_ws, y_dim] of idinvert.

    Args:
        config: `encoder` of a checkpoint: "kind" "lia" or "idinvert", "resolution" [H, W], "channels", "y_dim", "widths", the
            feature maps of the stem and of each stage, and for idinvert "num_ws".
    """

    def __init__(self, config: PublishedEncoderConfig) -> None:
        super().__init__()
        self._config = config.copy()
        widths = [int(width) for width in config["widths"]]
        self.resolution, self.channels = tuple(config["resolution"]), int(config["channels"])
        scale = config["kind"] == "idinvert"
        self.y_dim, self.num_ws, self.space = int(config["y_dim"]), int(whole_encoder(config)["num_ws"]), "ys" if scale else "y"
        self.stem = _Conv(self.channels, widths[0], 3, bias=False, scale=scale)
        self.stages = nn.ModuleList(_Stage(narrow, wide, scale) for narrow, wide in zip(widths, widths[1:], strict=False))
        h, w = (side >> len(self.stages) for side in self.resolution)
        self.dense = nn.Linear(widths[-1] * h * w, self.num_ws * self.y_dim, bias=False)
        self.norm = _Norm(self.num_ws * self.y_dim, scale)

    def config(self) -> PublishedEncoderConfig:
        """The argument of this class, as JSON."""
        return self._config.copy()

    def forward(self, x: Tensor) -> Tensor:
        """Images x [N, C, H, W] -> codes y [N, y_dim], or ys [N, num_ws, y_dim].

        Raises:
            LIAError: The images have another size or number of channels.
        """
        check_images(x, self.channels, self.resolution)
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        y: Tensor = self.norm(self.dense(x.flatten(1)))
        return y if self.space == "y" else y.reshape(len(y), self.num_ws, self.y_dim)
