"""Networks wherever they lie: what people wrap around weights, and in front of their names."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lia_adapter.canonical import generator2
from lia_adapter.checkpoints import Checkpoint, read_checkpoint
from lia_adapter.cli.options import flag
from lia_adapter.errors import CheckpointError
from tests import pickles, toys
from tests.cli.test_convert_sample_inspect import run

Weights = dict[str, Tensor]


def weights(seed: int = 0) -> Weights:
    """Of a generator, in NVlabs' names."""
    state = toys.stylegan(seed).generator.state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


def under(prefix: str, state: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in state.items()}


def saved(tree: Any, folder: Path, name: str = "x.pt") -> Checkpoint:
    path = folder / name
    torch.save(tree, path)
    return read_checkpoint(path)


def same(checkpoint: Checkpoint, state: Weights) -> bool:
    found = {name.removeprefix("generator."): t for name, t in checkpoint.tensors.items() if name.startswith("generator.")}
    return found.keys() == state.keys() and all(torch.equal(found[name], tensor) for name, tensor in state.items())


def reordered(tensor: Tensor) -> Any:
    """The same array, its first axis innermost."""
    array = tensor.numpy()
    return np.asfortranarray(array) if array.ndim else array


G, OTHER = weights(), weights(1)
WRAPPED: dict[str, Any] = {
    "nothing": G,
    "compiled": under("_orig_mod.", G),
    "distributed": under("module.", G),
    "compiled, then distributed": under("module._orig_mod.", G),
    "distributed, then compiled": under("_orig_mod.module.", G),
    "a part compiled": {name.replace("synthesis.", "synthesis._orig_mod.", 1): tensor for name, tensor in G.items()},
    "fsdp": {name.replace(".b4.", ".b4._fsdp_wrapped_module.", 1): tensor for name, tensor in G.items()},
    "anywhere": {"checkpoint": {"networks": {"my_generator": under("net.model.", G)}}},
    "in a list": [{"step": 3}, G],
    "in parts": {
        part: {name.removeprefix(f"{part}."): tensor for name, tensor in G.items() if name.startswith(part)}
        for part in ("mapping", "synthesis")
    },
    "lightning": {"state_dict": under("G.", OTHER) | under("G_ema.", G), "epoch": 3, "hyper_parameters": {"lr": 0.1}},
    "ema-pytorch": {
        **under("online_model.", OTHER), **under("ema_model.", G), "initted": torch.tensor(True), "step": torch.tensor(7),
    },
    "average": {"g": OTHER, "g_ema": under("module.", G) | {"n_averaged": torch.tensor(5)}},
    "average, known by its counter alone": {"one": OTHER, "two": under("module.", G) | {"n_averaged": torch.tensor(5)}},
    "camel case": {"netG": OTHER, "netGEma": G},
    "counters": {**G, "epoch": 3, "iteration": torch.tensor(10), "loss": torch.tensor(0.5), "note": "text", "nothing": None},
    "beside an optimiser": {"G": G, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1}]}},
    "under two names": {"G": G, "model": G},
    "parameters": {name: nn.Parameter(tensor) for name, tensor in G.items()},
    "ordered": OrderedDict(G),
    "arrays": {name: tensor.numpy() for name, tensor in G.items()},
    "arrays in another order": {name: reordered(tensor) for name, tensor in G.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_the_averaged_generator_is_found_wherever_it_lies(tmp_path: Path, name: str) -> None:
    assert same(saved(WRAPPED[name], tmp_path), G)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    arrays = {name: reordered(tensor) for name, tensor in G.items()}
    arrays["synthesis.b4.const"] = np.ascontiguousarray(G["synthesis.b4.const"].numpy().transpose(1, 2, 0)).transpose(2, 0, 1)
    torch.save({"g_ema": arrays}, tmp_path / "x.pt", pickle_protocol=protocol)
    assert same(read_checkpoint(tmp_path / "x.pt"), G)


def test_prefixes_in_safetensors(tmp_path: Path) -> None:
    save_file(under("model.ema.", G) | {"step": torch.tensor(3)}, tmp_path / "x.safetensors")
    assert same(read_checkpoint(tmp_path / "x.safetensors"), G)


class Plain(nn.Module):
    """A module that torch pickles whole, whose class nobody has here."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping, self.synthesis = nn.Module(), nn.Module()
        for name, tensor in G.items():
            owner: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, nn.Module())
                owner = getattr(owner, part)
            if owner is not None:
                owner.register_buffer(last, tensor)


@pytest.mark.parametrize(
    "holder", [lambda g: g, lambda g: (g, nn.Linear(2, 2)), lambda g: {"model": g}, lambda g: nn.DataParallel(g)]
)
def test_whole_modules(tmp_path: Path, holder: Callable[[nn.Module], Any]) -> None:
    assert same(saved(holder(Plain()), tmp_path), G)


class Tagged(torch.Tensor):
    """A subclass of somebody's own."""


def test_tensors_with_attributes_and_of_other_classes(tmp_path: Path) -> None:
    state = dict(G)
    for i, name in enumerate(state):
        if i % 2:
            state[name] = state[name].clone().as_subclass(Tagged)
        state[name].tag = "kept by torch"  # type: ignore[attr-defined]
    assert same(saved({"g_ema": state}, tmp_path), G)


def test_what_was_taken_is_said(tmp_path: Path) -> None:
    notes = " ".join(saved({"G": OTHER, "G_ema": G}, tmp_path).notes)
    assert "G_ema was taken; also in the file: G" in notes
    notes = " ".join(saved({"g": G, "d_ema": toys.stylegan().discriminator.state_dict()}, tmp_path).notes)  # type: ignore[union-attr]
    assert "g_ema is absent, g was taken: it was not averaged" in notes
    notes = " ".join(saved(WRAPPED["counters"], tmp_path).notes)
    assert "left out: iteration, loss, epoch, note, nothing" in notes


def test_a_choice_that_nobody_can_make(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x\.pt holds 2 generators.*: one, two"):
        saved({"one": G, "two": OTHER}, tmp_path)
    with pytest.raises(CheckpointError, match=r"holds 2 generators.*: ema_a, ema_b"):
        saved({"ema_a": G, "ema_b": OTHER, "g": G}, tmp_path)


AVERAGES: dict[str, Any] = {
    "of other names": {f"layer{i}": tensor for i, tensor in enumerate(G.values())},
    "a list without names": {"decay": 0.999, "num_updates": 3, "shadow_params": list(G.values())},
    "half of it": {name: tensor for name, tensor in G.items() if name.startswith("synthesis.")},
}  # fmt: skip


@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_that_is_not_understood_is_not_absent(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="averaged weights under g_ema, but they are not understood"):
        saved({"g": OTHER, "g_ema": AVERAGES[name]}, tmp_path)


@pytest.mark.parametrize("average", [None, {}, 0.999, {"decay": 0.999}])
def test_an_average_that_is_absent(tmp_path: Path, average: Any) -> None:
    assert same(saved({"g": G, "g_ema": average}, tmp_path), G)


def test_an_unknown_object_is_not_a_missing_tensor(tmp_path: Path) -> None:
    tree = {**dict.fromkeys(G), **{name: pickles.nested(tensor) for name, tensor in G.items()}}
    tree["synthesis.b4.conv1.noise_const"] = pickles.call("somebodys.Lazy", 3)
    (tmp_path / "x.pkl").write_bytes(pickles.dumps({"g_ema": tree}))
    with pytest.raises(CheckpointError, match=r"noise_const is an object of somebodys\.Lazy, and a tensor was expected"):
        read_checkpoint(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "is quantised"),
        (lambda t: t.to_sparse(), "is sparse"),
        (lambda t: t.to("meta"), "has no numbers"),
        (lambda t: t.to(torch.float8_e4m3fn), "float8_e4m3fn, which is not read"),
        (lambda t: t.to(torch.int32), "is of type int32"),
        (lambda t: t.to(torch.complex64), "is of type complex64"),
        (lambda t: t * torch.nan, r"values that are not finite \(.* are NaN or infinite\)"),
        (lambda t: t / 0, "values that are not finite"),
    ],
)
def test_tensors_that_are_no_plain_floats_are_named(tmp_path: Path, change: Callable[[Tensor], Tensor], said: str) -> None:
    name = "synthesis.b8.conv0.weight"
    with pytest.raises(CheckpointError, match=said) as caught:
        saved({"g_ema": G | {name: change(G[name])}}, tmp_path)
    assert "damaged" not in str(caught.value) and "attack" not in str(caught.value)


def dtensor(local: Tensor, size: tuple[int, ...]) -> Any:
    """As torch.distributed.tensor writes one."""
    kind = pickles.call("x").function.__class__("torch.distributed.tensor", "DTensor")
    rebuild = type(kind)("torch._utils", "_rebuild_wrapper_subclass")
    float32 = type(kind)("torch", "float32")
    state = {
        "_local_tensor": pickles.nested(local),
        "_spec": pickles.call("torch.distributed.tensor._dtensor_spec.DTensorSpec"),
    }
    return pickles.call(
        "torch._tensor._rebuild_from_type_v2", rebuild, kind, (kind, float32, size, (1,), 0, None, None, False), state
    )


def test_dtensors_of_one_shard_are_read_and_of_more_are_named(tmp_path: Path) -> None:
    tree = {name: dtensor(tensor, tuple(tensor.shape)) for name, tensor in G.items()}
    (tmp_path / "x.pkl").write_bytes(pickles.dumps({"g_ema": tree}))
    assert same(read_checkpoint(tmp_path / "x.pkl"), G)
    tree["synthesis.b4.const"] = dtensor(G["synthesis.b4.const"][:2], tuple(G["synthesis.b4.const"].shape))
    (tmp_path / "x.pkl").write_bytes(pickles.dumps({"g_ema": tree}))
    with pytest.raises(CheckpointError, match="one shard of a tensor that FSDP2 spread") as caught:
        read_checkpoint(tmp_path / "x.pkl")
    assert "attack" not in str(caught.value) and "full_tensor()" in str(caught.value)


@pytest.mark.parametrize(
    "inside", [lambda n: {"model": n}, lambda n: [n["G"], n["G_ema"]] and {"a": {"b": n}}, lambda n: (1, n)]
)
def test_networks_of_nvlabs_kind_lie_anywhere_too(tmp_path: Path, inside: Callable[[Any], Any]) -> None:
    networks = pickles.Networks()
    averaged = networks.generator()
    expected = dict(networks.weights)
    tree = {"G": copy.deepcopy(pickles.Networks().generator()), "G_ema": averaged, "D": networks.discriminator()}
    (tmp_path / "x.pkl").write_bytes(pickles.dumps(inside(tree)))
    found = read_checkpoint(tmp_path / "x.pkl")
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.items())
    assert found.config["discriminator"] is not None


def test_a_spoiled_network_is_told_before_hours_are_spent(tmp_path: Path) -> None:
    torch.save({"g_ema": G | {"synthesis.b4.const": G["synthesis.b4.const"] * torch.inf}}, tmp_path / "x.pt")
    for command in (["inspect"], ["sample", "--seeds", "0", "-o", "x.png"], ["convert"]):
        result = run(command[0], "x.pt", *command[1:], cwd=tmp_path)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        assert "synthesis.b4.const holds values that are not finite" in result.stdout + result.stderr


def test_what_was_assumed_is_told_and_can_be_changed(tmp_path: Path) -> None:
    torch.save({"one": G, "two": OTHER}, tmp_path / "x.pt")
    for name, state in (("one", G), ("two", OTHER)):
        assert same(read_checkpoint(tmp_path / "x.pt", assume={"generator": name}), state)
    with pytest.raises(CheckpointError, match="generator is three, and one or two was expected"):
        read_checkpoint(tmp_path / "x.pt", assume={"generator": "three"})
    torch.save(G, tmp_path / "x.pt")
    clamped = read_checkpoint(tmp_path / "x.pt", assume={"clamp": "256"})
    assert generator2(clamped.config)["blocks"][0]["conv1"]["clamp"] == 256
    assert [assumption.key for assumption in clamped.assumptions] == ["clamp"]
    with pytest.raises(CheckpointError, match=r"does not depend on depth.* can be assumed of it: clamp \(none or 256\)"):
        read_checkpoint(tmp_path / "x.pt", assume={"depth": "3"})
    assert "assumed    clamp none" in run("inspect", "x.pt", cwd=tmp_path).stdout


def wrapped(kind: str, inside: Any) -> Any:
    key = "_orig_mod" if kind.endswith("OptimizedModule") else "module"
    return pickles.call(kind, state={"_modules": {key: inside}, "_parameters": {}, "_buffers": {}})


def test_networks_of_nvlabs_kind_in_wrappers(tmp_path: Path) -> None:
    networks, other = pickles.Networks(), pickles.Networks()
    tree = {
        "one": wrapped("torch.nn.parallel.distributed.DistributedDataParallel", other.generator()),
        "two": wrapped("torch.optim.swa_utils.AveragedModel", wrapped("torch._dynamo.OptimizedModule", networks.generator())),
    }
    (tmp_path / "x.pkl").write_bytes(pickles.dumps(tree))
    for assume, expected in ((None, networks), ({"generator": "two"}, networks), ({"generator": "one"}, other)):
        found = read_checkpoint(tmp_path / "x.pkl", assume=assume)
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.weights.items())
    tree = {"one": other.generator(), "two": networks.generator()}
    (tmp_path / "x.pkl").write_bytes(pickles.dumps(tree))
    with pytest.raises(CheckpointError, match=r"holds 2 generators.*: one, two. Say it: assume generator=one") as told:
        read_checkpoint(tmp_path / "x.pkl")
    assert "Say it: --assume generator=one" in told.value.told(flag)


@pytest.mark.timeout(20)
def test_a_module_that_is_wrapped_around_itself_ends(tmp_path: Path) -> None:
    for key, kind in (("module", "torch.nn.parallel.distributed.DistributedDataParallel"), ("_orig_mod", "x.OptimizedModule")):
        # Before its state is set, the object is put into that state.
        module, name = kind.rpartition(".")[::2]
        data = f"c{module}\n{name}\n)Rp1\n(dS'_modules'\n(dS'{key}'\ng1\nssS'_parameters'\n(dsS'_buffers'\n(dsb.".encode()
        for content in (data, b"(dS'G'\n" + data[:-1] + b"s."):
            (tmp_path / "x.pkl").write_bytes(content)
            with pytest.raises(CheckpointError, match="no known generator"):
                read_checkpoint(tmp_path / "x.pkl")
