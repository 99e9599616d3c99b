"""Methods that learn what to look for: what was planted in a generator is found, the same each time, after any interruption."""

import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lia_adapter.direction_keys import FindConfig
from lia_adapter.editing import Direction, Task
from lia_adapter.editing.changes import LARGEST, changed
from lia_adapter.editing.circles import great_circle, small_circle
from lia_adapter.editing.methods import METHODS
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.generators import Generator, fingerprint, wrap
from tests import toys

TRAINED = ("steer", "discover", "discover-centroid")


class _Scene(nn.Module):
    """Feature maps [N, 4, 16, 16] of factors: a soft ball that moves and grows, on a ground of some colour."""

    def __init__(self, matrix: Tensor, strengths: Tensor) -> None:
        super().__init__()
        self.matrix, self.strengths = nn.Parameter(matrix), nn.Parameter(strengths)

    def forward(self, ys: Tensor) -> Tensor:
        f = (ys.mean(dim=1) @ self.matrix) * self.strengths  # [N, 8]
        line = (torch.arange(16) + 0.5) / 8 - 1
        x = (line - 0.25 * f[:, 0, None])[:, None]  # [N, 1, 16]
        y = (line - 0.25 * f[:, 1, None])[:, :, None]  # [N, 16, 1]
        size = 0.5 * 2 ** (0.25 * f[:, 2, None, None])
        ball = torch.exp(-(x.square() + y.square()) / size.square())  # [N, 16, 16]
        flat, at = torch.ones_like(ball), f[:, :, None, None]
        stripes = torch.cos(9 * line) * flat * (1e-6 + f[:, 5:].square().sum(dim=1)).sqrt()[:, None, None]
        return torch.stack([ball, flat * at[:, 3], flat * at[:, 4], stripes], dim=1)


class Planted(Generator):
    """Of 8 factors that are rotated in y: 0 right, 1 down, 2 larger, 3 brighter, 4 redder, 5 to 7: how strong stripes are.

    Args:
        seen: Of the factors, those that change the picture.
    """

    def __init__(self, seen: tuple[int, ...] = tuple(range(8))) -> None:
        super().__init__()
        self.z_dim = self.y_dim = 8
        self.c_dim, self.num_ws, self.resolution, self.channels = 0, 2, (16, 16), 3
        random = torch.Generator().manual_seed(1)
        q, _ = torch.linalg.qr(torch.randn(8, 8, generator=random))
        self.turn, self.mean = nn.Parameter(q), nn.Parameter(torch.randn(8, generator=random))
        self.scales = nn.Parameter(torch.tensor([2.0, 1.0, 0.5, 1.0, 1.5, 1.0, 0.7, 1.0]))
        matrix = q / self.scales.detach()  # of y less its mean, which is (z * scales) @ q.T
        colours = nn.Conv2d(4, 3, 1)
        with torch.no_grad():
            weight = torch.tensor([[0.4, 0.2, 0.2, 0.1], [0.4, 0.2, 0.0, 0.1], [0.4, 0.2, 0.0, 0.1]])
            colours.weight.copy_(weight[:, :, None, None])
            assert colours.bias is not None
            colours.bias.fill_(-0.1)
        self.draw = nn.Sequential(_Scene(matrix, torch.tensor([float(i in seen) for i in range(8)])), colours)

    def mapping(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return (z * self.scales) @ self.turn.t() + self.mean

    def synthesis(self, ys: Tensor, *, noise_mode: str = "const") -> Tensor:
        drawn: Tensor = self.draw(ys - self.mean)
        return drawn

    def planted(self, factor: int) -> Tensor:
        """How y changes with a factor, [8]."""
        return self.turn[:, factor].detach()


def task_of(generator: Generator, method: str, **keys: Any) -> Task:
    return Task(generator, FindConfig(method=method, **({"samples": 20_000} | keys)))


def found_by(task: Task) -> dict[str, Direction]:
    return {one.name: one for one in METHODS[task.config.method](task)}


def cosine(task: Task, one: Direction, planted: Tensor) -> float:
    return float(task.space.alike(one.step[None], planted[None]))


def test_steer_finds_each_change_with_its_sign() -> None:
    generator = Planted().requires_grad_(True).train()
    before = fingerprint(generator)
    names = ("shift-x", "shift-y", "zoom", "brightness", "red")
    task = task_of(generator, "steer", changes=",".join(names), steps=300, learning_rate=1.5e-3, batch=20)
    found = found_by(task)
    assert list(found) == list(names)
    for factor, (name, one) in enumerate(found.items()):
        assert cosine(task, one, generator.planted(factor)) > 0.95, name
        torch.testing.assert_close(task.space.step(one.step), one.step)
    assert found["shift-y"].about["explained"] > 0.98
    assert found["shift-y"].about["steps"] == pytest.approx(2, abs=0.1)  # a quarter of the side, by an eighth each
    assert found["red"].about["explained"] > 0.9
    assert fingerprint(generator) == before
    assert generator.training and all(p.requires_grad and p.grad is None for p in generator.parameters())


def test_steer_closed_finds_what_moves_places() -> None:
    generator = Planted(seen=(0, 1, 2, 3, 4))
    task = task_of(generator, "steer-closed", changes="shift-x, shift-y, zoom")
    found = found_by(task)
    for factor, (name, one) in enumerate(found.items()):
        assert cosine(task, one, generator.planted(factor)) > 0.95, name
        assert one.about["explained"] > 0.5
    assert same(list(found.values()), METHODS["steer-closed"](task))
    assert list(found_by(task_of(generator, "steer-closed"))) == ["zoom", "shift-x", "shift-y", "rotate"]  # all it can


@pytest.mark.parametrize("method", ["discover", "discover-centroid"])
def test_a_network_discovers_what_is_told_from_all_else(method: str) -> None:
    generator = Planted(seen=(0, 5, 6, 7))
    # Of stripes that any of several entries makes stronger, no direction is told from its opposite. Moves of the ball are.
    task = task_of(generator, method, count=2, steps=300, learning_rate=2e-2, batch=32)
    found = list(found_by(task).values())
    assert max(abs(cosine(task, one, generator.planted(0))) for one in found) > 0.95
    a, b = (one.step for one in found)
    assert abs(cosine(task, found[0], b)) < 1e-3 and a.shape == b.shape
    assert [one.name for one in found] == [f"{method}-1", f"{method}-2"]
    assert found[0].about["accuracy"] >= found[1].about["accuracy"] > 0.8


QUICK: dict[str, dict[str, Any]] = {
    "steer": {"changes": "zoom,brightness"}, "discover": {"count": 3}, "discover-centroid": {"count": 3},
}  # fmt: skip


def same(a: list[Direction], b: list[Direction]) -> bool:
    return all(
        one.name == two.name and torch.equal(one.step, two.step) and one.about == two.about
        for one, two in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("method", TRAINED)
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(method: str, tmp_path: Path) -> None:
    task = task_of(Planted(), method, steps=8, batch=6, samples=2000, **QUICK[method])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what runs in the background ignore it
    state = torch.get_rng_state()
    whole = METHODS[method](task)
    assert torch.equal(torch.get_rng_state(), state)
    begun = []

    def interrupt(name: str, done: int, of: int | None) -> None:
        if name == method and done == 3:
            signal.raise_signal(signal.SIGINT)

    def watch(name: str, done: int, of: int | None) -> None:
        if name == method:
            begun.append(done)

    kept = {"state": tmp_path / "state.safetensors", "identity": "a run"}
    with pytest.raises(KeyboardInterrupt):
        METHODS[method](Task(task.generator, task.config, progress=interrupt, **kept))  # type: ignore[arg-type]
    resumed = METHODS[method](Task(task.generator, task.config, progress=watch, **kept))  # type: ignore[arg-type]
    assert begun[0] == 4
    assert same(whole, resumed)
    assert not same(whole, METHODS[method](task_of(task.generator, method, steps=8, batch=6, seed=1, **QUICK[method])))


@pytest.mark.parametrize("method", [*TRAINED, "steer-closed"])
@pytest.mark.parametrize("kind", ["conditional", "wrapped", "some layers"])
def test_any_generator_and_some_layers(method: str, kind: str, reference_ops: None) -> None:
    keys: dict[str, Any] = {"steps": 2, "batch": 4, "samples": 300, **QUICK.get(method, {"changes": "zoom"})}
    generator: Generator
    if kind == "wrapped":
        sprites = toys.Sprites()
        generator = wrap(sprites, mapping="style", synthesis=sprites.draw, z_dim=6, y_dim=10, num_ws=1)
    else:
        generator = toys.stylegan(c_dim=3 if kind == "conditional" else 0).generator
        keys |= {"layers": (0, 1)} if kind == "some layers" else {}
    for one in METHODS[method](task_of(generator, method, **keys)):
        assert one.step.shape == (generator.y_dim,) and bool(one.step.isfinite().all())
        assert one.layers == keys.get("layers") and one.method == method and one.space == "y"


@pytest.mark.parametrize(
    ("method", "keys", "words"),
    [
        ("steer", {"changes": ""}, "changes is empty; expected some of zoom"),
        ("steer", {"changes": "zoom,zoom"}, "zoom twice"),
        ("steer-closed", {"changes": "zoom,red"}, "can do zoom, shift-x, shift-y, rotate. Use steer."),
        ("discover", {"count": 1}, "count is 1; discover tells directions from one another: at least 2."),
        ("discover-centroid", {"count": 9}, "y has 8 entries"),
        ("steer", {"layers": (2,)}, "this generator's are 0 to 1"),
    ],
)
def test_keys_that_are_of_no_use(method: str, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace(".", "[.]")):
        METHODS[method](task_of(Planted(), method, samples=300, **keys))


def test_colours_of_grey_pictures() -> None:
    generator = toys.stylegan(channels=1).generator
    with pytest.raises(ConfigError, match="changes has red, and these pictures are grey"):
        METHODS["steer"](task_of(generator, "steer", samples=300))


def test_a_picture_that_nothing_changes() -> None:
    for method in (*TRAINED, "steer-closed"):
        with pytest.raises(LIAError, match="layers 0, 1 change nothing in pictures of 16x16, which"):
            METHODS[method](task_of(Planted(seen=()), method, changes="zoom", count=2, steps=2, samples=300))


@pytest.mark.parametrize("name", LARGEST)
def test_what_a_change_does(name: str) -> None:
    line, column = torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 32)

    def scene(x: Tensor, y: Tensor) -> Tensor:  # [1, 3, 24, 32], smooth
        return 0.3 * torch.stack([(2 * x + y).sin(), (x - 2 * y).cos(), x * y])[None]

    x, y = column[None].expand(24, -1), line[:, None].expand(-1, 32)
    x, y = x * 31 / 32, y * 23 / 24  # centres of pixels
    amount, size = torch.tensor([0.5]), LARGEST[name] / 2
    got, known = changed(scene(x, y), name, amount)
    a = math.radians(size)
    sources: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "zoom": lambda: (x / 2**size, y / 2**size),
        "shift-x": lambda: (x - 2 * size, y),
        "shift-y": lambda: (x, y - 2 * size),
        # Anticlockwise as one sees it, y down, of a picture of 32 x 24.
        "rotate": lambda: (x * math.cos(a) - y * math.sin(a) * 24 / 32, y * math.cos(a) + x * math.sin(a) * 32 / 24),
    }
    if name in sources:
        wanted = scene(*sources[name]())
        assert 0.6 < float(known.mean()) < 1 or name == "zoom"
    else:
        wanted, chosen = scene(x, y), {"red": [0], "green": [1], "blue": [2]}.get(name, [0, 1, 2])
        wanted[:, chosen] += size
        assert bool(known.all())
    torch.testing.assert_close(got * known, wanted * known, atol=5e-3, rtol=0)
    nothing, _ = changed(scene(x, y), name, torch.zeros(1))
    torch.testing.assert_close(nothing, scene(x, y), atol=1e-4, rtol=0)


def test_circles() -> None:
    random = torch.Generator().manual_seed(0)
    z = torch.randn(5, 6, generator=random, dtype=torch.float64)
    way, axis = torch.randn(2, 6, generator=random, dtype=torch.float64)
    sizes = z.norm(dim=1)
    torch.testing.assert_close(great_circle(z, way, 0.0), z)
    torch.testing.assert_close(small_circle(z, way, 0.0, axis), z)
    between = (torch.nn.functional.normalize(z, dim=1) @ (way / way.norm())).arccos()
    torch.testing.assert_close(great_circle(z, way, between), sizes[:, None] * way / way.norm())
    torch.testing.assert_close(great_circle(z, way, math.pi), -z)
    for angle in (0.3, 2.0, torch.linspace(-3, 3, 5)):
        around = small_circle(z, way, angle, axis)
        torch.testing.assert_close(around.norm(dim=1), sizes)
        torch.testing.assert_close(great_circle(z, way, angle).norm(dim=1), sizes)
        torch.testing.assert_close(around @ axis, z @ axis)
        assert float((around - z).norm()) > 0.1
    torch.testing.assert_close(small_circle(z, way, 2 * math.pi, axis), z)


def test_circles_that_there_are_not() -> None:
    z = torch.eye(3)[:1]
    with pytest.raises(LIAError, match="along the code itself"):
        great_circle(z, 2 * z[0], 1.0)
    with pytest.raises(LIAError, match="axis of a small circle is zero"):
        small_circle(z, torch.ones(3), 1.0, torch.zeros(3))
    with pytest.raises(LIAError, match="that of its axis"):
        small_circle(z, torch.ones(3), 1.0, torch.ones(3))
