"""LMDB's files, read without its library: the same as the library reads, and no file, however broken, does more than fail."""

import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from lia_adapter.data import lmdb as ours
from lia_adapter.data.source import image_names, open_source
from lia_adapter.errors import LIAError

theirs = pytest.importorskip("lmdb", reason="needs the lmdb package, to write databases with and to compare with")

PAGE = 4096


def database(path: Path, writes: list[dict[bytes, bytes | None]]) -> Path:
    """A folder with an LMDB that was written in some transactions; None deletes."""
    shutil.rmtree(path, ignore_errors=True)
    with theirs.open(str(path), map_size=2**28) as environment:
        for values in writes:
            with environment.begin(write=True) as transaction:
                for key, value in values.items():
                    transaction.delete(key) if value is None else transaction.put(key, value)
    return path


def some_writes(seed: int, writes: int) -> Iterator[dict[bytes, bytes | None]]:
    source, keys = random.Random(seed), list[bytes]()
    sizes = [0, 1, 50, 2000, 2030, 2040, 4080, 4097, 30_000]  # in a leaf, and in one and more pages of their own
    for _ in range(writes):
        new = {source.randbytes(source.randint(1, 511)): source.randbytes(source.choice(sizes)) for _ in range(100)}
        gone = source.sample(keys, len(keys) // 3)
        keys = sorted((set(keys) | set(new)) - set(gone))
        yield new | dict.fromkeys(gone)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A data file with branches, leaves and values of both kinds."""
    return (database(tmp_path_factory.mktemp("whole") / "a", list(some_writes(0, 3))) / "data.mdb").read_bytes()


@pytest.mark.parametrize("seed", range(8))
def test_the_same_as_the_library_reads(tmp_path: Path, seed: int) -> None:
    path = database(tmp_path / "a", list(some_writes(seed, seed)))
    with theirs.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        expected = list(transaction.cursor())
    data = (path / "data.mdb").read_bytes()
    found = ours.read_index(path / "data.mdb")
    assert [(key, data[at : at + size]) for key, (at, size) in found.items()] == expected
    assert len(expected) >= 100 * bool(seed)


def test_as_a_source(tmp_path: Path) -> None:
    values = {f"{i:040x}".encode(): bytes([i]) * 100 * i for i in reversed(range(100))}
    source = open_source(database(tmp_path / "cat", [dict(values)]))
    names = image_names(source)
    assert names == [f"{i:040x}.webp" for i in range(100)]  # the order of the database, whatever it was written in
    assert [source.read(name) for name in names] == list(reversed(values.values()))
    assert [source.sizes[name] for name in names] == [100 * i for i in range(100)]
    (tmp_path / "cat" / "data.mdb").unlink()
    with pytest.raises(LIAError, match="no such file"):
        source.read(names[0])


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(LIAError) as caught:
        ours.read_index(path)
    return str(caught.value)


def test_files_that_are_something_else(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "data.mdb"
    for data, message in (
        (b"", "is not an LMDB file"),
        (b"hello" * PAGE, "is not an LMDB file"),
        (whole[:100], "is not an LMDB file"),
        (whole[:PAGE], "is damaged or cut short"),
        (whole[: len(whole) // 2], "is damaged or cut short"),
        (whole[:20] + b"\2" + whole[21:], "is of LMDB's format 2, and 1 is read"),
    ):
        assert message in refused(path, data)
        assert "expected the LMDB file of a data set such as LSUN. Download or make it again." in refused(path, data)


def test_databases_of_another_kind(tmp_path: Path, whole: bytes) -> None:
    with theirs.open(str(tmp_path / "a"), map_size=2**20, max_dbs=1) as environment:
        environment.open_db(b"named")
    with pytest.raises(LIAError, match="holds databases within its database"):
        ours.read_index(tmp_path / "a" / "data.mdb")
    data = bytearray(whole)
    data[92] = data[92 + PAGE] = 4  # several values of a key, in both of the first two pages
    assert "or has several values of a key" in refused(tmp_path / "data.mdb", bytes(data))


def pages(data: bytes, kind: int) -> list[int]:
    """Where the pages of a kind are that carry their own number."""
    heads = ((at, *struct.unpack_from("<QHH", data, at)) for at in range(2 * PAGE, len(data), PAGE))
    return [at for at, number, _, flags in heads if number == at // PAGE and flags == kind]


def test_values_that_lie_outside_the_file(tmp_path: Path, whole: bytes) -> None:
    data = bytearray(whole)
    for leaf in pages(whole, 2):
        for (offset,) in struct.iter_unpack("<H", data[leaf + 16 : leaf + struct.unpack_from("<H", data, leaf + 12)[0]]):
            struct.pack_into("<HH", data, leaf + offset, 0xFFFF, 0x7FFF)  # the library reads these 2 GB, and is killed
    assert "is damaged or cut short" in refused(tmp_path / "data.mdb", bytes(data))


def test_a_tree_that_bites_its_tail(tmp_path: Path, whole: bytes) -> None:
    data = bytearray(whole)
    for branch in pages(whole, 1):
        offset = struct.unpack_from("<H", data, branch + 16)[0]
        struct.pack_into("<HHH", data, branch + offset, branch // PAGE, 0, 0)
    assert "is damaged or cut short" in refused(tmp_path / "data.mdb", bytes(data))


def test_damage_of_any_kind_is_an_error_of_ours_or_none(tmp_path: Path, whole: bytes) -> None:
    source, path, outcomes = random.Random(0), tmp_path / "data.mdb", [0, 0]
    tree = [0, PAGE, *pages(whole, 1), *pages(whole, 2)]
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(source.choice([1, 3, 20])):
            data[source.choice(tree) + source.choice([source.randrange(160), source.randrange(PAGE)])] = source.randrange(256)
        path.write_bytes(data)
        try:
            places = ours.read_index(path)
        except LIAError:
            outcomes[0] += 1
        else:
            outcomes[1] += 1
            assert all(at + size <= len(data) for at, size in places.values())
    assert min(outcomes) > 20
