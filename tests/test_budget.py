"""What a job may spend: the arithmetic on made-up machines, the count of what work takes, and that nobody else decides."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lia_adapter import budget
from lia_adapter.budget import (
    accumulation,
    at_once,
    free_memory,
    held_by,
    in_parts,
    is_out_of_memory,
    parse_memory,
)
from lia_adapter.cli.options import flag
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.generators import graphs_at_once, picture_bytes, pictures_at_once
from tests import toys

MB, GB = 2**20, 2**30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes up what a machine has free, what this process holds, and what the user gave."""

    def made_up(free: int, used: int = 0, given: str | None = None) -> None:
        monkeypatch.setattr(budget, "free_memory", lambda device="cpu": free)
        monkeypatch.setattr(budget, "used_memory", lambda device="cpu": used)
        monkeypatch.setattr(budget, "_half_at_start", lambda device: used + free // 2)
        monkeypatch.delenv("LIA_MEMORY", raising=False)
        if given:
            monkeypatch.setenv("LIA_MEMORY", given)

    return made_up


@pytest.mark.parametrize(
    ("text", "size"),
    [("6GB", 6 * GB), ("800 MB", 800 * MB), ("1.5GiB", 3 * GB // 2), ("2g", 2 * GB), ("4096", 4096), ("64K", 65536)],
)
def test_amounts_of_memory(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "much", "-3GB", "0", "6 apples", "1e3GB", "nan", "6GBB", "99999999999999TB"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ConfigError, match="expected for example 6GB"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("each", "free", "used", "given", "most", "n"),
    [
        (MB, 16 * GB, 0, None, None, 64),  # small pictures: no more than are useful
        (100 * MB, 16 * GB, 0, None, None, 2),  # 256 MB at once are enough to keep a processor busy
        (500 * MB, 16 * GB, 0, None, None, 1),  # one is always worked on
        (100 * MB, 300 * MB, 0, None, None, 1),  # half of 300 MB are for others
        (200 * MB, 300 * MB, 0, None, None, 1),  # ... which is a courtesy, and no reason to give up
        (10 * MB, 16 * GB, 0, "100MB", None, 10),
        (10 * MB, 16 * GB, 60 * MB, "100MB", None, 4),  # the weights are in what was given
        (10 * MB, 50 * MB, 0, "1GB", None, 5),  # more than there is was given
        (10 * MB, 16 * GB, 0, None, 3, 3),
        (MB, 16 * GB, 0, None, 200, 200),  # who asks for more than is useful gets it
    ],
)
def test_how_many_at_once(
    machine: Callable[..., None], each: int, free: int, used: int, given: str | None, most: int | None, n: int
) -> None:
    machine(free, used, given)
    assert at_once(each, most=most) == n


def test_not_even_one_fits(machine: Callable[..., None]) -> None:
    machine(16 * GB, used=300 * MB, given="1GB")
    with pytest.raises(
        LIAError, match=r"takes about 900 MB, of which LIA_MEMORY 1GB leaves 724 MB. Give LIA_MEMORY 1\.3 GB"
    ) as told:
        at_once(900 * MB)
    assert "of which --memory 1GB leaves 724 MB. Give --memory 1.3 GB" in told.value.told(flag)
    machine(100 * MB)
    with pytest.raises(LIAError, match="only 100 MB are free on cpu. Close other programs"):
        at_once(900 * MB)


def test_a_batch_that_does_not_fit_is_cut_into_equal_parts(machine: Callable[..., None]) -> None:
    machine(16 * GB, given="1GB")
    assert accumulation(64, 64 * 10 * MB) == 1
    assert accumulation(64, 64 * 100 * MB) == 8
    assert accumulation(6, 6 * 300 * MB) == 2
    with pytest.raises(LIAError, match="one training image takes about 2.0 GB"):
        accumulation(64, 64 * 2 * GB)


def test_limits_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < free_memory() < 2**50
    groups, process = tmp_path / "cgroup", tmp_path / "self"
    inner = groups / "batch" / "job"
    inner.mkdir(parents=True)
    process.write_text("0::/batch/job\n")
    for place, limit, current, idle in ((inner, "max", 300, 0), (inner.parent, "1000", 700, 50)):
        (place / "memory.max").write_text(limit)
        (place / "memory.current").write_text(str(current))
        (place / "memory.stat").write_text(f"anon 5\ninactive_file {idle}\n")
    assert budget._cgroup_room(groups, process) == [350]  # of the group above: files that nobody uses can go
    process.write_text("7:cpu,cpuacct:/x\n4:memory:/job\n")
    old = groups / "memory" / "job"
    old.mkdir(parents=True)
    for name, value in (("limit_in_bytes", 800), ("usage_in_bytes", 500)):
        (old / f"memory.{name}").write_text(str(value))
    (old / "memory.stat").write_text("")
    assert budget._cgroup_room(groups, process) == [300]
    assert budget._cgroup_room(groups, tmp_path / "none") == []
    monkeypatch.setattr("resource.getrlimit", lambda kind: (2**62, 2**62))
    assert all(size > 2**61 for size in budget._ulimit_room()) and len(budget._ulimit_room()) == 2


def test_the_count_of_what_work_takes() -> None:
    def work() -> Tensor:
        x = torch.zeros(1000, 1000)  # 4 MB
        y = x + 1  # 8 MB
        del x
        return y.view(-1)[:10] * 2  # a view counts once

    for pretend in (False, True):
        assert held_by(work, pretend=pretend) == pytest.approx(1.2 * 8e6, rel=0.01)
    seen = []
    assert held_by(lambda: seen.append(float((torch.ones(10) * 2).sum())), pretend=True) > 0  # no number: done for real
    assert seen == [20.0]


def test_parts_are_halved_where_the_allocator_has_no_room(capsys: pytest.CaptureFixture[str]) -> None:
    tried = []

    def work(part: range) -> list[int]:
        tried.append(len(part))
        if len(part) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to")
        return list(part)

    assert sum(in_parts(work, range(11), 10), []) == list(range(11))
    assert tried == [10, 5, 2, 2, 2, 2, 2, 1]
    assert capsys.readouterr().err.count("no memory for so many pictures at once; going on with") == 2
    assert list(in_parts(len, torch.zeros(5, 2), 2)) == [2, 2, 1] and list(in_parts(len, [], 3)) == []
    with pytest.raises(RuntimeError, match="can't allocate"):
        list(in_parts(lambda part: work(range(9)), range(3), 1))
    with pytest.raises(RuntimeError, match="other"):
        list(in_parts(lambda part: (_ for _ in ()).throw(RuntimeError("other")), range(3), 3))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("unable to mmap 8 bytes from file <f>: Cannot allocate memory (12)"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
    ],
)
def test_the_words_in_which_memory_is_short(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shape mismatch")) and not is_out_of_memory(ValueError("out of memory"))


def test_a_generator_tells_what_a_picture_takes(machine: Callable[..., None]) -> None:
    small, large = toys.stylegan().generator, toys.stylegan(channel_base=1024).generator
    assert picture_bytes(small) < picture_bytes(large) < picture_bytes(large, graph=True)
    with_use = picture_bytes(large, lambda x: x.new_zeros(10**6).sum())
    assert with_use > 4e6 > picture_bytes(large)
    machine(GB, given=f"{10 * picture_bytes(large)}")
    assert pictures_at_once(large) == 10
    machine(GB, given=f"{5 * picture_bytes(large, graph=True)}")
    assert graphs_at_once(large)[0] == 5
    machine(GB, given="2K")
    with pytest.raises(LIAError, match="one picture of 8x8 takes"):
        graphs_at_once(large)


# -- nobody else decides

_NAME = re.compile(r"^_?(BATCH|CHUNK|AT_ONCE|IMAGES_AT_ONCE|PICTURES_AT_ONCE)\w*$")
_ARGUMENT = {"batch", "batch_size", "at_once", "chunk"}
NO_PICTURES = {  # but codes, and examples that an exporter traces
    "sampler.py: _CHUNK", "graphs.py: _BATCH", "classifier.py: torch.randperm(len(train), generator=order).split(256)",
}  # fmt: skip
RECIPES = {"ConvertConfig", "EncoderConfig", "TrainConfig"}  # a training's batch is a matter of learning, not of memory


def constants_for_pictures_at_once(path: str, tree: ast.Module) -> list[str]:
    found = []
    recipes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name in RECIPES]
    inside = {id(key) for recipe in recipes for key in recipe.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant) and id(node) not in inside:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [t.id for t in targets if isinstance(t, ast.Name)]
            found += [f"{path}: {name}" for name in names if _NAME.match(name) and type(node.value.value) is int]
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args][-len(node.args.defaults) or None :] + node.args.kwonlyargs
            defaults = [*node.args.defaults, *node.args.kw_defaults]
            for argument, default in zip(arguments, defaults, strict=False):
                if argument.arg in _ARGUMENT and isinstance(default, ast.Constant) and type(default.value) is int:
                    found.append(f"{path}: {node.name}({argument.arg}={default.value})")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            place = {"in_batches": 2, "in_parts": 2, "split": 0}.get(called)
            if place is not None and len(node.args) > place:
                size = node.args[place]
                fixed = isinstance(size, ast.Constant) and type(size.value) is int and size.value > 1
                if fixed or isinstance(size, ast.Name) and _NAME.match(size.id):
                    found.append(f"{path}: {ast.unparse(node)}")
    return [line for line in found if line not in NO_PICTURES]


def test_no_other_module_has_a_constant_for_pictures_at_once() -> None:
    package = Path(__file__).parents[1] / "lia_adapter"
    files = [path for path in package.rglob("*.py") if path.name != "budget.py"]
    found = [line for path in files for line in constants_for_pictures_at_once(path.name, ast.parse(path.read_text()))]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "_BATCH = 50",
        "_CHUNK_OF_IMAGES: int = 3",
        "def encode(x, batch=64): ...",
        "def encode(*, batch: int = 64): ...",
        "for part in x.split(64): ...",
        "for part in in_batches(images, numbers, 32, device): ...",
        "for part in x.split(_BATCH): ...",
    ],
)
def test_such_constants_are_found(code: str) -> None:
    assert constants_for_pictures_at_once("m.py", ast.parse(code))
