"""Files that are what they say: they are read, and every number in them arrives."""

import json
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lia_adapter.canonical import discriminator2, generator2
from lia_adapter.checkpoints import Checkpoint, inspect_file, read_checkpoint
from lia_adapter.checkpoints.decoder import _HANDLERS, _OPCODES, _REFUSED, Call, Symbol, decode
from lia_adapter.checkpoints.document import read_pickles
from lia_adapter.checkpoints.files import read_document, read_file
from lia_adapter.checkpoints.values import as_array, as_mapping, as_number, as_tensor
from lia_adapter.errors import CheckpointError
from tests import pickles

SHARED = Path(__file__).parents[3] / "shared" / "checkpoints"
READABLE = (
    "sg2ada_cond sg2ada_gema_only_fp16 sg2ada_nonoise_gray sg2ada_resnet_fp16 sg2ada_uncond sg2ada_uncond_torch171 "
    "sg3_sg2_uncond nv-faces32 eps_rect"
).split()


def write(folder: Path, data: bytes, name: str = "x.pkl") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def plain(data: bytes) -> Any:
    return decode(memoryview(bytearray(data)), "x.pkl").value


# -- the decoder

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
keys = st.text() | st.integers() | st.booleans() | st.tuples(st.text(), st.integers())
data = st.recursive(
    scalars | st.sets(st.text() | st.integers()),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner),
    max_leaves=30,
)


@given(value=data, protocol=st.sampled_from([3, 4, 5]))
@settings(deadline=None)
def test_plain_data_decode_as_pickle_does(value: Any, protocol: int) -> None:
    if protocol == 3:
        value = without_sets(value)
    assert plain(pickle.dumps(value, protocol)) == value


text_only = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(value=st.recursive(text_only, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner)))
@settings(deadline=None)
def test_plain_data_of_the_old_protocols(value: Any) -> None:
    for protocol in (0, 1, 2):
        assert plain(pickle.dumps(value, protocol)) == value


def without_sets(value: Any) -> Any:
    match value:
        case set():
            return sorted(map(str, value))
        case list() | tuple():
            return type(value)(map(without_sets, value))
        case dict():
            return {key: without_sets(item) for key, item in value.items()}
    return value


def test_every_opcode_is_handled_or_refused_by_name() -> None:
    names = {code[0]: name for code, name, _ in _OPCODES}
    assert len(names) == len(_OPCODES)
    for opcode in pickletools.opcodes:
        code = opcode.code.encode("latin-1")[0]
        if opcode.name == "STOP":
            continue
        assert names.get(code) == opcode.name or _REFUSED[code].startswith(opcode.name)
        assert (_HANDLERS[code] is None) == (code in _REFUSED)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (b"S'a\\x00\\''\n.", "a\0'"),
        (b"T\x02\0\0\0\xff\x00.", "\xff\0"),
        (b"U\x01\xe9.", "\xe9"),
        (b"I01\n.", True),
        (b"L-5L\n.", -5),
        (b"(1N.", None),
        (b"N0]2a.", "cycle"),
        (b"(K\x01K\x02l.", [1, 2]),
        (b"(K\x01K\x02d.", {1: 2}),
        (b"(K\x01\x91.", frozenset({1})),
        (b"K\x07p3\n0g3\n.", 7),
        (b"K\x07r\xff\xff\xff\xff0j\xff\xff\xff\xff.", 7),
        (b"\x96\x01\0\0\0\0\0\0\0a.", b"a"),
        (b"F2.5\n.", 2.5),
        (b"V\\u00e9\n.", "\xe9"),
    ],
)
def test_rare_opcodes(code: bytes, value: Any) -> None:
    found = plain(code)
    if value == "cycle":
        assert found[0] is found
    else:
        assert found == value and type(found) is type(value)


def test_calls_stay_data() -> None:
    for code in (b"cos\nsystem\n(U\x04exittR.", b"(U\x04exitios\nsystem\n.", b"(cos\nsystem\nU\x04exito."):
        node = plain(code)
        assert isinstance(node, Call) and node.function == Symbol("os", "system") and node.args == ("exit",)
    node = plain(b"cos\nsystem\n)}(U\x01aK\x01u\x92}U\x01sK\x02sb(K\x07K\x08e(K\x01K\x02u.")
    assert node.kwargs == {"a": 1} and node.state == {"s": 2} and node.elements == [7, 8] and node.entries == {1: 2}
    assert repr(node) == "Call(os.system)"


# -- values


def test_arrays_and_numbers() -> None:
    for array in (
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
        np.zeros((0, 3)),
    ):
        for protocol in (2, 3, 4):
            found = as_array(plain(pickle.dumps(array, protocol)), "x.pkl")
            assert found is not None and found.dtype.isnative
            np.testing.assert_array_equal(found, array)
    for number in (np.float64(0.125), np.int32(-4), np.float16(2)):
        assert as_number(plain(pickle.dumps(number, 2))) == number
    assert as_number("7") is None
    assert as_array(7, "x.pkl") is None
    with pytest.raises(CheckpointError, match="array of objects"):
        as_array(plain(pickle.dumps(np.array([{}]))), "x.pkl")


def test_mappings() -> None:
    pairs = Call(Symbol("collections", "OrderedDict"), ([["a", 1]],), entries={"b": 2})
    assert as_mapping(pairs) == {"a": 1, "b": 2}
    assert as_mapping(pickles.call("dnnlib.util.EasyDict", entries={"a": 1})) == {"a": 1}
    assert as_mapping([]) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("pad", range(5))
def test_tensors_are_aligned_views_of_the_file(dtype: torch.dtype, pad: int) -> None:
    weight = torch.randn(40, 3, 5, 5).to(dtype).to(memory_format=torch.channels_last)
    flat = weight.permute(0, 2, 3, 1).flatten()
    payload = pickles.stream(pickles.storage_id("7", flat), {"7": flat})
    storage = pickles.call("torch.storage._load_from_bytes", payload)
    node = pickles.tensor_node(storage, (40, 3, 5, 5), weight.stride())
    buffer = bytearray(pickles.dumps(["x" * pad, node]))
    document = read_pickles(memoryview(buffer), "x.pkl")
    found = as_tensor(document.tree[1], document, "w")
    assert found.dtype == dtype and found.stride() == weight.stride() and torch.equal(found, weight)
    assert found.data_ptr() % dtype.itemsize == 0
    start = torch.frombuffer(buffer, dtype=torch.uint8).data_ptr()
    assert start <= found.data_ptr() < start + len(buffer)
    # Asking twice must not move the numbers twice.
    assert torch.equal(as_tensor(document.tree[1], document, "w"), weight)


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((13,), (1,), 0),
        ((2,), (1,), 11),
        ((2, 2), (12, 1), 0),
        ((4,), (-1,), 3),
        ((1 << 40,), (0,), 0),
        ((2,), (1, 1), 0),
        ((2,), (1,), True),
        ((1 << 40, 1 << 40, 0), (1, 1, 1), 0),
    ],
)
def test_a_view_must_fit_its_storage(size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> None:
    numbers = torch.zeros(12)
    tree = pickles.tensor_node(pickles.storage_id("0", numbers), size, stride, offset)
    document = read_pickles(memoryview(bytearray(pickles.stream(tree, {"0": numbers}))), "x.pt")
    with pytest.raises(CheckpointError):
        as_tensor(document.tree, document, "w")


# -- whole files


def containers(tree: Any) -> dict[str, bytes]:
    return {
        "protocol 2": pickles.dumps(tree, 2),
        "protocol 3": pickles.dumps(tree, 3),
        "protocol 4": pickles.dumps(tree, 4),
        "torch zip": pickles.torch_zip(tree, {}),
        "torch stream": pickles.stream(tree, {}),
    }


def test_a_network_in_every_container(tmp_path: Path) -> None:
    networks = pickles.Networks()
    tree = {"G": None, "D": networks.discriminator(), "G_ema": networks.generator(), "augment_pipe": None}
    for name, content in containers(tree).items():
        checkpoint = read_checkpoint(write(tmp_path, content))
        same(checkpoint, networks)
        assert checkpoint.source == "x.pkl" and checkpoint.notes == (), name
        json.dumps(checkpoint.config)
    config, discriminator = generator2(checkpoint.config), discriminator2(checkpoint.config)
    assert discriminator is not None
    assert [block["conv0"] is None for block in config["blocks"]] == [True, False]
    assert "coupling" not in config["mapping"]
    assert config["mapping"]["lr_multiplier"] == 0.01 and config["resolution"] == [8, 8]
    assert discriminator["epilogue"]["mbstd_group"] is None
    assert discriminator["blocks"][0]["clamp"] == 256
    assert "torch.FloatStorage" in checkpoint.symbols


def test_what_is_read_does_not_hold_the_file(tmp_path: Path) -> None:
    networks = pickles.Networks()
    path = write(
        tmp_path, pickles.dumps({"G": networks.generator(), "G_ema": networks.generator(), "D": networks.discriminator()})
    )
    lifted = read_checkpoint(path).tensors
    inside = inspect_file(path).checkpoint
    assert inside is not None
    assert all(torch.equal(tensor, lifted[name]) for name, tensor in inside.tensors.items())
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in lifted.values())
    assert all(tensor.data_ptr() % 16 == 0 for tensor in lifted.values())  # matrix products depend on it in their last bits


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_variants(tmp_path: Path, c_dim: int, noise: bool, frozen: bool) -> None:
    networks = pickles.Networks(noise=noise, frozen=frozen, dtype=torch.float16)
    base = (3, 5)
    tree = {"D": networks.discriminator(c_dim, base), "G_ema": networks.generator(c_dim, base, architecture="resnet")}
    checkpoint = read_checkpoint(write(tmp_path, pickles.dumps(tree)))
    same(checkpoint, networks)
    config, discriminator = generator2(checkpoint.config), discriminator2(checkpoint.config)
    assert discriminator is not None
    assert config["resolution"] == discriminator["resolution"] == [6, 10]
    assert config["blocks"][0]["conv1"]["noise"] is noise


def same(checkpoint: Checkpoint, networks: pickles.Networks) -> None:
    assert set(checkpoint.tensors) == set(networks.weights)
    for name, weight in networks.weights.items():
        assert checkpoint.tensors[name].dtype == weight.dtype
        assert torch.equal(checkpoint.tensors[name], weight), name


def test_what_was_chosen_is_said(tmp_path: Path) -> None:
    generator = pickles.Networks().generator()
    assert any("bare" in note for note in read_checkpoint(write(tmp_path, pickles.dumps(generator))).notes)
    notes = read_checkpoint(write(tmp_path, pickles.dumps({"G": generator, "extra": 1, "augment_pipe": 2}))).notes
    assert [any(word in note for note in notes) for word in ("G_ema is absent", "extra", "augment_pipe")] == [True] * 3
    projected = pickles.call("pg_modules.ProjectedDiscriminator", state={"_modules": {}})
    notes = read_checkpoint(write(tmp_path, pickles.dumps({"G_ema": generator, "D": projected}) + b"rest")).notes
    assert any("ProjectedDiscriminator" in note for note in notes) and any("4 bytes" in note for note in notes)


def change(node: Call, path: str) -> dict[str, Any]:
    """The state of the module at a path, to be changed in place."""
    for name in path.split("."):
        node = node.args[0]["state"]["_modules"].entries[name]
    state: dict[str, Any] = node.args[0]["state"]
    return state


@pytest.mark.parametrize(
    ("path", "group", "key", "value", "message"),
    [
        ("synthesis.b8.conv0", "_parameters", "weight", None, "has no weight"),
        ("synthesis.b8.conv0", "_parameters", "bias", None, "generator.synthesis.b8.conv0.bias is missing"),
        ("synthesis.b8.conv0", "_parameters", "bias", pickles.nested(torch.zeros(5)), "has shape"),
        ("synthesis.b8.conv0", "_parameters", "bias", 7, "is no tensor"),
        ("synthesis.b8.conv0", "", "up", 4, "scales by 4"),
        ("synthesis.b8.conv0", "", "activation", 4, "no valid activation"),
        ("synthesis.b8", "", "architecture", "other", "is other"),
        ("synthesis.b8", "", "in_channels", float("inf"), "no valid in_channels"),
        ("synthesis.b8", "", "is_last", False, "num_ws"),
        ("mapping.fc0", "", "weight_gain", float("nan"), "no valid weight_gain"),
        ("mapping.fc0", "", "weight_gain", 1.0, "different kinds"),
        ("mapping", "", "z_dim", 10**30, "no valid z_dim"),
        ("mapping", "", "z_dim", 5, "other sizes"),
        ("synthesis.b8.conv0.affine", "", "weight_gain", 1.0, "usual gain"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, path: str, group: str, key: str, value: Any, message: str) -> None:
    generator = pickles.Networks().generator()
    state = change(generator, path)
    (state[group] if group else state)[key] = value
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(write(tmp_path, pickles.dumps({"G_ema": generator})))
    assert str(caught.value).startswith("x.pkl") and "\n" not in str(caught.value)


def test_a_shared_storage_is_refused(tmp_path: Path) -> None:
    # A few bytes that all weights share would become gigabytes where somebody copies them.
    generator = pickles.Networks().generator()
    numbers = torch.zeros(4 * 4 * 9)
    payload = pickles.stream(pickles.storage_id("0", numbers), {"0": numbers})
    storage = pickles.call("torch.storage._load_from_bytes", payload)
    modules = [generator.args[0]["state"]]
    while modules:
        state = modules.pop()
        modules += [module.args[0]["state"] for module in state["_modules"].entries.values()]
        for group in ("_parameters", "_buffers"):
            for name, node in state[group].items():
                inner = node.args[0] if node.calls("torch._utils._rebuild_parameter") else node
                state[group][name] = pickles.tensor_node(storage, inner.args[2])
    with pytest.raises(CheckpointError, match="share their numbers"):
        read_checkpoint(write(tmp_path, pickles.dumps(generator)))


def test_a_module_that_contains_itself_is_refused(tmp_path: Path) -> None:
    generator = pickles.Networks().generator()
    loop = pickles.call("torch.nn.Module", state={"_parameters": {}, "_buffers": {}, "_modules": {}})
    loop.state["_modules"]["again"] = loop
    generator.args[0]["state"]["_modules"].entries["loop"] = loop
    with pytest.raises(CheckpointError, match="occurs twice"):
        read_checkpoint(write(tmp_path, pickles.dumps(generator)))


def test_surplus_tensors_are_refused_where_they_may_change_the_image(tmp_path: Path) -> None:
    networks = pickles.Networks()
    generator, discriminator = networks.generator(), networks.discriminator()
    change(discriminator, "b8")["_buffers"]["own"] = pickles.nested(torch.zeros(1))
    notes = read_checkpoint(write(tmp_path, pickles.dumps({"G_ema": generator, "D": discriminator}))).notes
    assert any("b8.own" in note for note in notes)
    change(generator, "synthesis")["_buffers"]["own"] = pickles.nested(torch.zeros(1))
    with pytest.raises(CheckpointError, match=r"may change its images: synthesis\.own"):
        read_checkpoint(write(tmp_path, pickles.dumps({"G_ema": generator, "D": discriminator})))


def test_torch_writes_what_we_read(tmp_path: Path) -> None:
    weights = {"a": torch.randn(3, 4).t(), "b": torch.arange(5.0).bfloat16(), "c": torch.nn.Parameter(torch.ones(2))}
    for zipped in (True, False):
        path = tmp_path / "w.pt"
        torch.save(weights, path, _use_new_zipfile_serialization=zipped)
        document = read_document(read_file(path))
        for name, weight in weights.items():
            nodes = as_mapping(document.tree)
            assert nodes is not None and torch.equal(as_tensor(nodes[name], document, name), weight)


# -- real files


@pytest.mark.parametrize("name", READABLE)
def test_fixtures_of_the_peers(name: str) -> None:
    path = SHARED / f"{name}.pkl"
    if not path.exists():
        pytest.skip(f"{path.name} is not in ../shared/checkpoints")
    checkpoint = read_checkpoint(path)
    assert checkpoint.family == "stylegan2" and len(checkpoint.sha256) == 64
    json.dumps(checkpoint.config)
    oracle = path.with_suffix(".npz")
    if oracle.exists():
        config = generator2(checkpoint.config)
        with np.load(oracle) as arrays:
            average = checkpoint.tensors["generator.mapping.w_avg"].float().numpy()
            np.testing.assert_allclose(average, arrays["w_avg"], atol=1e-6)
            assert list(arrays["img_const"].shape[1:]) == [config["channels"], *config["resolution"]]
            assert "ws" not in arrays.files or arrays["ws"].shape[1] == config["num_ws"]
    manifest = json.loads((SHARED / "MANIFEST.json").read_text())["fixtures"].get(name, {})
    digest = manifest.get("files", {}).get(path.name, {}).get("sha256")
    assert digest in (None, checkpoint.sha256)
