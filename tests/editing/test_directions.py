"""Directions by name, in files that anybody may have written, and edits against sums by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lia_adapter.editing import CodeSpace, Direction, Directions, Edit, edited, join_directions, planned, read_directions
from lia_adapter.editing.edits import conditional
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.tensorfile import write_tensor_file

OWNER = "a" * 64
KIND = "lia-adapter-directions"


def direction(name: str, space: str = "y", seed: int = 0, **more: Any) -> Direction:
    shape = (3, 4) if space == "ys" else (4,)
    return Direction(name, space, torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), "test", **more)


def directions(*found: Direction) -> Directions:
    return Directions(OWNER, found, {"source": "toy.pkl"})


def test_a_file_holds_all_that_was_written(tmp_path: Path) -> None:
    known = directions(
        direction("smile", layers=(1, 2), reader=torch.arange(4.0), bias=0.5, about={"r2": 0.9, "bad": float("nan")}),
        direction("größe, a=b", "ys", 1),
        direction("smile", "z", 2),
    )
    known.save(tmp_path / "d.safetensors")
    read = read_directions(tmp_path / "d.safetensors")
    assert (read.generator, read.about, read.names) == (OWNER, {"source": "toy.pkl"}, ["smile", "größe, a=b", "smile"])
    for one, two in zip(known, read, strict=True):
        assert torch.equal(one.step, two.step)
        assert (one.name, one.space, one.layers, one.bias) == (two.name, two.space, two.layers, two.bias)
    reader = read.found[0].reader
    assert reader is not None and torch.equal(reader, torch.arange(4.0)) and read.found[1].reader is None
    assert read.found[0].about == {"r2": 0.9, "bad": None}


def test_names() -> None:
    known = directions(direction("smile"), direction("smile", "z"), direction("age"))
    assert known["age"].name == "age"
    with pytest.raises(ConfigError, match=r"'smil[a-z]*'; did you mean 'smile'"):
        known["smil"]
    with pytest.raises(ConfigError, match=r"'xyz'. There are: smile, smile, age[.]"):
        known["xyz"]
    with pytest.raises(ConfigError, match="'smile' of y and of z. Say which by space"):
        known["smile"]
    assert known.of_space("z")["smile"].space == "z"
    many = directions(*(direction(f"d{i}") for i in range(30)))
    with pytest.raises(ConfigError, match="and 10 more"):
        many["nothing like it"]


def test_renaming() -> None:
    known = directions(direction("a"), direction("b", seed=1))
    swapped = known.renamed({"a": "b", "b": "a"})
    assert swapped.names == ["b", "a"] and torch.equal(swapped["b"].step, known["a"].step)
    with pytest.raises(ConfigError, match="two directions 'b'"):
        known.renamed({"a": "b"})
    with pytest.raises(ConfigError, match="did you mean 'a'|There are: a, b"):
        known.renamed({"aa": "c"})
    for wrong in ("", " ", "a\nb", "\x1b[31m", "a" * 201):
        with pytest.raises(ConfigError, match="is no name of a direction"):
            known.renamed({"a": wrong})


def test_files_of_one_generator_are_joined() -> None:
    one, two = directions(direction("a")), directions(direction("b"))
    assert join_directions([one, two]).names == ["a", "b"] and join_directions([one]) is one
    with pytest.raises(LIAError, match="of different generators"):
        join_directions([one, Directions("b" * 64, two.found)])
    with pytest.raises(ConfigError, match="two directions 'a'"):
        join_directions([one, one])


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "space": "y", "method": "m", "bias": 0.0, "about": {}, "layers": None} | changes


def header(**changes: Any) -> dict[str, Any]:
    return {"version": 1, "generator_sha256": OWNER, "directions": [entry()], "about": {}} | changes


STEP = {"step.0": torch.ones(4)}
HOSTILE: list[tuple[dict[str, Any], dict[str, Tensor], str]] = [
    (header(version=2), STEP, "later version"),
    (header(version="new"), STEP, "no readable file"),
    (header(version=None), STEP, "no readable file"),
    (header(version=float("inf")), STEP, "no readable file"),
    (header(directions=5), STEP, "no readable file"),
    (header(directions={"a": 1}), STEP, "no readable file"),
    (header(directions=["a"]), STEP, "no readable file"),
    (header(directions=[entry(), entry(name="b")]), STEP, "lacks 'step.1'"),
    (header(directions=[entry(), entry()]), STEP | {"step.1": torch.ones(4)}, "two directions 'a' of y"),
    (header(about=5), STEP, "no readable file"),
    ({"version": 1}, STEP, "lacks 'directions'"),
    (header(directions=[entry(name=5)]), STEP, "the name 5"),
    (header(directions=[entry(name=None)]), STEP, "the name None"),
    (header(directions=[entry(name="\x1b[2J")]), STEP, "is no name"),
    (header(directions=[entry(name="a" * 10**6)]), STEP, "is no name"),
    (header(directions=[entry(space="x")]), STEP, "space 'x'"),
    (header(directions=[entry(space=["y"])]), STEP, "no readable file"),
    (header(directions=[entry(space="ys")]), STEP, r"step \[4\]"),
    (header(directions=[entry()]), {"step.0": torch.ones(2, 4)}, r"step \[2, 4\]"),
    (header(directions=[entry()]), {"step.0": torch.full([4], float("nan"))}, "not of numbers"),
    (header(directions=[entry()]), {"step.0": torch.full([4], float("inf"))}, "not of numbers"),
    (header(directions=[entry()]), {"step.0": torch.zeros(4)}, "zero"),
    (header(directions=[entry()]), {"step.0": torch.zeros(0)}, "zero"),
    (header(directions=[entry()]), {"step.0": torch.ones(4, dtype=torch.int64)}, "not of numbers"),
    (header(directions=[entry()]), STEP | {"reader.0": torch.ones(5)}, r"reader \[5\]"),
    (header(directions=[entry()]), STEP | {"reader.0": torch.full([4], float("nan"))}, "reader"),
    (header(directions=[entry(bias=float("nan"))]), STEP, "bias nan"),
    (header(directions=[entry(bias="0")]), STEP, "bias '0'"),
    (header(directions=[entry(bias=10**4000)]), STEP, "no readable file"),
    (header(directions=[entry(layers=[-1])]), STEP, "layers"),
    (header(directions=[entry(layers=[])]), STEP, "layers"),
    (header(directions=[entry(layers="12")]), STEP, "layers '12'"),
    (header(directions=[entry(layers=[1.5])]), STEP, "layers"),
    (header(directions=[entry(layers=[True])]), STEP, "layers"),
    (header(directions=[entry(about="x")]), STEP, "no readable file"),
    (header(directions=[entry(space="s")]), STEP, "one of s has styles"),
    (header(directions=[entry(styles=[["a", 4]])]), STEP, "no other has"),
    (header(directions=[entry(space="s", styles=[["a", 3]])]), STEP, r"step \[4\]; expected \[3\]"),
    (header(directions=[entry(space="s", styles=[["a", 4], ["a", 4]])]), STEP | {"step.0": torch.ones(8)}, r"expected \[4\]"),
    (header(directions=[entry(space="s", styles=[["\x1b", 4]])]), STEP, "style layer"),
    (header(directions=[entry(space="s", styles=[["a", True]])]), STEP, "style layer"),
    (header(directions=[entry(space="s", styles=[["a", -4], ["b", 8]])]), STEP, "style layer"),
    (header(directions=[entry(space="s", styles=[["a"]])]), STEP, "style layer"),
    (header(directions=[entry(space="s", styles={"a": 4})]), STEP, "style layer"),
    (header(directions=[entry(space="s", styles=[])]), STEP, r"expected \[0\]"),
]


@pytest.mark.parametrize(("head", "tensors", "words"), HOSTILE)
def test_a_file_that_is_not_as_it_should_be(
    tmp_path: Path, head: dict[str, Any], tensors: dict[str, Tensor], words: str
) -> None:
    path = tmp_path / "d.safetensors"
    write_tensor_file(path, KIND, head, tensors)
    with pytest.raises(LIAError, match=words) as caught:
        read_directions(path)
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "there is no file of directions"),
        (lambda path: path.mkdir(), "no readable file"),
        (lambda path: path.write_bytes(b""), "no readable file"),
        (lambda path: path.write_bytes(b"\xff" * 8 + b"{}"), "claims"),
        (lambda path: path.write_bytes((2).to_bytes(8, "little") + b"[]"), "no readable file"),
        (lambda path: write_tensor_file(path, "lia-adapter-codes", {}, STEP), "holds no directions"),
        (lambda path: write_tensor_file(path, KIND, header(), {"step.0": torch.ones(0)}), "no readable file"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path / "d.safetensors")
    with pytest.raises(LIAError, match=words):
        read_directions(tmp_path / "d.safetensors")


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    directions(direction("a")).save(tmp_path / "d.safetensors")
    data = (tmp_path / "d.safetensors").read_bytes()
    for size in (4, 20, len(data) - 1):
        (tmp_path / "d.safetensors").write_bytes(data[:size])
        with pytest.raises(LIAError, match="no readable file of directions"):
            read_directions(tmp_path / "d.safetensors")


def test_many_directions_are_read_in_no_time(tmp_path: Path) -> None:
    names = [entry(name=str(i)) for i in range(8000)]
    path = tmp_path / "d.safetensors"
    write_tensor_file(path, KIND, header(directions=names), {f"step.{i}": torch.ones(1) for i in range(8000)})
    assert len(read_directions(path)) == 8000  # seconds, if each name were compared to each


@pytest.fixture
def ys() -> Tensor:
    return torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(9))


def test_edits_of_y_are_sums(ys: Tensor) -> None:
    a, b = direction("a"), direction("b", seed=1)
    torch.testing.assert_close(edited(ys, [Edit(a, 2.0), Edit(b, -1.0)]), ys + 2 * a.step - b.step)
    assert torch.equal(edited(ys, []), ys) and torch.equal(edited(ys, [Edit(a, 0.0)]), ys)
    amounts = torch.arange(5.0)
    torch.testing.assert_close(edited(ys, [Edit(a, amounts)]), ys + amounts[:, None, None] * a.step)


def test_edits_of_some_layers(ys: Tensor) -> None:
    some, wide = direction("a", layers=(0, 2)), direction("b", "ys")
    expected = ys.clone()
    expected[:, [0, 2]] += some.step
    torch.testing.assert_close(edited(ys, [Edit(some, 1.0)]), expected)
    expected = ys.clone()
    expected[:, 1] += some.step
    torch.testing.assert_close(edited(ys, [Edit(some, 1.0)], layers=[1, 1]), expected)  # what is said counts, once
    torch.testing.assert_close(edited(ys, [Edit(wide, -0.5)]), ys - 0.5 * wide.step)
    expected = ys.clone()
    expected[:, 1] += wide.step[1]
    torch.testing.assert_close(edited(ys, [Edit(wide, 1.0)], layers=[1]), expected)
    for layers in ([3], [-1], [0, 99]):
        with pytest.raises(ConfigError, match="there is no layer"):
            edited(ys, [Edit(some, 1.0)], layers=layers)


@pytest.fixture(scope="module", params=[0, 2])
def mapping(request: pytest.FixtureRequest) -> InvertibleMapping:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = InvertibleMapping("affine", 4, request.param)
        for parameter in made.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return made.eval().requires_grad_(False)


def test_edits_of_z_move_z_and_keep_what_layers_have_of_their_own(mapping: InvertibleMapping, ys: Tensor) -> None:
    one, n = direction("a", "z"), len(ys)
    c = torch.eye(2)[torch.arange(n) % 2] if mapping.c_dim else None
    y = torch.randn(n, 4, generator=torch.Generator().manual_seed(3))
    same = y[:, None].expand(-1, 3, -1)
    moved = edited(same, [Edit(one, 1.5)], mapping=mapping, c=c)
    expected = mapping.to_y(mapping.to_z(y, c) + 1.5 * one.step.double(), c)
    torch.testing.assert_close(moved, expected[:, None].expand(-1, 3, -1).float(), rtol=1e-4, atol=1e-5)
    own = edited(ys, [Edit(one, 1.5)], mapping=mapping, c=c)
    torch.testing.assert_close(own - ys, (own - ys).mean(dim=1, keepdim=True).expand_as(ys), rtol=1e-4, atol=1e-5)
    z = mapping.to_z(own.mean(dim=1), c)
    torch.testing.assert_close(z, mapping.to_z(ys.mean(dim=1), c) + 1.5 * one.step.double(), rtol=1e-3, atol=1e-3)
    back = edited(own, [Edit(one, -1.5)], mapping=mapping, c=c)
    torch.testing.assert_close(back, ys, rtol=1e-3, atol=1e-4)


def test_edits_that_cannot_be(ys: Tensor, mapping: InvertibleMapping) -> None:
    with pytest.raises(LIAError, match="moves z, which only a converted file has"):
        edited(ys, [Edit(direction("a", "z"), 1.0)])
    for wrong in ("y", "ys", "z"):
        shape = (3, 5) if wrong == "ys" else (5,)
        c = None if not mapping.c_dim else torch.eye(2)[torch.zeros(5).long()]
        with pytest.raises(LIAError, match="of another generator"):
            edited(ys, [Edit(Direction("a", wrong, torch.ones(shape), "m"), 1.0)], mapping=mapping, c=c)
    with pytest.raises(LIAError, match="of another generator"):
        edited(ys, [Edit(Direction("a", "ys", torch.ones(2, 4), "m"), 1.0)])


SPACE = CodeSpace(torch.zeros(4), torch.diag(torch.tensor([4.0, 1.0, 1.0, 0.25])) + 0.2)


def test_a_conditional_edit_is_the_projection_and_as_long_as_before() -> None:
    a, b = direction("a"), direction("b", seed=1)
    left = conditional(a, [b], SPACE)
    n1, n2 = (torch.nn.functional.normalize(SPACE.white(one.step), dim=0) for one in (a, b))
    expected = SPACE.coloured(n1 - (n1 @ n2) * n2)
    assert float(SPACE.alike(left.step[None], expected[None])) == pytest.approx(1)
    deviations = float(a.step.norm() / SPACE.step(a.step).norm())
    assert float(left.step.norm()) == pytest.approx(deviations * float(SPACE.step(left.step).norm()), rel=1e-5)
    assert left.reader is None and conditional(a, [], SPACE) is a


def test_what_stays_of_ys_stays_in_each_layer() -> None:
    a, b = direction("a", "ys"), direction("b", "ys", 1)
    left = conditional(a, [b], SPACE)
    for row, other in zip(left.step, b.step, strict=True):
        assert abs(float(SPACE.alike(row[None], other[None]))) < 1e-5
    a.step[1], b.step[2] = 0, a.step[2]  # a layer that does not move, and one of which nothing is left
    left = conditional(a, [b], SPACE)
    assert bool(left.step.isfinite().all()) and not left.step[1:].any() and float(left.step[0].norm()) > 0.1


def test_what_cannot_stay() -> None:
    a = direction("a")
    with pytest.raises(ConfigError, match="nothing of 'a' is left without b and c"):
        conditional(a, [Direction("b", "y", a.step * -2, "m"), direction("c", seed=4)], SPACE)
    with pytest.raises(ConfigError, match="'a' moves y and 'b' moves z"):
        conditional(a, [direction("b", "z")], SPACE)
    with pytest.raises(LIAError, match="of another generator"):
        conditional(a, [Direction("b", "y", torch.ones(5), "m")], SPACE)
    known = directions(a, direction("b", seed=1))
    with pytest.raises(ConfigError, match="'a' is to move and to stay"):
        planned(known, {"a": 1.0}, ["a"], lambda _: SPACE)


def test_an_edit_that_keeps_another_does_not_move_its_reading() -> None:
    reader = torch.randn(4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    b = Direction("b", "y", SPACE.step(SPACE.covariance @ reader).float(), "m", reader=reader)
    (edit,) = planned(directions(direction("a"), b), {"a": 3.0}, ["b"], lambda _: SPACE)
    codes = torch.randn(5, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(edited(codes, [edit]) @ reader, codes @ reader, rtol=1e-5, atol=1e-5)


def test_headers_are_valid_json(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    directions(direction("a", about={"x": float("inf"), "y": [float("nan")]})).save(path)
    data = path.read_bytes()
    whole = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert "NaN" not in whole["__metadata__"][KIND] and "Infinity" not in whole["__metadata__"][KIND]
