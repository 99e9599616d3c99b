"""The style space: its metric against a dense one, what is planted in a channel, shifts against moves of codes, and files."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lia_adapter.direction_keys import FindConfig
from lia_adapter.editing import (
    CodeSpace,
    Direction,
    Directions,
    Edit,
    Examples,
    StyleSpace,
    Task,
    edited,
    moved,
    read_directions,
    style_shift,
)
from lia_adapter.editing.edits import check_layers, conditional
from lia_adapter.editing.methods import METHODS
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.generators import (
    Affine,
    Generator,
    MappingSampler,
    StyleLayer,
    fingerprint,
    shifted_styles,
    style_sizes,
    styles_of,
    wrap,
)
from lia_adapter.inversion import STYLES, Stage, noise_sizes, redraw
from lia_adapter.inversion.drawing import NOISE, SHIFT, drawing_weights, tuned_weights, with_weights
from lia_adapter.lia import LIA
from tests import toys
from tests.generators.test_generator_members import FAMILIES

pytestmark = pytest.mark.usefixtures("reference_ops")
DIM, SIZES, PLANTED = 8, (5, 4, 6), 6  # of y, of the style layers, and which channel is seen
FACTOR = 3  # the entry of z that the planted channel has to itself


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Channels(Generator):
    """15 channels of 8 factors; channel 6 alone makes the picture bright, and no other varies with it."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim = self.y_dim = DIM
        self.c_dim, self.num_ws, self.resolution, self.channels = 0, len(SIZES), (8, 8), 3
        turn = torch.linalg.qr(random(1, DIM, DIM))[0]
        scales = torch.tensor([2.0, 1.6, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3], dtype=torch.float64)
        rows = random(2, sum(SIZES), DIM)
        rows[:, FACTOR] = 0
        rows[PLANTED] = 0.7 * torch.eye(DIM)[FACTOR]
        self.to_y = nn.Parameter((turn * scales).float())  # y = z @ to_y.T + 0.5
        self.layers = nn.ModuleList(nn.Linear(DIM, size) for size in SIZES)
        weights = (rows @ torch.linalg.inv(turn * scales)).float().split(SIZES)
        for layer, weight in zip(self.layers, weights, strict=True):
            layer.weight.data = weight
        self.patterns = nn.Parameter(0.2 * random(3, sum(SIZES), 3 * 64).float())
        self.patterns.data -= self.patterns.mean(dim=1, keepdim=True)  # which no brightness is in
        self.patterns.data[PLANTED] += 0.5

    def mapping(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return z @ self.to_y.t() + 0.5

    def style_layers(self) -> list[StyleLayer]:
        return [StyleLayer(f"layer{i}", layer, i) for i, layer in enumerate(self.layers)]

    def synthesis(self, ys: Tensor, *, noise_mode: str = "const") -> Tensor:
        s = torch.cat([layer(ys[:, i]) for i, layer in enumerate(self.layers)], dim=1)
        return (s @ self.patterns).reshape(-1, 3, 8, 8)


def channels() -> Channels:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Channels().eval().requires_grad_(False)


def brightness(generator: Generator, n: int = 2000) -> Examples:
    """Codes, and how bright their pictures are."""
    _, y, _ = MappingSampler(generator).pairs(n, torch.Generator().manual_seed(7))
    x = generator.synthesis(y[:, None].expand(-1, generator.num_ws, -1))
    return Examples(y, x.mean(dim=(1, 2, 3))[:, None].double(), ("bright",))


def task_of(method: str, examples: Examples | None = None, **keys: Any) -> Task:
    return Task(channels(), FindConfig(method=method, space="s", **({"samples": 20_000} | keys)), examples)


def one_channel(generator: Generator, channel: int, name: str = "one", **more: Any) -> Direction:
    sizes = style_sizes(generator)
    return Direction(name, "s", torch.eye(sum(sizes.values()))[channel], "test", styles=sizes, **more)


def affines_of(rows: Tensor, bias: Tensor) -> list[Affine]:
    return [Affine(rows[:4], bias[:4], 0), Affine(rows[4:], bias[4:], 1)]


@pytest.mark.parametrize("entries", [11, 5])
def test_the_metric_is_that_of_the_covariance_as_a_whole(entries: int) -> None:
    root, rows, bias = random(0, 7, 7), random(1, entries, 7), random(2, entries)
    codes = CodeSpace(random(3, 7), root @ root.t())
    space = StyleSpace(codes, affines_of(rows, bias))
    dense = CodeSpace(rows @ codes.mean + bias, rows @ codes.covariance @ rows.t())
    torch.testing.assert_close(space.mean, dense.mean)
    v, others = random(4, 3, entries), random(5, 2, entries)  # most of which lies off the sheet
    for what in ("white", "coloured", "step"):
        torch.testing.assert_close(getattr(space, what)(v), getattr(dense, what)(v), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(space.alike(v, others), dense.alike(v, others), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(space.without(v[0], others), dense.without(v[0], others), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(space.coloured(space.white(v)), v)


def test_a_step_is_the_standard_deviation_of_styles_along_it() -> None:
    generator, task = channels(), task_of("pca")
    _, y, _ = MappingSampler(generator).pairs(100_000, torch.Generator().manual_seed(5))
    s = styles_of(generator, y[:, None].expand(-1, len(SIZES), -1)).double()
    for v in (*random(6, 3, sum(SIZES)), torch.eye(sum(SIZES))[PLANTED].double()):
        assert float(task.metric.step(v).norm()) == pytest.approx(float((s @ (v / v.norm())).std()), rel=0.02)


@pytest.mark.parametrize("method", ["regress", "boundary", "difference"])
def test_the_channel_that_is_seen_is_found(method: str) -> None:
    found = brightness(channels())
    if method == "difference":
        found = Examples(found.codes, (found.values > found.values.mean()).double(), found.names)
    task = task_of(method, found)
    (one,) = METHODS[method](task)
    planted = torch.eye(sum(SIZES))[PLANTED].double()
    assert one.space == "s" and one.styles == style_sizes(task.generator) and one.name == "bright"
    assert float(task.metric.alike(one.step[None], planted[None])) > 0.95  # with its sign
    torch.testing.assert_close(task.metric.step(one.step), one.step.double())
    s = styles_of(task.generator, found.codes[:, None].expand(-1, len(SIZES), -1)).double()
    assert one.reader is not None
    read = s @ one.reader + one.bias
    assert float(torch.corrcoef(torch.stack([read, found.values[:, 0]]))[0, 1]) > (0.75 if method == "difference" else 0.99)
    if method == "regress":  # in units of the attribute
        torch.testing.assert_close(read, found.values[:, 0], atol=0.01, rtol=0)


def test_what_is_learnt_of_styles_is_what_is_learnt_of_codes() -> None:
    found = brightness(channels())
    (s,), (y,) = (METHODS["regress"](Task(channels(), FindConfig(method="regress", space=space), found)) for space in "sy")
    shift = torch.cat([a.weight for a in channels().affines()]).double() @ y.step.double()
    cosine = torch.nn.functional.cosine_similarity(shift, s.step.double(), dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-6)


def test_pca_finds_components_of_styles_in_their_own_deviations() -> None:
    task = task_of("pca", count=DIM)
    found = METHODS["pca"](task)
    _, y, _ = MappingSampler(task.generator).pairs(200_000, torch.Generator().manual_seed(5))
    s = styles_of(task.generator, y[:, None].expand(-1, len(SIZES), -1)).double()
    values, vectors = torch.linalg.eigh(torch.corrcoef(s.t()))
    shares = [one.about["share_of_variance"] for one in found]
    torch.testing.assert_close(torch.tensor(shares).double(), values.flip(0)[:DIM] / values.sum(), atol=0.01, rtol=0)
    for i in (0, 1):  # the first are far from the others
        step = torch.nn.functional.normalize(found[i].step.double() / s.std(dim=0), dim=0)
        assert abs(float(step @ vectors[:, -1 - i])) > 0.99
    planted = torch.eye(sum(SIZES))[PLANTED].double()
    alike = task.metric.alike(torch.stack([one.step for one in found]), planted[None])[:, 0].abs()
    assert float(alike.max()) > 0.95 and float(alike.sort().values[-2]) < 0.3


@pytest.mark.parametrize("method", ["pca", "regress", "boundary"])
def test_signs_and_order_are_the_same_each_time(method: str) -> None:
    one, two = (METHODS[method](task_of(method, brightness(channels()), count=5)) for _ in range(2))
    assert [a.name for a in one] == [b.name for b in two]
    assert all(torch.equal(a.step, b.step) for a, b in zip(one, two, strict=True))
    if method == "pca":
        assert all(float(a.step[a.step.abs().argmax()]) > 0 for a in one)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_shift_draws_what_the_move_of_codes_draws_that_makes_it(name: str) -> None:
    generator = FAMILIES[name]().eval().requires_grad_(False)
    random_ = torch.Generator().manual_seed(0)
    ys, change = (torch.randn(2, generator.num_ws, generator.y_dim, generator=random_) for _ in range(2))
    sizes, s = style_sizes(generator), styles_of(generator, ys)
    assert s.shape == (2, sum(sizes.values())) and len(sizes) == len(generator.affines())
    shift = styles_of(generator, ys + change) - s
    plain, wanted = generator.synthesis(ys), generator.synthesis(ys + change)
    assert float((wanted - plain).abs().max()) > 1e-3
    with shifted_styles(generator, shift):
        torch.testing.assert_close(generator.synthesis(ys), wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(generator.synthesis(ys), plain)  # nothing stays behind
    with shifted_styles(generator, torch.zeros_like(shift[:1])), shifted_styles(generator, None):
        assert torch.equal(generator.synthesis(ys), plain)
    torch.testing.assert_close(LIA(generator).synthesize(ys, styles=shift), wanted, rtol=1e-4, atol=1e-4)


def test_styles_move_with_all_else_that_is_kept_beside_codes() -> None:
    lia = toys.stylegan(resolution=16)
    generator = lia.generator.eval().requires_grad_(False)
    ys, change = random(0, 2, generator.num_ws, 16).float(), random(1, 2, generator.num_ws, 16).float()
    noise = {f"{NOISE}{i}": random(i, 2, 1, *size).float() for i, size in enumerate(noise_sizes(generator))}
    stage = Stage(generator)
    kept = {**noise, SHIFT: random(9, 2, *stage.shape).float()}
    shift = styles_of(generator, ys + change) - styles_of(generator, ys)
    torch.testing.assert_close(
        redraw(generator, ys, {**kept, STYLES: shift}), redraw(generator, ys + change, kept), rtol=1e-4, atol=1e-4
    )
    name, weight = next((name, weight) for name, weight in drawing_weights(generator).items() if name.endswith("conv1.weight"))
    pairs = {f"weights.{name}.a": random(3, 2, len(weight), 1), f"weights.{name}.b": random(4, 2, 1, weight[0].numel())}
    tuned = {key: value.float() for key, value in pairs.items()}
    drawn = redraw(generator, ys, {**kept, **tuned, STYLES: shift})
    for i in range(2):
        own = tuned_weights(generator, {key: value[i] for key, value in tuned.items()})
        with with_weights(generator, own):
            alone = redraw(generator, (ys + change)[i : i + 1], {key: value[i : i + 1] for key, value in kept.items()})
        torch.testing.assert_close(drawn[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_edits_of_s_are_sums_beside_the_codes() -> None:
    generator = channels()
    a, b = one_channel(generator, PLANTED), one_channel(generator, 0, "b", layers=(1, 2))
    amounts = torch.tensor([1.0, -2.0])
    torch.testing.assert_close(style_shift([Edit(a, amounts), Edit(a, 0.5)], generator), (amounts + 0.5)[:, None] * a.step)
    assert not style_shift([Edit(b, 2.0)], generator).any()  # as it is of layer 0 alone
    torch.testing.assert_close(style_shift([Edit(b, 2.0)], generator, layers=[0]), 2 * b.step[None])
    y = Direction("y", "y", torch.ones(DIM), "test")
    ys = random(0, 2, len(SIZES), DIM).float()
    there, shift = moved(generator, ys, [Edit(a, 3.0), Edit(y, 1.0)])
    assert torch.equal(there, ys + 1) and shift is not None and torch.equal(shift, 3 * a.step[None])
    assert moved(generator, ys, [Edit(y, 1.0)])[1] is None
    lia = LIA(generator)
    lia.directions = Directions(fingerprint(generator), (a, y))
    x = lia.synthesize(lia.edit(ys, {"y": 1.0}), styles=lia.style_shift({"one": 2.0}))
    brighter = x.mean(dim=(1, 2, 3)) - generator.synthesis(ys + 1).mean(dim=(1, 2, 3))
    torch.testing.assert_close(brighter, torch.full([2], 2 * 0.5), rtol=1e-4, atol=1e-4)


def test_what_stays_in_s_is_read_as_before() -> None:
    task = task_of("regress", brightness(channels()))
    (bright,) = METHODS["regress"](task)
    # Any way of styles; the sheet has all 8 factors.
    other = Direction("other", "s", random(8, sum(SIZES)).float(), "test", styles=style_sizes(task.generator))
    left = conditional(other, [bright], task.metric)
    assert left.styles == other.styles and bright.reader is not None
    assert abs(float(task.metric.alike(left.step[None], bright.step[None]))) < 1e-5
    weight = torch.cat([one.weight for one in task.generator.affines()]).double()
    step = bright.step.double() + weight @ random(9, DIM)
    mixed = Direction("mixed", "s", step.float(), "test", styles=other.styles)
    reading = [float(one.step.double() @ bright.reader) for one in (mixed, conditional(mixed, [bright], task.metric))]
    assert abs(reading[1]) < 0.01 * abs(reading[0])
    y = Direction("y", "y", torch.ones(DIM), "test")
    with pytest.raises(ConfigError, match="'mixed' moves s and 'y' moves y"):
        conditional(mixed, [y], task.metric)
    assert torch.allclose(LIA(task.generator).code_space("s").mean, task.metric.mean, atol=0.1)


def refusals() -> list[tuple[Any, str]]:
    generator, other = channels(), toys.stylegan().generator
    a, y = one_channel(generator, 0), Direction("y", "y", torch.ones(DIM), "test")
    sprites = toys.Sprites()
    plain = wrap(sprites, mapping="style", synthesis=sprites.draw)
    step, sizes = torch.ones(sum(SIZES)), style_sizes(generator)
    longer: Mapping[str, int] = {**sizes, "layer3": 2}
    return [
        (lambda: edited(torch.zeros(1, 3, DIM), [Edit(a, 1.0)]), "'one' moves s.*LIA.style_shift"),
        (lambda: style_shift([Edit(y, 1.0)], generator), "'y' moves y, which is a code's"),
        (
            lambda: style_shift([Edit(a, 1.0)], other),
            "another generator: style layer 0 is layer0 of 5 channels, .* b4.conv1 of",
        ),
        (lambda: style_shift([Edit(a, 1.0)], plain), "style layers of this generator .WrappedGenerator. are not known"),
        (lambda: style_shift([Edit(a, 1.0)], generator, layers=[3]), "there is no layer 3; this generator's are 0 to 2"),
        (
            lambda: style_shift([Edit(Direction("l", "s", torch.ones(17), "t", styles=longer), 1.0)], generator),
            "style layer 3 is layer3 of 2 channels, this generator's is no more",
        ),
        (lambda: shifted_styles(generator, torch.zeros(1, 3)).__enter__(), r"styles have shape \[1, 3\]; expected \[N, 15\]"),
        (lambda: Direction("a", "s", step, "t"), "one of s has styles"),
        (lambda: Direction("a", "y", step, "t", styles=sizes), "no other has"),
        (lambda: Direction("a", "s", step[1:], "t", styles=sizes), r"has a step \[14\]; expected \[15\]"),
        (lambda: check_layers(generator, [a, y], [0]), "counts style layers for 'one', which moves s, and codes for 'y'"),
        (lambda: check_layers(generator, [a], [5]), r"layers is \[5\]; this generator's style layers are 0 to 2"),
        (lambda: METHODS["pca"](Task(plain, FindConfig(method="pca", space="s", samples=100))), "are not known"),
        (lambda: FindConfig(method="sefa", space="s"), "sefa finds directions of y. Leave space=s out, or use one of .*, pca"),
        (lambda: FindConfig(method="pca", space="z"), "Leave space=z out, or use one of boundary, regress, difference[.]"),
        (lambda: FindConfig(method="pca", space="s", activation=True), "Leave space=s out, or activation=true"),
    ]


@pytest.mark.parametrize("i", range(len(refusals())))
def test_what_cannot_be(i: int) -> None:
    make, words = refusals()[i]
    with pytest.raises(LIAError, match=words) as caught, ExitStack():
        make()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_files_keep_the_style_layers(tmp_path: Path) -> None:
    generator = channels()
    one = one_channel(generator, 1, layers=(0,), reader=torch.ones(sum(SIZES)))
    known = Directions("a" * 64, (one, Direction("one", "y", torch.ones(DIM), "test")))
    known.save(tmp_path / "d.safetensors")
    read = read_directions(tmp_path / "d.safetensors")
    found = read.of_space("s").renamed({"one": "two"})["two"]
    assert found.styles is not None and list(found.styles.items()) == [("layer0", 5), ("layer1", 4), ("layer2", 6)]
    assert torch.equal(found.step, one.step) and found.layers == (0,) and found.reader is not None
    assert read.of_space("y")["one"].styles is None


def test_amounts_styles_and_directions_that_do_not_fit_end_in_our_words() -> None:
    lia, other = toys.stylegan(), toys.stylegan(seed=5)
    y = torch.randn(4, lia.generator.y_dim, generator=torch.Generator().manual_seed(2))
    lia.directions = Directions.find("pca", lia, count=2, samples=200)
    for amount in (math.nan, "far", torch.ones(4, 2), torch.ones(3)):
        with pytest.raises(ConfigError, match="'pca-1'"):
            lia.edit(y, {"pca-1": amount})  # type: ignore[dict-item]
    with pytest.raises(LIAError, match="directions of another generator"):
        other.edit(y, {"pca-1": 1.0}, directions=lia.directions)
    with pytest.raises(ConfigError, match="no direction 'pca-1'"):  # none are none, and not those that are set
        lia.edit(y, {"pca-1": 1.0}, directions=Directions(lia.directions.generator, ()))
    size = sum(style_sizes(lia.generator).values())
    for styles in (torch.zeros(3, size), torch.zeros(size), torch.zeros(1, size + 1)):
        with pytest.raises(LIAError, match="styles"):
            lia.synthesize(y, styles=styles)
