"""StyleGAN2's discriminator (Karras et al. 2020), with the names of NVlabs' files."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.canonical import Discriminator2Config, DiscriminatorBlock2Config, Epilogue2Config, whole_epilogue
from lia_adapter.generators.base import check_label, one_class
from lia_adapter.generators.layers import Dense, default_filter, in_fast_format
from lia_adapter.generators.stylegan2 import MappingNetwork
from lia_adapter.ops import ACTIVATIONS, bias_act, upfirdn2d

__all__ = ["Discriminator", "lower_discriminator", "minibatch_std"]


class Conv2d(nn.Module):
    """Convolution with equalised learning rate, optional 2x downsampling, bias and activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the kernel.
        act: Activation.
        down: 1, or 2 to halve the resolution after a low-pass filter.
        bias: Whether a bias is added.
        clamp: Largest absolute value of the output, or None.
        filter_shape: Shape of the low-pass filter.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        act: str,
        filter_shape: tuple[int, ...],
        *,
        down: int = 1,
        bias: bool = True,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.act, self.down, self.clamp = act, down, clamp
        self.weight_gain = 1 / (in_channels * kernel**2) ** 0.5
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("resample_filter", default_filter(filter_shape))

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """[N, I, H, W] -> [N, O, H / down, W / down]."""
        weight = self.weight * self.weight_gain
        pad = weight.shape[-1] // 2
        if self.down == 1:
            x = F.conv2d(x, weight, padding=pad)
        elif weight.shape[-1] == 1:  # the filter may decimate at once
            x = F.conv2d(downsample2d(x, self.resample_filter), weight)
        else:
            x = F.conv2d(downsample2d(x, self.resample_filter, down=1, pad=pad), weight, stride=2)
        clamp = None if self.clamp is None else self.clamp * gain
        return bias_act(x, self.bias, act=self.act, gain=ACTIVATIONS[self.act].gain * gain, clamp=clamp)


def downsample2d(x: Tensor, f: Tensor, *, down: int = 2, pad: int = 0) -> Tensor:
    """Low-pass filter for a halving of x [N, C, H, W], with `pad` extra zeros for the convolution that follows."""
    fh, fw = f.shape[0], f.shape[-1]
    padding = [pad + (fw - 1) // 2, pad + (fw - 2) // 2, pad + (fh - 1) // 2, pad + (fh - 2) // 2]
    return upfirdn2d(x, f, down=down, padding=padding)


def minibatch_std(x: Tensor, group: int | None, channels: int) -> Tensor:
    """Appends the standard deviation within groups of the batch as feature maps (Karras 2018, sec. 3).

    Args:
        x: [N, C, H, W]; N must be a multiple of the group's size or smaller than it.
        group: Samples in a group, None for the whole batch.
        channels: Number of maps F to append; C must be a multiple.

    Returns:
        [N, C + F, H, W].
    """
    n, c, h, w = x.shape
    g = n if group is None else min(group, n)
    y = x.reshape(g, -1, channels, c // channels, h, w)  # [G, N / G, F, C / F, H, W]
    y = (y - y.mean(dim=0)).square().mean(dim=0)
    y = (y + 1e-8).sqrt().mean(dim=(2, 3, 4))  # [N / G, F]
    y = y.reshape(-1, channels, 1, 1).repeat(g, 1, h, w)
    return torch.cat([x, y], dim=1)


class Block(nn.Module):
    """The layers of one resolution: orig, skip or resnet.

    Args:
        config: One of the discriminator's `blocks` in the canonical config.
        channels: Channels of the image.
    """

    resample_filter: Tensor

    def __init__(self, config: DiscriminatorBlock2Config, channels: int) -> None:
        super().__init__()
        self.architecture = str(config["architecture"])
        mid, out, act = int(config["mid_channels"]), int(config["out_channels"]), str(config["activation"])
        shape, clamp = tuple(config["filter"]), config["clamp"]
        self.register_buffer("resample_filter", default_filter(shape))
        self.has_fromrgb = bool(config["fromrgb"])
        if self.has_fromrgb:
            self.fromrgb = Conv2d(channels, mid, 1, act, shape, clamp=clamp)
        self.conv0 = Conv2d(mid, mid, 3, act, shape, clamp=clamp)
        self.conv1 = Conv2d(mid, out, 3, act, shape, down=2, clamp=clamp)
        if self.architecture == "resnet":
            self.skip = Conv2d(mid, out, 1, "linear", shape, down=2, bias=False)

    def forward(self, x: Tensor | None, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, I, H, W] (None in the first block) and image [N, C, H, W] -> both at half the size."""
        if self.has_fromrgb:
            drawn = self.fromrgb(image)
            x = drawn if x is None else x + drawn
            if self.architecture == "skip":
                image = downsample2d(image, self.resample_filter)
        assert x is not None  # noqa: S101  (the first block always has a fromrgb)
        if self.architecture == "resnet":
            bypass = self.skip(x, gain=0.5**0.5)
            return bypass + self.conv1(self.conv0(x), gain=0.5**0.5), image
        return self.conv1(self.conv0(x)), image


class Epilogue(nn.Module):
    """The last block: minibatch standard deviation, one convolution, two dense layers.

    Args:
        config: `epilogue` of the canonical config.
        channels: Channels of the image.
    """

    def __init__(self, config: Epilogue2Config, channels: int) -> None:
        super().__init__()
        config = whole_epilogue(config)
        width, act, (h, w) = int(config["in_channels"]), str(config["activation"]), config["size"]
        shape, clamp = tuple(config["filter"]), config["clamp"]
        self.group, self.std_channels = config["mbstd_group"], int(config["mbstd_channels"])
        self.has_fromrgb = config["architecture"] == "skip"
        if self.has_fromrgb:
            self.fromrgb = Conv2d(channels, width, 1, act, shape)
        self.conv = Conv2d(width + self.std_channels, width, 3, act, shape, clamp=clamp)
        self.fc = Dense(width * h * w, width, act)
        self.out = Dense(width, int(config["cmap_dim"]) or int(config["outputs"]))
        self.sums = config["label"] == "sum"

    def forward(self, x: Tensor, image: Tensor, label: Tensor | None) -> Tensor:
        """x [N, C, H, W], label [N, cmap_dim] (where outputs are summed: [N, outputs]) -> logits [N, 1]."""
        if self.has_fromrgb:
            x = x + self.fromrgb(image)
        if self.std_channels:
            x = minibatch_std(x, self.group, self.std_channels)
        logits: Tensor = self.out(self.fc(self.conv(x).flatten(1)))
        if label is None:
            return logits
        # One output a class (Mescheder 2018), or a projection on the embedded label (Miyato & Koyama 2018).
        picked: Tensor = (logits * label).sum(dim=1, keepdim=True)
        return picked if self.sums else picked / label.shape[1] ** 0.5


class Discriminator(nn.Module):
    """StyleGAN2's discriminator, x -> logits.

    Args:
        config: `discriminator` of the canonical config of the family "stylegan2".
    """

    def __init__(self, config: Discriminator2Config) -> None:
        super().__init__()
        self.config = config
        self.c_dim, self.channels = int(config["c_dim"]), int(config["channels"])
        self.resolution = (int(config["resolution"][0]), int(config["resolution"][1]))
        self.fixed_label = config.get("class")  # the one class that is judged, whatever c is
        self.names = [str(block["name"]) for block in config["blocks"]]
        for block in config["blocks"]:
            setattr(self, block["name"], Block(block, self.channels))
        setattr(self, config["epilogue"]["name"], Epilogue(config["epilogue"], self.channels))
        self.last = str(config["epilogue"]["name"])
        self.mapping = None if config["mapping"] is None else MappingNetwork(config["mapping"])

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Images x [N, C, H, W] in [-1, 1] and labels c [N, c_dim] -> logits [N, 1]; larger means more real."""
        image, features = in_fast_format(x, next(self.parameters())), None
        for name in self.names:
            features, image = self.get_submodule(name)(features, image)
        if self.fixed_label is not None:
            c = one_class(self.fixed_label, self.c_dim, len(x), x)
        c = check_label(c, self.c_dim, len(x))
        label = c if c is None or self.mapping is None else self.mapping(None, c)
        logits: Tensor = self.get_submodule(self.last)(features, image, label)
        return logits


def lower_discriminator(whole: Discriminator, max_side: int = 256) -> Discriminator:
    """The blocks of a discriminator for images of at most `max_side` pixels a side, with its weights.

    Only the way in is new where the architecture has one for the largest images alone (orig, resnet): a layer of random
    weights, for a discriminator that goes on learning.

    Args:
        whole: Of any size; itself where it is small enough.
        max_side: Of the images that the result judges.
    """
    halvings = 0
    while max(whole.resolution) >> halvings > max_side:
        halvings += 1
    if not halvings or halvings >= len(whole.config["blocks"]):
        return whole
    first, *rest = whole.config["blocks"][halvings:]
    config: Discriminator2Config = {
        **whole.config,
        "resolution": [side >> halvings for side in whole.resolution],
        "blocks": [{**first, "fromrgb": True, "in_channels": 0}, *rest],
    }
    lower = Discriminator(config).to(next(whole.parameters()))
    kept = whole.state_dict()
    lower.load_state_dict({name: kept.get(name, fresh) for name, fresh in lower.state_dict().items()})
    return lower.eval().requires_grad_(False)
