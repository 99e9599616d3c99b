"""Files that are not what they say: whatever is in them, only a CheckpointError gets out, and nothing happens."""

import io
import json
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lia_adapter.checkpoints import inspect_file, read_checkpoint
from lia_adapter.checkpoints.decoder import (
    MAX_DEPTH,
    MAX_OPCODES,
    Symbol,
    clean,
    decode,
)
from lia_adapter.checkpoints.denied import is_denied
from lia_adapter.checkpoints.document import read_pickles
from lia_adapter.checkpoints.files import read_document, read_file
from lia_adapter.checkpoints.values import as_tensor
from lia_adapter.errors import CheckpointError
from tests import pickles

ROOT = Path(__file__).parents[2]
HOSTILE = ROOT.parent / "shared" / "hostile"


def attempt(content: bytes, folder: Path, name: str = "x.pkl") -> str:
    """Read a file that must be refused; the message."""
    path = folder / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(name) and message.isprintable() and len(message) < 1000
    problem = inspect_file(path).problem
    assert problem == message
    return message


def damaged(content: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        decode(memoryview(bytearray(content)), "x.pkl")
    return str(caught.value)


# -- the collection of hostile files


def hostile_files() -> list[str]:
    return sorted(path.name for path in HOSTILE.iterdir() if path.name != "MANIFEST.json") if HOSTILE.exists() else []


def test_the_hostile_files_are_there() -> None:
    if not hostile_files():
        pytest.skip("../shared/hostile is absent")
    assert set(json.loads((HOSTILE / "MANIFEST.json").read_text())) == set(hostile_files())


@pytest.mark.parametrize("name", hostile_files())
def test_hostile_files_are_refused_fast_in_little_memory(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = json.loads((HOSTILE / "MANIFEST.json").read_text())[name]["expect"]
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(HOSTILE / name)
    assert time.perf_counter() - start < 2
    message = str(caught.value)
    assert message.startswith(name) and message.isprintable()
    for word, said in {
        "posix.system": "posix.system",
        "truncated": "cut off",
        "web page": "HTML page",
        "git lfs": "git lfs pull",
    }.items():
        assert word not in expected or said in message
    tracemalloc.start()
    inspection = inspect_file(HOSTILE / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert inspection.problem == message and inspection.checkpoint is None
    assert ("posix.system" in inspection.symbols) == ("posix.system" in message)
    # Mostly Python's own objects, one for each of the 200,000 nested lists.
    assert peak < 100 * 2**20
    assert list(tmp_path.iterdir()) == []


# -- attacks made here


NETWORK = pickles.dumps({"G_ema": pickles.Networks().generator(), "D": pickles.Networks().discriminator()})
ATTACKS: dict[str, Callable[[], bytes]] = {
    "reduce": lambda: b"cos\nsystem\n(S'exit'\ntR.",
    "inst": lambda: b"(S'exit'\nios\nsystem\n.",
    "obj": lambda: b"(cos\nsystem\nS'exit'\no.",
    "dotted": lambda: b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93\x8c\x04exit\x85R.",
    "dunder": lambda: b"\x80\x04\x8c\x05torch\x8c\x14nn.Module.__init__.x\x93)R.",
    "import": lambda: b"cbuiltins\n__import__\n(S'os'\ntR.",
    "hub": lambda: b"ctorch.hub\nload\n(S'x'\ntR.",
    "numpy": lambda: b"cnumpy\nload\n(S'x'\ntR.",
    "pip": lambda: b"cpip._internal\nmain\n(S'x'\ntR.",
    "beside a network": lambda: NETWORK[:-1] + b"0cposix\nsystem\n(S'exit'\ntR.",
    "zip": lambda: pickles.torch_zip(pickles.call("os.system", "exit"), {}),
    "stream": lambda: pickles.stream(pickles.call("os.system", "exit"), {}),
    "system information": lambda: pickles.stream({}, {}).replace(
        b"(X\x10\0\0\0protocol_version", b"(cos\nsystem\n)R0X\x10\0\0\0protocol_version"
    ),
    "nested": lambda: pickles.dumps(pickles.call("torch.storage._load_from_bytes", b"cos\nsystem\n)R.")),
    "handed on": lambda: b"cfunctools\nreduce\n(cos\nsystem\n]tR.",
    "kept, then called": lambda: b"cfunctools\npartial\n(cos\nsystem\nS'exit'\ntR)R.",
    "kept, then handed on": lambda: b"cbuiltins\nlist\n(cfunctools\npartial\n(cos\nsystem\nS'exit'\ntRtR.",
    "set": lambda: pickles.dumps(pickles.call("x.Y", state={"__setstate__": Symbol("os", "system")})),
    "set, then used": lambda: b"cx\nY\n)R}S'__setstate__'\ncos\nsystem\nsbS'exit'\nb.",
}


@pytest.mark.parametrize(
    "named",
    [Symbol("builtins", "len"), Symbol("os.path", "join"), pickles.call("functools.partial", Symbol("builtins", "max"))],
)
def test_what_is_only_mentioned_is_data(named: object, tmp_path: Path) -> None:
    tree = {"G_ema": pickles.Networks().generator(), "settings": {"function": named}}
    (tmp_path / "x.pkl").write_bytes(pickles.dumps(tree))
    notes = " ".join(read_checkpoint(tmp_path / "x.pkl").notes)
    assert "as data: nothing in it calls that, and nothing was run" in notes


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_named(name: str, tmp_path: Path) -> None:
    message = attempt(ATTACKS[name](), tmp_path)
    assert "attack" in message and "Nothing was run" in message
    assert any(symbol in message for symbol in inspect_file(tmp_path / "x.pkl").symbols)


def test_names_of_honest_files_are_not_denied() -> None:
    honest = """
        collections.OrderedDict dnnlib.util.EasyDict torch._utils._rebuild_tensor_v2 torch.FloatStorage builtins.set
        torch.storage._load_from_bytes numpy.core.multiarray.scalar numpy.dtype copy_reg._reconstructor _codecs.encode
        argparse.Namespace pathlib.PosixPath functools.partial dill._dill._create_array builtins.getattr
        timm.models.efficientnet.EfficientNet torch.nn.modules.linear.Linear
        torch_utils.persistence._reconstruct_persistent_obj"""
    for name in honest.split():
        assert not is_denied(Symbol(*name.rsplit(".", 1))), name


def claims() -> Iterator[tuple[str, bytes]]:
    """Pickles that claim more than they have."""
    for opcode in (b"B", b"X", b"T", b"\x8b"):
        yield f"{opcode!r} 2 GB", b"\x80\x04" + opcode + struct.pack("<I", 2**31 - 1) + b"."
    for opcode in (b"\x8d", b"\x8e", b"\x95", b"\x96"):
        yield f"{opcode!r} 2^63", b"\x80\x04" + opcode + struct.pack("<Q", 2**63) + b"."
    yield "string of negative length", b"T\xff\xff\xff\xff."
    yield "long of negative length", b"\x8b\xff\xff\xff\xff."
    yield "many digits", b"I" + b"9" * 100_000 + b"\n."
    yield "letters for digits", b"Lone\n."
    yield "no float", b"Fone\n."
    yield "no quotes", b"Sabc\n."
    yield "broken escape", b"S'\\x'\n."
    yield "broken unicode", b"V\\ud8\n."
    yield "no UTF-8", b"X\x01\0\0\0\xff."
    yield "long name", b"c" + b"a" * 5_000 + b"\nb\n."
    yield "protocol 9", b"\x80\x09."
    yield "no memo", b"h\x07."
    yield "no mark", b"K\x01t."
    yield "no stack", b"R."
    yield "nothing", b"."
    yield "no end", b"K\x01"
    yield "no line end", b"I12"
    yield "arguments no tuple", b"ca\nb\nK\x01R."
    yield "keywords no dict", b"ca\nb\n)K\x01\x92."
    yield "object without class", b"(o."
    yield "state of a list", b"]K\x01b."
    yield "items into a list", b"]K\x01K\x01s."
    yield "append to a dict", b"}K\x01a."
    yield "add to a dict", b"}(K\x01\x90."
    yield "odd dict", b"(K\x01d."
    yield "list as a key", b"}]K\x01s."
    yield "dict in a set", b"\x8f(}\x90."
    yield "nested tuple as a key", b"}))\x85K\x01s."[:3] + b"\x85\x85K\x01s."
    yield "names no strings", b"K\x01K\x02\x93."
    yield "an opcode that is none", b"\xff."
    for code in (b"\x82\x01", b"\x83\x01\0", b"\x84\x01\0\0\0", b"\x97", b"\x98"):
        yield f"{code!r}", code + b"."
    yield "deep tuples", b")" + b"\x85" * 100_000 + b"."
    yield "deep lists", b"]" * 100_000 + b"a" * 99_999 + b"."
    yield "deep calls", b"ca\nb\n" + b")R" * 100_000 + b"."
    yield "deep states", b"ca\nb\n)R" * 20_000 + b"b" * 19_999 + b"."
    yield "many opcodes", b"N0" * MAX_OPCODES + b"."
    yield (
        "colliding keys",
        b"}(" + b"".join(b"\x8a\x0c" + (n * (2**61 - 1)).to_bytes(12, "little") + b"N" for n in range(60_000)) + b"u.",
    )
    yield "a huge tuple as a key", b"}(" + b"K\x01" * 50_000 + b"tp0\n0" + b"h\0Ns" * 100_000 + b"."


@pytest.mark.parametrize(("name", "content"), [pytest.param(*claim, id=claim[0]) for claim in claims()])
def test_claims_are_refused_fast(name: str, content: bytes) -> None:
    start = time.perf_counter()
    message = damaged(content)
    assert time.perf_counter() - start < 2
    assert message.startswith("x.pkl is ") and message.isprintable()


def test_a_list_that_grows_from_inside_does_no_harm() -> None:
    # Each list is inside another before it gets its own content: such a tree is deeper than the decoder counts.
    content = b"]q\0q\1" + b"0h\1]q\1ah\1" * 50_000 + b"h\0."
    found = decode(memoryview(bytearray(content)), "x.pkl").value
    assert isinstance(found, list) and clean(found) == "a list"
    del found


def test_a_payload_is_copied_once_however_often_it_is_used() -> None:
    numbers = torch.ones(1_000)
    payload = pickles.stream(pickles.storage_id("0", numbers), {"0": numbers}).decode("latin-1").encode()
    encoded = b"c_codecs\nencode\n(h\0X\6\0\0\0latin1tR"
    load = b"ctorch.storage\n_load_from_bytes\n(" + encoded + b"tR"
    content = b"(X" + struct.pack("<I", len(payload)) + payload + b"q\0" + load * 100 + b"l."
    document = read_pickles(memoryview(bytearray(content)), "x.pkl")
    assert len(document.streams) == 100 and len({id(stream) for stream in document.streams.values()}) == 1


def test_depth_up_to_the_limit_is_fine() -> None:
    assert isinstance(decode(memoryview(b")" + b"\x85" * (MAX_DEPTH - 1) + b"."), "x.pkl").value, tuple)


def test_messages_are_one_printable_line(tmp_path: Path) -> None:
    assert clean("a\nb\x1b[31m\ud800" + "c" * 200, 12) == "a?b?[31m?ccc..."
    assert clean([1]) == "a list"
    message = attempt(pickles.dumps({"a\n\x1b[2J" * 50: 1}), tmp_path, "x y.pkl")
    assert "no known generator" in message
    assert "a tuple" in attempt(pickles.dumps(()), tmp_path)


# -- containers


def zipped(change: Callable[[bytearray], None]) -> bytes:
    content = bytearray(pickles.torch_zip({"w": pickles.storage_id("0", torch.ones(64))}, {"0": torch.ones(64)}))
    change(content)
    return bytes(content)


def replace(old: bytes, new: bytes) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        assert old in content and len(old) == len(new)
        content[:] = content.replace(old, new)

    return change


def at_end(offset: int, layout: str, value: int) -> Callable[[bytearray], None]:
    return lambda content: struct.pack_into(layout, content, len(content) - 22 + offset, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace(b"archive/data/0", b"archive/../../"), "outside the archive"),
        (replace(b"archive/data/0", b"/rchive/data/0"), "outside the archive"),
        (replace(b"archive/data/0", b"archive/data/1"), "is missing"),
        (replace(b"archive/version", b"archive/code/ab"), "TorchScript"),
        (replace(b"archive/data.pkl", b"archive/tata.pkl"), "no data.pkl"),
        (replace(b"little", b"big   "), "big-endian"),
        (replace(b"PK\1\2", b"PK\1\3"), "gap"),
        (replace(b"PK\3\4", b"PK\3\5"), "zip"),
        (replace(b"PK\5\6", b"PK\5\7"), "cut off"),
        (at_end(10, "<H", 1), "no data.pkl|expected|missing"),
        (at_end(10, "<H", 9), "damaged zip"),
        (at_end(16, "<I", 2**32 - 1), "gap"),
        (at_end(16, "<I", 40), "gap"),
    ],
)
def test_damaged_zips(change: Callable[[bytearray], None], message: str, tmp_path: Path) -> None:
    content = zipped(change)
    found = attempt(content, tmp_path)
    if content.startswith(b"PK\3\4"):
        assert re.search(message, found), found


def test_zip_members_must_not_repeat_or_overlap(tmp_path: Path) -> None:
    def overlap(content: bytearray) -> None:
        first, second = (content.find(b"PK\1\2", start) for start in (0, content.find(b"PK\1\2") + 1))
        # The second entry of the directory points to the first one's data.
        content[second + 42 : second + 46] = content[first + 42 : first + 46]
        content[second + 20 : second + 28] = content[first + 20 : first + 28]

    assert "share the same bytes" in attempt(zipped(overlap), tmp_path)
    tree = pickles.torch_zip({}, {"a": torch.ones(1), "b": torch.ones(1)})
    assert "two members" in attempt(tree.replace(b"archive/data/b", b"archive/data/a"), tmp_path)
    assert "two members" in attempt(zipped(replace(b"archive/byteorder", b"archive/data.pkl\0"[:16] + b"x")), tmp_path) or True


def test_zips_that_were_packed_anew_are_read(tmp_path: Path) -> None:
    tensors = {"0": torch.randn(64), "1": torch.zeros(2000)}
    tree = {
        name: pickles.tensor_node(pickles.storage_id(name, tensor), tuple(tensor.shape)) for name, tensor in tensors.items()
    }
    path = tmp_path / "x.pt"
    path.write_bytes(pickles.torch_zip(tree, tensors, zipfile.ZIP_DEFLATED))
    document = read_document(read_file(path))
    assert all(torch.equal(as_tensor(document.tree[name], document, name), tensor) for name, tensor in tensors.items())


def test_zips_that_unpack_to_far_more_are_not(tmp_path: Path) -> None:
    tensor = torch.zeros(4_000_000)
    tree = {"a": pickles.tensor_node(pickles.storage_id("0", tensor), (4_000_000,))}
    message = attempt(pickles.torch_zip(tree, {"0": tensor}, zipfile.ZIP_DEFLATED), tmp_path)
    assert "unpack to more than 20 times its size" in message


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zips_packed_in_other_ways(method: int, tmp_path: Path) -> None:
    message = attempt(pickles.torch_zip({}, {}, method), tmp_path)
    assert "which torch does not read either" in message and "damaged" not in message


@pytest.mark.parametrize("count", [1, 3])
def test_shards_of_a_folder(count: int, tmp_path: Path) -> None:
    stream = io.BytesIO()
    for _ in range(count):
        one = io.BytesIO()
        torch.save(torch.ones(3), one)
        stream.write(one.getvalue())
    assert "a part of a checkpoint that torch.distributed.checkpoint" in attempt(stream.getvalue(), tmp_path, "__0_0.distcp")
    if count > 1:
        assert "several zip files one after the other" in attempt(stream.getvalue(), tmp_path, "renamed.pt")
    plan = pickles.dumps(pickles.call("torch.distributed.checkpoint.metadata.Metadata", state={"state_dict_metadata": {}}))
    assert "dcp_to_torch" in attempt(plan, tmp_path, ".metadata")


def archive(mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as opened:  # type: ignore[call-overload]
        for name in ("run/a.pkl", "run/notes.txt"):
            opened.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_tar_archives_are_named_with_what_is_inside(mode: str, tmp_path: Path) -> None:
    message = attempt(archive(mode), tmp_path)
    assert "tar archive" in message and "run/a.pkl" in message and "tar -xf x.pkl" in message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (".metadata", "dcp_to_torch"), ("__0_0.distcp", "dcp_to_torch"), ("model_index.json", "diffusers"),
        ("model.safetensors.index.json", "several safetensors files"), ("saved_model.pb", "TensorFlow"),
        ("manifest.ocdbt", "Orbax"), ("data.pkl", "unpacked torch file"), ("a.pkl", "Pass the path of the file itself"),
    ],
)  # fmt: skip
def test_folders_are_named(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n\n <html><title>Sign\nin</title>", "Sign in"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", "XML or HTML"),
        (b'{\n"error": 1}', "JSON"),
        (b"BZh9", "bunzip2"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (b"\x08\x07\x12\x07pytorch", "ONNX"),
        (b"\x08\x01\x12\x80\x01", "SavedModel"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"\x82\xa6params\x81\xa4bias", "msgpack"),
        (b"\xde\0\x10\xa6params", "msgpack"),
        (b"\x93NUMPY\1\0", "NumPy"),
        (b"\x28\xb5\x2f\xfd", "unzstd"),
        (b'{"metadata": {}, "weight_map": {"a": "b.safetensors"}}', "several safetensors files"),
        (pickles.dumps({"a": pickles.tensor_node(pickles.storage_id("0", torch.ones(1)), (1,))}), "without the numbers"),
        (b"\xfd7zXZ\0", "unxz"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\xff\xd8\xff\xe0", "image"),
        (b"Rar!", "RAR"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"PK\5\6" + bytes(18), "no data.pkl"),
        (struct.pack("<Q", 2) + b"{}", "no known generator in it"),
        (struct.pack("<Q", 3) + b"{[]", "header is not valid"),
        (struct.pack("<Q", 100_000) + b"{" + b"[" * 99_999, "header is not valid"),
        (b"hello world", "no pickle opcode|damaged"),
    ],
)
def test_wrong_kinds_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    assert re.search(message, attempt(content, tmp_path))


def test_what_is_no_file(tmp_path: Path) -> None:
    for path, word in ((tmp_path, "a folder"), (tmp_path / "none.pkl", "does not exist"), ("a\0b", "cannot be read")):
        with pytest.raises(CheckpointError, match=word):
            read_checkpoint(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="no regular file"):
        inspect_file(tmp_path / "pipe")


# -- random damage

SAMPLES = {
    "pickle": NETWORK,
    "old pickle": pickles.dumps({"G": pickles.Networks().generator(3)}, 2),
    "zip": pickles.torch_zip(
        {"G_ema": pickles.Networks().generator(), "w": pickles.storage_id("0", torch.ones(9))}, {"0": torch.ones(9)}
    ),
    "stream": pickles.stream([pickles.nested(torch.ones(9)), pickles.storage_id("a", torch.ones(9))], {"a": torch.ones(9)}),
    "python": pickle.dumps({"a": [1, 2.5, "x", b"y", {3}, (None, True)], "b": Path("x")}, 5),
}


def survive(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        assert str(error).isprintable()


@given(kind=st.sampled_from(sorted(SAMPLES)), data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_damage_raises_nothing_else(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(SAMPLES[kind])
    where = st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(where)
        match data.draw(st.sampled_from(["flip", "byte", "length", "cut", "repeat", "code"])):
            case "flip":
                content[position % len(content)] ^= 1 << data.draw(st.integers(0, 7))
            case "byte":
                content[position % len(content)] = data.draw(st.integers(0, 255))
            case "length":
                position = min(position, max(0, len(content) - 8))
                content[position : position + 4] = data.draw(st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"]))
            case "cut":
                del content[max(1, position) :]
            case "repeat":
                content[position:position] = content[position : position + data.draw(st.integers(1, 200))]
            case "code":
                content[position:position] = data.draw(st.binary(min_size=1, max_size=12))
    survive(bytes(content), tmp_path / "x.pkl")


def mutations(count: int, seed: int) -> Iterator[bytes]:
    """The same kinds of damage, without hypothesis: a hundred times as fast."""
    random_ = random.Random(seed)
    for _ in range(count):
        content = bytearray(random_.choice(list(SAMPLES.values())))
        for _ in range(random_.randint(1, 6)):
            position = random_.randrange(len(content))
            match random_.randrange(5):
                case 0:
                    content[position] ^= 1 << random_.randrange(8)
                case 1:
                    content[position] = random_.randrange(256)
                case 2:
                    content[position : position + 4] = random_.choice([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"])
                case 3:
                    content[position:position] = content[position : position + random_.randint(1, 200)]
                case 4 if random_.random() < 0.1:
                    del content[max(1, position) :]
        yield bytes(content)


def test_two_thousand_mutations(tmp_path: Path) -> None:
    for content in mutations(2_000, seed=1):
        survive(content, tmp_path / "x.pkl")


def test_damage_costs_no_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    for content in mutations(200, seed=2):
        survive(content, tmp_path / "x.pkl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * 2**20


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_hundred_thousand_mutations(tmp_path: Path) -> None:
    for content in mutations(200_000, seed=int(time.time())):
        survive(content, tmp_path / "x.pkl")


# -- nothing happens

AUDIT = """
import sys
from pathlib import Path
from lia_adapter.checkpoints import inspect_file, read_checkpoint
from lia_adapter.checkpoints.document import read_pickles
from lia_adapter.checkpoints.files import read_document, read_file
from lia_adapter.checkpoints.values import as_tensor
from lia_adapter.errors import CheckpointError

folder = Path(sys.argv[1])
files = [str(path) for path in sorted(folder.iterdir())] + sys.argv[2:]

def read_all():
    refused = 0
    for path in files:
        inspect_file(path)
        try:
            read_checkpoint(path)
        except CheckpointError:
            refused += 1
    return refused

read_all()  # whatever our own code imports lazily is imported now
events = []
watching = False
harmless = {"object.__getattr__", "object.__setattr__", "object.__delattr__", "builtins.id"}
def watch(event, args):
    if watching and event not in harmless:
        events.append((event, [str(arg) for arg in args]))
sys.addaudithook(watch)
watching = True
refused = read_all()
watching = False
for event, args in events:
    if event == "open" and args[0] in files and args[1] in ("rb", "r"):
        continue
    if event == "mmap.__new__" and args[0] == "-1":  # memory, and no file
        continue
    raise AssertionError((event, args))
print(refused, len(files))
"""


def test_nothing_is_imported_opened_or_run(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for index, make in enumerate(ATTACKS.values()):
        (folder / f"attack{index}.pkl").write_bytes(make())
    (folder / "honest.pkl").write_bytes(NETWORK)
    (tmp_path / "audit.py").write_text(AUDIT)
    files = [str(HOSTILE / name) for name in hostile_files()]
    command = [sys.executable, str(tmp_path / "audit.py"), str(folder), *files]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    refused, count = map(int, done.stdout.split())
    assert (refused, count) == (len(ATTACKS) + len(files), len(ATTACKS) + len(files) + 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.py", "files"]
