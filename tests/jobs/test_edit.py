"""`edit`: what is drawn, pasted, kept, resumed, made again and refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lia_adapter import ops
from lia_adapter.codes import draw_code, read_codes
from lia_adapter.data import open_images
from lia_adapter.editing import CodeSpace, Direction, Directions, Edit, edited
from lia_adapter.editing.edits import conditional
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.generators import broadcast, fingerprint, wrap
from lia_adapter.jobs.drawing import Coded
from lia_adapter.jobs.edit import edit_again, edit_images
from lia_adapter.jobs.edit_plan import EditPlan, _reach
from lia_adapter.jobs.edit_recipe import RECIPE, edit_recipe
from lia_adapter.jobs.encode import encode_images
from lia_adapter.jobs.invert import invert_images
from lia_adapter.lia import LIA
from lia_adapter.metrics.scorers import load_scorer
from lia_adapter.reports.edit import write_edit_report
from tests import toys
from tests.jobs.test_reconstruct import as_pixels, pixels

pytestmark = pytest.mark.usefixtures("reference_ops")


@pytest.fixture(scope="module")
def lia() -> LIA:
    with ops.using("reference"):
        return toys.with_encoder(toys.stylegan())


def of(lia: LIA) -> Directions:
    """a and b of y, a of some layers, c of each layer, d of z; a reads how long codes lie along it."""
    random = torch.Generator().manual_seed(0)
    space, n, dim = CodeSpace(*stats(lia)), lia.generator.num_ws, lia.generator.y_dim
    a, b, d = (torch.randn(dim, generator=random) for _ in range(3))
    a, b = space.step(a).float(), space.step(b).float()
    found = (
        Direction("a", "y", a, "test", reader=a / float(a @ a), bias=0.5),
        Direction("b", "y", b, "test", layers=(0, 1)),
        Direction("c", "ys", 0.3 * torch.randn(n, dim, generator=random), "test"),
        Direction("d", "z", d / d.norm(), "test", reader=d / d.norm()),
    )
    return Directions(fingerprint(lia.generator), found, {"source": "toy.pkl"})


def stats(lia: LIA) -> tuple[torch.Tensor, torch.Tensor]:
    mean, root = lia.whitening()
    return mean, root @ root


@pytest.fixture(scope="module")
def known(lia: LIA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("known") / "d.safetensors"
    of(lia).save(path)
    return path


def run(lia: LIA, source: Path, out: Path, known: Path, **options: Any) -> dict[str, Any]:
    return edit_images(lia, source, out, directions=[known], **options)


def x_of(lia: LIA, source: Path) -> torch.Tensor:
    images = open_images(source, lia.generator.resolution, 3)
    return torch.stack([item.x for i in range(len(images)) if (item := images.load(i)) is not None])


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"move": {"a": 2.0}}, None),
        ({"move": {"b": -1.0}}, None),
        ({"move": {"c": 1.0}}, None),
        ({"move": {"d": 1.5}}, None),
        ({"move": {"a": 1.0, "d": -1.0, "c": 0.5}}, None),
        ({"move": {"a": 2.0}, "layers": [1, 3]}, [1, 3]),
    ],
)
def test_pictures_are_those_of_moved_codes(
    lia: LIA, known: Path, tmp_path: Path, options: dict[str, Any], layers: list[int] | None
) -> None:
    folder, directions = toys.pictures(tmp_path / "in", 3), of(lia)
    figures = run(lia, folder, tmp_path / "out", known, batch=2, **options)
    ys = broadcast(lia.encode(x_of(lia, folder)), lia.generator.num_ws)
    edits = [Edit(directions[name], amount) for name, amount in options["move"].items()]
    expected = as_pixels(lia.synthesize(edited(ys, edits, mapping=lia.mapping, layers=layers)))
    for i in range(3):
        assert np.abs(pixels(tmp_path / "out" / f"{i:03d}.png") - expected[i]).max() <= 1
        assert figures["images"][f"{i:03d}.png"]["strengths"] == options["move"]
    assert np.abs(pixels(tmp_path / "out" / "000.png") - as_pixels(lia.synthesize(ys))[0]).max() > 3  # it does something
    assert json.loads((tmp_path / "out" / "grid.json").read_text()) == figures
    page = write_edit_report(figures, tmp_path / "out").read_text()
    assert "Names and strengths" in page and "000.png" in page


def test_what_is_kept_is_projected_off(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder, directions = toys.pictures(tmp_path / "in", 1), of(lia)
    run(lia, folder, tmp_path / "out", known, move={"a": 2.0}, keep=["b"])
    left = conditional(directions["a"], [directions["b"]], CodeSpace(*stats(lia)))
    ys = broadcast(lia.encode(x_of(lia, folder)), lia.generator.num_ws)
    expected = as_pixels(lia.synthesize(edited(ys, [Edit(left, 2.0)])))[0]
    assert np.abs(pixels(tmp_path / "out" / "000.png") - expected).max() <= 1


def test_the_sheet_has_picture_reconstruction_and_edit_below_each_other(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 2)
    figures = run(lia, folder, tmp_path / "out", known, move={"a": 3.0})
    grid, before = pixels(tmp_path / "out" / "grid.png"), as_pixels(lia.reconstruct(x_of(lia, folder)))
    assert grid.shape == (3 * 8, 2 * 8, 3) and figures["shown"] == {"count": 2, "rows": 3}
    for i in range(2):
        column = slice(8 * i, 8 * i + 8)
        assert np.abs(grid[:8, column] - pixels(folder / f"{i:03d}.png")).max() <= 1
        assert np.abs(grid[8:16, column] - before[i]).max() <= 1
        assert np.array_equal(grid[16:, column], pixels(tmp_path / "out" / f"{i:03d}.png"))


def test_outside_the_crop_a_photograph_is_as_it_was(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 1, (8, 20))
    figures = run(lia, folder, tmp_path / "out", known, move={"a": 3.0})
    pasted, original = pixels(tmp_path / "out" / "000.pasted.png"), pixels(folder / "000.png")
    assert np.array_equal(pasted[:, :6], original[:, :6]) and np.array_equal(pasted[:, 14:], original[:, 14:])
    assert np.abs(pasted[:, 8:12] - original[:, 8:12]).max() > 3
    assert figures["images"]["000.png"]["files"] == ["000.png", "000.pasted.png"]
    run(lia, folder, tmp_path / "plain", known, move={"a": 3.0}, paste=False)
    assert not (tmp_path / "plain" / "000.pasted.png").exists()


@pytest.mark.parametrize("layers", [None, [0, 1, 2]])
@pytest.mark.parametrize("name", ["a", "d"])
def test_a_reading_becomes_what_is_wanted(lia: LIA, known: Path, tmp_path: Path, name: str, layers: list[int] | None) -> None:
    folder, one = toys.pictures(tmp_path / "in", 4), of(lia)[name]
    figures = run(lia, folder, tmp_path / "out", known, to={name: 1.25}, layers=layers)
    ys = broadcast(lia.encode(x_of(lia, folder)), lia.generator.num_ws)
    amounts = torch.tensor([figures["images"][f"{i:03d}.png"]["strengths"][name] for i in range(4)])
    y = edited(ys, [Edit(one, amounts)], mapping=lia.mapping, layers=layers).mean(dim=1)
    assert one.reader is not None
    read = (lia.to_z(y) if one.space == "z" else y.double()) @ one.reader.double() + one.bias
    unreached = figures["unreached"]
    for i in range(4):
        assert f"{i:03d}.png" in unreached or float(read[i]) == pytest.approx(1.25, abs=0.03)
    assert not unreached or (name == "d" and layers is not None)  # z does not follow some layers in a straight line
    assert float(amounts.std()) > 0.01


def test_a_score_becomes_what_is_wanted(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 3)
    script = tmp_path / "judge.py"
    script.write_text("def score(x):\n    return {'a': x.mean(dim=(1, 2, 3)), 'zero': 0 * x[:, 0, 0, 0]}\n")
    ys = broadcast(lia.encode(x_of(lia, folder)), lia.generator.num_ws)
    ends = [lia.synthesize(edited(ys, [Edit(of(lia)["a"], s)])).clamp(-1, 1).mean(dim=(1, 2, 3)) for s in (0.0, 2.5)]
    value = float((ends[0] + ends[1]).mean()) / 2
    figures = run(lia, folder, tmp_path / "out", known, to={"a": value}, scorer=f"{script}:score")
    reached = [name for name in figures["images"] if name not in figures["unreached"]]
    assert reached
    for name in reached:
        assert pixels(tmp_path / "out" / name).mean() / 127.5 - 1 == pytest.approx(value, abs=0.02)
    nowhere = run(lia, folder, tmp_path / "nowhere", known, to={"a": 5.0}, scorer=f"{script}:score")
    assert nowhere["unreached"] == ["000.png", "001.png", "002.png"]
    assert "do not reach the wanted value" in write_edit_report(nowhere, tmp_path / "nowhere").read_text()
    with pytest.raises(ConfigError, match="scores a, zero, and not 'b'. Rename the direction"):
        run(lia, folder, tmp_path / "other", known, to={"b": 0.0}, scorer=f"{script}:score")


def test_a_scorer_that_gives_no_number_reaches_nothing(lia: LIA, known: Path, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def score(x):\n    return x.mean(dim=(1, 2, 3)) * float('nan')\n")
    folder = toys.pictures(tmp_path / "in", 1)
    figures = run(lia, folder, tmp_path / "out", known, to={"a": 0.0}, scorer=f"{tmp_path / 'judge.py'}:score")
    assert figures["unreached"] == ["000.png"] and abs(figures["images"]["000.png"]["strengths"]["a"]) <= 8


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Scores that are linear in pictures, smile and age, whose directions each change 0.8 of the other's score, too."""
    (tmp_path / "pair.py").write_text(
        "def score(x):\n    a, b = x[:, 0].mean(dim=(1, 2)), x[:, 1].mean(dim=(1, 2))\n"
        "    return {'smile': a + 0.8 * b, 'age': 0.8 * a + b, 'same': a + 0.8 * b}\n"
    )
    return tmp_path / "pair.py"


class Linear(torch.nn.Module):
    """A picture whose first channels are the first entries of y, a tenth of them."""

    def __init__(self) -> None:
        super().__init__()
        self.style = torch.nn.Linear(6, 8)

    def draw(self, y: torch.Tensor) -> torch.Tensor:
        return 0.1 * y[:, :3, None, None].expand(-1, 3, 8, 8)


def test_several_scores_become_what_is_wanted_together(planted: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Linear()
    plain = LIA(wrap(net, mapping="style", synthesis=net.draw, z_dim=6, y_dim=8, num_ws=1))
    axes = torch.eye(8)
    found = {"smile": axes[0], "age": axes[1], "same": axes[0]}
    directions = Directions("-", tuple(Direction(name, "y", step, "t") for name, step in found.items()))
    judge = load_scorer(f"{planted}:score")
    y = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    part, wanted = Coded(y, {}, None, range(5)), {"smile": 0.1, "age": 0.0}

    made = EditPlan(plain, directions, {}, wanted, judge=judge)(part)
    matrix = 0.1 * np.array([[1, 0.8], [0.8, 1]])  # score = matrix @ the first two entries of y
    expected = np.linalg.solve(matrix, np.array([0.1, 0.0]))[None] - y[:, :2].numpy()
    amounts = np.array([[one.strengths["smile"], one.strengths["age"]] for one in made])
    scores, before = judge(torch.stack([one.after for one in made])).numpy()[:, :2], y[:, :2].numpy() @ matrix
    assert all(one.reached for one in made)
    assert np.all(np.abs(scores - [0.1, 0.0]) <= 0.02 * np.abs(before - [0.1, 0.0]) + 2e-4)
    assert np.allclose(amounts, expected, atol=0.1)
    again = EditPlan(plain, directions, {}, wanted, judge=judge)(Coded(y[1:2], {}, None, range(1)))
    assert again[0].strengths == pytest.approx(made[1].strengths, abs=1e-4)  # whatever else is in the batch

    far = EditPlan(plain, directions, {}, {"smile": 0.5, "age": -0.5}, judge=judge)(part)
    both = EditPlan(plain, directions, {}, {"smile": 0.1, "same": 0.2}, judge=judge)(part)
    assert not any(one.reached for one in (*far, *both))  # beyond 8; and one score cannot be two
    assert all(abs(amount) <= 8 for one in (*far, *both) for amount in one.strengths.values())
    alone = load_scorer(f"{planted}:score")
    alone._score = lambda x: x.mean(dim=(1, 2, 3))
    with pytest.raises(ConfigError, match="scores one attribute, which cannot be smile and age"):
        EditPlan(plain, directions, {}, wanted, judge=alone)(part)


def test_several_readings_become_what_is_wanted_together(lia: LIA) -> None:
    random = torch.Generator().manual_seed(2)
    steps, readers = torch.randn(2, 16, generator=random), torch.randn(2, 16, generator=random)
    steps[1] = 0.9 * steps[0] + 0.3 * steps[1]
    readers[1] = 0.9 * readers[0] + 0.3 * readers[1]
    named = zip("pq", steps, readers, strict=True)
    directions = Directions("-", tuple(Direction(n, "y", s, "t", reader=r, bias=0.5) for n, s, r in named))
    y = torch.randn(4, 16, generator=random)
    made = EditPlan(lia, directions, {}, {"p": 1.0, "q": -1.0})(Coded(y, {}, None, range(4)))
    matrix = readers.double() @ steps.double().t()  # of each reader by each step
    expected = torch.linalg.solve(matrix, (torch.tensor([1.0, -1.0]) - 0.5 - y @ readers.t()).double().t()).t()
    amounts = torch.tensor([[one.strengths["p"], one.strengths["q"]] for one in made])
    torch.testing.assert_close(amounts, expected.float(), rtol=0.03, atol=0.03)
    assert all(one.reached for one in made)


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png") if path.name != "grid.png"}


def interrupted(lia: LIA, folder: Path, out: Path, known: Path, after: int) -> None:
    def stop(name: str, done: int, total: int | None) -> None:
        if name == "edit" and done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(lia, folder, out, known, move={"a": 1.0}, batch=1, progress=stop)


def test_a_run_that_was_interrupted_goes_on(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 5, (8, 12))
    interrupted(lia, folder, tmp_path / "out", known, 3)
    before = times(tmp_path / "out")
    assert set(before) == {f"00{i}{end}.png" for i in range(3) for end in ("", ".pasted")}
    figures = run(lia, folder, tmp_path / "out", known, move={"a": 1.0}, batch=1)
    after = times(tmp_path / "out")
    assert {name: after[name] for name in before} == before and len(after) == 10
    whole = run(lia, folder, tmp_path / "whole", known, move={"a": 1.0}, batch=1)
    assert figures["images"] == whole["images"] and figures["count"] == 5 and figures["shown"] == whole["shown"]
    for path in (tmp_path / "whole").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_what_is_there_beyond_the_sheet_is_not_drawn_again(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 70)
    run(lia, folder, tmp_path / "out", known, move={"a": 1.0})
    before, drawn = times(tmp_path / "out"), []
    (tmp_path / "out" / "069.png").unlink()
    synthesize = LIA.synthesize

    def count(self: LIA, y: torch.Tensor, **options: Any) -> torch.Tensor:
        drawn.append(len(y))
        return synthesize(self, y, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LIA, "synthesize", count)
        figures = run(lia, folder, tmp_path / "out", known, move={"a": 1.0})
    after = times(tmp_path / "out")
    assert {name for name in after if after[name] != before.get(name)} == {"069.png"} and figures["count"] == 70
    assert sum(drawn) <= 2 * 65 + 4  # and what memory is measured by


def test_other_pictures_under_the_same_names_are_edited_anew(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 2)
    run(lia, folder, tmp_path / "out", known, move={"a": 1.0})
    before = pixels(tmp_path / "out" / "001.png")
    Image.new("RGB", (9, 9), "red").save(folder / "001.png")
    run(lia, folder, tmp_path / "out", known, move={"a": 1.0})
    assert not np.array_equal(pixels(tmp_path / "out" / "001.png"), before)


def test_pictures_of_others_are_left_alone(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 2)
    toys.pictures(tmp_path / "out", 1)
    mine = (tmp_path / "out" / "000.png").read_bytes()
    with pytest.raises(ConfigError, match="holds 000.png, which something else made"):
        run(lia, folder, tmp_path / "out", known, move={"a": 1.0})
    assert (tmp_path / "out" / "000.png").read_bytes() == mine
    run(lia, folder, tmp_path / "edited", known, move={"a": 1.0})
    with pytest.raises(ConfigError, match="by other inputs"):
        run(lia, folder, tmp_path / "edited", known, move={"a": 2.0})
    with pytest.raises(ConfigError, match="would write over the picture"):
        run(lia, folder, folder, known, move={"a": 1.0})


def test_bad_pictures_lose_none_of_the_good_ones(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 3)
    (folder / "0001.png").write_bytes(b"junk")
    (folder / "zz.jpg").write_bytes(b"")
    figures = run(lia, folder, tmp_path / "out", known, move={"a": 1.0})
    assert figures["count"] == 3 and set(figures["unreadable"]) == {"0001.png", "zz.jpg"}
    assert "junk" not in write_edit_report(figures, tmp_path / "out").read_text()
    for path in folder.iterdir():
        path.write_bytes(b"junk")
    with pytest.raises(LIAError, match="none|could be read"):
        run(lia, folder, tmp_path / "none", known, move={"a": 1.0})


def test_more_bad_pictures_than_the_sheet_shows_come_first(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    toys.pictures(folder / "z", 2)
    for i in range(66):
        (folder / f"a{i:02d}.png").write_bytes(b"junk")
    for _ in range(2):  # and again, when the good ones are there
        figures = run(lia, folder, tmp_path / "out", known, move={"a": 1.0})
        assert figures["count"] == 2 and figures["shown"]["count"] == 2 and len(figures["unreadable"]) == 66


@pytest.mark.parametrize("method", ["ladder", "projector", "tune", "codes"])
def test_codes_are_drawn_with_what_was_found_beside_them(lia: LIA, known: Path, tmp_path: Path, method: str) -> None:
    folder, file = toys.pictures(tmp_path / "in", 2, (8, 12)), tmp_path / "c.safetensors"
    if method == "codes":
        encode_images(lia, folder, file)
    else:
        invert_images(lia, folder, file, f"invert-{method}", steps=3)
    codes = read_codes(file)
    kept = codes.kept(range(2), lia.device)
    assert bool(kept) == (method != "codes")
    run(lia, file, tmp_path / "out", known, move={"a": 1.0})
    moved = edited(broadcast(codes.ys, lia.generator.num_ws), [Edit(of(lia)["a"], 1.0)])
    expected = as_pixels(draw_code(lia, moved, kept))
    for i in range(2):
        assert np.abs(pixels(tmp_path / "out" / f"{i:03d}.png") - expected[i]).max() <= 1
        assert (tmp_path / "out" / f"{i:03d}.pasted.png").exists()
    if kept:
        plain = as_pixels(lia.synthesize(moved))
        assert np.abs(expected - plain).max() > 1


def test_edits_beyond_the_prior_are_named(lia: LIA, known: Path, tmp_path: Path) -> None:
    seeds = lia.to_y(torch.zeros(2, lia.z_dim))  # as probable as can be
    folder = tmp_path / "in"
    toys.pictures(folder, 2)
    encode_images(lia, folder, tmp_path / "c.safetensors")
    codes = read_codes(tmp_path / "c.safetensors")
    codes.tensors["y"] = seeds.float()
    codes.save(tmp_path / "c.safetensors")
    near = run(lia, tmp_path / "c.safetensors", tmp_path / "near", known, move={"a": 0.1})
    far = run(lia, tmp_path / "c.safetensors", tmp_path / "far", known, move={"a": 60.0})
    assert near["improbable"] == [] and far["improbable"] == ["000.png", "001.png"]
    before, after = far["images"]["000.png"]["prior_p"]
    assert before > 0.5 and after < 0.01
    assert "2 of the codes became improbable" in write_edit_report(far, tmp_path / "far").read_text()


def loader(lia: LIA) -> Callable[[str], LIA]:
    return lambda path: lia


def test_a_picture_is_made_again(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 3, (8, 12))
    run(lia, folder, tmp_path / "out", known, move={"a": 1.0, "d": 0.5}, to={"c": 0.0} and {}, lia_file="toy.lia.safetensors")
    made = tmp_path / "out" / "001.png"
    recipe = edit_recipe(made)
    assert recipe["lia"] == str(Path("toy.lia.safetensors").absolute()) and recipe["image"] == "001.png"
    figures = edit_again(made, tmp_path / "again", loader(lia))
    assert list(figures["images"]) == ["001.png"]
    for name in ("001.png", "001.pasted.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert not (tmp_path / "again" / "000.png").exists()


def test_what_changed_since_is_said_when_it_is_made_again(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder, judge = toys.pictures(tmp_path / "in", 2), tmp_path / "judge.py"
    judge.write_text("def score(x):\n    return x.mean(dim=(1, 2, 3))\n")
    scorer = f"{judge}:score"
    run(lia, folder, tmp_path / "out", known, to={"a": 0.0}, scorer=scorer, lia_file="toy.safetensors")
    made = tmp_path / "out" / "001.png"
    edit_again(made, tmp_path / "again", loader(lia), scorer=scorer)
    assert (tmp_path / "again" / "001.png").read_bytes() == made.read_bytes()
    before = judge.read_text()
    judge.write_text("def score(x):\n    return -x.mean(dim=(1, 2, 3)) + 0.1\n")
    with pytest.raises(LIAError, match="judge.py:score has changed since"):
        edit_again(made, tmp_path / "other", loader(lia), scorer=scorer)
    with pytest.raises(ConfigError, match="by other inputs"):  # nor is anything of the old scorer kept for the new one
        run(lia, folder, tmp_path / "out", known, to={"a": 0.0}, scorer=scorer, lia_file="toy.safetensors")
    judge.write_text(before)
    Image.new("RGB", (8, 8), "red").save(folder / "001.png")
    with pytest.raises(LIAError, match="001.png has changed since"):
        edit_again(made, tmp_path / "photograph", loader(lia), scorer=scorer)


def test_a_picture_of_codes_is_made_again_where_its_photograph_is_gone(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder, codes = toys.pictures(tmp_path / "in", 2), tmp_path / "c.safetensors"
    encode_images(lia, folder, codes)
    run(lia, codes, tmp_path / "out", known, move={"a": 1.0}, lia_file="toy.safetensors")
    made = tmp_path / "out" / "001.png"
    for path in folder.iterdir():
        path.unlink()
    edit_again(made, tmp_path / "again", loader(lia))
    assert (tmp_path / "again" / "001.png").read_bytes() == made.read_bytes()
    other = read_codes(codes)
    other.tensors["y"][1] += 1
    other.save(codes)
    with pytest.raises(LIAError, match="001.png has changed since"):
        edit_again(made, tmp_path / "other", loader(lia))


def test_a_score_that_rises_and_falls_between_strengths_is_found() -> None:
    # 1 at a strength of 2.7, and below 0.5 from 0.4 on: on either side of it, 2 and 4, it is far below.
    found, reached = _reach(lambda s: (-((s - 2.7) ** 2) / 0.1).exp(), 0.5, 3, torch.device("cpu"))
    assert reached.all() and torch.allclose((found - 2.7).abs(), torch.full_like(found, (0.1 * math.log(2)) ** 0.5), atol=0.01)


def hostile(path: Path, recipe: object) -> Path:
    chunks = PngInfo()
    chunks.add_itxt(RECIPE, recipe if isinstance(recipe, str) else json.dumps(recipe))
    Image.new("RGB", (8, 8)).save(path, pnginfo=chunks)
    return path


def refuse(lia: LIA, path: Path, out: Path, **options: Any) -> str:
    with pytest.raises(LIAError) as caught:
        edit_again(path, out, loader(lia), **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    assert not out.exists()
    return message


def test_recipes_that_anybody_may_have_written(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 1)
    run(lia, folder, tmp_path / "out", known, move={"a": 1.0}, lia_file="l.safetensors")
    good, path, out = edit_recipe(tmp_path / "out" / "000.png"), tmp_path / "p.png", tmp_path / "again"
    for text in ("", "{", "[]", "5", "[" * 50_000, '{"command": "edit"}', '{"command": "mix"}', "null"):
        refuse(lia, hostile(path, text), out)
    for key in ("source", "image", "directions", "options", "directions_sha256", "generator_sha256", "encoder_sha256"):
        values: tuple[Any, ...] = (None, 5, [5], {"a": 1}, "x" * 64, True, [0])
        for value in values:
            refuse(lia, hostile(path, good | {key: value}), out)
        refuse(lia, hostile(path, {k: v for k, v in good.items() if k != key}), out)
    for value in (None, 5, ["a"], True):
        refuse(lia, hostile(path, good | {"lia": value}), out)
    wrong: dict[str, tuple[Any, ...]] = {
        "move": (5, ["a"], {"a": "b"}, {"a": None}, {"a": float("nan")}, {"a": 10**400}, {"a": [1]}, {"b": 1e7}, {"zzz": 1}),
        "to": (5, {"a": "b"}), "keep": (5, "a", [5], ["zzz"], ["a"]), "layers": (5, "1", ["a"], [99], [-1], [], [1.5]),
        "space": (5, "q", "z"), "psi": ("a", None, float("nan"), True), "bits": ("a", 99, 0), "label": ("a", 1.5, [None], 3),
        "paste": (5, None), "trust_codes": ("yes",), "split": (5, "some"), "resize_mode": (5, "bend"), "align": (5, "x"),
        "landmarks": (5, "/nowhere.json"), "progress": (1,), "directions": (["x"],), "only": ("x",), 
        "scorer": (5, "/nowhere.pth"), "lia_file": ("x",), "out": ("x",), "batch": (10**9,),
    }  # fmt: skip
    for key, items in wrong.items():
        for value in items:
            refuse(lia, hostile(path, good | {"options": good["options"] | {key: value}}), out)
    assert "holds no image '../x.png'" in refuse(lia, hostile(path, good | {"image": "../x.png"}), out)
    edit_again(hostile(path, good), out, loader(lia))


def test_no_picture_says_what_is_run_or_fetched(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder, ran = toys.pictures(tmp_path / "in", 1), tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n\n\ndef score(x):\n    return x.mean(dim=(1, 2, 3))\n")
    run(lia, folder, tmp_path / "out", known, move={"a": 1.0}, lia_file="l.safetensors")
    good, path, out = edit_recipe(tmp_path / "out" / "000.png"), tmp_path / "p.png", tmp_path / "again"
    for asked in (f"{tmp_path}/evil.py:make", "https://example.com/x.pkl"):
        message = refuse(lia, hostile(path, good | {"lia": asked}), out)
        assert "no picture may say what is run or fetched" in message and asked in message
    asking = good | {"options": good["options"] | {"scorer": f"{tmp_path}/evil.py:score"}}
    assert "If you trust that, give it by scorer" in refuse(lia, hostile(path, asking), out)
    assert not ran.exists()
    edit_again(hostile(path, asking), out, loader(lia), lia_file="l.safetensors", scorer=f"{tmp_path}/evil.py:score")
    assert ran.exists()


def test_pictures_that_cannot_be_made_again(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder, out = toys.pictures(tmp_path / "in", 1), tmp_path / "again"
    run(lia, folder, tmp_path / "nameless", known, move={"a": 1.0})
    assert "in no file. Give the file beside again" in refuse(lia, tmp_path / "nameless" / "000.png", out)
    assert "does not say how it was made" in refuse(lia, folder / "000.png", out)
    assert "there is no" in refuse(lia, tmp_path / "missing.png", out)
    (tmp_path / "junk.png").write_bytes(b"junk")
    assert "cannot read" in refuse(lia, tmp_path / "junk.png", out)
    assert "cannot read" in refuse(lia, tmp_path, out)
    bomb = bytearray((folder / "000.png").read_bytes())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert "cannot read" in refuse(lia, tmp_path / "bomb.png", out)
    run(lia, folder, tmp_path / "out", known, move={"a": 1.0}, lia_file="l.safetensors")
    other = toys.with_encoder(toys.stylegan(seed=5))
    with pytest.raises(LIAError, match="l.safetensors is another than"):
        edit_again(tmp_path / "out" / "000.png", out, loader(other))
    mine = tmp_path / "d.safetensors"
    of(lia).save(mine)
    run(lia, folder, tmp_path / "mine", mine, move={"a": 1.0}, lia_file="l.safetensors")
    of(lia).renamed({"b": "e"}).save(mine)
    assert "has changed since" in refuse(lia, tmp_path / "mine" / "000.png", out)
    mine.unlink()
    assert "cannot read" in refuse(lia, tmp_path / "mine" / "000.png", out)
    (folder / "000.png").rename(folder / "001.png")
    assert "holds no image '000.png'" in refuse(lia, tmp_path / "out" / "000.png", out)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "nothing is to change"),
        ({"move": {"aa": 1.0}}, "there is no direction 'aa'; did you mean 'a'"),
        ({"move": {"a": 1.0}, "to": {"a": 1.0}}, "'a' has a strength and a value to reach"),
        ({"move": {"a": 1.0}, "keep": ["a"]}, "'a' is to move and to stay"),
        ({"to": {"a": 1.0}, "keep": ["a"]}, "'a' is to move and to stay"),
        ({"to": {"b": 1.0}}, "nothing reads 'b' of a picture: give scorer, or a strength, move"),
        ({"move": {"a": 1.0}, "keep": ["d"]}, "'a' moves y and 'd' moves z"),
        ({"move": {"a": float("nan")}}, "'a' is to change by or to nan"),
        ({"move": {"a": float("inf")}}, "expected a number of at most 1e.06"),
        ({"move": {"a": 1.0}, "psi": float("nan")}, "psi is nan; expected a number"),
        ({"move": {"a": 1.0}, "psi": 1e308}, "psi is 1e[+]308"),
        ({"move": {"a": 1.0}, "layers": [9]}, r"layers is \[9\]; this generator's are 0 to 3"),
        ({"move": {"a": 1.0}, "layers": []}, r"layers is \[\]"),
        ({"move": {"a": 1.0}, "space": "x"}, "space is 'x'; expected one of y, ys, z"),
        ({"move": {"a": 1.0}, "space": "z"}, "there is no direction 'a'"),
        ({"move": {"a": 1.0}, "only": "x.png"}, "holds no image 'x.png'"),
    ],
)
def test_edits_that_cannot_be(lia: LIA, known: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    folder = toys.pictures(tmp_path / "in", 1)
    with pytest.raises(LIAError, match=words):
        run(lia, folder, tmp_path / "out", known, **options)
    assert not (tmp_path / "out").exists()


def test_directions_of_another_generator_are_refused_by_name(lia: LIA, known: Path, tmp_path: Path) -> None:
    other = toys.stylegan(seed=5)
    other.provenance["source"] = "other.pkl"
    with pytest.raises(LIAError, match=r"d.safetensors holds directions of another generator \(toy.pkl\) than .*\(other.pkl\)"):
        run(toys.with_encoder(other), toys.pictures(tmp_path / "in", 1), tmp_path / "out", known, move={"a": 1.0})


def test_a_file_before_conversion_or_without_an_encoder(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder, plain = toys.pictures(tmp_path / "in", 2), toys.stylegan()
    with pytest.raises(LIAError, match="no encoder. Run lia-adapt train-encoder"):
        run(plain, folder, tmp_path / "out", known, move={"a": 1.0})
    encode_images(lia, folder, tmp_path / "c.safetensors")
    figures = run(plain, tmp_path / "c.safetensors", tmp_path / "out", known, move={"a": 1.0})
    assert figures["count"] == 2 and figures["images"]["000.png"]["prior_p"] == [None, None] and not figures["improbable"]
    write_edit_report(figures, tmp_path / "out")
    with pytest.raises(LIAError, match="'d' moves z, which only a converted file has"):
        run(plain, tmp_path / "c.safetensors", tmp_path / "z", known, move={"d": 1.0})


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_conditional_lia_of_any_channels(tmp_path: Path, channels: int) -> None:
    lia = toys.with_encoder(toys.stylegan(c_dim=3, channels=channels))
    of(lia).save(tmp_path / "d.safetensors")
    folder = toys.pictures(tmp_path / "in", 2)
    (folder / "dataset.json").write_text('{"labels": [["000.png", 2], ["001.png", 0]]}')
    figures = run(lia, folder, tmp_path / "out", tmp_path / "d.safetensors", move={"d": 1.0, "a": 0.5})
    assert figures["count"] == 2 and all(p is not None for p in figures["images"]["000.png"]["prior_p"])
    with pytest.raises(LIAError, match="class"):
        run(lia, folder, tmp_path / "no", tmp_path / "d.safetensors", move={"d": 1.0}, label=7)
