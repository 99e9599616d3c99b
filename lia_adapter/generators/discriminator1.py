"""StyleGAN1's discriminator (Karras et al. 2018, "Progressive Growing of GANs", with blurred down-sampling)."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.canonical import Discriminator1Config, DiscriminatorBlock1Config, Epilogue1Config
from lia_adapter.generators.base import check_label, one_class
from lia_adapter.generators.discriminator import minibatch_std
from lia_adapter.generators.layers import Dense
from lia_adapter.generators.stylegan1 import Conv, blur, grown

__all__ = ["Discriminator1"]


class Block(nn.Module):
    """The layers of one resolution.

    Args:
        config: One of the discriminator's `blocks` in the canonical config.
        channels: Channels of the image.
    """

    def __init__(self, config: DiscriminatorBlock1Config, channels: int) -> None:
        super().__init__()
        narrow, wide = int(config["in_channels"]), int(config["out_channels"])
        self.fromrgb = Conv(channels, narrow, 1) if config["fromrgb"] else None
        self.conv0, self.conv1 = Conv(narrow, narrow, 3), Conv(narrow, wide, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H / 2, W / 2]."""
        x = self.conv1.convolve(blur(self.conv0(x, "lrelu")))
        return F.leaky_relu(F.avg_pool2d(x, 2) + self.conv1.bias.to(x)[:, None, None], 0.2)


class Epilogue(nn.Module):
    """The last block: minibatch standard deviation, one convolution, two dense layers.

    Args:
        config: `epilogue` of the canonical config.
        channels: Channels of the image.
    """

    def __init__(self, config: Epilogue1Config, channels: int) -> None:
        super().__init__()
        width, (h, w), features = int(config["in_channels"]), config["size"], int(config["fc_features"])
        self.group, self.std_channels = config["mbstd_group"], int(config["mbstd_channels"])
        self.fromrgb = Conv(channels, width, 1) if config["fromrgb"] else None
        self.conv = Conv(width + self.std_channels, int(config["out_channels"]), 3)
        self.fc = Dense(int(config["out_channels"]) * h * w, features)
        self.out = Dense(features, int(config["outputs"]))

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        """x [N, C, H, W], label [N, outputs] -> logits [N, 1]."""
        if self.std_channels:
            x = minibatch_std(x, self.group, self.std_channels)
        x = self.conv(x, "lrelu").flatten(1)
        weight, bias = self.fc.effective()
        # The gain of leaky ReLUs is in the weights, not behind them: a bias does not get it.
        logits: Tensor = self.out(F.leaky_relu(x @ (2**0.5 * weight.to(x)).t() + bias.to(x), 0.2))
        return logits if label is None else (logits * label).sum(dim=1, keepdim=True)


class Discriminator1(nn.Module):
    """StyleGAN1's discriminator, x -> logits.

    Args:
        config: `discriminator` of the canonical config of the family "stylegan1".
    """

    def __init__(self, config: Discriminator1Config) -> None:
        super().__init__()
        self.c_dim, self.channels, self.lod = int(config["c_dim"]), int(config["channels"]), float(config["lod"])
        self.resolution = (int(config["resolution"][0]), int(config["resolution"][1]))
        self.fixed_label = config.get("class")  # the one class that is judged, whatever c is
        self.names = [str(block["name"]) for block in config["blocks"]]
        for block in config["blocks"]:
            setattr(self, block["name"], Block(block, self.channels))
        self.last = str(config["epilogue"]["name"])
        self.fromrgb_act = str(config["fromrgb_activation"])
        setattr(self, self.last, Epilogue(config["epilogue"], self.channels))

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Images x [N, C, H, W] in [-1, 1] and labels c [N, c_dim] -> logits [N, 1]; larger means more real."""
        if self.fixed_label is not None:
            c = one_class(self.fixed_label, self.c_dim, len(x), x)
        label = check_label(c, self.c_dim, len(x))
        image, features = x, self._seen(self.names[0] if self.names else self.last, x)
        for i, name in enumerate(self.names):
            features = self.get_submodule(name)(features)
            if self.lod > i:
                image = F.avg_pool2d(image, 2)
                features = grown(features, self._seen([*self.names, self.last][i + 1], image), self.lod - i)
        logits: Tensor = self.get_submodule(self.last)(features, label)
        return logits

    def _seen(self, name: str, image: Tensor) -> Tensor:
        fromrgb = cast(Block | Epilogue, self.get_submodule(name)).fromrgb
        assert fromrgb is not None  # noqa: S101  (the config gives one to every part that looks at an image)
        seen: Tensor = fromrgb(image, self.fromrgb_act)
        return seen
