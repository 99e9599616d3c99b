"""`ops.patch`: networks of other programs on our ops. The stand-ins have those programs' signatures and are plain torch."""

import copy
import pickle
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from lia_adapter import ops
from lia_adapter.errors import WrapError

_OPS = """
import torch
import torch.nn.functional as F

calls = []

def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, impl="cuda"):
    calls.append("bias_act")
    if b is not None:
        x = x + b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    if act == "lrelu":
        x = F.leaky_relu(x, 0.2 if alpha is None else alpha)
    x = x * ((2**0.5 if act == "lrelu" else 1) if gain is None else gain)
    return x if clamp is None else x.clamp(-clamp, clamp)

def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl="cuda"):
    calls.append("upfirdn2d")
    n, c, h, w = x.shape
    px0, px1, py0, py1 = padding if isinstance(padding, list) else [padding] * 4
    x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up - 1, 0, 0, 0, up - 1]).reshape(n, c, h * up, w * up)
    x = F.pad(x, [px0, px1, py0, py1])
    f = torch.outer(f, f) if f.ndim == 1 else f
    f = (f if flip_filter else f.flip([0, 1])).to(x) * gain
    return F.conv2d(x, f[None, None].repeat(c, 1, 1, 1), groups=c)[:, :, ::down, ::down]

def filtered_lrelu(x, fu=None, fd=None, b=None, up=1, down=1, padding=0, gain=2**0.5, slope=0.2, clamp=None,
                   flip_filter=False, impl="cuda"):
    calls.append("filtered_lrelu")
    x = upfirdn2d(bias_act(x, b), fu, up=up, padding=padding, gain=up**2, flip_filter=flip_filter)
    x = bias_act(x, None, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    return upfirdn2d(x, fd, down=down, flip_filter=flip_filter)
"""
_RESAMPLING = """
from toy_ops import upfirdn2d

def upsample(x, f):
    return upfirdn2d(x, f, up=2, padding=[2, 1, 3, 0], flip_filter=True, gain=4)
"""
_NETWORKS = """
import torch
import toy_ops                            # by module
from torch import nn
from toy_ops import filtered_lrelu        # by name
from toy_resampling import upsample       # by way of another function

class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.linspace(-1, 1, 3))
        self.register_buffer("f", torch.tensor([1.0, 3, 4, 2]) / 10)

    def forward(self, x):
        x = upsample(x, self.f)
        y = toy_ops.bias_act(x, self.bias, act="lrelu", alpha=0.3, gain=0.9, clamp=0.8)
        skip = toy_ops.bias_act(x.movedim(1, 3), self.bias, dim=3, gain=0.5**0.5).movedim(3, 1)
        y = skip.add_(y)                  # as residual blocks do
        y = toy_ops.upfirdn2d(y, self.f, down=2, padding=1)
        return filtered_lrelu(y, self.f, self.f[:3], self.bias, up=2, down=2, padding=3, gain=0.9, slope=0.1, clamp=0.6,
                              flip_filter=True)
"""
_ROSINALITY = """
import torch
import torch.nn.functional as F
from torch import nn

def fused_leaky_relu(input, bias=None, negative_slope=0.2, scale=2**0.5):
    if bias is not None:
        input = input + bias.reshape(1, -1, *[1] * (input.ndim - 2))
    return F.leaky_relu(input, negative_slope) * scale

def upfirdn2d(input, kernel, up=1, down=1, pad=(0, 0)):
    n, c, h, w = input.shape
    x = F.pad(input.reshape(n, c, h, 1, w, 1), [0, up - 1, 0, 0, 0, up - 1]).reshape(n, c, h * up, w * up)
    x = F.pad(x, [pad[0], pad[1], pad[0], pad[1]])
    return F.conv2d(x, kernel.flip([0, 1]).to(x)[None, None].repeat(c, 1, 1, 1), groups=c)[:, :, ::down, ::down]

class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.linspace(-1, 1, 3))
        self.register_buffer("kernel", torch.outer(torch.tensor([1.0, 3, 4, 2]), torch.tensor([1.0, 2, 3, 1])) / 20)

    def forward(self, x):
        x = fused_leaky_relu(upfirdn2d(x, self.kernel, up=2, pad=(2, 1)), self.bias, 0.3, 0.9)
        x = fused_leaky_relu(x)           # with the defaults
        return upfirdn2d(x, self.kernel, down=2, pad=(1, 1))
"""


def module(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    exec(source, vars(made))
    return made


@pytest.fixture
def nvlabs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module("toy_ops", _OPS, monkeypatch)
    module("toy_resampling", _RESAMPLING, monkeypatch)
    return module("toy_networks", _NETWORKS, monkeypatch)


@pytest.fixture(params=["nvlabs", "rosinality"])
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The Python module of a program that defines its network `Toy`."""
    if request.param == "rosinality":
        return module("toy_rosinality", _ROSINALITY, monkeypatch)
    found: ModuleType = request.getfixturevalue("nvlabs")
    return found


def results(network: nn.Module) -> list[Tensor]:
    """Image, gradients of x and of the bias, and the gradient of a gradient penalty, in float64."""
    network = copy.deepcopy(network).double()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    image, bias = network(x), network.get_parameter("bias")
    dx, db = torch.autograd.grad(image.square().sum(), [x, bias], create_graph=True)
    (second,) = torch.autograd.grad(dx.square().sum(), bias)
    return [image, dx, db, second]


def test_the_same_images_and_gradients_of_any_order(program: ModuleType) -> None:
    network = program.Toy()
    before = results(network)
    with ops.patch(network):
        during = results(network)
    for expected, found in zip(before, during, strict=True):
        assert expected.abs().sum() > 0
        torch.testing.assert_close(found, expected)


def test_none_of_its_own_ops_runs_until_undone(nvlabs: ModuleType) -> None:
    network, calls = nvlabs.Toy(), sys.modules["toy_ops"].calls
    patch = ops.patch(network)
    assert set(patch.names) == {
        "toy_networks.filtered_lrelu", "toy_ops.bias_act", "toy_ops.filtered_lrelu", "toy_ops.upfirdn2d",
        "toy_resampling.upfirdn2d",
    }  # fmt: skip
    results(network)
    assert calls == []
    patch.undo()
    results(network)
    assert set(calls) == {"bias_act", "filtered_lrelu", "upfirdn2d"}


def test_it_ends_with_its_block(program: ModuleType) -> None:
    originals = dict(vars(program))
    with pytest.raises(ZeroDivisionError), ops.patch(program.Toy()):
        assert vars(program) != originals
        raise ZeroDivisionError
    assert vars(program) == originals


def test_the_second_patch_does_nothing(program: ModuleType) -> None:
    network = program.Toy()
    with ops.patch(network):
        patched = dict(vars(program))
        with ops.patch(copy.deepcopy(network)) as second:
            assert second.names == ()
        assert vars(program) == patched


def test_copies_and_pickles_are_as_before(program: ModuleType) -> None:
    network = program.Toy()
    before, pickled = results(network), pickle.dumps(network)
    with ops.patch(network):
        assert pickle.dumps(network) == pickled
        copied = copy.deepcopy(network)
    for other in (copied, pickle.loads(pickled)):
        for expected, found in zip(before, results(other), strict=True):
            assert torch.equal(found, expected)


def test_modules_that_nobody_can_import(nvlabs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # The classes in a pickle of NVlabs are made from source text that lies in it.
    for name in ("toy_ops", "toy_resampling", "toy_networks"):
        monkeypatch.delitem(sys.modules, name)
    with ops.patch(nvlabs.Toy()) as patch:
        assert len(patch.names) == 5


def test_a_function_with_other_parameters_is_left_alone(nvlabs: ModuleType) -> None:
    def upfirdn2d(x: Tensor, taps: int) -> Tensor:
        return x * taps

    nvlabs.upfirdn2d = upfirdn2d  # type: ignore[attr-defined]
    with ops.patch(nvlabs.Toy()):
        assert nvlabs.upfirdn2d is upfirdn2d


@pytest.mark.parametrize("network", [nn.Linear(2, 3), nn.Sequential(nn.Conv2d(3, 3, 1))])
def test_a_network_without_known_ops_is_refused(network: nn.Module) -> None:
    with pytest.raises(WrapError, match=r"Found no op to replace in .*Expected one of: bias_act\(.*stylegan2-ada-pytorch"):
        ops.patch(network)


def test_a_dictionary_is_refused_with_the_way_on() -> None:
    with pytest.raises(WrapError, match="pass its entry 'G_ema' or 'D'"):
        ops.patch({"G_ema": nn.Linear(2, 2)})  # type: ignore[arg-type]
