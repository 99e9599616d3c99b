"""`edit` along directions of s: what is drawn, kept, reached, made again and refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lia_adapter import ops
from lia_adapter.codes import draw_code, read_codes
from lia_adapter.editing import Direction, Directions, Edit, edited, join_directions, read_directions
from lia_adapter.editing.edits import conditional
from lia_adapter.errors import LIAError
from lia_adapter.generators import broadcast, fingerprint, style_sizes, styles_of
from lia_adapter.inversion import STYLES
from lia_adapter.jobs.drawing import Coded
from lia_adapter.jobs.edit import edit_again, edit_images
from lia_adapter.jobs.edit_plan import EditPlan
from lia_adapter.jobs.exchange import export_directions
from lia_adapter.jobs.invert import invert_images
from lia_adapter.lia import LIA
from lia_adapter.reports.edit import write_edit_report
from tests import toys
from tests.jobs.test_edit import of, x_of
from tests.jobs.test_reconstruct import as_pixels, pixels

pytestmark = pytest.mark.usefixtures("reference_ops")


@pytest.fixture(scope="module")
def lia() -> LIA:
    with ops.using("reference"):
        return toys.with_encoder(toys.stylegan())


def of_styles(lia: LIA) -> Directions:
    """s and t, and u of the first two style layers; s reads how long styles lie along it."""
    sizes, space = style_sizes(lia.generator), lia.code_space("s")
    steps = torch.randn(3, sum(sizes.values()), generator=torch.Generator().manual_seed(1))
    s, t, u = (4 * space.step(step).float() for step in steps)
    found = (
        Direction("s", "s", s, "test", reader=s / float(s @ s), bias=0.5, styles=sizes),
        Direction("t", "s", t, "test", styles=sizes),
        Direction("u", "s", u, "test", layers=(0, 1), styles=sizes),
    )
    return Directions(fingerprint(lia.generator), found, {"source": "toy.pkl"})


@pytest.fixture(scope="module")
def known(lia: LIA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("known") / "d.safetensors"
    join_directions([of(lia), of_styles(lia)]).save(path)
    return path


def run(lia: LIA, source: Path, out: Path, known: Path, **options: Any) -> dict[str, Any]:
    return edit_images(lia, source, out, directions=[known], **options)


@pytest.mark.parametrize(
    ("move", "options"),
    [
        ({"s": 2.0}, {}), ({"u": -2.0}, {}), ({"s": 1.0, "t": -1.0, "a": 1.0, "d": 1.0}, {}), ({"s": 2.0}, {"layers": [2, 4]}),
        ({"s": 2.0}, {"keep": ["t", "u"]}), ({"s": 2.0, "a": 1.0}, {"psi": 0.5}),
    ],
)  # fmt: skip
def test_pictures_are_those_of_moved_styles(
    lia: LIA, known: Path, tmp_path: Path, move: dict[str, float], options: dict[str, Any]
) -> None:
    folder, directions = toys.pictures(tmp_path / "in", 3), read_directions(known)
    figures = run(lia, folder, tmp_path / "out", known, batch=2, move=move, **options)
    kept = [directions[name] for name in options.get("keep", ())]
    edits = [Edit(conditional(directions[name], kept, lia.code_space("s")), amount) for name, amount in move.items()]
    ys = broadcast(lia.encode(x_of(lia, folder)), lia.generator.num_ws)
    there = edited(ys, [edit for edit in edits if edit.direction.space != "s"], mapping=lia.mapping)
    shift, sizes = torch.zeros(1, len(directions["s"].step)), list(style_sizes(lia.generator).values())
    for edit in edits:
        if edit.direction.space == "s":
            chosen = options.get("layers", edit.direction.layers)
            parts = edit.direction.step.split(sizes)
            whole = [part if chosen is None or i in chosen else 0 * part for i, part in enumerate(parts)]
            shift = shift + edit.amount * torch.cat(whole)
    psi = options.get("psi", 1.0)
    expected = as_pixels(lia.synthesize(there, psi=psi, styles=shift))
    without = as_pixels(lia.synthesize(there, psi=psi))
    assert np.abs(expected - without).max() > 3  # it does something
    for i in range(3):
        assert np.abs(pixels(tmp_path / "out" / f"{i:03d}.png") - expected[i]).max() <= 1
        before, after = figures["images"][f"{i:03d}.png"]["prior_p"]
        assert before is not None and after is None  # the prior is one of codes
    assert figures["improbable"] == [] and "Names and strengths" in write_edit_report(figures, tmp_path / "out").read_text()


@pytest.mark.parametrize("method", ["ladder", "projector", "tune"])
def test_styles_move_beside_what_was_found_beside_codes(lia: LIA, known: Path, tmp_path: Path, method: str) -> None:
    folder, file = toys.pictures(tmp_path / "in", 2, (8, 12)), tmp_path / "c.safetensors"
    invert_images(lia, folder, file, f"invert-{method}", steps=3)
    codes = read_codes(file)
    kept = codes.kept(range(2), lia.device)
    run(lia, file, tmp_path / "out", known, move={"s": 1.0})
    shift = read_directions(known)["s"].step.expand(2, -1)
    expected = as_pixels(draw_code(lia, codes.ys, {**kept, STYLES: shift}))
    assert np.abs(expected - as_pixels(draw_code(lia, codes.ys, kept))).max() > 3
    for i in range(2):
        assert np.abs(pixels(tmp_path / "out" / f"{i:03d}.png") - expected[i]).max() <= 1
        assert (tmp_path / "out" / f"{i:03d}.pasted.png").exists()


@pytest.mark.parametrize("move", [{}, {"t": 1.0, "a": 0.5}])
def test_a_reading_of_styles_becomes_what_is_wanted(lia: LIA, known: Path, tmp_path: Path, move: dict[str, float]) -> None:
    folder, directions = toys.pictures(tmp_path / "in", 3), read_directions(known)
    figures = run(lia, folder, tmp_path / "out", known, to={"s": 1.25}, move=move)
    one, g = directions["s"], lia.generator
    ys = broadcast(lia.encode(x_of(lia, folder)), g.num_ws)
    there = edited(ys, [Edit(directions["a"], move.get("a", 0.0))])
    strengths = [figures["images"][f"{i:03d}.png"]["strengths"]["s"] for i in range(3)]
    styles = styles_of(g, there) + move.get("t", 0.0) * directions["t"].step + torch.tensor(strengths)[:, None] * one.step
    assert one.reader is not None and figures["unreached"] == []
    torch.testing.assert_close(styles @ one.reader + one.bias, torch.full([3], 1.25), atol=1e-3, rtol=0)


def test_a_picture_of_moved_styles_is_made_again(lia: LIA, known: Path, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 2, (8, 12))
    run(
        lia,
        folder,
        tmp_path / "out",
        known,
        move={"u": 1.0},
        to={"s": 0.7},
        keep=["t"],
        layers=[0, 3],
        lia_file="f.safetensors",
    )
    edit_again(tmp_path / "out" / "001.png", tmp_path / "again", lambda path: lia)
    for name in ("001.png", "001.pasted.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"move": {"s": 1.0}, "layers": [5]}, r"layers is \[5\]; this generator's style layers are 0 to 4"),
        ({"move": {"s": 1.0, "a": 1.0}, "layers": [1]}, "counts style layers for 's', which moves s, and codes for 'a'"),
        ({"move": {"s": 1.0}, "keep": ["a"]}, "'s' moves s and 'a' moves y"),
        ({"move": {"s": 1.0}, "space": "y"}, "there is no direction 's'"),
        ({"to": {"t": 1.0}}, "nothing reads 't' of a picture"),
    ],
)
def test_edits_of_styles_that_cannot_be(lia: LIA, known: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    folder = toys.pictures(tmp_path / "in", 1)
    with pytest.raises(LIAError, match=words):
        run(lia, folder, tmp_path / "out", known, **options)
    assert not (tmp_path / "out").exists()


def test_directions_of_other_styles_are_refused_by_name(lia: LIA, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 1)
    other = toys.stylegan(seed=1)
    of_styles(other).save(tmp_path / "o.safetensors")
    with pytest.raises(LIAError, match=r"o.safetensors holds directions of another generator \(toy.pkl\)"):
        run(lia, folder, tmp_path / "out", tmp_path / "o.safetensors", move={"s": 1.0})
    lies = Directions(fingerprint(lia.generator), (Direction("s", "s", torch.ones(9), "m", styles={"b4.conv1": 9}),))
    lies.save(tmp_path / "l.safetensors")
    with pytest.raises(LIAError, match="another generator: style layer 0 is b4.conv1 of 9 channels"):
        run(lia, folder, tmp_path / "out", tmp_path / "l.safetensors", move={"s": 1.0})


@pytest.mark.parametrize("form", ["interfacegan", "ganspace", "psp"])
def test_no_other_program_reads_styles(lia: LIA, tmp_path: Path, form: str) -> None:
    with pytest.raises(LIAError, match="'s' is of s, styles, which"):
        export_directions(of_styles(lia), form, tmp_path)


def test_readings_of_codes_and_of_styles_become_what_is_wanted_together(lia: LIA) -> None:
    random = torch.Generator().manual_seed(3)
    step, reader, y = (torch.randn(n, 16, generator=random) for n in (1, 1, 4))
    p = Direction("p", "y", step[0], "test", reader=reader[0], bias=0.5)
    s = of_styles(lia)["s"]
    assert s.reader is not None
    directions = Directions(fingerprint(lia.generator), (s, p))
    made = EditPlan(lia, directions, {}, {"s": 2.0, "p": 1.0})(Coded(y, {}, None, range(4)))
    of_p = (0.5 - y @ reader[0]) / float(step[0] @ reader[0])
    styles = styles_of(lia.generator, broadcast(y + of_p[:, None] * step, lia.generator.num_ws))
    of_s = (1.5 - styles @ s.reader) / float(s.step @ s.reader)
    amounts = torch.tensor([[one.strengths["s"], one.strengths["p"]] for one in made])
    torch.testing.assert_close(amounts, torch.stack([of_s, of_p], dim=1), rtol=0.03, atol=0.03)
    assert all(one.reached for one in made)
