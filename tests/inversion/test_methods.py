"""Every method finds what a picture was drawn with: a code, noise images, a feature map, weights."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lia_adapter import keys
from lia_adapter.config import recipe_names
from lia_adapter.errors import LIAError
from lia_adapter.generators import broadcast, wrap
from lia_adapter.inversion import LADDER, LOSSES, METHODS, RUNG, Problem, ReconstructionLoss, Stage, noise_sizes, redraw
from lia_adapter.inversion.descend import constant, descend
from lia_adapter.inversion.projector import noise_structure
from lia_adapter.lia import LIA
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.typicality import z_size
from tests import toys

N = 3


@pytest.fixture(scope="module")
def lia() -> LIA:
    return toys.with_encoder(toys.stylegan(resolution=16))


def problem(lia: LIA, x: Tensor, steps: int, codes: int = 4) -> Problem:
    assert lia.mapping is not None
    first = broadcast(lia.y_mean.expand(len(x), -1), lia.generator.num_ws)
    return Problem(
        lia.generator, lia.mapping, x, None, ReconstructionLoss(), first, steps, range(len(x)), codes=codes,
        coordinates=lia.find_coordinates(), encode=lia.encode,
    )  # fmt: skip


def drawn(lia: LIA) -> Tensor:
    """Images of the mapping's own codes."""
    return lia.sample(range(N))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_images_of_known_codes_are_found(lia: LIA, name: str) -> None:
    x = drawn(lia)
    task = problem(lia, x, 300)
    found = METHODS[name](task)
    before = task.loss(lia.generator.synthesis(task.first), x)
    bound = {"projector": 0.2, "in-domain": 0.7, "force-in-domain": 0.9, "image2stylegan": 0.4}.get(name, 0.15)
    assert (found.loss < bound * before).all(), (found.loss / before).tolist()
    assert found.ys.shape == task.first.shape and found.z.shape == (N, 16) and found.z.dtype == torch.float64
    torch.testing.assert_close(redraw(lia.generator, found.ys, found.kept), found.images)
    torch.testing.assert_close(found.loss, task.loss(found.images, x))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_an_image_gets_does_not_depend_on_the_others(lia: LIA, name: str) -> None:
    x = drawn(lia)
    task = problem(lia, x, 12)
    together = METHODS[name](task)
    alone = METHODS[name](replace(task, x=x[1:2], first=task.first[1:2], seeds=[1]))
    torch.testing.assert_close(together.ys[1:2], alone.ys, atol=2e-3, rtol=1e-3)
    for key, value in together.kept.items():
        torch.testing.assert_close(value[1:2], alone.kept[key], atol=2e-3, rtol=1e-2)


def test_an_image_of_a_known_feature_map_is_found_better_than_by_codes(lia: LIA) -> None:
    stage, ys = Stage(lia.generator), broadcast(lia.generator.mapping(torch.randn(N, 16)), lia.generator.num_ws)
    shift = 0.5 * stage.maps(ys).std() * torch.randn(N, *stage.shape)
    x = redraw(lia.generator, ys, {"feature_shift": shift})
    assert (x - lia.generator.synthesis(ys)).abs().max() > 0.01
    task = problem(lia, x, 400)
    by_codes, by_map, by_many = (METHODS[name](task).loss for name in ("image2stylegan", "features", "multi-code"))
    assert (by_map < 0.5 * by_codes).all()
    assert float(by_many.mean()) < float(by_codes.mean())


def test_an_image_of_known_weights_is_found_and_the_generator_stays(lia: LIA) -> None:
    other = toys.stylegan(resolution=16).generator
    for name, weight in other.named_parameters():
        if name.endswith("torgb.weight"):
            weight.data += 0.3 * torch.randn_like(weight)
    ys = broadcast(lia.generator.mapping(torch.randn(N, 16)), lia.generator.num_ws)
    x = other.synthesis(ys).detach()
    before = {name: weight.clone() for name, weight in lia.generator.state_dict().items()}
    task = problem(lia, x, 400)
    tuned, codes = METHODS["tune"](task), METHODS["image2stylegan"](replace(task, steps=200, rate=0.05))
    assert (tuned.loss < 0.5 * codes.loss).all()
    assert all(torch.equal(weight, before[name]) for name, weight in lia.generator.state_dict().items())
    assert {name for name, _ in lia.generator.named_parameters()} == before.keys() - {
        n for n, _ in lia.generator.named_buffers()
    }


def test_layerwise_tells_where_the_generator_cannot_draw(lia: LIA) -> None:
    x = drawn(lia)
    x[:, :, :4, :4] += 20.0  # no map makes this
    missed = METHODS["layerwise"](problem(lia, x, 60)).kept["missed"]
    assert missed.shape == (N, 1, 16, 16)
    assert (missed[:, :, :4, :4].mean(dim=(1, 2, 3)) > 3 * missed[:, :, 8:, 8:].mean(dim=(1, 2, 3))).all()


@pytest.mark.parametrize("family", ["stylegan2", "wrapped"])
def test_a_stage_is_a_map_that_all_that_follows_is_drawn_from(lia: LIA, family: str) -> None:
    generator = lia.generator if family == "stylegan2" else wrap(Painter(), mapping="style", synthesis="draw")
    stage = Stage(generator)
    assert stage.shape[1:] == (8, 8)
    ys = broadcast(torch.randn(2, generator.y_dim), generator.num_ws)
    maps, x = stage.maps(ys), generator.synthesis(ys)
    with stage.changed(lambda _: maps.flip(0)):
        flipped = generator.synthesis(ys)
    assert (flipped - x).abs().max() > 1e-4
    with stage.changed(lambda _: maps):
        torch.testing.assert_close(generator.synthesis(ys), x)
    torch.testing.assert_close(generator.synthesis(ys), x)  # nothing is left behind


def test_a_generator_without_maps_says_so() -> None:
    with pytest.raises(LIAError, match="no layer whose feature maps are seen"):
        Stage(wrap(toys.Sprites(), mapping="style", synthesis="draw"))


def test_noise_images_are_found_in_their_order(lia: LIA) -> None:
    sizes = noise_sizes(lia.generator)
    assert sizes == [(4, 4), (8, 8), (8, 8), (16, 16), (16, 16)]
    ys = broadcast(torch.randn(1, 16), lia.generator.num_ws)
    names = [name for name, _ in lia.generator.named_buffers() if name.endswith("noise_const")]
    own = {f"noise.{i}": lia.generator.get_buffer(name)[None, None] for i, name in enumerate(names)}
    torch.testing.assert_close(redraw(lia.generator, ys, own), lia.generator.synthesis(ys))


def test_noise_without_structure_has_none_and_stripes_have_it() -> None:
    free = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    stripes = torch.ones(1, 1, 64, 64)
    stripes[:, :, ::2] = -1
    assert noise_structure(free).max() < 0.01
    assert noise_structure(stripes) == pytest.approx(2.0)  # along and across, -1 and 1, and nothing is left on coarser scales


def test_the_last_or_the_best_is_kept() -> None:
    target = torch.tensor([[1.0], [2.0]])
    found, least = descend(
        {"a": torch.zeros(2, 1)}, lambda v, step: (v["a"] - target)[:, 0].square(), steps=200, rate=0.1, schedule=constant
    )
    assert (found["a"] - target).abs().max() < 0.02 and least.max() < 1e-3
    end, _ = descend(
        {"a": target}, lambda v, step: (v["a"] - target)[:, 0].abs(), steps=1, rate=0.5, schedule=constant, keep="last"
    )
    assert torch.equal(end["a"], target)


class Painter(nn.Module):
    """A stranger's generator of three convolutions."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.style = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6))
            self.start, self.first = nn.Linear(6, 4 * 4 * 4), nn.Conv2d(4, 6, 3, padding=1)
            self.second, self.last = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 3, 1)

    def draw(self, y: Tensor) -> Tensor:
        x = self.first(self.start(y).reshape(-1, 4, 4, 4)).relu()
        x = nn.functional.interpolate(x, scale_factor=2.0)
        x = self.second(x).relu()
        image: Tensor = self.last(nn.functional.interpolate(x, scale_factor=2.0))
        return image


@pytest.mark.parametrize("name", ["projector", "features", "layerwise", "multi-code", "tune"])
def test_strangers_generators_are_inverted_too(name: str) -> None:
    generator = wrap(Painter(), mapping="style", synthesis="draw")
    random = torch.Generator().manual_seed(1)
    mapping = InvertibleMapping("affine", generator.y_dim)
    x = generator.synthesis(generator.mapping(torch.randn(2, 5, generator=random))[:, None])
    task = Problem(generator, mapping, x, None, ReconstructionLoss(), torch.zeros(2, 1, 6), 200, range(2), codes=3)
    found = METHODS[name](task)
    assert (found.loss < 0.3 * task.loss(generator.synthesis(task.first), x)).all()
    torch.testing.assert_close(redraw(generator, found.ys, found.kept), found.images)


def test_the_ladder_tells_what_each_rung_gained(lia: LIA) -> None:
    x = drawn(lia)
    for quality, rungs in LADDER.items():
        task = replace(problem(lia, x, 120), quality=quality, faithful=True)
        found = METHODS["ladder"](task)
        losses, rung = found.kept[LOSSES], found.kept[RUNG]
        assert losses.shape == (N, len(rungs) + 1) and (losses.diff(dim=1) <= 0).all()
        torch.testing.assert_close(losses[:, -1], found.loss, rtol=1e-3, atol=1e-5)
        assert ((losses.diff(dim=1) < 0).sum(dim=1) >= (rung > 0)).all()
        torch.testing.assert_close(redraw(lia.generator, found.ys, found.kept), found.images)


def test_the_ladder_stops_where_the_next_rung_would_leave_the_prior(lia: LIA) -> None:
    x = drawn(lia).flip(2) * 2  # pictures that the generator cannot draw
    task = replace(problem(lia, x, 150), quality="good")
    kept, free = METHODS["ladder"](task), METHODS["ladder"](replace(task, faithful=True))
    assert lia.mapping is not None
    start = z_size(lia.to_z(lia.encode(x)))
    task = replace(task, first=broadcast(lia.encode(x), lia.generator.num_ws))
    assert (z_size(kept.z) <= torch.maximum(start, torch.tensor(2.0)) + 1e-6).all()
    assert float(z_size(free.z).max()) > 2 and float(free.loss.mean()) < float(kept.loss.mean())


def test_recipes_and_keys_name_the_methods_that_there_are() -> None:
    assert keys.METHODS == ("search", *METHODS)
    assert set(keys.STARTS_OF) <= set(METHODS) and set(keys.QUALITIES) == set(LADDER)
    assert {name.removeprefix("invert-") for name in recipe_names() if name.startswith("invert-")} == set(METHODS)
