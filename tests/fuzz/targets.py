"""What is fuzzed: every way by which bytes that somebody else made come in, each with inputs to start from.

The inputs are made by code, small, and as the programs write them. Nothing here needs atheris: the tests run all of it too.
"""

import gzip
import io
import json
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from lia_adapter.checkpoints import read_checkpoint
from lia_adapter.checkpoints.decoder import Call
from lia_adapter.codes import Codes, read_codes
from lia_adapter.data import Placement, open_images
from lia_adapter.errors import LIAError
from lia_adapter.export import export_weights
from lia_adapter.generators import build
from lia_adapter.jobs.dataset import make_dataset
from lia_adapter.loading import load
from tests import pickles, toys
from tests.checkpoints import test_tensorflow
from tests.fuzz import mutators
from tests.fuzz.mutators import Mutator
from tests.generators import test_stylegan1, test_stylegan3

__all__ = ["MAX_MESSAGE", "TARGETS", "Target", "attempt"]

MAX_MESSAGE = 2_000
"""Characters of an error message: what a file holds must not fill the screen."""
_SIZE = (8, 8)


@dataclass(frozen=True)
class Target:
    """An entry point.

    Attributes:
        use: Gives it the bytes, by a file in an empty folder.
        seeds: Makes inputs to start from.
        mutate: How the inputs are changed.
        share: Of the executions, as a weight: where one takes milliseconds there are fewer.
    """

    use: Callable[[bytes, Path], object]
    seeds: Callable[[], list[bytes]]
    mutate: Mutator
    share: int = 1


def attempt(target: Target, content: bytes, folder: Path) -> bool:
    """Whether the input is read; False: it is refused by an error of ours whose message is fit to be shown.

    Raises:
        Exception: Anything else is a fault of ours.
    """
    try:
        target.use(content, folder)
    except LIAError as error:
        message = str(error)
        assert message.isprintable() and 0 < len(message) <= MAX_MESSAGE, repr(message[:MAX_MESSAGE])
        return False
    return True


# -- the entry points


def _checkpoint(content: bytes, folder: Path) -> None:
    path = folder / "x"
    path.write_bytes(content)
    checkpoint = read_checkpoint(path)
    build(checkpoint.family, checkpoint.config, checkpoint.tensors)


def _lia(content: bytes, folder: Path) -> None:
    path = folder / "x.safetensors"
    path.write_bytes(content)
    load(path)


def _codes(content: bytes, folder: Path) -> None:
    path = folder / "x.safetensors"
    path.write_bytes(content)
    for values in read_codes(path).placements:
        Placement.from_json(values)


def _images(path: Path) -> None:
    images = open_images(path, _SIZE, 3)
    for index in range(min(len(images), 3)):
        images.load(index)
    images.identity()


def _data_set(content: bytes, folder: Path) -> None:
    path = folder / "x.zip"
    path.write_bytes(content)
    _images(path)
    open_images(path, _SIZE, 3, c_dim=3).labels([0])


def _lmdb(content: bytes, folder: Path) -> None:
    (folder / "data.mdb").write_bytes(content)
    _images(folder)


def _labels(content: bytes, folder: Path) -> None:
    out = folder.with_suffix(".zip")  # beside the data set, not in it
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).write_bytes(_PICTURE)
    (folder / "dataset.json").write_bytes(content)
    try:
        open_images(folder, _SIZE, 3, c_dim=3).labels([0, 1, 2])
    finally:
        make_dataset(folder, out, _SIZE)


# -- inputs to start from


def _picture(kind: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, _SIZE).save(file, kind)
    return file.getvalue()


_PICTURE = _picture("PNG")


def _states() -> Iterator[Mapping[str, Tensor]]:
    """State dicts of all the families that have some."""
    for make in (test_stylegan1.genforce, test_stylegan1.idinvert, test_stylegan1.lernapparat, test_stylegan1.huangzh13):
        yield make(2)
    yield test_stylegan3.bare()
    lia = toys.stylegan(c_dim=2, z_dim=4, y_dim=4, mapping_layers=1, channel_base=16)
    yield {f"module.{name}": tensor for name, tensor in lia.generator.state_dict().items()}
    yield from _exported()


def _exported() -> Iterator[Mapping[str, Tensor]]:
    from safetensors.torch import load_file

    lia = toys.stylegan(z_dim=4, y_dim=4, mapping_layers=1, channel_base=16)
    with tempfile.TemporaryDirectory() as folder:
        for file in export_weights(lia, "rosinality", Path(folder, "g.safetensors")).files[:2]:
            yield load_file(file)


def _torch(state: Mapping[str, Tensor], wrap: Callable[[Any], Any], *, stream: bool) -> bytes:
    storages = {str(i): tensor for i, tensor in enumerate(state.values())}
    nodes = {
        name: pickles.tensor_node(pickles.storage_id(key, tensor), tuple(tensor.shape))
        for (name, tensor), key in zip(state.items(), storages, strict=True)
    }
    tree = wrap(pickles.call("collections.OrderedDict", entries=nodes))
    return pickles.stream(tree, storages) if stream else pickles.torch_zip(tree, storages)


_WRAPPERS: tuple[Callable[[Any], Any], ...] = (
    lambda tree: tree,
    lambda tree: {"g_ema": tree, "d": tree, "args": pickles.call("argparse.Namespace", state={"size": 8}), "iter": 3},
    lambda tree: {"state_dict": tree, "epoch": 1},
    lambda tree: {"models": {"generator_smooth": tree, "generator": tree}},
    lambda tree: {"G_ema": tree, "latent_avg": None},
)


def _torch_files(*, stream: bool) -> list[bytes]:
    files = [
        _torch(state, wrap, stream=stream)
        for i, state in enumerate(_states())
        for wrap in (_WRAPPERS[0], _WRAPPERS[1 + i % (len(_WRAPPERS) - 1)])
    ]
    return files if stream else [*files, _with_zip64(files[0])]


def _nvlabs() -> list[bytes]:
    def generator(c_dim: int = 0, **changes: Any) -> Call:
        return pickles.Networks(**changes).generator(c_dim)

    return [
        pickles.dumps({"G_ema": generator(noise=False)}),
        pickles.dumps({"G": generator(3), "D": pickles.Networks().discriminator(3), "augment_pipe": None}, 2),
        pickles.dumps(generator(frozen=True, dtype=torch.float16), 3),
        pickles.dumps({"G_ema": test_stylegan3.Networks3().generator3()}),
        pickles.dumps({"G_ema": test_stylegan3.Networks3().generator3(c_dim=3, rows=10)}),
    ]


def _tensorflow() -> list[bytes]:
    make = test_tensorflow
    one = {"synthesis": make.synthesis1(), "mapping": make.mapping()}
    lia = one | {"mapping": make.couplings(3)}
    return [
        pickles.dumps(make.generator()),
        pickles.dumps((make.generator("G"), make.discriminator(), make.generator(settings={"label_size": 0})), 2),
        pickles.dumps(make.generator(parts=one), 3),
        pickles.dumps((make.network("E", "E_basic", make.encoder()), make.generator(parts=lia))),
        pickles.dumps(make.network("Gs", "G_paper", {}, module="tfutil")),
    ]


def _safetensors() -> list[bytes]:
    states = [{name: tensor.contiguous() for name, tensor in state.items()} for state in _states()]
    return [save(state, metadata={"format": "pt"}) for state in states] + [save({})]


def _lia_files() -> list[bytes]:
    lia = toys.with_encoder(toys.stylegan(z_dim=4, y_dim=4, mapping_layers=1, channel_base=16))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        lia.save(path)
        whole = path.read_bytes()
        lia.save(path, adapter_only=True)
        return [whole, path.read_bytes(), save({}, metadata={"lia-adapter": "{}"})]


def _codes_files() -> list[bytes]:
    n, y_dim, num_ws = 2, 3, 2
    tensors = {
        "y": torch.ones(n, y_dim), "z": torch.ones(n, y_dim, dtype=torch.float64), "mse": torch.ones(n),
        "typicality": torch.ones(n), "z_size": torch.ones(n), "ys": torch.ones(n, num_ws, y_dim), "c": torch.ones(n, 2),
    }  # fmt: skip
    place = Placement("crop", (8, 8), (0, 0, 8, 8), (0, 0, 8, 8)).to_json()
    codes = Codes(("a.png", "b.png"), tensors, (place, place), "0" * 64, {"lia": "x", "data": "y"}, {"c.png": "it is empty"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        codes.save(path)
        whole = path.read_bytes()
    return [whole, save({}), *_codes_of_others()]


def _codes_of_others() -> list[bytes]:
    """What other programs write their codes into."""
    file = io.BytesIO()
    np.savez(file, w=np.ones((1, 2, 3), np.float32))
    array = io.BytesIO()
    np.save(array, np.ones((2, 3), np.float32))
    tensor = torch.ones(2, 3)
    node = pickles.tensor_node(pickles.storage_id("0", tensor), (2, 3))
    return [file.getvalue(), array.getvalue(), pickles.torch_zip({"a.png": {"latent": node}}, {"0": tensor})]


def _zip(files: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def _with_zip64(content: bytes) -> bytes:
    """The same archive with a second, 64-bit end of its directory, as large archives have it."""
    at = content.rindex(b"PK\5\6")
    _, _, count, total, size, start = struct.unpack_from("<HHHHII", content, at + 4)
    end = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, total, size, start)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, at, 1)
    return content[:at] + end + locator + content[at:]


def _tar(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def _other_files() -> list[bytes]:
    """Files that are no checkpoint, or have one inside."""
    inner = pickles.torch_zip({"w": pickles.storage_id("0", torch.ones(3))}, {"0": torch.ones(3)})
    pickle = pickles.dumps({"a": 1})
    array = io.BytesIO()
    np.save(array, np.ones((2, 3), np.float32))
    starts = [
        b"", b"\n\n <html><title>Sign\nin</title>", b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", b'{\n"error": 1}',
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", b"BZh9", b"\xfd7zXZ\0", b"\x89HDF\r\n\x1a\n",
        b"Rar!", b"7z\xbc\xaf\x27\x1c", b"PK\5\6" + bytes(18), b"hello world", bytes(600),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + bytes(64),
        b"\x08\x07\x12\x04onnx:" + bytes(40),
        b"\x82\xa1a\x01\xa1b\xc4\x02ab",  # msgpack
        b'{"metadata": {"total_size": 4}, "weight_map": {"a": "x-00001-of-00002.safetensors"}}',
    ]  # fmt: skip
    tars = [
        _tar({}), _tar({"x/model.pt": inner, "x/.meta": b""}),
        _tar(dict.fromkeys(("sys_info", "pickle", "storages", "tensors"), pickle)),  # of torch 0.1
    ]  # fmt: skip
    zips = [
        _zip({"readme.txt": b"x", "model.pkl": pickle}), _zip({"data.pkl": pickle}, zipfile.ZIP_DEFLATED),
        _zip({"x/data.pkl": pickle, "x/constants.pkl": pickle, "x/code/a.py": b"pass"}),
    ]  # fmt: skip
    packed = [gzip.compress(content, mtime=0) for content in (pickle, tars[1])]
    return [*starts, *tars, *zips, *packed, _PICTURE, _picture("GIF", "P"), array.getvalue()]


def _label_files() -> list[bytes]:
    names = ("a.png", "b.png", "c.png")
    labels: list[Any] = [
        [[name, i] for i, name in enumerate(names)],
        [[name, [0.5, 1, 0]] for name in names],
        [[name, str(i)] for i, name in enumerate(names)],
        [[name, [True, 1.0, None]] for name in names],
        [[name, {"class": 1}] for name in names],
        {name: 1 for name in names},
        None,
        [],
    ]
    texts = [json.dumps({"labels": value}) for value in labels]
    return [text.encode() for text in (*texts, '{"labels": [["a.png", NaN]]}', "[" * 20_000, "1" * 5_000, "[]", "\ufeff{}")]


def _data_sets() -> list[bytes]:
    names = ("00000/img0.png", "00000/img1.jpg", "b.webp")
    pictures = dict(zip(names, (_PICTURE, _picture("JPEG", "L"), _picture("WEBP")), strict=True))
    labelled = pictures | {"dataset.json": json.dumps({"labels": [[name, 1] for name in names]}).encode()}
    kinds = {
        "x.gif": _picture("GIF", "P"), "x.tif": _picture("TIFF", "I;16"), "x.bmp": _picture("BMP", "1"),
        "x.pgm": _picture("PPM", "L"),
    }  # fmt: skip
    return [
        _zip(labelled), _with_zip64(_zip(labelled)), _zip(pictures, zipfile.ZIP_DEFLATED), _zip(pictures, zipfile.ZIP_LZMA),
        _zip(kinds), _zip({}), _zip({"../x.png": _PICTURE}),
        _zip({"a.png": b"", "A\\b.PNG": _PICTURE, "__MACOSX/a.png": b"", "c/": b""}),
    ]  # fmt: skip


def _lmdb_files() -> list[bytes]:
    """Pages of 512 bytes, which the format allows: two heads, and trees of one and of three pages."""
    size, leaf_kind, branch_kind, far = 512, 2, 1, 1

    def head(root: int, transaction: int, flags: int = 0) -> bytes:
        meta = struct.pack("<16x2I16xI48xH34xQ8xQ", 0xBEEFC0DE, 1, size, flags, root, transaction)
        return meta.ljust(size, b"\0")

    def page(number: int, kind: int, *nodes: bytes) -> bytes:
        offsets = [size - sum(map(len, nodes[i:])) for i in range(len(nodes))]
        start = struct.pack("<Q2x2H2x", number, kind, 16 + 2 * len(nodes)) + struct.pack(f"<{len(nodes)}H", *offsets)
        return start.ljust(offsets[0], b"\0") + b"".join(nodes)

    def node(key: bytes, number: int, flags: int = 0, value: bytes = b"") -> bytes:
        """A number of a page or the size of the value."""
        return struct.pack("<4H", number, 0, flags, len(key)) + key + value

    heads = head(2, 1) + head(2, 2)
    picture = node(b"a", len(_PICTURE), value=_PICTURE)
    return [
        heads + page(2, leaf_kind, picture, node(b"b", 1, value=b"x")),
        heads
        + page(2, branch_kind, node(b"", 3), node(b"b", 4))
        + page(3, leaf_kind, picture)
        + page(4, leaf_kind, node(b"b", 400, far, struct.pack("<Q", 5)))
        + bytes(size),
        head(2**64 - 1, 0) + head(2**64 - 1, 1),
        head(2, 1, flags=4) + head(2, 1, flags=4),
    ]


TARGETS: Mapping[str, Target] = {
    "torch-zip": Target(_checkpoint, partial(_torch_files, stream=False), mutators.zips),
    "torch-stream": Target(_checkpoint, partial(_torch_files, stream=True), mutators.pickles),
    "tensorflow": Target(_checkpoint, _tensorflow, mutators.pickles),
    "nvlabs": Target(_checkpoint, _nvlabs, mutators.pickles),
    "safetensors": Target(_checkpoint, _safetensors, mutators.safetensors),
    "other-files": Target(_checkpoint, _other_files, mutators.plain, share=4),
    "lia-file": Target(_lia, _lia_files, mutators.safetensors),
    "codes": Target(_codes, _codes_files, mutators.safetensors, share=4),
    "data-set-zip": Target(_data_set, _data_sets, mutators.zips, share=4),
    "labels": Target(_labels, _label_files, mutators.json_text, share=4),
    "lmdb": Target(_lmdb, _lmdb_files, mutators.plain, share=4),
}
