"""What every generator has: our families, what `wrap` makes, and a user's own module that derives from nothing of ours."""

from abc import ABC
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lia_adapter import convert
from lia_adapter.errors import LIAError
from lia_adapter.generators import Generator, StyleGAN1, StyleGAN2, StyleGAN3, as_generator, fingerprint, stylegan2_config, wrap
from lia_adapter.lia import LIA
from lia_adapter.loading import load
from lia_adapter.mapping import InvertibleMapping
from tests import toys

Y = 6


@pytest.fixture(autouse=True)
def _seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setenv("LIA_OPS", "reference")


def mapping() -> dict[str, Any]:
    return {
        "z_dim": Y, "c_dim": 0, "embed_features": 0, "features": [Y], "activation": "lrelu", "lr_multiplier": 0.01,
        "has_average": True,
    }  # fmt: skip


def sizes(side: int, num_ws: int) -> dict[str, Any]:
    return {
        "z_dim": Y, "y_dim": Y, "c_dim": 0, "num_ws": num_ws, "channels": 3, "resolution": [side, side], "mapping": mapping(),
    }  # fmt: skip


def stylegan1() -> Generator:
    block = {"in_channels": 0, "out_channels": 4, "noise": True, "torgb": False}
    blocks = [
        block | {"name": "b4", "size": [4, 4]},
        block | {"name": "b8", "size": [8, 8], "in_channels": 4, "out_channels": 2, "torgb": True},
    ]
    config: Any = sizes(8, 4) | {"blocks": blocks, "lod": 0.0, "final": "linear", "norm_eps": 1e-8}
    return StyleGAN1(config)


def stylegan2(architecture: str) -> Generator:
    config: Any = stylegan2_config(16, z_dim=Y, y_dim=Y, mapping_layers=1, channel_base=64)["generator"]
    for block in config["blocks"]:
        block["architecture"] = architecture
        block["torgb"] = block["torgb"] if architecture == "skip" or block is config["blocks"][-1] else None
    return StyleGAN2(config)


def stylegan3() -> Generator:
    layer: dict[str, Any] = {"in_channels": 4, "out_channels": 4, "kernel": 3, "up": 2, "down": 2, "clamp": 256, "torgb": False}
    layer |= {"up_filter": [12], "down_filter": [12], "padding": [19, 18, 19, 18]}
    rgb = {"out_channels": 3, "kernel": 1, "up": 1, "down": 1, "torgb": True, "up_filter": None, "down_filter": None}
    layers = [layer | {"name": "L0"}, layer | rgb | {"name": "L1", "padding": [0, 0, 0, 0]}]
    waves = {"channels": 4, "size": [12, 12], "sampling_rate": 8.0, "bandwidth": 2.0}
    config: Any = sizes(12, 3) | {"input": waves, "layers": layers, "output_scale": 0.25}
    return StyleGAN3(config)


FAMILIES = {
    "stylegan1": stylegan1, "stylegan2": lambda: stylegan2("skip"), "resnet": lambda: stylegan2("resnet"),
    "stylegan3": stylegan3,
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_affines_are_what_the_layers_compute_with(name: str) -> None:
    generator = FAMILIES[name]().double().requires_grad_(False)
    for parameter in generator.parameters():  # biases and constants, too
        parameter.copy_(torch.randn_like(parameter))
    seen: list[tuple[Tensor, Tensor]] = []
    for path, module in generator.named_modules():
        if path.endswith(".affine"):
            module.register_forward_hook(lambda _, given, style: seen.append((given[0], style)))
    ys = torch.randn(2, generator.num_ws, Y, dtype=torch.float64)
    generator.synthesis(ys)
    affines = generator.affines()
    assert len(affines) == len(seen) >= generator.num_ws
    assert {affine.layer for affine in affines} == set(range(generator.num_ws))
    for (weight, bias, layer), (y, style) in zip(affines, seen, strict=True):
        assert weight.shape == (style.shape[1], Y) and bias.shape == (style.shape[1],)
        assert torch.equal(y, ys[:, layer])
        assert torch.equal(y @ weight.T + bias, style)


def test_affines_of_a_wrapped_generator_are_not_known() -> None:
    sprites = toys.Sprites()
    with pytest.raises(LIAError, match=r"WrappedGenerator.*lia_adapter.load.*define style_layers\(\)"):
        wrap(sprites, mapping="style", synthesis=sprites.draw).affines()


def test_what_most_generators_have_no_other_of() -> None:
    sprites = toys.Sprites()
    for generator in (*(make() for make in FAMILIES.values()), wrap(sprites, mapping="style", synthesis=sprites.draw)):
        assert type(generator).__mro__[1] is Generator
        assert generator.makes == "images" and generator.y_means is None and generator.learnt_mapping is None
        assert as_generator(generator) is generator


def test_a_generator_that_learnt_with_an_invertible_mapping_says_so() -> None:
    lia = toys.with_encoder(toys.stylegan())
    assert lia.generator.learnt_mapping is None and not lia.mapping_is_own
    generator = stylegan2("skip")
    generator.mapping = InvertibleMapping("affine", Y)
    own = LIA(generator)
    assert own.mapping is generator.learnt_mapping is generator.mapping and own.mapping_is_own
    assert not LIA(generator, InvertibleMapping("affine", Y)).mapping_is_own
    assert not LIA(stylegan2("skip")).mapping_is_own


class Own(nn.Module):
    """A user's module with the members of a generator, which derives from torch's class alone."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim, self.y_dim, self.c_dim, self.num_ws = 5, 7, 0, 2
        self.resolution, self.channels = (4, 6), 3
        self.to_y, self.to_x = nn.Sequential(nn.Linear(5, 7), nn.Tanh()), nn.Linear(14, 72)

    @property
    def y_mean(self) -> Tensor | None:
        return torch.full([7], 0.5)

    def mapping(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        y: Tensor = self.to_y(z)
        return y

    def synthesis(self, ys: Tensor, *, noise_mode: str = "const") -> Tensor:
        return torch.tanh(self.to_x(ys.flatten(1))).reshape(-1, 3, 4, 6)


class Abstract(Own, ABC):
    """Its class has a metaclass of its own."""


@pytest.mark.parametrize("kind", [Own, Abstract])
def test_a_module_that_has_the_members_is_a_generator(kind: type[Own]) -> None:
    module, z = kind().requires_grad_(False), torch.randn(3, 5)
    assert isinstance(module, Generator) and not issubclass(kind, Generator)
    generator: Generator = as_generator(module)
    y, wrapped = module.mapping(z), wrap(module)
    ys = torch.stack([y, y.flip(0)], dim=1)
    for same in (generator, wrapped, LIA(generator).generator):
        assert isinstance(same, kind if same is not wrapped else Generator)
        assert (same.z_dim, same.y_dim, same.c_dim, same.num_ws, same.resolution) == (5, 7, 0, 2, (4, 6))
        assert torch.equal(same.mapping(z), y) and torch.equal(same.synthesis(ys), module.synthesis(ys))
        assert same.makes == "images" and same.y_means is None and same.learnt_mapping is None
        with pytest.raises(LIAError, match="not known"):
            same.affines()
    assert generator.y_mean is not None and torch.equal(generator.y_mean, torch.full([7], 0.5))
    assert fingerprint(generator) == fingerprint(module)
    generator.double().train()
    assert module.to_y[0].weight.dtype == torch.float64 and module.training  # all is shared: it is the user's module


class Averages(Own):
    """Its averages are no properties of its class."""

    y_mean = None

    def __init__(self) -> None:
        super().__init__()
        self.makes = "planes"
        self.register_buffer("y_means", torch.ones(3, 7))


class Compiled(nn.Module):
    """Hands on what it is asked for, as what `torch.compile` returns does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "_orig_mod" else getattr(self._orig_mod, name)


def test_what_a_module_has_of_its_own_is_not_hidden() -> None:
    averages = as_generator(Averages())
    assert averages.y_mean is None and averages.makes == "planes"
    assert averages.y_means is not None and torch.equal(averages.y_means, torch.ones(3, 7))
    moved = averages.double().y_means
    assert moved is not None and moved.dtype == torch.float64
    generator = stylegan2("skip")
    compiled = as_generator(Compiled(generator))
    assert compiled.y_mean is generator.y_mean is not None and compiled.mapping is generator.mapping
    assert [affine.layer for affine in compiled.affines()] == [affine.layer for affine in generator.affines()]


@pytest.mark.parametrize("missing", ["num_ws", "to_y", "resolution"])
def test_a_module_that_lacks_a_member_is_none(missing: str) -> None:
    module = Own()
    delattr(module, missing)
    assert isinstance(module, Generator) == (missing == "to_y")


def test_a_module_that_has_the_members_is_converted_and_found_again(tmp_path: Path) -> None:
    module = Own().requires_grad_(False)
    lia = convert(module, overrides=toys.QUICK)
    lia.save(tmp_path / "own.safetensors")
    again = load(tmp_path / "own.safetensors", generator=module)
    z = torch.randn(2, 7)
    assert torch.equal(again.synthesize(again.to_y(z)), lia.synthesize(lia.to_y(z)))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(LIAError, match="torch module.*lia_adapter.wrap.*got a float"):
        as_generator(0.5)  # type: ignore[arg-type]
