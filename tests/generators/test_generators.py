"""StyleGAN2 against the equations of its paper, on small random networks."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lia_adapter.canonical import layer2
from lia_adapter.encoder import Encoder
from lia_adapter.errors import CheckpointError, LIAError
from lia_adapter.generators import (
    Discriminator,
    Generator,
    OfficialLIAEncoder,
    StyleGAN2,
    broadcast,
    build,
    build_random,
    filled,
    truncate,
)
from lia_adapter.generators.discriminator import Conv2d, minibatch_std
from lia_adapter.generators.presets import stylegan2_config
from lia_adapter.generators.stylegan2 import SynthesisLayer, ToRGB
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.typicality import Typicality

Array = NDArray[np.float64]


def small_config(resolution: int = 16, *, architecture: str = "skip", **sizes: Any) -> Any:
    config: Any = stylegan2_config(
        resolution, **{"z_dim": 12, "y_dim": 10, "mapping_layers": 2, "channel_base": 64, "channel_max": 8, **sizes}
    )
    for block in config["generator"]["blocks"]:
        block["architecture"] = architecture
        if architecture != "skip" and not block["is_last"]:
            block["torgb"] = None
    return config


def networks(config: Any, seed: int = 0) -> tuple[StyleGAN2, Discriminator]:
    """Random networks in which nothing is left at zero that training would move."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        g, d = build_random("stylegan2", config)
        for name, tensor in [*g.state_dict().items(), *d.state_dict().items()]:
            if name.endswith(("bias", "noise_strength", "w_avg")):
                tensor.add_(torch.randn_like(tensor) * 0.5)
    assert isinstance(g, StyleGAN2) and isinstance(d, Discriminator)
    return g, d


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(a: Tensor, b: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


# -- layers


def convolve(image: Array, kernel: Array) -> Array:
    """Full two-dimensional convolution."""
    (h, w), (kh, kw) = image.shape, kernel.shape
    out = np.zeros((h + kh - 1, w + kw - 1))
    for i, j in np.ndindex(kh, kw):
        out[i : i + h, j : j + w] += kernel[i, j] * image
    return out


def correlate(image: Array, kernel: Array) -> Array:
    """The image under a kernel that is not flipped, with zeros around so that the size stays; odd kernels."""
    kh, kw = kernel.shape
    h, w = image.shape
    return convolve(image, kernel[::-1, ::-1])[kh // 2 : kh // 2 + h, kw // 2 : kw // 2 + w]


def summed(images: Iterable[Array]) -> Array:
    total: Array = np.sum(list(images), axis=0)
    return total


def styles(layer: Any, y: Tensor) -> Array:
    weight, bias = layer.affine.weight.numpy(), layer.affine.bias.numpy()
    found: Array = y.numpy() @ weight.T / math.sqrt(weight.shape[1]) + bias
    return found


def modulated(layer: SynthesisLayer, x: Tensor, y: Tensor) -> Array:
    """Karras 2020, eq. 1 and 3, with a copy of the weights for each sample; upsampling by zeros and a filter."""
    f = layer.resample_filter.numpy()
    k, out = layer.weight.shape[-1], []
    for sample, style in zip(x.numpy(), styles(layer, y), strict=True):
        weight = layer.weight.numpy() * style[None, :, None, None]
        weight = weight / np.sqrt((weight**2).sum(axis=(1, 2, 3), keepdims=True) + 1e-8)
        if layer.up == 1:
            maps = [summed(correlate(a, w) for a, w in zip(sample, row, strict=True)) for row in weight]
        else:
            stuffed = np.zeros((len(sample), 2 * sample.shape[1], 2 * sample.shape[2]))
            stuffed[:, ::2, ::2] = sample
            wide = [summed(convolve(a, w) for a, w in zip(stuffed, row, strict=True)) for row in weight]
            maps = [convolve(m, 4 * f) for m in wide]
            # Centred; a filter with an even number of taps reaches one pixel further on one side.
            top, left = (k - 1 + size - 1 - k // 2 - (size + 1) // 2 for size in f.shape)
            maps = [m[top : top + stuffed.shape[1], left : left + stuffed.shape[2]] for m in maps]
        out.append(maps)
    return np.array(out)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize(("up", "taps"), [(1, (4, 4)), (2, (4, 4)), (2, (3, 5)), (2, (2, 6))])
def test_a_layer_is_a_convolution_with_weights_of_each_sample(kernel: int, up: int, taps: tuple[int, int]) -> None:
    config = layer2(kernel, clamp=1.0)
    h, w = 4, 3
    layer = SynthesisLayer(3, 5, 6, (h * up, w * up), up, config, taps).double().requires_grad_(False)
    layer.resample_filter.copy_(normal(*taps, seed=1) / 4)  # not symmetric: a wrong flip shows
    layer.noise_strength.fill_(0.3)
    layer.bias.copy_(normal(5, seed=2))
    x, y = normal(2, 3, h, w, seed=3).double(), normal(2, 6, seed=4).double()
    before = modulated(layer, x, y) + 0.3 * layer.noise_const.numpy() + layer.bias.numpy()[:, None, None]
    active = np.where(before > 0, before, 0.2 * before)
    for gain in (1.0, 0.5):
        expected = np.clip(active * math.sqrt(2) * gain, -gain, gain)
        assert np.mean(np.abs(expected) < gain) > 0.2  # the clamp does not hide everything
        np.testing.assert_allclose(layer(x, y, "const", gain=gain).numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_to_rgb_is_modulated_but_not_demodulated(kernel: int, memory_format: torch.memory_format) -> None:
    torgb = ToRGB(8, 3, 10, {"kernel": kernel, "clamp": None}).double().requires_grad_(False)
    torgb.bias.copy_(normal(3, seed=2))
    x, y = normal(2, 8, 3, 5).double(), normal(2, 10, seed=1).double()
    scaled = x.numpy() * styles(torgb, y)[:, :, None, None] / math.sqrt(8 * kernel**2)
    expected = [
        [summed(correlate(a, w) for a, w in zip(sample, row, strict=True)) for row in torgb.weight.numpy()] for sample in scaled
    ]
    drawn = torgb(x.contiguous(memory_format=memory_format), y)
    np.testing.assert_allclose(drawn.numpy(), np.array(expected) + torgb.bias.numpy()[:, None, None], atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 3])
def test_downsampling_is_a_filter_and_every_second_pixel(kernel: int) -> None:
    conv = Conv2d(2, 3, kernel, "linear", (4, 4), down=2, bias=False).double().requires_grad_(False)
    conv.resample_filter.copy_(normal(4, 4, seed=1))
    x = normal(1, 2, 8, 6, seed=2).double()
    f, weight = conv.resample_filter.numpy(), conv.weight.numpy() / math.sqrt(2 * kernel**2)
    expected = np.zeros((3, 4, 3))
    for o, i in np.ndindex(3, 2):
        full = convolve(convolve(x[0, i].numpy(), f), weight[o, i, ::-1, ::-1])
        start = 2 + kernel // 2 - (1 - kernel % 2)  # a filter of four taps reaches one pixel before and two after
        expected[o] += full[start : start + 8 : 2, start : start + 6 : 2]
    np.testing.assert_allclose(conv(x)[0].numpy(), expected, atol=1e-12)


# -- the generator


def test_the_generator_keeps_the_protocol() -> None:
    g = networks(small_config(c_dim=3))[0]
    assert isinstance(g, Generator)
    assert (g.z_dim, g.y_dim, g.c_dim, g.num_ws, g.resolution, g.channels) == (12, 10, 3, 6, (16, 16), 3)


def test_the_mapping_is_its_formula() -> None:
    g = networks(small_config(c_dim=3))[0].double()
    z, c = normal(4, 12).double(), F.one_hot(torch.tensor([0, 2, 1, 2]), 3).double()

    def unit(a: Array) -> Array:
        scaled: Array = a / np.sqrt((a**2).mean(axis=1, keepdims=True) + 1e-8)
        return scaled

    state = {name: t.numpy() for name, t in g.mapping.state_dict().items()}
    embedded = c.numpy() @ state["embed.weight"].T / math.sqrt(3) + state["embed.bias"]
    x = np.concatenate([unit(z.numpy()), unit(embedded)], axis=1)
    for i in range(2):
        weight, bias = state[f"fc{i}.weight"], state[f"fc{i}.bias"]
        x = x @ weight.T * (0.01 / math.sqrt(weight.shape[1])) + 0.01 * bias
        x = np.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    np.testing.assert_allclose(g.mapping(z, c).numpy(), x, atol=1e-12)


def test_the_length_of_z_does_not_matter() -> None:
    g, z = networks(small_config())[0], normal(4, 12)
    same(g.mapping(z), g.mapping(3 * z))


def test_one_y_is_the_same_y_for_every_layer() -> None:
    g, y = networks(small_config())[0], normal(2, 10)
    same(g.synthesis(y), g.synthesis(y[:, None].repeat(1, 6, 1)))
    same(g(normal(2, 12)), g.synthesis(g.mapping(normal(2, 12))))


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_every_layer_uses_its_own_y(architecture: str) -> None:
    g = networks(small_config(architecture=architecture))[0]
    ys = normal(1, 6, 10)
    before = g.synthesis(ys)
    for layer in range(6):
        changed = ys.clone()
        changed[:, layer] = normal(1, 10, seed=1)
        assert (g.synthesis(changed) - before).abs().max() > 1e-3, layer


def test_coarse_layers_act_before_fine_ones() -> None:
    # The last y is that of ToRGB alone: the features before it stay as they were.
    g, ys = networks(small_config(architecture="orig"))[0].double(), normal(1, 6, 10).double()
    seen: list[Tensor] = []
    g.synthesis.get_submodule("b16.conv1").register_forward_hook(lambda module, args, out: seen.append(out))
    g.synthesis(ys)
    changed = ys.clone()
    changed[:, 5] = normal(1, 10, seed=1).double()
    g.synthesis(changed)
    assert torch.equal(seen[0], seen[1])
    changed[:, 4] = normal(1, 10, seed=2).double()
    g.synthesis(changed)
    assert not torch.equal(seen[0], seen[2])


def test_an_image_does_not_depend_on_its_batch() -> None:
    g, d = networks(small_config(c_dim=2))
    z, c = normal(5, 12), F.one_hot(torch.tensor([0, 1, 0, 1, 1]), 2).float()
    whole = g(z, c)
    for i in range(5):
        same(g(z[i : i + 1], c[i : i + 1]), whole[i : i + 1])
    same(g(z[1:4], c[1:4]), whole[1:4])


@pytest.mark.parametrize("resolution", [8, 16, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_number_of_layers(resolution: int, channels: int) -> None:
    g, d = networks(small_config(resolution, channels=channels))
    assert g.num_ws == 2 * math.log2(resolution) - 2
    x = g.synthesis(normal(2, g.num_ws, 10))
    assert x.shape == (2, channels, resolution, resolution) and x.std() > 0.1
    assert d(x).shape == (2, 1)


@pytest.mark.parametrize(("h", "w"), [(4, 2), (3, 5)])
def test_images_need_not_be_square(h: int, w: int) -> None:
    config = small_config()
    for i, block in enumerate(config["generator"]["blocks"]):
        block["size"] = [h * 2**i, w * 2**i]
    config["generator"]["resolution"] = config["discriminator"]["resolution"] = [4 * h, 4 * w]
    config["discriminator"]["epilogue"]["size"] = [h, w]
    g, d = networks(config)
    assert g.resolution == (4 * h, 4 * w)
    for noise_mode in ("none", "const", "random"):
        x = g(normal(2, 12), noise_mode=noise_mode)
        assert x.shape == (2, 3, 4 * h, 4 * w)
    assert d(x).shape == (2, 1)


def architectures() -> dict[str, StyleGAN2]:
    """Three networks that differ in their wiring alone."""
    weights = networks(small_config(8))[0].state_dict()
    found = {}
    for name in ("skip", "resnet", "orig"):
        found[name] = networks(small_config(8, architecture=name))[0]
        # Without the early ToRGB and without the bypass, the paths of figure 7 become one.
        zero = {k: torch.zeros_like(v) for k, v in weights.items() if ".b4.torgb." in k}
        state = {k: v for k, v in {**weights, **zero}.items() if name == "skip" or k not in zero}
        if name == "resnet":
            skip = found[name].synthesis.get_submodule("b8.skip").state_dict()
            state |= {f"synthesis.b8.skip.{k}": torch.zeros_like(v) if k == "weight" else v for k, v in skip.items()}
        found[name].load_state_dict(state)
    return found


def test_the_architectures_are_one_network_wired_differently() -> None:
    g, y = architectures(), normal(2, 10)
    skip, resnet, orig = (g[name].synthesis(y) for name in ("skip", "resnet", "orig"))
    same(skip, orig)
    bias = g["orig"].state_dict()["synthesis.b8.torgb.bias"][:, None, None]
    same(resnet - bias, (orig - bias) * math.sqrt(0.5))
    # With the bypass in place, they differ.
    g["resnet"].synthesis.get_submodule("b8.skip").get_parameter("weight").fill_(1.0)
    assert (g["resnet"].synthesis(y) - resnet).abs().max() > 1e-2
    g["skip"].synthesis.get_submodule("b4.torgb").get_parameter("bias").fill_(1.0)
    same(g["skip"].synthesis(y), orig + 1, atol=1)  # a constant image passes the upsampling ...
    centre = (slice(None), slice(None), slice(3, 5), slice(3, 5))
    same(g["skip"].synthesis(y)[centre], orig[centre] + 1)  # ... unchanged, away from the zeros at the border


# -- half precision


def test_autocast_keeps_codes_and_images_precise() -> None:
    g, d = networks(small_config(64))
    z = normal(2, 12)
    y, x, logits = g.mapping(z), g(z), d(g(z))
    for dtype, digits in ((torch.bfloat16, 8), (torch.float16, 11)):
        with torch.autocast("cpu", dtype):
            assert torch.equal(g.mapping(z), y)
            rounded = g(z)
            assert rounded.dtype == torch.float32 and rounded.is_contiguous()
            error = (rounded - x).square().mean().sqrt() / x.std()
            assert 0 < error < 5 * 2.0**-digits, error
            same(d(x), logits, atol=20 * 2.0**-digits)


def test_large_styles_stay_within_float16() -> None:
    g, ys = networks(small_config())[0], normal(2, 6, 10)
    expected = g.synthesis(ys)
    layer = g.synthesis.get_submodule("b16.conv1")
    for name in ("weight", "bias"):  # the demodulation undoes it
        layer.get_parameter(f"affine.{name}").mul_(3e4)
    same(g.synthesis(ys), expected, atol=1e-4)
    with torch.autocast("cpu", torch.float16):
        same(g.synthesis(ys), expected, atol=0.05)


# -- truncation


@pytest.mark.parametrize("psi", [0.0, 0.5, 1.0, -0.7, 1.5])
@pytest.mark.parametrize("cutoff", [None, 0, 2, 6])
def test_truncation_is_its_formula(psi: float, cutoff: int | None) -> None:
    ys, mean = normal(3, 6, 10), normal(10, seed=1)
    expected = ys.clone()
    for layer in range(6 if cutoff is None else cutoff):
        expected[:, layer] = mean + psi * (ys[:, layer] - mean)
    same(truncate(ys, mean, psi, cutoff), expected, atol=1e-6)


def test_the_centre_of_truncation_is_the_tracked_mean() -> None:
    g = networks(small_config())[0]
    assert g.y_mean is not None and torch.equal(g.y_mean, g.state_dict()["mapping.w_avg"])
    config = small_config()
    config["generator"]["mapping"]["has_average"] = False
    assert networks(config)[0].y_mean is None


# -- noise


def test_noise_modes() -> None:
    g, y = networks(small_config())[0], normal(2, 10)
    drawn = {mode: g.synthesis(y, noise_mode=mode) for mode in ("none", "const", "random")}
    again = {mode: g.synthesis(y, noise_mode=mode) for mode in drawn}
    assert torch.equal(drawn["none"], again["none"]) and torch.equal(drawn["const"], again["const"])
    for a, b in (("none", "const"), ("const", "random"), ("random", "random")):
        assert (drawn[a] - again[b]).abs().max() > 1e-2


def test_random_noise_is_of_each_sample() -> None:
    g, y = networks(small_config())[0], normal(1, 10)
    x = g.synthesis(y.repeat(2, 1), noise_mode="random")
    assert (x[0] - x[1]).abs().max() > 1e-2
    x = g.synthesis(y.repeat(2, 1), noise_mode="const")
    same(x[0], x[1])


def test_without_strength_there_is_no_noise() -> None:
    g, y = networks(small_config())[0], normal(2, 10)
    for name, tensor in g.state_dict().items():
        if name.endswith("noise_strength"):
            tensor.zero_()
    expected = g.synthesis(y, noise_mode="none")
    assert torch.equal(g.synthesis(y, noise_mode="const"), expected)
    assert torch.equal(g.synthesis(y, noise_mode="random"), expected)


def test_a_network_without_noise_has_no_noise_tensors() -> None:
    config = small_config()
    for block in config["generator"]["blocks"]:
        for conv in ("conv0", "conv1"):
            if block[conv]:
                block[conv]["noise"] = False
    g, y = networks(config)[0], normal(2, 10)
    assert not [name for name in g.state_dict() if "noise" in name]
    assert torch.equal(g.synthesis(y, noise_mode="random"), g.synthesis(y, noise_mode="none"))


# -- what does not fit


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: g.mapping(torch.zeros(2, 11), torch.zeros(2, 3)), ["[2, 11]", "[N, 12]"]),
        (lambda g: g.mapping(torch.zeros(12), torch.zeros(1, 3)), ["[12]", "[N, 12]"]),
        (lambda g: g.mapping(torch.zeros(2, 12)), ["class-conditional", "[2, 3]"]),
        (lambda g: g.mapping(torch.zeros(2, 12), torch.zeros(2, 4)), ["[2, 4]", "[2, 3]"]),
        (lambda g: g.mapping(torch.zeros(2, 12), torch.zeros(1, 3)), ["[1, 3]", "[2, 3]"]),
        (lambda g: g.synthesis(torch.zeros(2, 5, 10)), ["[2, 5, 10]", "[N, 6, y_dim]"]),
        (lambda g: g.synthesis(torch.zeros(10)), ["[10]", "[N, y_dim]"]),
        (lambda g: g.synthesis(torch.zeros(2, 9)), ["9]", "[N, 6, 10]"]),
        (lambda g: g.synthesis(torch.zeros(2, 10), noise_mode="fixed"), ["'fixed'", "none, const, random"]),
    ],
)
def test_wrong_shapes_are_said(call: Any, words: list[str]) -> None:
    g = networks(small_config(c_dim=3))[0]
    with pytest.raises(LIAError) as caught:
        call(g)
    assert all(word in str(caught.value) for word in words), caught.value


def test_broadcast_leaves_what_has_a_y_for_each_layer() -> None:
    ys = normal(2, 6, 10)
    assert broadcast(ys, 6) is ys
    with pytest.raises(LIAError, match=r"\[2, 6, 10\]"):
        broadcast(ys, 5)


# -- the discriminator


@pytest.mark.parametrize(("n", "group", "channels"), [(8, 4, 1), (8, 4, 2), (6, None, 3), (2, 4, 1), (1, 4, 2), (3, 1, 1)])
def test_minibatch_std_is_its_definition(n: int, group: int | None, channels: int) -> None:
    x = normal(n, 6, 2, 3).double()
    size = min(n, group or n)
    expected = np.zeros((n, channels, 2, 3))
    for sample in range(n):
        # A group is every (n / size)-th sample of the batch.
        members = x[sample % (n // size) :: n // size].numpy()
        deviation = np.sqrt(members.var(axis=0) + 1e-8)
        for channel, part in enumerate(np.split(deviation, channels)):
            expected[sample, channel] = part.mean()
    found = minibatch_std(x, group, channels)
    assert torch.equal(found[:, :6], x)
    np.testing.assert_allclose(found[:, 6:].numpy(), expected, atol=1e-12)


def test_a_label_projects_the_logits() -> None:
    d = networks(small_config(c_dim=3))[1]
    seen: list[Tensor] = []
    d.get_submodule("b4.out").register_forward_hook(lambda module, args, out: seen.append(out))
    x, c = normal(4, 3, 16, 16), F.one_hot(torch.tensor([0, 2, 1, 2]), 3).float()
    logits = d(x, c)
    assert d.mapping is not None
    embedded = d.mapping(None, c)
    assert embedded.shape == seen[0].shape == (4, 8)
    for i in range(4):
        assert float(logits[i]) == pytest.approx(float(seen[0][i] @ embedded[i]) / math.sqrt(8), abs=1e-5)
    with pytest.raises(LIAError, match="class-conditional"):
        d(x)


@pytest.mark.parametrize("architecture", ["skip", "orig"])
def test_other_discriminators_run(architecture: str) -> None:
    config = small_config()
    config["discriminator"]["epilogue"]["architecture"] = architecture
    for i, block in enumerate(config["discriminator"]["blocks"]):
        block["architecture"] = architecture
        block["fromrgb"] = i == 0 or architecture == "skip"
    d, x = networks(config)[1], normal(4, 3, 16, 16)
    before = d(x)
    assert before.shape == (4, 1)
    # The small image reaches the last block of a skip discriminator: it has a FromRGB of its own.
    assert ("b4.fromrgb.weight" in d.state_dict()) == (architecture == "skip")
    if architecture == "skip":
        d.state_dict()["b4.fromrgb.weight"].zero_()
        assert (d(x) - before).abs().max() > 1e-4


# -- build


def parts(config: Any, seed: int = 0) -> dict[str, Tensor]:
    g, d = networks(config, seed)
    return {
        **{f"generator.{name}": tensor for name, tensor in g.state_dict().items()},
        **{f"discriminator.{name}": tensor for name, tensor in d.state_dict().items()},
    }


def test_build_gives_back_the_network_of_the_tensors() -> None:
    config = small_config(c_dim=2)
    expected, expected_d = networks(config)
    g, d = build("stylegan2", config, parts(config))
    assert g is not None and d is not None
    z, c = normal(2, 12), torch.eye(2)
    assert torch.equal(g(z, c), expected(z, c))
    assert torch.equal(d(expected(z, c), c), expected_d(expected(z, c), c))
    for module in (g, d):
        assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_build_makes_no_second_copy() -> None:
    config = small_config()
    tensors = {name: tensor.clone() for name, tensor in parts(config).items()}
    for part, module in zip(("generator", "discriminator"), build("stylegan2", config, tensors), strict=True):
        assert module is not None
        for name, tensor in module.state_dict().items():
            assert tensor.data_ptr() == tensors[f"{part}.{name}"].data_ptr()


def test_weights_that_share_memory_are_kept_apart() -> None:
    config = small_config()
    tensors = parts(config)
    weights, filters = "generator.synthesis.b8.conv0.weight", "generator.synthesis.b8.conv0.resample_filter"
    block = torch.zeros(2 * tensors[weights].numel())
    rows = block[: tensors[weights].numel()].view(tensors[weights].shape)
    tensors |= {
        weights: rows,
        filters: block[8:24].view(4, 4),
        "generator.synthesis.b8.conv1.resample_filter": block[8:24].view(4, 4),
    }
    tensors["generator.synthesis.b8.conv0.noise_const"] = torch.zeros(1, 1).expand(8, 8)
    tensors["generator.synthesis.b8.conv1.weight"] = tensors["generator.synthesis.b8.conv1.weight"].transpose(2, 3)
    g, _ = build("stylegan2", config, tensors)
    assert g is not None
    state = g.state_dict()
    assert all(tensor.is_contiguous() for tensor in state.values())
    before = {name: tensor.clone() for name, tensor in state.items()}
    for name, tensor in state.items():
        tensor.add_(1)
        assert torch.equal(tensor, before[name] + 1)
    assert all(torch.equal(state[name], before[name] + 1) for name in state)


def test_build_leaves_the_parameters_that_it_is_given() -> None:
    config = small_config()
    before = networks(config)[0].requires_grad_(True)
    build(
        "stylegan2",
        config | {"discriminator": None},
        {f"generator.{n}": p for n, p in before.state_dict(keep_vars=True).items()},
    )
    assert all(p.requires_grad for p in before.parameters())


def test_build_without_a_discriminator() -> None:
    config = small_config()
    tensors = {name: t for name, t in parts(config).items() if name.startswith("generator.")}
    assert build("stylegan2", config | {"discriminator": None}, tensors)[1] is None
    assert build("stylegan2", config | {"generator": None}, parts(config))[0] is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_build_converts_to_float32(dtype: torch.dtype) -> None:
    config = small_config()
    tensors = {name: tensor.to(dtype) for name, tensor in parts(config).items()}
    for module in build("stylegan2", config, tensors):
        assert module is not None and {t.dtype for t in module.state_dict().values()} == {torch.float32}
    g = build("stylegan2", config, tensors)[0]
    assert g is not None
    assert torch.equal(g.state_dict()["synthesis.b4.const"], tensors["generator.synthesis.b4.const"].float())


@pytest.mark.parametrize("part", ["generator.synthesis.b8.conv0.weight", "discriminator.b8.conv1.bias"])
@pytest.mark.parametrize("fault", ["missing", "left over", "other shape"])
def test_build_refuses_tensors_that_do_not_fit(part: str, fault: str) -> None:
    config = small_config()
    tensors = parts(config)
    if fault == "missing":
        del tensors[part]
    elif fault == "left over":
        part += "_v"
        tensors[part] = torch.zeros(1)
    else:
        tensors[part] = torch.zeros(7)
    side, _, name = part.partition(".")
    with pytest.raises(CheckpointError, match=f"{side}'s tensors do not fit") as caught:
        build("stylegan2", config, tensors)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_build_refuses_an_unknown_family() -> None:
    with pytest.raises(CheckpointError, match="'stylegan9'.*stylegan2"):
        build("stylegan9", small_config(), {})


@pytest.mark.parametrize(
    "make",
    [
        lambda: build_random("stylegan2", small_config(c_dim=2))[0],
        lambda: build_random("stylegan2", small_config(c_dim=2))[1],
        lambda: Encoder((16, 12), 3, 10, 4, space="ys", width=4),
        lambda: OfficialLIAEncoder(
            {"kind": "idinvert", "resolution": [8, 8], "channels": 3, "y_dim": 4, "num_ws": 2, "widths": [4, 8]}
        ),
        lambda: InvertibleMapping("dense", 6, c_dim=2, layers=2, label_features=3),
        lambda: InvertibleMapping("affine", 6),
        lambda: InvertibleMapping("additive", 6),
        lambda: Typicality(5),
    ],
)
def test_a_filled_module_is_the_one_of_the_weights(make: Callable[[], nn.Module]) -> None:
    module = make()
    tensors = {f"x.{name}": torch.randn_like(tensor) for name, tensor in module.state_dict().items()}
    before = torch.get_rng_state()
    again = filled(make, tensors, "x.")
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn to be thrown away
    assert {f"x.{name}" for name in again.state_dict()} == set(tensors)
    assert all(torch.equal(tensor, tensors[f"x.{name}"]) for name, tensor in again.state_dict().items())
    assert not again.training and not any(p.requires_grad for p in again.parameters())
