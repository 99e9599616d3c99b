"""Methods that need no training: what was planted in a generator is found, with the same sign and order each time."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lia_adapter.direction_keys import FindConfig
from lia_adapter.editing import Direction, Examples, Task
from lia_adapter.editing.boundary import _extremes, separate
from lia_adapter.editing.measures import STRENGTHS, identity_kept, leakage, measure_effects, moved_pictures
from lia_adapter.editing.methods import METHODS
from lia_adapter.editing.pca import principal_components
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.generators import Generator, MappingSampler, StyleLayer
from lia_adapter.metrics.features import Features
from tests import toys

DIM, LAYERS = 8, 4


def turned(seed: int = 1) -> Tensor:
    """An orthogonal matrix."""
    turn: Tensor = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(seed)))[0]
    return turn


class Planted(Generator):
    """y = (z · scales) turned + mean; the picture changes most along one direction, the styles of each layer along others."""

    def __init__(self, loud: int = 3) -> None:
        super().__init__()
        self.z_dim = self.y_dim = DIM
        self.c_dim, self.num_ws, self.resolution, self.channels = 0, LAYERS, (8, 8), 3
        self.turn = nn.Parameter(turned())
        self.mean = nn.Parameter(torch.linspace(-1, 1, DIM))
        self.scales = nn.Parameter(torch.tensor([2.0, 1.6, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3]))
        loudness = torch.full([DIM], 0.05)
        loudness[loud] = 1.0
        pictures = torch.linalg.qr(torch.randn(3 * 64, DIM, generator=torch.Generator().manual_seed(2)))[0]
        # u = (y - mean) in white coordinates, of which entry `loud`, along turn[:, loud], is seen most.
        self.look = nn.Parameter((self.turn / self.scales).detach() * loudness @ pictures.t() * 3)
        self.styles = nn.ModuleList()
        for layer in range(LAYERS):
            style = nn.Linear(DIM, 40)
            rows = torch.randn(40, DIM, generator=torch.Generator().manual_seed(layer)) * 0.2
            rows[:, :] += torch.randn(40, 1, generator=torch.Generator().manual_seed(10 + layer)) * self.style_of(layer)
            style.weight.data = rows
            self.styles.append(style)

    def style_of(self, layer: int) -> Tensor:
        """Which direction of y moves the styles of a layer most."""
        return turned(3)[layer // 2]

    def mapping(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return (z * self.scales) @ self.turn.t() + self.mean

    def synthesis(self, ys: Tensor, *, noise_mode: str = "const") -> Tensor:
        return ((ys.mean(dim=1) - self.mean) @ self.look).reshape(-1, 3, 8, 8)

    def style_layers(self) -> list[StyleLayer]:
        return [StyleLayer(f"layer{layer}", style, layer) for layer, style in enumerate(self.styles)]

    def planted(self, factor: int) -> Tensor:
        """How y changes with an entry of z, which no other entry changes with."""
        return self.turn[:, factor].detach()


def task_of(method: str, examples: Examples | None = None, **keys: Any) -> Task:
    generator = Planted().requires_grad_(False)
    return Task(generator, FindConfig(method=method, **({"samples": 20_000} | keys)), examples)


def examples(generator: Generator, factors: Sequence[int], n: int = 3000, noise: float = 0.0, space: str = "y") -> Examples:
    """Codes whose attributes are entries of z that made them."""
    random = torch.Generator().manual_seed(7)
    z, y, _ = MappingSampler(generator).pairs(n, random)
    values = z[:, list(factors)] + noise * torch.randn(n, len(factors), generator=random)
    return Examples(z if space == "z" else y, values.double(), tuple(f"factor-{i}" for i in factors))


def cosine(task: Task, one: Direction, planted: Tensor) -> float:
    return float(task.space.alike(one.step[None], planted[None]))


@pytest.mark.parametrize("method", ["boundary", "regress"])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_attributes_are_found_with_their_sign_and_read(method: str, noise: float) -> None:
    found = examples(Planted(), (1, 4, 7), noise=noise)
    task = task_of(method, found)
    directions = METHODS[method](task)
    assert [one.name for one in directions] == list(found.names)
    fresh = examples(Planted(), (1, 4, 7), n=2000)
    for i, (factor, one) in enumerate(zip((1, 4, 7), directions, strict=True)):
        assert cosine(task, one, task.generator.planted(factor)) > (0.99 if noise == 0 else 0.95), one.name  # type: ignore[operator]
        torch.testing.assert_close(task.space.step(one.step), one.step.double())
        assert one.reader is not None
        read = fresh.codes.double() @ one.reader + one.bias
        assert float(torch.corrcoef(torch.stack([read, fresh.values[:, i]]))[0, 1]) > 0.95
        if method == "regress":
            assert one.about["r2"] > (0.99 if noise == 0 else 0.4)
            if noise == 0:  # in units of the attribute
                torch.testing.assert_close(read, fresh.values[:, i], atol=0.05, rtol=0)
        else:
            assert one.about["accuracy"] > 0.9


@pytest.mark.parametrize("method", ["boundary", "regress"])
def test_attributes_in_z(method: str) -> None:
    (one,) = METHODS[method](task_of(method, examples(Planted(), (2,), space="z"), space="z"))
    assert one.space == "z" and float(one.step.norm()) == pytest.approx(1)
    assert float(one.step[2]) > 0.98


def test_two_groups_are_told_apart() -> None:
    found = examples(Planted(), (2,))
    groups = replace(found, values=(found.values > 0.5).double(), names=("smiling",))
    for method in ("difference", "boundary", "regress"):
        task = task_of(method, groups)
        (one,) = METHODS[method](task)
        assert one.name == "smiling" and cosine(task, one, task.generator.planted(2)) > 0.95  # type: ignore[operator]
    (one,) = METHODS["difference"](task_of("difference", groups))
    z = found.values[:, 0]
    assert one.about["separation"] == pytest.approx(float(z[z > 0.5].mean() - z[z <= 0.5].mean()), rel=0.05)
    assert one.about["images"] == [int((z <= 0.5).sum()), int((z > 0.5).sum())]
    assert one.reader is not None  # 0 is half way between the means
    read = found.codes.double() @ one.reader + one.bias
    assert abs(float(read[z > 0.5].mean() + read[z <= 0.5].mean())) < 1e-3


@pytest.mark.parametrize("method", ["boundary", "regress", "difference"])
def test_images_whose_attribute_is_not_known_do_not_count(method: str) -> None:
    found = examples(Planted(), (1,))
    values = (found.values > 0).double()
    known = METHODS[method](task_of(method, replace(found, codes=found.codes[:1000], values=values[:1000])))
    values[1000:] = math.nan
    more = METHODS[method](task_of(method, replace(found, values=values)))
    torch.testing.assert_close(more[0].step, known[0].step)


@pytest.mark.parametrize(
    ("method", "values", "words"),
    [
        ("boundary", torch.zeros(100), "is 0 in all 100 images"),
        ("regress", torch.ones(100), "is 1 in all 100 images"),
        ("difference", torch.zeros(100), "has 1 values"),
        ("difference", torch.arange(100.0), "has 100 values"),
        ("boundary", torch.full([100], math.nan), "is known of 0 images"),
        ("regress", torch.cat([torch.arange(49.0), torch.full([51], math.nan)]), "is known of 49 images"),
        ("boundary", (torch.arange(100) == 5).double(), "has 1 images at an end; expected at least 10"),
    ],
)
def test_attributes_that_tell_nothing(method: str, values: Tensor, words: str) -> None:
    codes = examples(Planted(), (0,), n=100).codes
    with pytest.raises(LIAError, match=words):
        METHODS[method](task_of(method, Examples(codes, values[:, None].double(), ("smile",))))


def test_the_same_images_twice_and_no_images() -> None:
    codes = examples(Planted(), (0,), n=60).codes
    twice = Examples(torch.cat([codes, codes]), torch.arange(120.0)[:, None] // 60, ("smile",))
    with pytest.raises(LIAError, match="are they the same images"):
        METHODS["difference"](task_of("difference", twice))
    with pytest.raises(ConfigError, match="learns from attributes"):
        METHODS["boundary"](task_of("boundary"))


def test_a_value_that_most_images_have_is_of_neither_extreme() -> None:
    # Of 100 images 60 have 1, and those with 0 and 2 are the extremes.
    values = torch.tensor([0.0] * 20 + [1.0] * 60 + [2.0] * 20, dtype=torch.float64)
    low, high = _extremes(values, 0.5)
    assert set(values[low].tolist()) == {0.0} and set(values[high].tolist()) == {2.0} and len(low) == len(high) == 20


def test_a_boundary_in_the_plane() -> None:
    # The nearest points of the two sets are (1, y) and (-1, y): the widest margin is across x = 0.
    side = torch.tensor([[1.0, 0.0], [1.0, 2.0], [1.0, -2.0], [2.0, 5.0], [3.0, -5.0]], dtype=torch.float64)
    u, above = torch.cat([side, -side]), torch.arange(10) < 5
    w, bias = separate(u, above, 1e-4)
    assert abs(float(w[1] / w[0])) < 1e-3 and abs(bias) < 1e-3 and float(w[0]) == pytest.approx(1, abs=0.01)
    w, bias = separate(u + torch.tensor([10.0, 0.0]), above, 1e-4)
    assert -bias / float(w[0]) == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize("decay", [1e-4, 1e-2, 1.0])
def test_a_boundary_is_the_least_of_its_loss(decay: float) -> None:
    random = torch.Generator().manual_seed(0)
    u = torch.randn(300, 5, generator=random, dtype=torch.float64)
    above = u[:, 0] + 0.7 * torch.randn(300, generator=random, dtype=torch.float64) > 0.3
    w, bias = separate(u, above, decay)
    theta = torch.cat([w, torch.tensor([bias], dtype=torch.float64)]).requires_grad_()
    signs = above.double() * 2 - 1
    loss = decay / 2 * theta[:-1].square().sum() + (1 - signs * (u @ theta[:-1] + theta[-1])).clamp(min=0).square().mean()
    (gradient,) = torch.autograd.grad(loss, theta)
    assert float(gradient.abs().max()) < 1e-6


def test_principal_components_are_those_of_the_samples() -> None:
    codes = (
        torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        @ torch.diag(torch.arange(1.0, 7)).double()
    )
    centred = codes - codes.mean(dim=0)
    _, s, vt = torch.linalg.svd(centred, full_matrices=False)
    values, vectors = principal_components(torch.cov(codes.t()), 4)
    torch.testing.assert_close(values, s[:4].square() / 499)
    torch.testing.assert_close((vectors * vt[:4]).sum(dim=1).abs(), torch.ones(4).double())


def test_pca_finds_the_axes_in_order() -> None:
    task = task_of("pca", count=5)
    found = METHODS["pca"](task)
    scales = Planted().scales.detach()
    for i, one in enumerate(found):
        assert one.name == f"pca-{i + 1}" and abs(cosine(task, one, Planted().planted(i))) > 0.95
        assert one.about["share_of_variance"] == pytest.approx(float(scales[i] ** 2 / scales.square().sum()), rel=0.05)
        assert float(one.step.norm()) == pytest.approx(float(scales[i]), rel=0.03)


def test_pca_of_feature_maps_finds_what_maps_change_with(reference_ops: None) -> None:
    generator = toys.stylegan(resolution=16).generator.eval().requires_grad_(False)
    keys = {"activation": True, "count": 3, "samples": 600}
    task = Task(generator, FindConfig(method="pca", **keys))  # type: ignore[arg-type]
    found = METHODS["pca"](task)
    assert len(found) == 3 and all(one.step.shape == (16,) and bool(one.step.isfinite().all()) for one in found)
    shares = [one.about["share_of_variance"] for one in found]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) < 1
    state = torch.get_rng_state()
    again = METHODS["pca"](Task(generator, task.config))
    assert all(torch.equal(a.step, b.step) for a, b in zip(found, again, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("layers", "style"), [(None, None), ((0, 1), 0), ((2, 3), 2), ((3,), 3)])
def test_sefa_finds_what_moves_the_styles_of_some_layers(layers: tuple[int, ...] | None, style: int | None) -> None:
    task = task_of("sefa", count=2, layers=layers)
    found = METHODS["sefa"](task)
    generator = task.generator
    assert isinstance(generator, Planted)
    if style is not None:
        v = torch.nn.functional.normalize(found[0].step.double(), dim=0)
        assert abs(float(v @ generator.style_of(style).double())) > 0.95
    rows = torch.cat(
        [torch.nn.functional.normalize(a.weight, dim=1) for a in generator.affines() if layers is None or a.layer in layers]
    )
    _, s, vt = torch.linalg.svd(rows.double(), full_matrices=False)
    for i, one in enumerate(found):
        assert abs(float(torch.nn.functional.normalize(one.step.double(), dim=0) @ vt[i])) == pytest.approx(1, abs=1e-6)
        assert one.about["eigenvalue"] == pytest.approx(float(s[i] ** 2), rel=1e-5)
        assert one.layers == layers


def test_jacobian_finds_what_moves_pixels_most() -> None:
    task = task_of("jacobian", count=3)
    found = METHODS["jacobian"](task)
    assert abs(cosine(task, found[0], Planted().planted(3))) > 0.95
    shares = [one.about["share_of_change"] for one in found]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.9


@pytest.mark.parametrize("method", ["pca", "sefa", "jacobian", "boundary", "regress", "difference"])
def test_signs_and_order_are_the_same_each_time(method: str) -> None:
    found = examples(Planted(), (1, 4))
    found = replace(found, values=(found.values > 0).double()) if method == "difference" else found
    labelled = None if method in ("pca", "sefa", "jacobian") else found
    one, two = (METHODS[method](task_of(method, labelled, samples=2000, count=4)) for _ in range(2))
    assert all(a.name == b.name and torch.equal(a.step, b.step) and a.about == b.about for a, b in zip(one, two, strict=True))
    if labelled is None:  # signs are no accident of an algorithm
        for a in one:
            assert float(a.step[a.step.abs().argmax()]) > 0


@pytest.mark.parametrize("method", ["pca", "sefa", "jacobian"])
def test_more_directions_than_y_has_entries(method: str) -> None:
    with pytest.raises(ConfigError, match="y has 8 entries"):
        METHODS[method](task_of(method, count=9))


def test_sefa_of_a_generator_whose_styles_are_not_known() -> None:
    class Plain(Planted):
        style_layers = Generator.style_layers

    with pytest.raises(LIAError, match="style_layers"):
        METHODS["sefa"](Task(Plain(), FindConfig(method="sefa", samples=200)))


@pytest.mark.parametrize("method", ["pca", "sefa", "jacobian"])
def test_conditional_generators(method: str, reference_ops: None) -> None:
    generator = toys.stylegan(c_dim=3).generator.eval().requires_grad_(False)
    for one in METHODS[method](Task(generator, FindConfig(method=method, samples=300, count=3))):
        assert one.step.shape == (16,) and bool(one.step.isfinite().all())


def test_measures_of_a_linear_world() -> None:
    # Attribute 0 rises by 2 for a strength of 1, attribute 1 falls by 0.5; over codes their spreads are 4 and 1.
    codes = torch.randn(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([4.0, 1.0])
    pictures = moved_pictures(lambda y, s: y + s * torch.tensor([2.0, -0.5]), lambda x: x, codes)
    assert pictures.shape == (400, len(STRENGTHS), 2)
    effects = measure_effects(torch.stack([pictures, 0 * pictures + codes[:, None]]))
    spread = codes.std(dim=0)
    torch.testing.assert_close(effects.slopes[0], torch.tensor([2.0, -0.5]) / spread)
    torch.testing.assert_close(effects.slopes[1], torch.zeros(2).double(), atol=1e-9, rtol=0)
    assert effects.monotone.tolist() == [[1, 1], [0, 0]]
    leaks = leakage(effects, [1, None])
    assert float(leaks[0, 1]) == pytest.approx(1)
    assert float(leaks[0, 0]) == pytest.approx(float(2 / spread[0] / (0.5 / spread[1])))
    assert bool(leaks.isfinite().all())


class _Corner(Features):
    """Sees of a picture two numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, :2]


@pytest.mark.parametrize("effect", [2.0, -2.0, 0.25])
def test_identity_is_compared_where_the_effect_is_equal(effect: float) -> None:
    # A strength of s turns what the network sees by s/10 of a radian; the effect is 1 at s = 1 / effect, on either side.
    angles = torch.linspace(-1, 1, 5, dtype=torch.float64)

    def draw(angles: Tensor, strength: float) -> Tensor:
        angle = angles + strength / 10
        return torch.stack([angle.cos(), angle.sin()], dim=1).reshape(-1, 1, 1, 2) / 2

    found = identity_kept(draw, _Corner(), angles, effect)
    assert found is not None
    torch.testing.assert_close(found, torch.full([5], math.cos(0.1 / effect), dtype=torch.float64))


@pytest.mark.parametrize("effect", [0.0, 0.1, -0.1, math.nan])
def test_identity_is_not_compared_where_no_strength_has_the_effect(effect: float) -> None:
    assert identity_kept(lambda y, s: y + s, _Corner(), torch.ones(2, 1, 1, 2), effect) is None
