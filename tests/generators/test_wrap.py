"""`wrap` on modules that know nothing of StyleGAN."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lia_adapter.errors import WrapError
from lia_adapter.generators import Generator, WrappedGenerator, build_random, stylegan2_config, wrap


class Plain(nn.Module):
    """A generator of [N, 3, 4, 6] from one y."""

    def __init__(self, z_dim: int = 16, y_dim: int = 12) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(z_dim, y_dim), nn.ReLU())
        self.synthesis = nn.Sequential(nn.Linear(y_dim, 72), nn.Unflatten(1, (3, 4, 6)), nn.Tanh())


class Layered(nn.Module):
    """A generator of [N, 1, 3, 5] whose layers take a y each."""

    def __init__(self, num_ws: int = 5, announced: bool = True) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 12)
        self.layers = nn.ModuleList(nn.Linear(12, 15) for _ in range(num_ws))
        if announced:
            self.num_ws, self.z_dim = num_ws, 8

    def mapping(self, z: Tensor) -> Tensor:
        return torch.tanh(self.fc(z))

    def synthesis(self, ys: Tensor) -> Tensor:
        if ys.ndim != 3:
            raise ValueError("ys must have three dimensions")
        drawn = [layer(ys[:, i]).reshape(-1, 1, 3, 5) * (i + 1) for i, layer in enumerate(self.layers)]
        return torch.stack(drawn).sum(dim=0)


def sizes(g: WrappedGenerator) -> tuple[Any, ...]:
    return g.z_dim, g.y_dim, g.c_dim, g.num_ws, g.resolution, g.channels


def test_a_module_that_takes_one_y() -> None:
    module, z = Plain(), torch.randn(3, 16)
    g = wrap(module)
    assert isinstance(g, Generator) and g.y_mean is None
    assert sizes(g) == (16, 12, 0, 1, (4, 6), 3)
    y = module.mapping(z)
    assert torch.equal(g.mapping(z), y)
    for given in (y, y[:, None]):
        assert torch.equal(g.synthesis(given), module.synthesis(y))


@pytest.mark.parametrize("announced", [True, False])
def test_a_module_whose_layers_take_a_y_each(announced: bool) -> None:
    module = Layered(announced=announced)
    g = wrap(module)
    assert sizes(g) == (8, 12, 0, 5, (3, 5), 1)
    ys = torch.randn(3, 5, 12)
    assert torch.equal(g.synthesis(ys), module.synthesis(ys))
    torch.testing.assert_close(g.synthesis(ys[:, 0]), module.synthesis(ys[:, :1].repeat(1, 5, 1)))


def test_sizes_that_are_given_win() -> None:
    module = Layered()
    module.z_dim, module.num_ws = 3, 2
    assert sizes(wrap(module, z_dim=8, y_dim=12, num_ws=5)) == (8, 12, 0, 5, (3, 5), 1)


def test_parts_by_dotted_names() -> None:
    outer = nn.Module()
    outer.net = nn.ModuleDict({"generator": Plain()})
    g = wrap(outer, mapping="net.generator.mapping", synthesis="net.generator.synthesis")
    assert sizes(g) == (16, 12, 0, 1, (4, 6), 3)


def test_parts_as_callables() -> None:
    module = Plain()

    def mapping(z: Tensor) -> Tensor:
        found: Tensor = module.mapping(2 * z)
        return found

    z = torch.randn(3, 16)
    for g in (wrap(module, mapping=mapping), wrap(mapping=mapping, synthesis=module.synthesis)):
        assert sizes(g) == (16, 12, 0, 1, (4, 6), 3)
        assert torch.equal(g.mapping(z), module.mapping(2 * z))
        assert torch.equal(g.synthesis(g.mapping(z)), module.synthesis(module.mapping(2 * z)))


def test_an_announced_number_of_layers_that_synthesis_does_not_take() -> None:
    # The reshape would swallow any number of layers: more images than codes give it away.
    module = Plain()
    module.synthesis = nn.Sequential(nn.Linear(12, 72), Reshape())
    module.__dict__["num_ws"] = 7
    g = wrap(module)
    assert g.num_ws == 1 and g.synthesis(torch.randn(3, 12)).shape == (3, 3, 4, 6)


class Reshape(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 3, 4, 6)


def test_half_precision_parts_are_asked_in_half_precision() -> None:
    g = wrap(Plain().bfloat16())
    assert g.mapping(torch.randn(2, 16).bfloat16()).dtype == torch.bfloat16


def test_a_mapping_that_repeats_its_y() -> None:
    config = stylegan2_config(8, z_dim=10, y_dim=12, mapping_layers=1, channel_base=32)
    stylegan = build_random("stylegan2", config)[0]

    def mapping(z: Tensor) -> Tensor:
        found: Tensor = stylegan.get_submodule("mapping")(z)
        return found[:, None].repeat(1, 4, 1)  # as NVlabs' mapping answers

    g = wrap(stylegan, mapping=mapping)
    assert sizes(g) == (10, 12, 0, 4, (8, 8), 3)
    z = torch.randn(2, 10)
    assert torch.equal(g.mapping(z), mapping(z)[:, 0])
    assert torch.equal(g.synthesis(mapping(z)), stylegan(z))


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Trains(Plain):
    """Has all that probing could disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Dropout())
        self.synthesis = nn.Sequential(nn.Linear(12, 72), nn.Unflatten(1, (3, 4, 6)), nn.BatchNorm2d(3), Noise())


MODES = [{"": True}, {"": False}, {"": True, "mapping.1": False}, {"": False, "mapping": True}]


@pytest.mark.parametrize("training", MODES)
@pytest.mark.parametrize("as_callables", [False, True])
def test_probing_leaves_no_trace(training: dict[str, bool], as_callables: bool) -> None:
    module = Trains()
    for name, mode in training.items():
        module.get_submodule(name).train(mode)
    modes = [part.training for part in module.modules()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    if as_callables:
        wrap(mapping=module.mapping, synthesis=module.synthesis.forward)
    else:
        wrap(module)
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())


def raising(x: Tensor) -> Tensor:
    raise RuntimeError("needs a label\nand more")


def own_y_of_each_layer(z: Tensor) -> Tensor:
    return torch.stack([z, 2 * z], dim=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mapping": "style"}, ["no part 'style' for mapping", "it has: mapping, synthesis", "mapping='dotted.name'"]),
        ({"synthesis": "synthesis.9"}, ["no part 'synthesis.9' for synthesis", "synthesis='dotted.name'"]),
        ({"mapping": "size"}, ["'size'", "for mapping", "is a int and cannot be called"]),
        ({"z_dim": 15}, ["mapping did not run on z of z_dim=15", "15", "16x12", "Pass z_dim"]),
        ({"mapping": raising}, ["any size up to 1024", "RuntimeError: needs a label.", "Pass z_dim"]),
        ({"mapping": lambda z: [z]}, ["returned a list, not a tensor"]),
        ({"mapping": lambda z: z.sum(), "z_dim": 16}, ["shape [] for z [2, 16]", "[2, y_dim]"]),
        ({"mapping": lambda z: z.long(), "z_dim": 16}, ["[2, 16]"]),
        ({"y_dim": 13}, ["y of 12 entries for y_dim=13"]),
        ({"mapping": own_y_of_each_layer, "z_dim": 12}, ["each of its 2 layers a y of its own", "one y [N, y_dim]"]),
        ({"synthesis": lambda y: y}, ["synthesis did not give images", "shape [2, 12]", "Pass num_ws"]),
        ({"synthesis": raising}, ["synthesis did not give images", "RuntimeError: needs a label."]),
        ({"synthesis": lambda y: y[:1, :, None, None]}, ["synthesis did not give images", "shape [1, 12, 1, 1]"]),
        ({"synthesis": raising, "num_ws": 3}, ["synthesis did not give images", "needs a label"]),
    ],
)
def test_what_is_missing_is_said(arguments: dict[str, Any], words: list[str]) -> None:
    module = Plain()
    module.__dict__["size"] = 3
    with pytest.raises(WrapError) as caught:
        wrap(module, **arguments)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_names_need_a_module() -> None:
    parts: list[tuple[str, Callable[..., WrappedGenerator]]] = [
        ("mapping", lambda: wrap()),
        ("synthesis", lambda: wrap(mapping=lambda z: z)),
    ]
    for part, call in parts:
        with pytest.raises(WrapError, match=f"no part '{part}'.*no module given"):
            call()
