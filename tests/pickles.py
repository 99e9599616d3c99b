"""Pickles made by hand from the nodes that the decoder gives: for names that cannot be imported, and for attacks."""

import io
import struct
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lia_adapter.checkpoints.decoder import Call, PersistentId, Symbol

REBUILD = Symbol("torch._utils", "_rebuild_tensor_v2")
STORAGES = {torch.float32: "FloatStorage", torch.float16: "HalfStorage", torch.float64: "DoubleStorage"}


def dumps(value: Any, protocol: int = 4) -> bytes:
    """Pickle a tree; a Call becomes REDUCE, SETITEMS and BUILD, and one that occurs again is referred to."""
    return bytes([0x80, protocol]) + b"".join(_save(value, protocol, {})) + b"."


def _save(value: Any, protocol: int, memo: dict[int, tuple[int, Call]]) -> Iterator[bytes]:
    def items(values: Iterable[Any]) -> Iterator[bytes]:
        yield b"("
        for value in values:
            yield from _save(value, protocol, memo)

    def pairs(entries: dict[Any, Any]) -> Iterator[bytes]:
        yield from items(part for pair in entries.items() for part in pair)
        yield b"u"

    match value:
        case None:
            yield b"N"
        case bool():
            yield b"\x88" if value else b"\x89"
        case int():
            yield b"\x8a\x10" + value.to_bytes(16, "little", signed=True)
        case float():
            yield b"G" + struct.pack(">d", value)
        case str():
            text = value.encode()
            yield b"X" + struct.pack("<I", len(text)) + text
        case bytes() if protocol < 3:
            yield from _save(call("_codecs.encode", value.decode("latin-1"), "latin1"), protocol, memo)
        case bytes():
            yield b"B" + struct.pack("<I", len(value)) + value
        case tuple():
            yield from items(value)
            yield b"t"
        case list():
            yield b"]"
            yield from items(value)
            yield b"e"
        case dict():
            yield b"}"
            yield from pairs(value)
        case Symbol() if protocol < 4:
            yield b"c" + f"{value.module}\n{value.name}\n".encode()
        case Symbol():
            yield from _save(value.module, protocol, memo)
            yield from _save(value.name, protocol, memo)
            yield b"\x93"
        case PersistentId():
            yield from _save(value.value, protocol, memo)
            yield b"Q"
        case Call() if id(value) in memo:
            yield b"j" + struct.pack("<I", memo[id(value)][0])
        case Call():
            yield from _save(value.function, protocol, memo)
            yield from _save(value.args, protocol, memo)
            # The call is kept with its number, or another one could get its id.
            memo[id(value)] = (len(memo), value)
            yield b"Rr" + struct.pack("<I", len(memo) - 1)
            if value.entries:
                yield from pairs(value.entries)
            if value.state is not None:
                yield from _save(value.state, protocol, memo)
                yield b"b"
        case _:
            raise TypeError(type(value))


def call(name: str, *args: Any, state: Any = None, entries: dict[Any, Any] | None = None) -> Call:
    module, _, function = name.rpartition(".")
    return Call(Symbol(module, function), args, {}, state, entries or {})


def storage_id(key: str, tensor: Tensor) -> PersistentId:
    return PersistentId(("storage", Symbol("torch", STORAGES[tensor.dtype]), key, "cuda:0", tensor.numel()))


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().numpy().tobytes()


def stream(tree: Any, storages: dict[str, Tensor], protocol: int = 2) -> bytes:
    """A torch file of the older kind."""
    magic, system = 0x1950A86A20F9469CFC6C, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [dumps(part, protocol) for part in (magic, 1001, system, tree, list(storages))]
    parts += [struct.pack("<Q", tensor.numel()) + raw(tensor) for tensor in storages.values()]
    return b"".join(parts)


def torch_zip(tree: Any, storages: dict[str, Tensor], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", dumps(tree, 2))
        archive.writestr("archive/byteorder", "little")
        for key, tensor in storages.items():
            archive.writestr(f"archive/data/{key}", raw(tensor))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def tensor_node(storage: Any, size: tuple[int, ...], stride: tuple[int, ...] | None = None, offset: int = 0) -> Call:
    if stride is None:
        stride = tuple(int(np.prod(size[axis + 1 :])) for axis in range(len(size)))
    return Call(REBUILD, (storage, offset, size, stride, False, call("collections.OrderedDict")))


def nested(tensor: Tensor, protocol: int = 2, *, parameter: bool = False) -> Call:
    """A tensor as NVlabs' pickles have it: a torch stream of its own in a call."""
    payload = stream(storage_id("0", tensor), {"0": tensor}, protocol)
    node = tensor_node(call("torch.storage._load_from_bytes", payload), tuple(tensor.shape))
    return call("torch._utils._rebuild_parameter", node, True, call("collections.OrderedDict")) if parameter else node


def scalar(value: float) -> Call:
    """A numpy float64, as NVlabs' gains are."""
    dtype = call("numpy.dtype", "f8", False, True, state=(3, "<", None, None, None, -1, -1, 0))
    return call("numpy._core.multiarray.scalar", dtype, np.float64(value).tobytes())


class Networks:
    """Makes NVlabs' StyleGAN2 networks of toy size, and remembers the weights.

    Frozen weights are buffers, as freeze-D leaves them.
    """

    def __init__(self, *, dtype: torch.dtype = torch.float32, noise: bool = True, frozen: bool = False) -> None:
        self.random = torch.Generator().manual_seed(1)
        self.dtype, self.noise, self.frozen = dtype, noise, frozen
        self.weights: dict[str, Tensor] = {}

    def tensor(self, name: str, *shape: int) -> Tensor:
        self.weights[name] = torch.randn(shape, generator=self.random).to(self.dtype)
        return self.weights[name]

    def module(self, kind: str, tensors: dict[str, Tensor], modules: dict[str, Call], **state: Any) -> Call:
        weights = {name: tensor for name, tensor in tensors.items() if name in ("weight", "bias") and not self.frozen}
        attributes = {
            **state,
            "training": False,
            "_parameters": {name: nested(tensor, parameter=True) for name, tensor in weights.items()},
            "_buffers": {name: nested(tensor) for name, tensor in tensors.items() if name not in weights},
            "_modules": call("collections.OrderedDict", entries=modules),
        }
        meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit",
            "class_name": kind,
            "state": attributes,
        }
        return call("torch_utils.persistence._reconstruct_persistent_obj", meta)

    def dense(self, name: str, out: int, into: int, lr: float = 1.0, activation: str = "linear") -> Call:
        tensors = {"weight": self.tensor(f"{name}.weight", out, into), "bias": self.tensor(f"{name}.bias", out)}
        gains = {"weight_gain": scalar(lr / into**0.5), "bias_gain": lr, "activation": activation}
        return self.module("FullyConnectedLayer", tensors, {}, **gains)

    def conv(self, name: str, out: int, into: int, kernel: int, down: int = 1, *, bias: bool = True) -> Call:
        tensors = {"weight": self.tensor(f"{name}.weight", out, into, kernel, kernel)}
        if bias:
            tensors["bias"] = self.tensor(f"{name}.bias", out)
        tensors["resample_filter"] = self.tensor(f"{name}.resample_filter", 4, 4)
        state = {"weight_gain": scalar(1 / (into * kernel**2) ** 0.5), "down": down, "conv_clamp": 256}
        return self.module("Conv2dLayer", tensors, {}, **state, activation="lrelu")

    def layer(self, name: str, out: int, into: int, size: tuple[int, int], up: int) -> Call:
        tensors = {"weight": self.tensor(f"{name}.weight", out, into, 3, 3), "bias": self.tensor(f"{name}.bias", out)}
        tensors["resample_filter"] = self.tensor(f"{name}.resample_filter", 4, 4)
        if self.noise:
            tensors["noise_const"] = self.tensor(f"{name}.noise_const", *size)
            tensors["noise_strength"] = self.tensor(f"{name}.noise_strength")
        affine = {"affine": self.dense(f"{name}.affine", into, 8)}
        state = {"up": up, "use_noise": self.noise, "conv_clamp": None, "activation": "lrelu"}
        return self.module("SynthesisLayer", tensors, affine, **state)

    def mapping(self, name: str, z_dim: int, c_dim: int, *, average: bool) -> Call:
        modules = {"embed": self.dense(f"{name}.embed", 8, c_dim)} if c_dim else {}
        into = z_dim + (8 if c_dim else 0)
        modules["fc0"] = self.dense(f"{name}.fc0", 8, into, 0.01, "lrelu")
        modules["fc1"] = self.dense(f"{name}.fc1", 8, 8, 0.01, "lrelu")
        tensors = {"w_avg": self.tensor(f"{name}.w_avg", 8)} if average else {}
        return self.module("MappingNetwork", tensors, modules, z_dim=z_dim, c_dim=c_dim, w_dim=8)

    def generator(self, c_dim: int = 0, base: tuple[int, int] = (4, 4), *, architecture: str = "skip") -> Call:
        blocks = {}
        for index in range(2):
            name, size = f"generator.synthesis.b{4 << index}", (base[0] << index, base[1] << index)
            tensors = {"resample_filter": self.tensor(f"{name}.resample_filter", 4, 4)}
            modules = {}
            if index == 0:
                tensors["const"] = self.tensor(f"{name}.const", 4, *size)
            else:
                modules["conv0"] = self.layer(f"{name}.conv0", 4, 4, size, up=2)
            modules["conv1"] = self.layer(f"{name}.conv1", 4, 4, size, up=1)
            if index == 1 or architecture == "skip":
                torgb = {
                    "weight": self.tensor(f"{name}.torgb.weight", 3, 4, 1, 1),
                    "bias": self.tensor(f"{name}.torgb.bias", 3),
                }
                affine = {"affine": self.dense(f"{name}.torgb.affine", 4, 8)}
                modules["torgb"] = self.module("ToRGBLayer", torgb, affine, conv_clamp=None)
            if index == 1 and architecture == "resnet":
                modules["skip"] = self.conv(f"{name}.skip", 4, 4, 1, bias=False)
            state = {"architecture": architecture, "in_channels": 4 * index, "is_last": index == 1}
            blocks[f"b{4 << index}"] = self.module("SynthesisBlock", tensors, modules, **state)
        parts = {
            "synthesis": self.module("SynthesisNetwork", {}, blocks),
            "mapping": self.mapping("generator.mapping", 6, c_dim, average=True),
        }
        return self.module("Generator", {}, parts, z_dim=6, c_dim=c_dim, w_dim=8, num_ws=4, img_channels=3)

    def discriminator(self, c_dim: int = 0, base: tuple[int, int] = (4, 4)) -> Call:
        modules = {
            "fromrgb": self.conv("discriminator.b8.fromrgb", 4, 3, 1),
            "conv0": self.conv("discriminator.b8.conv0", 4, 4, 3),
            "conv1": self.conv("discriminator.b8.conv1", 4, 4, 3, down=2),
            "skip": self.conv("discriminator.b8.skip", 4, 4, 1, down=2, bias=False),
        }
        filters = {"resample_filter": self.tensor("discriminator.b8.resample_filter", 4, 4)}
        cmap = 8 if c_dim else 0
        last = {
            "mbstd": self.module("MinibatchStdLayer", {}, {}, group_size=None, num_channels=1),
            "conv": self.conv("discriminator.b4.conv", 4, 5, 3),
            "fc": self.dense("discriminator.b4.fc", 4, 4 * base[0] * base[1], activation="lrelu"),
            "out": self.dense("discriminator.b4.out", cmap or 1, 4),
        }
        parts = {
            "b8": self.module("DiscriminatorBlock", filters, modules, architecture="resnet", in_channels=0),
            "b4": self.module("DiscriminatorEpilogue", {}, last, architecture="resnet", in_channels=4, cmap_dim=cmap),
        }
        if c_dim:
            parts["mapping"] = self.mapping("discriminator.mapping", 0, c_dim, average=False)
        return self.module("Discriminator", {}, parts, c_dim=c_dim, img_channels=3)
