"""StyleGAN3 and its relatives on toy networks: what the oracles of the fixtures do not cover."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lia_adapter.canonical import InputConfig, generator2, generator3
from lia_adapter.checkpoints import Checkpoint, nvlabs, nvlabs3, stylegan3
from lia_adapter.checkpoints.decoder import Call
from lia_adapter.checkpoints.files import read_document, read_file
from lia_adapter.errors import CheckpointError, LIAError
from lia_adapter.generators.base import Generator
from lia_adapter.generators.stylegan3 import FourierInput, StyleGAN3
from tests import pickles

pytestmark = pytest.mark.usefixtures("reference_ops")  # tests/ops/test_filtered.py compares the two


class Networks3(pickles.Networks):
    """Makes NVlabs' StyleGAN3 networks of toy size, with z_dim 6, y_dim 8 and images of 16x16."""

    def array(self, *values: int) -> Call:
        dtype = pickles.call("numpy.dtype", "i8", False, True, state=(3, "<", None, None, None, -1, -1, 0))
        state = (1, (len(values),), dtype, False, np.array(values).tobytes())
        return pickles.call("numpy.core.multiarray._reconstruct", state=state)

    def layer3(self, name: str, inputs: int, kernel: int, in_size: int, up: int, down: int, *, torgb: bool = False) -> Call:
        size, outputs = (int(number) for number in name.split("_")[1:])
        path = f"generator.synthesis.{name}"
        tensors = {
            "weight": self.tensor(f"{path}.weight", outputs, inputs, kernel, kernel),
            "bias": self.tensor(f"{path}.bias", outputs),
            "magnitude_ema": self.tensor(f"{path}.magnitude_ema").abs_().add_(0.5),
        }
        taps = {"up_filter": 6 * up, "down_filter": 6 * down} if not torgb else {}
        tensors |= {key: self.tensor(f"{path}.{key}", count) for key, count in taps.items()}
        total = (size - 1) * down + 1 - (in_size + kernel - 1) * up + sum(count - 1 for count in taps.values())
        low = (total + up) // 2
        return self.module(
            "SynthesisLayer", tensors, {"affine": self.dense(f"{path}.affine", inputs, 8)},
            in_size=self.array(in_size, in_size), out_size=self.array(size, size), up_factor=up, down_factor=down,
            padding=[low, total - low] * 2, conv_clamp=256, is_torgb=torgb,
        )  # fmt: skip

    def generator3(self, c_dim: int = 0, rows: int | None = None) -> Call:
        """StyleGAN-XL's where its table has rows, StyleGAN3's otherwise."""
        waves = {
            "weight": self.tensor("generator.synthesis.input.weight", 4, 4),
            "freqs": self.tensor("generator.synthesis.input.freqs", 4, 2),
            "phases": self.tensor("generator.synthesis.input.phases", 4),
            "transform": self.tensor("generator.synthesis.input.transform", 3, 3),
        }
        affine = {"affine": self.dense("generator.synthesis.input.affine", 4, 8)}
        parts = {
            # Not in the order in which they run, and of sizes that no rule of the paper's gives.
            "L10_16_3": self.layer3("L10_16_3", 4, 1, 16, 1, 1, torgb=True),
            "L9_16_4": self.layer3("L9_16_4", 5, 3, 12, 4, 2),
            "L2_12_5": self.layer3("L2_12_5", 4, 1, 12, 2, 2),
            "input": self.module(
                "SynthesisInput", waves, affine, size=self.array(12, 12), sampling_rate=8, bandwidth=pickles.scalar(2)
            ),
        }
        names = ["L2_12_5", "L9_16_4", "L10_16_3"]
        synthesis = self.module("SynthesisNetwork", {}, parts, output_scale=0.25, layer_names=names)
        mapping = self.mapping("generator.mapping", 6, 0 if rows is not None else c_dim, average=rows is None)
        if rows is not None:
            mapping = self.by_class(c_dim, rows)
        sizes = {"z_dim": 6, "c_dim": c_dim, "w_dim": 8, "num_ws": 4}
        return self.module("Generator", {}, {"synthesis": synthesis, "mapping": mapping}, **sizes)

    def by_class(self, c_dim: int, rows: int) -> Call:
        embed = self.module("Embedding", {"weight": self.tensor("table", rows, 5)}, {})
        modules = {"embed": embed, "embed_proj": self.dense("generator.mapping.embed_proj", 6, 5, activation="lrelu")}
        modules["fc0"] = self.dense("generator.mapping.fc0", 8, 12, 0.01, "lrelu")
        average = {"w_avg": self.tensor("generator.mapping.w_avg", c_dim, 8)}
        return self.module("MappingNetwork", average, modules, z_dim=6, c_dim=c_dim, w_dim=8)


def read(family: Any, folder: Path, data: bytes) -> Checkpoint:
    path = folder / "x.pkl"
    path.write_bytes(data)
    document = read_document(read_file(path))
    assert [module for module in (nvlabs, nvlabs3, stylegan3) if module.matches(document)] == [family]
    checkpoint: Checkpoint = family.read(document, "")
    return checkpoint


def build(checkpoint: Checkpoint) -> StyleGAN3:
    generator = StyleGAN3(generator3(checkpoint.config))
    generator.load_state_dict({name.removeprefix("generator."): tensor for name, tensor in checkpoint.tensors.items()})
    return generator.eval().requires_grad_(False)


def state_of(node: Call, path: str) -> dict[str, Any]:
    for name in filter(None, path.split(".")):
        node = node.args[0]["state"]["_modules"].entries[name]
    state: dict[str, Any] = node.args[0]["state"]
    return state


def test_layers_run_as_their_states_say(tmp_path: Path) -> None:
    networks = Networks3()
    checkpoint = read(nvlabs3, tmp_path, pickles.dumps({"G_ema": networks.generator3()}))
    assert {name: tensor.shape for name, tensor in networks.weights.items()} == {
        name: tensor.shape for name, tensor in checkpoint.tensors.items()
    }
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in networks.weights.items())
    generator = build(checkpoint)
    assert isinstance(generator, Generator) and generator.resolution == (16, 16) and generator.y_means is None
    z = torch.randn(3, 6)
    x = generator(z)
    assert x.shape == (3, 3, 16, 16) and torch.equal(x, generator(z, noise_mode="random"))
    # A loud neighbour in the batch changes nothing.
    ys = torch.cat([generator.mapping(z), 1e4 * torch.randn(1, 8)])
    assert torch.allclose(generator.synthesis(ys)[:3], x, rtol=1e-4, atol=1e-5)


def test_a_network_in_a_torch_zip(tmp_path: Path) -> None:
    """As PTI saves it: a bare network whose storages lie beside the pickle."""
    networks = Networks3()
    tree = networks.generator3()
    storages: dict[str, Tensor] = {}
    states = [tree.args[0]["state"]]
    while states:
        state = states.pop()
        states += [part.args[0]["state"] for part in state["_modules"].entries.values()]
        for group in ("_parameters", "_buffers"):
            for name, node in state[group].items():
                size = (node.args[0] if node.calls("torch._utils._rebuild_parameter") else node).args[2]
                key = str(len(storages))
                storages[key] = torch.full([math.prod(size)], float(key))
                state[group][name] = pickles.tensor_node(pickles.storage_id(key, storages[key]), size)
    checkpoint = read(nvlabs3, tmp_path, pickles.torch_zip(tree, storages))
    assert any("bare" in note for note in checkpoint.notes)
    assert {name: t.shape for name, t in checkpoint.tensors.items()} == {name: t.shape for name, t in networks.weights.items()}
    values = [tensor.unique().tolist() for tensor in checkpoint.tensors.values()]
    assert sorted(values) == [[float(key)] for key in storages]


def test_classes_from_a_table(tmp_path: Path) -> None:
    networks = Networks3()
    checkpoint = read(nvlabs3, tmp_path, pickles.dumps({"G_ema": networks.generator3(c_dim=3, rows=10)}))
    assert torch.equal(checkpoint.tensors["generator.mapping.table"], networks.weights["table"][:3])
    generator = build(checkpoint)
    assert generator.y_means is not None and generator.y_means.shape == (3, 8)
    assert generator.y_mean is not None and torch.equal(generator.y_mean, generator.y_means.mean(dim=0))
    z, c = torch.randn(2, 6), torch.eye(3)[:2]
    y = generator.mapping(z, c)
    assert torch.equal(generator.mapping(z, 0.6 * c + 0.1), y)
    assert not torch.allclose(generator.mapping(z, c.flip(0)), y)
    for bad in (None, torch.zeros(2, 4)):
        with pytest.raises(LIAError):
            generator.mapping(z, bad)
    with pytest.raises(CheckpointError, match="3 were expected"):
        read(nvlabs3, tmp_path, pickles.dumps({"G_ema": Networks3().generator3(c_dim=3, rows=2)}))


def test_an_unconditional_network_has_a_table_and_no_use_for_it(tmp_path: Path) -> None:
    networks = Networks3()
    tree = networks.generator3()
    modules = state_of(tree, "mapping")["_modules"].entries
    modules["embed"] = networks.module("Embedding", {"weight": torch.zeros(10, 5)}, {})
    checkpoint = read(nvlabs3, tmp_path, pickles.dumps({"G_ema": tree}))
    assert any("mapping.embed.weight" in note for note in checkpoint.notes)
    assert build(checkpoint)(torch.randn(1, 6)).shape == (1, 3, 16, 16)


def test_its_discriminator_is_stylegan2s(tmp_path: Path) -> None:
    networks = Networks3()
    tree = {"G_ema": networks.generator3(), "D": networks.discriminator()}
    with pytest.raises(CheckpointError, match="for images of 8x8"):
        read(nvlabs3, tmp_path, pickles.dumps(tree))


def test_waves_follow_the_stored_move() -> None:
    config: InputConfig = {"channels": 5, "size": [12, 10], "sampling_rate": 8.0, "bandwidth": 2.0}
    waves, y = FourierInput(4, config), torch.zeros(1, 4)
    still = waves(y)
    assert still.shape == (1, 5, 12, 10)
    waves.transform[0, 2] = 1 / 8  # a pixel to the left
    assert torch.allclose(waves(y)[..., :-1], still[..., 1:], atol=1e-5)
    waves.transform.copy_(torch.eye(3))
    # y's own shift is the other way round; its length is divided out.
    with torch.no_grad():
        waves.affine.bias.copy_(torch.tensor([2.0, 0.0, 0.0, 2 / 8]))
    assert torch.allclose(waves(y)[:, :, 1:], still[:, :, :-1], atol=1e-5)
    # Frequencies beyond the sampling rate's half are gone.
    waves.transform.copy_(torch.diag(torch.tensor([1e3, 1e3, 1.0])))
    assert waves(y).abs().max() == 0


# -- bare weights


def test_published_sizes_follow_from_the_rule() -> None:
    sizes = [36, 36, 52, 52, 84, 148, 148, 276, 276, 532, 1044, 1044, 1044, 1024, 1024]
    margin, rates = stylegan3._margin_and_rates(sizes, "x")
    assert margin == 10 and rates == [16, 16, 32, 32, 64, 128, 128, 256, 256, 512, 1024, 1024, 1024, 1024, 1024]


def bare(kernel: int = 3, radial: bool = False) -> dict[str, Tensor]:
    """Weights of a 32x32 StyleGAN3 with five layers and a margin of 2."""
    random = torch.Generator().manual_seed(0)
    names, channels = ["L0_20_4", "L1_36_5", "L2_36_5", "L3_32_5", "L4_32_3"], [4, 4, 5, 5, 5, 3]
    ups, downs = [2, 4, 2, 2, 1], [2, 2, 2, 2, 1]
    shapes: dict[str, tuple[int, ...]] = {
        "mapping.fc0.weight": (8, 6), "mapping.fc0.bias": (8,), "mapping.w_avg": (8,),
        "synthesis.input.weight": (4, 4), "synthesis.input.affine.weight": (4, 8), "synthesis.input.affine.bias": (4,),
        "synthesis.input.freqs": (4, 2), "synthesis.input.phases": (4,), "synthesis.input.transform": (3, 3),
    }  # fmt: skip
    for i, name in enumerate(names):
        k = 1 if name == names[-1] else kernel
        shapes[f"synthesis.{name}.weight"] = (channels[i + 1], channels[i], k, k)
        shapes[f"synthesis.{name}.bias"] = (channels[i + 1],)
        shapes[f"synthesis.{name}.affine.weight"] = (channels[i], 8)
        shapes[f"synthesis.{name}.affine.bias"] = (channels[i],)
        shapes[f"synthesis.{name}.magnitude_ema"] = ()
        if ups[i] > 1:
            shapes[f"synthesis.{name}.up_filter"] = (6 * ups[i],)
            shapes[f"synthesis.{name}.down_filter"] = (6 * downs[i],) * (2 if radial and i < 3 else 1)
    return {name: torch.rand(shape, generator=random) + 0.1 for name, shape in shapes.items()}


def read_bare(folder: Path, tensors: dict[str, Tensor]) -> Checkpoint:
    save_file(tensors, folder / "x.safetensors")
    return read(stylegan3, folder, (folder / "x.safetensors").read_bytes())


@pytest.mark.parametrize(("kernel", "radial"), [(3, False), (1, True)])
def test_bare_weights(tmp_path: Path, kernel: int, radial: bool) -> None:
    checkpoint = read_bare(tmp_path, bare(kernel, radial))
    assert build(checkpoint)(torch.randn(1, 6)).shape == (1, 3, 32, 32)
    config = generator3(checkpoint.config)
    assert config["input"] == {"channels": 4, "size": [20, 20], "sampling_rate": 16.0, "bandwidth": 2.0}
    assert config["layers"][0]["down_filter"] == ([12, 12] if radial else [12])


def test_the_generator_of_an_encoders_file(tmp_path: Path) -> None:
    tensors = {f"decoder.{name}": tensor for name, tensor in bare().items()} | {"encoder.x": torch.zeros(1)}
    torch.save({"state_dict": tensors}, tmp_path / "x.pt")
    checkpoint = read(stylegan3, tmp_path, (tmp_path / "x.pt").read_bytes())
    assert torch.equal(checkpoint.tensors["generator.synthesis.input.transform"], torch.eye(3))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("synthesis.L2_36_5.", "synthesis.L2_52_5.", "sizes"),
        ("synthesis.L2_36_5.", "synthesis.L2_36_6.", "does not fit its name"),
        ("synthesis.L2_36_5.", "synthesis.L7_36_5.", "L0, L1"),
        ("synthesis.L4_32_3.", "synthesis.L4_0_3.", "pixels a side"),
        ("synthesis.L0_20_4.up_filter", "synthesis.L0_20_4.other", "up_filter has shape None"),
        ("synthesis.L0_20_4.magnitude_ema", "synthesis.L0_20_4.other", "tensors of the generator are not known"),
        ("mapping.w_avg", "mapping.embed_proj.weight", "StyleGAN-XL"),
    ],
)
def test_bare_weights_that_contradict_the_rule(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_bare(tmp_path, {name.replace(old, new): tensor for name, tensor in bare().items()})


# -- refusals


@pytest.mark.parametrize(
    ("path", "key", "value", "message"),
    [
        ("synthesis", "layer_names", ["L2_12_5"], "does not name its layers"),
        ("synthesis", "output_scale", math.inf, "no valid output_scale"),
        ("synthesis.L9_16_4", "padding", [0, 0, 0, 0], "were expected"),
        ("synthesis.L9_16_4", "padding", [0, 0, 0], "no valid padding"),
        ("synthesis.L9_16_4", "up_factor", 0, "resamples by 0"),
        ("synthesis.L9_16_4", "in_size", 7, "takes 5 channels"),
        ("synthesis.input", "size", 10**6, "no valid size"),
        ("synthesis.input", "bandwidth", 4.0, "bandwidth"),
        ("", "num_ws", 5, "num_ws"),
        ("", "z_dim", 5, "other sizes"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, path: str, key: str, value: Any, message: str) -> None:
    tree = Networks3().generator3()
    state_of(tree, path)[key] = value
    with pytest.raises(CheckpointError, match=message) as caught:
        read(nvlabs3, tmp_path, pickles.dumps({"G_ema": tree}))
    assert str(caught.value).startswith("x.pkl") and "\n" not in str(caught.value)


def test_relatives_are_refused_by_name(tmp_path: Path) -> None:
    networks = Networks3()
    mapping = networks.module("MappingNetwork", {"x_avg": torch.zeros(8)}, {})
    waves = networks.module("SynthesisInput", {}, {})
    text = networks.module("SynthesisNetwork", {}, {"input": waves})
    fast = networks.module("FastganSynthesis", {}, {})
    for modules, name in (
        ({"mapping": mapping, "synthesis": text}, "StyleGAN-T"),
        ({"mapping": networks.module("DummyMapping", {}, {}), "synthesis": fast}, "FastGAN"),
        ({}, "class Generator"),
    ):
        with pytest.raises(CheckpointError, match=name):
            read(nvlabs, tmp_path, pickles.dumps({"G_ema": networks.module("Generator", {}, modules)}))


# -- EG3D


@pytest.mark.parametrize(
    ("options", "scale"),
    [({"c_scale": 0.5}, 0.5), ({}, 0.0), ({"c_scale": 2, "c_gen_conditioning_zero": True}, 0.0)],
)
def test_the_cameras_scale_goes_into_the_embedding(tmp_path: Path, options: dict[str, Any], scale: float) -> None:
    networks = Networks3()
    tree = networks.module("TriPlaneGenerator", {}, {"backbone": networks.generator(25)}, rendering_kwargs=options)
    checkpoint = read(nvlabs, tmp_path, pickles.dumps({"G_ema": tree, "D": networks.discriminator(25)}))
    assert generator2(checkpoint.config)["makes"] == "planes" and checkpoint.config["discriminator"] is None
    name = "generator.mapping.embed.weight"
    assert torch.equal(checkpoint.tensors[name], networks.weights[name] * scale)
    with pytest.raises(CheckpointError, match="c_scale"):
        broken = networks.module("TriPlaneGenerator", {}, {"backbone": networks.generator()}, rendering_kwargs={"c_scale": "x"})
        read(nvlabs, tmp_path, pickles.dumps({"G_ema": broken}))
