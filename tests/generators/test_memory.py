"""What drawing keeps in memory: the same images and gradients, and less of what made them."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lia_adapter.canonical import Architecture, Block1Config, InputConfig, generator2, mapping_config
from lia_adapter.generators import StyleGAN1, StyleGAN2, StyleGAN3, stylegan2_config
from lia_adapter.generators.base import checkpointed
from lia_adapter.generators.convolution import conv2d, conv_transpose2d
from lia_adapter.generators.reduced import draw_reduced, has_lower_layers
from lia_adapter.generators.stylegan2 import half_above
from lia_adapter.resize import resize

Y = 8


def stylegan2(resolution: int = 32, *, architecture: Architecture = "skip", channel_base: int = 256) -> StyleGAN2:
    config = stylegan2_config(resolution, z_dim=Y, y_dim=Y, mapping_layers=1, channel_base=channel_base, channel_max=64)
    for block in generator2(config)["blocks"]:
        block["architecture"] = architecture
        if architecture != "skip" and not block["is_last"]:
            block["torgb"] = None
    return StyleGAN2(generator2(config))


MAPPING = mapping_config(z_dim=Y, c_dim=0, embed_features=None, features=[Y], has_average=True)


def stylegan1(resolution: int = 32, width: int = 8) -> StyleGAN1:
    sides = [4 << i for i in range(int(math.log2(resolution)) - 1)]
    blocks: list[Block1Config] = [
        {
            "name": f"b{side}", "size": [side, side], "in_channels": width if side > 4 else 0, "out_channels": width,
            "noise": True, "torgb": True,
        }
        for side in sides
    ]  # fmt: skip
    return StyleGAN1({
        "z_dim": Y, "c_dim": 0, "y_dim": Y, "num_ws": 2 * len(sides), "resolution": [resolution] * 2, "channels": 3,
        "mapping": MAPPING, "norm_eps": 1e-8, "final": None, "lod": 0.0, "blocks": blocks,
    })  # fmt: skip


def stylegan3(resolution: int = 32, width: int = 8) -> StyleGAN3:
    """Layers of half the size, of the whole, and ToRGB."""
    conv: dict[str, Any] = {
        "in_channels": width, "out_channels": width, "kernel": 3, "torgb": False, "clamp": 256.0, "down": 2,
        "down_filter": [12],
    }  # fmt: skip
    half = {"name": "L0", "up": 2, "up_filter": [12], "padding": [9, 8, 9, 8]}
    double = {"name": "L1", "up": 4, "up_filter": [24], "padding": [13, 12, 13, 12]}
    whole = {"name": "L2", "up": 2, "up_filter": [12], "padding": [9, 8, 9, 8]}
    torgb = {
        "name": "L3", "up": 1, "down": 1, "up_filter": None, "down_filter": None, "padding": [0, 0, 0, 0], "kernel": 1,
        "torgb": True, "out_channels": 3,
    }  # fmt: skip
    layers: Any = [conv | part for part in (half, double, whole, torgb)]
    inputs: InputConfig = {"channels": width, "size": [resolution // 2] * 2, "sampling_rate": resolution / 2, "bandwidth": 2.0}
    return StyleGAN3({
        "z_dim": Y, "c_dim": 0, "y_dim": Y, "num_ws": 5, "resolution": [resolution] * 2, "channels": 3, "mapping": MAPPING,
        "output_scale": 0.25, "input": inputs, "layers": layers,
    })  # fmt: skip


FAMILIES: dict[str, Callable[[], Any]] = {
    "skip": stylegan2,
    "resnet": lambda: stylegan2(architecture="resnet"),
    "stylegan1": stylegan1,
    "stylegan3": stylegan3,
}


@pytest.fixture(params=FAMILIES)
def generator(request: pytest.FixtureRequest) -> Any:
    """One of each family, in which nothing is left at zero that training would move."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: nn.Module = FAMILIES[request.param]()
        for name, tensor in made.state_dict().items():
            if name.endswith(("bias", "noise_strength")):
                tensor.add_(torch.randn_like(tensor) * 0.5)
    return made.eval().requires_grad_(False)


def codes(generator: Any, n: int = 2) -> Tensor:
    return torch.randn(n, generator.num_ws, Y, generator=torch.Generator().manual_seed(1))


class Peak(TorchDispatchMode):
    """Counts the bytes of all tensors that are made in it and still alive.

    Attributes:
        most: The largest count.
        largest: The largest tensor.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most, self.largest = 0, 0
        self._alive: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = (
            {StorageWeakRef(leaf.untyped_storage()): leaf.untyped_storage().nbytes() for leaf in tree_leaves(tree)
             if isinstance(leaf, Tensor)}
            for tree in ((args, kwargs), result)
        )  # fmt: skip
        self._alive |= {storage: size for storage, size in made.items() if storage not in given}
        self._alive = {storage: size for storage, size in self._alive.items() if not storage.expired()}
        self.largest = max(self.largest, *self._alive.values(), 0)
        self.most = max(self.most, sum(self._alive.values()))
        return result


def peak(make: Callable[[], Any], run: Callable[[Any, Tensor], None]) -> float:
    """The memory that a network takes for a picture, in its largest tensors. Nothing is computed, and no memory taken."""
    with FakeTensorMode():
        generator = make().eval().requires_grad_(False)
        ys = torch.empty(1, generator.num_ws, Y)
        with Peak() as counted:
            run(generator, ys)
    ratio: float = counted.most / counted.largest
    return ratio


def draw(generator: Any, ys: Tensor) -> None:
    with torch.no_grad():
        generator.synthesis(ys)


def descend(generator: Any, ys: Tensor) -> None:
    generator.synthesis(ys.requires_grad_()).square().sum().backward()


def gradients(generator: Any, noise_mode: str = "const") -> list[Tensor]:
    """The image, its gradient by codes and weights, and the gradients of that one's square: path length's way."""
    ys = codes(generator).to(next(generator.parameters()).dtype).requires_grad_()
    leaves = [ys, *(p for p in generator.synthesis.parameters() if p.requires_grad)]
    x = generator.synthesis(ys, noise_mode=noise_mode)
    directions = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)
    first = torch.autograd.grad((x * directions).sum(), leaves, create_graph=True, materialize_grads=True, allow_unused=True)
    second = torch.autograd.grad(first[0].square().sum(), leaves, materialize_grads=True, allow_unused=True)
    return [x.detach(), *(g.detach() for g in first), *second]


# -- without gradients


@pytest.mark.usefixtures("each_implementation")
@pytest.mark.parametrize("n", [1, 2])
def test_images_are_the_same_without_gradients_and_weights_stay(generator: Any, n: int) -> None:
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    ys = codes(generator, n)
    given = ys.clone()
    for noise_mode in ("none", "const"):
        expected = generator.synthesis(ys.clone().requires_grad_(), noise_mode=noise_mode).detach()
        for without in (torch.no_grad, torch.inference_mode):
            with without():
                assert torch.equal(generator.synthesis(ys, noise_mode=noise_mode), expected)
    assert torch.equal(ys, given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda: stylegan2(1024, channel_base=32768), 2.6),
        (lambda: stylegan2(1024, architecture="resnet", channel_base=32768), 3.6),
        (lambda: stylegan1(512, width=64), 3.3),
        (lambda: stylegan3(512, width=64), 3.1),
    ],
    ids=FAMILIES,
)
def test_a_layer_works_in_the_memory_of_the_one_before(make: Callable[[], Any], most: float) -> None:
    assert peak(make, draw) < most


# -- frozen weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frozen_weights_have_the_gradients_of_others(generator: Any, dtype: torch.dtype) -> None:
    generator.to(dtype)
    frozen = gradients(generator)
    generator.requires_grad_(True)
    trained = gradients(generator)
    codes_too = [trained[0], trained[1], trained[1 + len(trained) // 2]]  # the image, and the two gradients by codes
    for a, b in zip(frozen, codes_too, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=float(b.abs().max()) * (1e-5 if dtype == torch.float32 else 1e-12))


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_gradients_of_frozen_convolutions(k: int, padding: int) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 5, generator=random, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, k, k, generator=random, dtype=torch.float64)
    up = weight.transpose(0, 1)
    for run in (lambda x: conv2d(x, weight, padding=padding), lambda x: conv_transpose2d(x, up, stride=1 + padding)):
        assert torch.autograd.gradcheck(run, [x], fast_mode=True)
        assert torch.autograd.gradgradcheck(run, [x], fast_mode=True)


def test_frozen_weights_under_autocast(generator: Any) -> None:
    found: list[Tensor] = []
    for trains in (False, True):
        generator.requires_grad_(trains)
        ys = codes(generator).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            x = generator.synthesis(ys)
        found += torch.autograd.grad(x.float().square().sum(), ys)
    torch.testing.assert_close(*found, rtol=0, atol=0.05 * float(found[1].abs().max()))


def test_the_graph_of_frozen_weights_keeps_no_input_of_convolutions() -> None:
    def trained(generator: Any, ys: Tensor) -> None:
        descend(generator.requires_grad_(True), ys)

    for make in (lambda: stylegan2(256, channel_base=8192), lambda: stylegan1(256, width=64), lambda: stylegan3(256, width=64)):
        assert peak(make, descend) < 0.9 * peak(make, trained)


# -- checkpoints


@pytest.mark.usefixtures("each_implementation")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("trains", [False, True])
def test_checkpoints_change_no_value_and_no_gradient(generator: Any, dtype: torch.dtype, trains: bool) -> None:
    generator.to(dtype).requires_grad_(trains)
    for noise_mode in ("none", "const"):
        expected = gradients(generator, noise_mode)
        with checkpointed():
            found = gradients(generator, noise_mode)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def kept(generator: Any, noise_mode: Any = "const") -> int:
    """Numbers that the graph of an image keeps."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        x = generator.synthesis(codes(generator).requires_grad_(), noise_mode=noise_mode)
    assert x.requires_grad
    return sum(sizes.values())


def test_a_graph_with_checkpoints_keeps_less(generator: Any) -> None:
    whole = kept(generator)
    with checkpointed():
        assert kept(generator) < whole / 2
        # What is drawn anew at each run cannot be run again.
        if not isinstance(generator, StyleGAN3):
            assert kept(generator, "random") >= whole
    assert kept(generator) == whole


def test_checkpoints_are_of_no_concern_without_a_graph(generator: Any) -> None:
    expected = generator.synthesis(codes(generator))
    with torch.no_grad(), checkpointed():
        assert torch.equal(generator.synthesis(codes(generator)), expected)


# -- lower layers


def test_lower_layers_draw_the_image_on_its_way() -> None:
    generator, seen = stylegan2(32).requires_grad_(False), {}
    for name in generator.synthesis.names:

        def keep(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor], name: str = name) -> None:
            seen[name] = output[1]

        generator.synthesis.get_submodule(name).register_forward_hook(keep)
    ys = codes(generator)
    generator.synthesis(ys)
    whole = dict(seen)
    for max_side, name in ((4, "b4"), (15, "b8"), (16, "b16"), (31, "b16"), (32, "b32"), (256, "b32")):
        assert torch.equal(draw_reduced(generator, ys, max_side), whole[name])
        assert has_lower_layers(generator, max_side) == (name != "b32")


def test_both_sides_count() -> None:
    config = stylegan2_config((8, 32), z_dim=Y, y_dim=Y, mapping_layers=1, channel_base=64)
    generator = StyleGAN2(generator2(config)).requires_grad_(False)
    assert draw_reduced(generator, codes(generator), 16).shape == (2, 3, 4, 16)


def test_others_are_made_smaller(generator: Any) -> None:
    ys = codes(generator)
    whole = generator.synthesis(ys)
    assert torch.equal(draw_reduced(generator, ys), whole) and not has_lower_layers(generator)
    if not has_lower_layers(generator, 12):
        assert torch.equal(draw_reduced(generator, ys, 12), resize(whole, most=12))
        assert draw_reduced(generator, ys, 12).shape == (2, 3, 12, 12)
    # No image on its way is so small.
    assert draw_reduced(generator, ys, 2).shape == (2, 3, 2, 2)


def test_lower_layers_take_less_memory() -> None:
    with FakeTensorMode():
        generator = stylegan2(1024, channel_base=32768).requires_grad_(False)
        ys = codes(generator)
        with torch.no_grad(), Peak() as counted:
            assert draw_reduced(generator, ys).shape == (2, 3, 256, 256)
    assert counted.most < 2 * 4 * 128 * 256 * 256 * 3


# -- half precision of the large blocks


def test_blocks_above_a_side_are_in_half_precision() -> None:
    torch.manual_seed(0)  # on some weights the blocks below are as exact in half precision
    generator, dtypes = stylegan2(32).requires_grad_(False), {}
    for name in generator.synthesis.names:

        def keep(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor], name: str = name) -> None:
            dtypes[name] = output[0].dtype
            assert output[1].dtype == torch.float32

        generator.synthesis.get_submodule(name).register_forward_hook(keep)
    ys = codes(generator)
    precise = generator.synthesis(ys)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = generator.synthesis(ys)
    with half_above(8):
        x = generator.synthesis(ys)
    half = torch.bfloat16
    assert dtypes == {"b4": torch.float32, "b8": torch.float32, "b16": half, "b32": half}
    assert 0 < (x - precise).square().mean() < (rounded - precise).square().mean()
    with half_above(32):
        assert torch.equal(generator.synthesis(ys), precise)
    assert torch.equal(generator.synthesis(ys), precise)


def test_checkpoints_draw_again_in_the_same_precision() -> None:
    generator = stylegan2(32).requires_grad_(False)
    found: list[Tensor] = []
    for context in (nullcontext, checkpointed):
        ys = codes(generator).requires_grad_()
        with half_above(8), context():
            x = generator.synthesis(ys)
        found += torch.autograd.grad(x.square().sum(), ys)
    assert torch.equal(*found)
