"""`wrap` on toys that are called as public programs call theirs, and what it leaves of a user's module."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import lia_adapter
from lia_adapter.cli.main import main
from lia_adapter.errors import LIAError, WrapError
from lia_adapter.generators import build_random, dense_stack, stylegan2_config, wrap
from lia_adapter.keys import SEED_MAPPINGS
from lia_adapter.lia import LIA
from lia_adapter.loading import load
from tests import toys

D, LAYERS = 6, 3


class Core(nn.Module):
    """Draws [N, 3, 8, 8] from ys, with noise that is drawn at random where none is given."""

    noise: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(D, D)
        self.layers = nn.ModuleList(nn.Linear(D, 192) for _ in range(LAYERS))
        self.register_buffer("noise", torch.randn(1, 3, 8, 8))

    def to_y(self, z: Tensor) -> Tensor:
        return torch.tanh(self.first(z))

    def draw(self, ys: Tensor, noise: Tensor | float) -> Tensor:
        if ys.ndim != 3 or ys.shape[1] < LAYERS:
            raise ValueError(f"{LAYERS} layers are needed")
        return torch.stack([layer(ys[:, i]).reshape(-1, 3, 8, 8) for i, layer in enumerate(self.layers)]).sum(dim=0) + noise


class NVlabs(Core):
    """mapping(z, c) gives every layer its row; synthesis hands noise_mode down."""

    w_avg: Tensor

    def __init__(self, c_dim: int = 0) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.num_ws = D, c_dim, LAYERS
        self.embed = nn.Linear(max(c_dim, 1), D)
        self.register_buffer("w_avg", torch.randn(D))

    def mapping(self, z: Tensor, c: Tensor | None, truncation_psi: float = 1.0) -> Tensor:
        y = self.to_y(z if c is None or not self.c_dim else z + self.embed(c))
        y = self.w_avg.lerp(y, truncation_psi)
        return y[:, None].repeat(1, LAYERS, 1)

    def synthesis(self, ws: Tensor, **layer_kwargs: Any) -> Tensor:
        assert ws.shape[1] == LAYERS
        return self._layers(ws, **layer_kwargs)

    def _layers(self, ws: Tensor, noise_mode: str = "random", update_emas: bool = False) -> Tensor:
        noise = {"const": self.noise, "none": 0 * self.noise, "random": torch.randn(len(ws), 1, 8, 8)}[noise_mode]
        return self.draw(ws, noise)

    def forward(self, z: Tensor, c: Tensor | None, truncation_psi: float = 1.0, noise_mode: str = "random") -> Tensor:
        return self.synthesis(self.mapping(z, c, truncation_psi), noise_mode=noise_mode)


class Rosinality(Core):
    def __init__(self) -> None:
        super().__init__()
        self.style, self.n_latent, self.style_dim, self.num_layers = self.first, LAYERS, D, LAYERS - 1

    def forward(
        self, styles: list[Tensor], input_is_latent: bool = False, noise: Any = None, randomize_noise: bool = True
    ) -> tuple[Tensor, None]:
        if not input_is_latent:
            styles = [self.style(s) for s in styles]
        latent = styles[0] if styles[0].ndim == 3 else styles[0][:, None].repeat(1, self.n_latent, 1)
        return self.draw(latent, torch.randn(len(latent), 1, 8, 8) if randomize_noise else self.noise), None


class Genforce(Core):
    def __init__(self) -> None:
        super().__init__()
        self.truncation = nn.Module()
        self.truncation.register_buffer("w_avg", torch.randn(D))

    def mapping(self, z: Tensor, label: Tensor | None = None) -> dict[str, Any]:
        return {"z": z, "label": label, "w": self.to_y(z)}

    def synthesis(self, wp: Tensor, randomize_noise: bool = False) -> dict[str, Any]:
        return {"wp": wp, "image": self.draw(wp, torch.randn(len(wp), 1, 8, 8) if randomize_noise else self.noise)}


class Growing(Core):
    """As StyleGAN 1 is written by many: depth says which resolution, and the noise is always random."""

    def g_mapping(self, z: Tensor) -> Tensor:
        return self.to_y(z)[:, None].expand(-1, LAYERS, -1)

    def g_synthesis(self, ys: Tensor, depth: int = 0, alpha: float = 0.0) -> Tensor:
        assert depth < 3, "Requested output depth cannot be produced"
        side = (2, 4, 8)[depth]
        return nn.functional.adaptive_avg_pool2d(self.draw(ys, torch.randn(len(ys), 1, 8, 8)), side) * alpha


class Hooked(Core):
    """As StyleSwin: there is no way in for y but in the place of what `style` answers."""

    def __init__(self) -> None:
        super().__init__()
        self.style, self.n_latent = self.first, LAYERS

    def forward(self, noise: Tensor) -> tuple[Tensor, None]:
        styles = self.style(noise)
        return self.draw(styles if styles.ndim == 3 else styles[:, None].repeat(1, LAYERS, 1), 0.0), None


@pytest.mark.parametrize("kind", [NVlabs, Rosinality, Genforce, Growing, Hooked])
def test_the_ways_of_public_programs(kind: type[Core]) -> None:
    torch.manual_seed(0)
    module = kind()
    g = wrap(module)
    assert (g.z_dim, g.y_dim, g.c_dim, g.num_ws, g.resolution, g.channels) == (D, D, 0, LAYERS, (8, 8), 3)
    ys = torch.randn(2, LAYERS, D)
    if kind is not Growing:
        torch.testing.assert_close(g.synthesis(ys), module.draw(ys, 0.0 if kind is Hooked else module.noise))
    assert torch.equal(g.synthesis(ys), g.synthesis(ys)), "noise is held still"
    # What one image is does not depend on the others.
    torch.testing.assert_close(g.synthesis(ys)[1:], g.synthesis(ys[1:]))
    if kind is not Hooked:
        assert not torch.equal(g.synthesis(ys, noise_mode="random"), g.synthesis(ys, noise_mode="random"))


def test_truncation_is_the_programs_own() -> None:
    module, z = NVlabs(), torch.randn(4, D)
    lia = LIA(wrap(module))
    wanted = module(z, None, truncation_psi=0.4, noise_mode="const")
    torch.testing.assert_close(lia.synthesize(lia.to_y(z), psi=0.4), wanted)
    module.w_avg.zero_()  # it is looked up each time
    assert torch.equal(lia.y_mean, torch.zeros(D))


def test_labels() -> None:
    module, z, c = NVlabs(c_dim=5), torch.randn(3, D), torch.eye(5)[[4, 0, 2]]
    g = wrap(module)
    assert g.c_dim == 5 and torch.equal(g.mapping(z, c), module.mapping(z, c)[:, 0])
    one = wrap(module, label=2)
    assert one.c_dim == 0 and torch.allclose(one.mapping(z), module.mapping(z, torch.eye(5)[[2, 2, 2]])[:, 0])
    assert torch.equal(wrap(module, label=[0, 0, 1.0, 0, 0]).mapping(z), one.mapping(z))
    with pytest.raises(WrapError, match="label is 5; expected 0 to 4"):
        wrap(module, label=5)
    with pytest.raises(WrapError, match="label has 2 numbers; the generator takes 5"):
        wrap(module, label=[1.0, 2.0])


class Answers(Core):
    """Returns images in another form."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.form, self.runs = form, 0

    def mapping(self, z: Tensor) -> Tensor:
        return self.to_y(z)

    def synthesis(self, ys: Tensor) -> Any:
        self.runs += 1
        return self.form(torch.tanh(self.draw(ys, self.noise)))


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "tuple": lambda x: (x, None),
    "latents first": lambda x: (x[:, 0, 0], x),
    "dict": lambda x: {"image_raw": x[:, :, ::2, ::2], "image": x},
    "list of sizes": lambda x: [x[:, :, ::2, ::2], x],
    "channels last": lambda x: x.movedim(1, 3),
    "half": lambda x: x.half(),
    "double": lambda x: x.double(),
}


@pytest.mark.parametrize("form", FORMS)
def test_images_in_every_form(form: str) -> None:
    torch.manual_seed(0)
    module = Answers(FORMS[form])
    g = wrap(module)
    assert (g.num_ws, g.resolution, g.channels) == (LAYERS, (8, 8), 3)
    assert module.runs < 20
    x = g.synthesis(torch.randn(2, LAYERS, D))
    assert x.shape == (2, 3, 8, 8) and x.dtype == torch.float32


BAD_FORMS: dict[str, tuple[Callable[[Tensor], Any], list[str]]] = {
    "bytes": (lambda x: ((x + 1) * 127.5).byte(), ["images of type uint8", "no gradient", "before they are rounded"]),
    "video": (lambda x: x[:, :, None].expand(-1, -1, 7, -1, -1), ["video", "[2, 3, 7, 8, 8]", "draw(ys)[:, :, 0]"]),
    "nan": (lambda x: x / 0, ["not finite"]),
    "0 to 1": (lambda x: (x + 1) / 2, ["nothing is below 0", "image_range=(0, 1)", "[-1, 1]"]),
    "0 to 255": (lambda x: (x + 1) * 127.5, ["nothing is below 0", "image_range=(0, 255)"]),
    "string": (lambda x: "image", ["returned a str", "picks the images"]),
    "flat": (lambda x: x.flatten(1), ["did not give images", "[2, 192]"]),
}


@pytest.mark.parametrize("form", BAD_FORMS)
def test_what_is_no_image_is_named(form: str) -> None:
    torch.manual_seed(0)
    draw, words = BAD_FORMS[form]
    module = Answers(draw)
    with pytest.raises(WrapError) as caught:
        wrap(module, num_ws=LAYERS)
    assert all(word in str(caught.value) for word in words), caught.value
    assert module.runs < 25


def test_a_range_of_images_is_believed() -> None:
    torch.manual_seed(0)
    module, ys = Answers(lambda x: (x + 1) / 2), torch.randn(2, LAYERS, D)
    x = wrap(module, image_range=(0, 1)).synthesis(ys)
    torch.testing.assert_close(x, torch.tanh(module.draw(ys, module.noise)))


class Modes(NVlabs):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(D)

    def to_y(self, z: Tensor) -> Tensor:
        return super().to_y(self.norm(z))


def test_the_users_module_comes_back_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Modes()
    module.first.eval()
    modes = [part.training for part in module.modules()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    before = torch.get_rng_state()
    g = wrap(module)
    assert torch.equal(torch.get_rng_state(), before)
    lia = toys.with_encoder(lia_adapter.convert(g, overrides=toys.QUICK | {"steps": 3}))
    lia.save(tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors", generator=g)
    pictures = toys.pictures(tmp_path / "pictures", 8)
    lia_adapter.train_encoder(again, pictures, overrides=toys.QUICK_ENCODER | {"images": 16})
    again.invert(lia.sample([1, 2]), steps=2)
    again.eval().requires_grad_(False)
    assert [part.training for part in module.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def adapter(generator: Any, path: Path) -> Path:
    """A file that holds an adapter alone."""
    toys.with_encoder(LIA(generator)).save(path)
    return path


def test_an_adapter_knows_what_a_generator_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    a, b = NVlabs(), NVlabs()
    file = adapter(wrap(a), tmp_path / "a.safetensors")
    again = NVlabs()
    again.load_state_dict(a.state_dict())
    half = NVlabs()
    half.load_state_dict(a.state_dict())
    parts: dict[str, Any] = {
        "mapping": lambda z: a.mapping(z, None), "synthesis": lambda ys, noise_mode: a.synthesis(ys, noise_mode=noise_mode),
    }  # fmt: skip
    compiled: Any = torch.compile(again, backend="eager")
    others: tuple[Any, ...] = (
        a, wrap(a), wrap(again), wrap(compiled), wrap(nn.DataParallel(again)), wrap(**parts), wrap(half.half()),
    )  # fmt: skip
    for same in others:
        assert load(file, generator=same).encoder is not None
    with pytest.raises(LIAError, match="another generator.*answers to the same codes differ by"):
        load(file, generator=wrap(b))
    doubled = wrap(a, mapping=lambda z: 2 * a.mapping(z, None))
    with pytest.raises(LIAError, match="though their weights are equal, their answers"):
        load(file, generator=doubled)


def test_functions_are_bound_by_what_they_answer(tmp_path: Path) -> None:
    torch.manual_seed(0)

    def functions(seed: int) -> Any:
        random = torch.Generator().manual_seed(seed)
        first, second = torch.randn(D, D, generator=random), torch.randn(D, 192, generator=random)
        return wrap(mapping=lambda z: torch.tanh(z @ first), synthesis=lambda y: torch.sin(y @ second).reshape(-1, 3, 8, 8))

    file = adapter(functions(0), tmp_path / "a.safetensors")
    assert load(file, generator=functions(0)).mapping is not None
    with pytest.raises(LIAError, match="another generator"):
        load(file, generator=functions(1))


def test_functions_that_use_modules_have_their_weights() -> None:
    a = NVlabs()
    g = wrap(mapping=lambda z: a.mapping(z, None), synthesis=lambda ys: a.synthesis(ys, noise_mode="const"))
    assert g.guests == (a,) and set(g.weights()) == {f"module.{name}" for name in a.state_dict()}


def test_adapters_of_before_answers_were_stored(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = NVlabs()
    file = adapter(wrap(module), tmp_path / "new.safetensors")
    with safetensors.safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["lia-adapter"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    assert header.pop("response") and header.pop("weights_sha256")
    old = tmp_path / "old.safetensors"
    safetensors.torch.save_file(tensors, old, {"lia-adapter": json.dumps(header)})
    assert load(old, generator=wrap(module)).encoder is not None
    with pytest.raises(LIAError, match="their weights differ"):
        load(old, generator=wrap(NVlabs()))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_convert_of_a_bare_module_of_any_precision(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    module = NVlabs().to(kind)
    lia = lia_adapter.convert(module, overrides=toys.QUICK | {"steps": 3})
    assert lia.mapping is not None
    assert {lia.sample([1], mapping=mapping).dtype for mapping in SEED_MAPPINGS} == {torch.float32}
    assert module.first.weight.dtype == kind


class Dense(nn.Module):
    """A StyleGAN2 as somebody else's module, which repeats y for each layer."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own

    def mapping(self, z: Tensor) -> Tensor:
        y: Tensor = self.own.get_submodule("mapping")(z)
        return y[:, None].repeat(1, 4, 1)

    def synthesis(self, ws: Tensor, noise_mode: str) -> Tensor:
        x: Tensor = self.own.get_submodule("synthesis")(ws, noise_mode=noise_mode)
        return x


def test_a_dense_mapping_is_recognised_by_running_it() -> None:
    own = build_random("stylegan2", stylegan2_config(8, z_dim=16, y_dim=16, mapping_layers=4, channel_base=64))[0]
    by_file, by_running = dense_stack(own), dense_stack(wrap(Dense(own)))
    assert by_file is not None and by_running is not None and by_running.alpha == pytest.approx(0.2)
    for a, b in zip(by_file.weights + by_file.biases, by_running.weights + by_running.biases, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)
    lias = [lia_adapter.convert(g, overrides=toys.QUICK | {"steps": 20, "coupling": "dense"}) for g in (own, wrap(Dense(own)))]
    assert [lia.metrics["coupling"] for lia in lias] == ["dense", "dense"]
    errors = []
    for lia in lias:
        plain = LIA(lia.generator).sample(range(50))
        errors.append(float((lia.sample(range(50), mapping="invertible") - plain).norm() / (plain - plain.mean(dim=0)).norm()))
    assert errors[1] <= 1.2 * errors[0]


@pytest.mark.parametrize(
    ("layers", "dense"),
    [
        ([nn.Linear(D, D), nn.LeakyReLU(0.2), nn.Linear(D, D), nn.LeakyReLU(0.2)], True),
        ([nn.Linear(D, D), nn.LeakyReLU(0.1, inplace=True), nn.Linear(D, D)], True),
        ([nn.Linear(D, D), nn.LeakyReLU(0.2), nn.LayerNorm(D), nn.Linear(D, D), nn.LeakyReLU(0.2)], False),
        ([nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D)], False),
        ([nn.Linear(D, 2 * D), nn.LeakyReLU(0.2), nn.Linear(2 * D, D)], False),
        ([nn.Linear(D, D), nn.LeakyReLU(0.2), nn.Linear(D, D), nn.LeakyReLU(0.3)], False),
    ],
)
def test_stacks_of_layers(layers: list[nn.Module], dense: bool) -> None:
    torch.manual_seed(0)
    mapping = nn.Sequential(*layers)
    draw = nn.Sequential(nn.Linear(D, 192), nn.Unflatten(1, (3, 8, 8)), nn.Tanh())
    stack = dense_stack(wrap(mapping=mapping, synthesis=draw, z_dim=D))
    assert (stack is not None) == dense
    if stack is not None:
        z = torch.randn(5, D)
        h = z.double()
        for weight, bias in zip(stack.weights, stack.biases, strict=True):
            h = nn.functional.leaky_relu(h @ weight.t() + bias, stack.alpha)
        torch.testing.assert_close((h @ stack.matrix.t() + stack.offset).float(), mapping(z), rtol=1e-3, atol=1e-4)


SCRIPT = """
import torch
from torch import nn
class G(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.mapping = nn.Sequential(nn.Linear(6, 6), nn.LeakyReLU(0.2))
        self.synthesis = nn.Sequential(nn.Linear(6, 192), nn.Unflatten(1, (3, 8, 8)), nn.Tanh())
def make():
    return G()
def broken():
    raise ValueError("no weights here")
def number():
    return 3
"""


def test_a_generator_of_the_users_own_python_file(tmp_path: Path) -> None:
    script = tmp_path / "gen_of_mine.py"
    script.write_text(SCRIPT)
    out = tmp_path / "a.safetensors"
    quick = [f"{key}={value}" for key, value in (toys.QUICK | {"steps": 3}).items()]
    assert load(f"{script}:make").generator.resolution == (8, 8)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, list(arguments))

    for arguments in (
        ["convert", f"{script}:make", "-o", str(out), *quick],
        ["sample", str(out), "--generator", f"{script}:make", "--seeds", "0-3", "-o", str(tmp_path / "s.png")],
        ["export", str(out), "--generator", f"{script}:make", "--to", "torch", "-o", str(tmp_path / "graphs")],
    ):
        found = run(*arguments)
        assert found.exit_code == 0, found.output
    lia, ys = load(out, generator=f"{script}:make"), torch.randn(3, 1, 6)
    graph = torch.export.load(tmp_path / "graphs" / "synthesis.pt2").module()
    torch.testing.assert_close(graph(ys), lia.generator.synthesis(ys))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", ["gen_of_mine.py, line 13", "ValueError: no weights here"]),
        ("number", ["returned a int", "expected a generator"]),
        ("nothing", ["has no function 'nothing'", "it has", "make"]),
    ],
)
def test_what_is_wrong_with_a_python_file(tmp_path: Path, name: str, words: list[str]) -> None:
    script = tmp_path / "gen_of_mine.py"
    script.write_text(SCRIPT)
    with pytest.raises(LIAError) as caught:
        load(f"{script}:{name}")
    assert all(word in str(caught.value) for word in words), caught.value
