"""The encoder of ALAE (Pidhorskyi et al. 2020, "Adversarial Latent Autoencoders", fig. 2), x -> y: for files that have one.

x -> from RGB -> blocks (convolve, halve) until 2x2; y is the sum of what each layer's means and deviations are turned into
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.canonical import PublishedEncoderConfig
from lia_adapter.generators.base import check_images
from lia_adapter.generators.stylegan1 import blur

__all__ = ["ALAEEncoder"]

_EPS = 1e-5  # of its instance norm


class _Layer(nn.Module):
    """Convolution, leaky ReLU, instance norm; and what its statistics say of the code.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        y_dim: Entries of y.
        down: Whether the image is blurred before and halved behind the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, y_dim: int, *, down: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.style = nn.Linear(2 * out_channels, y_dim)
        self.down = down

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, I, h, w] -> [N, O, H, W] and a part of y [N, y_dim]."""
        x = F.avg_pool2d(self.conv(blur(x)), 2) if self.down else self.conv(x)
        x = F.leaky_relu(x + self.bias[:, None, None], 0.2)
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
        part: Tensor = self.style(torch.cat([mean, variance.sqrt()], dim=1).flatten(1))
        return (x - mean) * (variance + _EPS).rsqrt(), part


class ALAEEncoder(nn.Module):
    """x [N, C, H, W] in [-1, 1] -> y [N, y_dim].

    Args:
        config: `encoder` of a checkpoint: "kind" "alae", "resolution" [H, W], "channels", "y_dim", "widths", the feature maps
            behind the first layer and behind each block.
    """

    space = "y"

    def __init__(self, config: PublishedEncoderConfig) -> None:
        super().__init__()
        self._config = config.copy()
        widths = [int(width) for width in config["widths"]]
        self.resolution, self.channels = tuple(config["resolution"]), int(config["channels"])
        self.y_dim, self.num_ws = int(config["y_dim"]), 1
        self.fromrgb = nn.Conv2d(self.channels, widths[0], 1)
        self.layers = nn.ModuleList(
            _Layer(narrow, out, self.y_dim, down=down)
            for narrow, wide in zip(widths, widths[1:], strict=False)
            for out, down in ((narrow, False), (wide, True))
        )

    def config(self) -> PublishedEncoderConfig:
        """The argument of this class, as JSON."""
        return self._config.copy()

    def forward(self, x: Tensor) -> Tensor:
        """Images x [N, C, H, W] -> codes y [N, y_dim].

        Raises:
            LIAError: The images have another size or number of channels.
        """
        check_images(x, self.channels, self.resolution)
        x = F.leaky_relu(self.fromrgb(x), 0.2 * 0.2)  # the program applies its slope of 0.2 twice
        y = x.new_zeros(len(x), self.y_dim)
        for layer in self.layers:
            x, part = layer(x)
            y = y + part
        return y
