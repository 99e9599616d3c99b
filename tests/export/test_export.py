"""Exports: what is written is the same generator, in another program's shapes or as a graph."""

import copy
import importlib.util
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor, nn

from lia_adapter.canonical import discriminator2, generator2
from lia_adapter.checkpoints import read_checkpoint
from lia_adapter.cli.export import export
from lia_adapter.errors import LIAError
from lia_adapter.export import export_graphs, export_weights
from lia_adapter.generators import build
from lia_adapter.lia import LIA
from lia_adapter.loading import load
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.ops import native
from tests import toys


@pytest.fixture(autouse=True)
def _seeded(reference_ops: None) -> None:
    """The same numbers every time, and no compiler for a few small images."""
    torch.manual_seed(0)


def same(a: nn.Module | None, b: nn.Module | None) -> bool:
    """Whether two networks have the same tensors, to the bit."""
    assert a is not None and b is not None
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def discriminator_of(path: Path) -> nn.Module | None:
    found = read_checkpoint(path)
    return build(found.family, found.config, found.tensors)[1]


class Holder(nn.Module):
    """A module with just these parameters, dots in their names as they come."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            *path, last = name.split(".")
            owner: nn.Module = self
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.register_buffer(last, torch.zeros(shape))


def rosinality(size: int, y: int, layers: int, width: dict[int, int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of that program's generator, as its files have them."""
    shapes: dict[str, tuple[int, ...]] = {"input.input": (1, width[4], 4, 4)}
    for i in range(1, layers + 1):
        shapes |= {f"style.{i}.weight": (y, y), f"style.{i}.bias": (y,)}

    def modulated(name: str, out: int, into: int, kernel: int) -> None:
        shapes[f"{name}.conv.weight"] = (1, out, into, kernel, kernel)
        shapes.update({f"{name}.conv.modulation.weight": (into, y), f"{name}.conv.modulation.bias": (into,)})

    def styled(name: str, out: int, into: int) -> None:
        modulated(name, out, into, 3)
        shapes.update({f"{name}.noise.weight": (1,), f"{name}.activate.bias": (out,)})

    styled("conv1", width[4], width[4])
    modulated("to_rgb1", 3, width[4], 1)
    shapes |= {"to_rgb1.bias": (1, 3, 1, 1), "noises.noise_0": (1, 1, 4, 4)}
    side, k = 8, 0
    while side <= size:
        styled(f"convs.{2 * k}", width[side], width[side // 2])
        styled(f"convs.{2 * k + 1}", width[side], width[side])
        modulated(f"to_rgbs.{k}", 3, width[side], 1)
        shapes |= {f"convs.{2 * k}.conv.blur.kernel": (4, 4), f"to_rgbs.{k}.upsample.kernel": (4, 4)}
        shapes |= {f"to_rgbs.{k}.bias": (1, 3, 1, 1)}
        shapes |= {f"noises.noise_{i}": (1, 1, side, side) for i in (2 * k + 1, 2 * k + 2)}
        side, k = 2 * side, k + 1
    return shapes


@pytest.mark.parametrize("target", ["nvlabs", "rosinality"])
def test_weights_come_back_to_the_bit(tmp_path: Path, target: str) -> None:
    lia = toys.with_encoder(toys.stylegan())
    exported = export_weights(lia, target, tmp_path / "g.safetensors")
    assert [path.name for path in exported.files] == ["g.safetensors", "g.discriminator.safetensors", "g.md"]
    assert any("invertible mapping stays" in sentence for sentence in exported.left)
    assert any("encoder stays" in sentence for sentence in exported.left)
    back = load(exported.files[0])
    assert same(lia.generator, back.generator)
    assert same(lia.discriminator, discriminator_of(exported.files[1]))
    note = exported.files[2].read_text()
    assert "g.discriminator.safetensors" in note
    assert all(sentence in note for sentence in exported.left)


def test_rosinality_s_names_and_shapes(tmp_path: Path) -> None:
    lia = toys.stylegan(z_dim=16, y_dim=16)
    out = tmp_path / "g.safetensors"
    export_weights(lia, "rosinality", out)
    state = load_file(out)
    assert torch.equal(state.pop("latent_avg"), lia.y_mean)
    published = Holder(rosinality(8, 16, 3, {4: 16, 8: 8}))
    published.load_state_dict(state, strict=True)
    assert torch.allclose(published.get_buffer("convs.0.conv.blur.kernel").sum(), torch.tensor(4.0))


def test_classes_go_out_to_nvlabs(tmp_path: Path) -> None:
    lia = toys.stylegan(c_dim=3)
    exported = export_weights(lia, "nvlabs", tmp_path / "g.safetensors")
    assert same(lia.generator, load(exported.files[0]).generator)
    assert same(lia.discriminator, discriminator_of(exported.files[1]))
    assert "c_dim=3" in exported.files[2].read_text()


@pytest.mark.parametrize("config", ["sg3t", "sg3r"])
def test_stylegan3_goes_out_to_nvlabs(tmp_path: Path, shared: Path, config: str) -> None:
    lia = load(shared / "checkpoints" / f"{config}_uncond.pkl")
    exported = export_weights(lia, "nvlabs", tmp_path / "g.safetensors")
    assert same(lia.generator, load(exported.files[0]).generator)
    assert same(lia.discriminator, discriminator_of(exported.files[1]))
    note = exported.files[2].read_text()
    kernel = {"sg3t": "conv_kernel=3, use_radial_filters=False", "sg3r": "conv_kernel=1, use_radial_filters=True"}[config]
    assert all(part in note for part in ("networks_stylegan3", "num_layers=6", "margin_size=4", "channel_max=16", kernel))


def test_a_missing_average_is_measured(tmp_path: Path) -> None:
    lia = toys.stylegan()
    config = copy.deepcopy(lia.config)
    mapping = generator2(config)["mapping"]
    assert "coupling" not in mapping
    mapping["has_average"] = False
    tensors = {f"generator.{name}": tensor for name, tensor in lia.generator.state_dict().items() if "w_avg" not in name}
    generator, _ = build("stylegan2", {"generator": config["generator"], "discriminator": None}, tensors)
    bare = LIA(generator, family="stylegan2", config=config)  # type: ignore[arg-type]
    exported = export_weights(bare, "rosinality", tmp_path / "g.safetensors")
    assert torch.equal(load_file(exported.files[0])["latent_avg"], bare.y_mean)
    assert any("measured" in sentence for sentence in exported.left)


@pytest.mark.parametrize(
    ("target", "changes", "found"),
    [
        ("rosinality", {"c_dim": 3}, "labels"),
        ("rosinality", {"z_dim": 8}, "z of 8 entries and a y of 16"),
        ("rosinality", {"noise": False}, "no noise"),
        ("rosinality", {"channels": 1}, "1 channels"),
        ("nvlabs", {"invertible": InvertibleMapping("affine", y_dim=16).config()}, "an invertible mapping and no other"),
    ],
)
def test_what_a_program_cannot_hold_is_named(tmp_path: Path, target: str, changes: dict[str, Any], found: str) -> None:
    with pytest.raises(LIAError, match=rf"cannot hold this generator.*{found}.*to torch or onnx, which hold all"):
        export_weights(toys.stylegan(**changes), target, tmp_path / "g.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "part", "change", "found"),
    [
        ("rosinality", "generator", {"resolution": [8, 12]}, "images of 12x8"),
        ("nvlabs", "generator", {"resolution": [12, 12]}, "images of 12x12"),
        ("rosinality", "blocks", {"architecture": "resnet"}, "skip was expected"),
        ("nvlabs", "mapping", {"label": "concat"}, "concat"),
        ("nvlabs", "mapping", {"lr_multiplier": 1.0}, "multiplier of 1.0"),
        ("nvlabs", "mapping", {"features": [16, 16, 64]}, "every layer its own y"),
        ("nvlabs", "mapping", {"features": [16, 8, 16]}, "different widths"),
        ("nvlabs", "mapping", {"normalize": False}, "does not normalise"),
        ("nvlabs", "blocks", {"filter": [6, 6]}, "not 4x4"),
        ("rosinality", "clamp", {"clamp": 2.0}, "clamped at 2"),
        ("nvlabs", "family", {}, "the family stylegan1"),
    ],
)
def test_what_a_config_says_is_named(tmp_path: Path, target: str, part: str, change: dict[str, Any], found: str) -> None:
    lia = toys.stylegan()
    generator: Any = lia.config["generator"]
    if part == "generator":
        generator |= change
    elif part == "mapping":
        generator["mapping"] |= change
    elif part == "blocks":
        generator["blocks"][1] |= change
        generator["blocks"][0] |= change
    elif part == "clamp":
        generator["blocks"][1]["conv1"] |= change
    else:
        lia.family = "stylegan1"
    with pytest.raises(LIAError, match=found):
        export_weights(lia, target, tmp_path / "g.safetensors")


def test_a_discriminator_that_does_not_fit_stays_behind(tmp_path: Path) -> None:
    lia = toys.stylegan()
    discriminator = discriminator2(lia.config)
    assert discriminator is not None
    discriminator["epilogue"]["mbstd_group"] = None
    exported = export_weights(lia, "rosinality", tmp_path / "g.safetensors")
    assert [path.name for path in exported.files] == ["g.safetensors", "g.md"]
    assert any("stays behind: it has the minibatch's" in sentence for sentence in exported.left)


def converted(coupling: str) -> LIA:
    """With an invertible mapping whose every matrix is another one than where it starts."""
    lia = toys.with_encoder(toys.stylegan())
    core = {"layers": 3} if coupling == "dense" else {"width": 8}
    mapping = InvertibleMapping(coupling, y_dim=16, **core)
    for tensor in [*mapping.parameters(), *mapping.buffers()]:
        tensor.data += 0.1 * torch.randn_like(tensor) if tensor.ndim else 0.1
    lia.mapping = mapping.requires_grad_(False)
    return lia.eval()


def agrees(ours: Tensor, graph: Tensor) -> bool:
    """Within a thousandth of a percent of what is largest."""
    return graph.dtype == ours.dtype and bool((ours - graph).abs().max() <= 1e-5 * ours.abs().max())


def answers(lia: LIA, n: int) -> dict[str, tuple[Tensor, Tensor]]:
    """By direction, an input and what the LIA itself makes of it."""
    assert lia.encoder is not None
    ys, z, x = torch.randn(n, 4, 16), torch.randn(n, 16), torch.randn(n, 3, 8, 8)
    y = lia.to_y(z)
    found = {
        "synthesis": (ys, lia.generator.synthesis(ys)), "mapping": (z, y),
        "inverse": (y, lia.to_z(y)), "encoder": (x, lia.encoder(x)),
    }  # fmt: skip
    return found


@pytest.mark.parametrize("coupling", ["affine", pytest.param("dense", marks=pytest.mark.slow)])
def test_torch_s_graphs_draw_and_invert_alike(tmp_path: Path, coupling: str) -> None:
    lia = converted(coupling)
    before = answers(lia, 1)
    files = export_graphs(lia, "torch", tmp_path)
    assert [path.name for path in files] == [f"{name}.pt2" for name in before] + ["README.md"]
    assert "its z is that of a code" in files[-1].read_text()
    graphs = {path.stem: torch.export.load(path).module() for path in files[:-1]}
    for n in (1, 3):
        for name, (given, ours) in answers(lia, n).items():
            assert agrees(ours, graphs[name](given)), name
    assert all(torch.equal(lia.to_z(given), ours) for given, ours in [before["inverse"]])  # the LIA is as it was
    for path in files[:-1]:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                content = archive.read(entry)
                assert not entry.filename.endswith(".pt") or not content, "a pickle"
                assert not any(word in content for word in (b"stack_trace", b"lia_adapter", b"site-packages")), entry.filename


def test_other_threads_map_on_while_a_graph_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lia = converted("affine")
    z, y = torch.randn(3, 16), lia.to_y(torch.randn(3, 16))
    monkeypatch.setattr(native, "_outcomes", {"cpu": native._Outcome("native", "")})
    monkeypatch.delenv("LIA_OPS", raising=False)

    def look() -> tuple[Tensor, ...]:
        return lia.to_y(z), lia.to_z(y)

    record, done, expected = torch.export.export, threading.Event(), look()
    found: list[tuple[tuple[Tensor, ...], str]] = []

    def watch(started: threading.Event) -> None:
        while True:
            found.append((look(), native.implementation("cpu")))
            started.set()
            if done.wait(0.01):
                break

    def export(*args: Any, **options: Any) -> Any:
        started = threading.Event()
        thread = threading.Thread(target=watch, args=(started,))
        done.clear()
        thread.start()
        started.wait(60)
        try:
            assert native.implementation("cpu") == "reference"
            return record(*args, **options)
        finally:
            done.set()
            thread.join()

    monkeypatch.setattr(torch.export, "export", export)
    export_graphs(lia, "torch", tmp_path)
    assert len(found) >= len(answers(lia, 1))
    for codes, implementation in found:
        assert implementation == "native"  # of who did not choose
        assert all(torch.equal(code, wanted) for code, wanted in zip(codes, expected, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs the extra onnx")
def test_onnx_s_graphs_draw_and_invert_alike(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    lia = converted("dense")
    files = export_graphs(lia, "onnx", tmp_path)
    for n in (1, 3):
        for name, (given, ours) in answers(lia, n).items():
            session = runtime.InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
            inputs = {session.get_inputs()[0].name: given.numpy()}
            assert agrees(ours, torch.from_numpy(session.run(None, inputs)[0])), name
    assert all(b"lia_adapter" not in path.read_bytes() for path in files[:-1])


def test_the_want_of_onnx_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LIAError, match=r"needs onnx and onnxscript. Run pip install 'lia-adapter\[onnx\]'"):
        export_graphs(toys.stylegan(), "onnx", tmp_path / "graphs")
    assert not (tmp_path / "graphs").exists()


@pytest.mark.parametrize("out", [None, Path("g.safetensors")])
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: Path | None) -> None:
    monkeypatch.chdir(tmp_path)
    lia = toys.with_encoder(toys.stylegan())
    lia.save("a.lia.safetensors")
    result = CliRunner().invoke(export, ["a.lia.safetensors", "--to", "nvlabs", *(["-o", str(out)] if out else [])])
    assert result.exit_code == 0, result.output
    out = out or Path("a.lia-nvlabs.safetensors")
    assert f"wrote {out}\n" in result.output
    assert "note  The invertible mapping stays behind" in result.output
    assert same(lia.generator, load(out).generator)
