"""TensorFlow's networks: what the published files and their oracles do not cover."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lia_adapter.canonical import discriminator2, generator2
from lia_adapter.checkpoints import Checkpoint, tensorflow, tf_lia, tf_stylegan1, tf_stylegan2
from lia_adapter.checkpoints.decoder import Call, Symbol
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.files import read_document, read_file
from lia_adapter.errors import CheckpointError, LIAError
from lia_adapter.generators import Discriminator, StyleGAN2, build
from lia_adapter.generators.encoder_lia import OfficialLIAEncoder
from lia_adapter.mapping import InvertibleMapping
from tests import pickles

Y = 6
WIDTH = {4: 8, 8: 8, 16: 4}


def array(value: Tensor) -> Call:
    """A numpy array as numpy pickles it."""
    dtype = pickles.call("numpy.dtype", "f4", False, True, state=(3, "<", None, None, None, -1, -1, 0))
    state = (1, tuple(value.shape), dtype, False, pickles.raw(value.float()))
    return pickles.call("numpy.core.multiarray._reconstruct", Symbol("numpy", "ndarray"), (0,), b"b", state=state)


def network(
    name: str,
    function: str,
    variables: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    components: Mapping[str, Call] | None = None,
    module: str = "dnnlib.tflib.network",
) -> Call:
    pairs = [(key, array(value) if isinstance(value, Tensor) else value) for key, value in variables.items()]
    state = {
        "version": 4, "name": name, "static_kwargs": dict(settings or {}), "components": dict(components or {}),
        "build_module_src": "raise SystemExit", "build_func_name": function, "variables": pairs,
    }  # fmt: skip
    return pickles.call(f"{module}.Network", state=state)


def random(*shape: int) -> Tensor:
    return torch.randn(shape)


def layer(kernel: int, into: int, out: int, *, noise: bool = True) -> dict[str, Tensor]:
    made = {
        "weight": random(kernel, kernel, into, out),
        "bias": random(out),
        "mod_weight": random(Y, into),
        "mod_bias": random(into),
    }
    return made | ({"noise_strength": random()} if noise else {})


def under(prefix: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{key}": value for key, value in variables.items()}


def synthesis(architecture: str = "skip", *, growing: bool = False) -> dict[str, Any]:
    made: dict[str, Any] = under("4x4/Const", {"const": random(1, WIDTH[4], 4, 4)}) | {"noise0": random(1, 1, 4, 4)}
    made |= under("4x4/Conv", layer(3, WIDTH[4], WIDTH[4]))
    for i, side in enumerate((8, 16)):
        into, out = WIDTH[side // 2], WIDTH[side]
        made |= under(f"{side}x{side}/Conv0_up", layer(3, into, out)) | under(f"{side}x{side}/Conv1", layer(3, out, out))
        made |= {f"noise{2 * i + 1}": random(1, 1, side, side), f"noise{2 * i + 2}": random(1, 1, side, side)}
        if architecture == "resnet":
            made[f"{side}x{side}/Skip/weight"] = random(1, 1, into, out)
    for lod, side in enumerate((16, 8, 4)):
        name = f"ToRGB_lod{lod}" if growing else f"{side}x{side}/ToRGB"
        if architecture == "skip" or side == 16:
            made |= under(name, layer(1, WIDTH[side], 3, noise=False))
    return made


def mapping(z_dim: int = 5, labels: int = 0, embed: int = 4, *, concat: bool = False) -> dict[str, Tensor]:
    made = {"Dense0/bias": random(7), "Dense1/weight": random(7, Y), "Dense1/bias": random(Y)}
    made["Dense0/weight"] = random(z_dim + (embed if labels else 0), 7)
    if labels and concat:
        made["LabelConcat/weight"] = random(labels, embed)
    elif labels:
        made |= {"LabelEmbed/weight": random(labels, embed), "LabelEmbed/bias": random(embed)}
    return made


def generator(
    name: str = "Gs",
    settings: Mapping[str, Any] | None = None,
    parts: Mapping[str, Mapping[str, Any]] | None = None,
    own: Mapping[str, Any] | None = None,
) -> Call:
    parts = {"synthesis": synthesis(), "mapping": mapping()} | dict(parts or {})
    components = {part: network(part, f"G_{part}", variables) for part, variables in parts.items()}
    return network(name, "G_main", {"dlatent_avg": random(Y)} | dict(own or {}), settings, components)


def discriminator(
    function: str = "D_stylegan2",
    outputs: int = 1,
    settings: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Call:
    made: dict[str, Any] = under("16x16/FromRGB", {"weight": random(1, 1, 3, WIDTH[16]), "bias": random(WIDTH[16])})
    for side in (16, 8):
        into, out = WIDTH[side], WIDTH[side // 2]
        made |= under(f"{side}x{side}/Conv0", {"weight": random(3, 3, into, into), "bias": random(into)})
        made |= under(f"{side}x{side}/Conv1_down", {"weight": random(3, 3, into, out), "bias": random(out)})
        made[f"{side}x{side}/Skip/weight"] = random(1, 1, into, out)
    made |= under("4x4/Conv", {"weight": random(3, 3, WIDTH[4] + 1, WIDTH[4]), "bias": random(WIDTH[4])})
    made |= under("4x4/Dense0", {"weight": random(16 * WIDTH[4], WIDTH[4]), "bias": random(WIDTH[4])})
    made |= under("Output", {"weight": random(WIDTH[4], outputs), "bias": random(outputs)})
    return network("D", function, made | dict(more or {}), settings)


def document(tmp_path: Path, tree: Any, protocol: int = 4) -> Document:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickles.dumps(tree, protocol))
    return read_document(read_file(path))


def read2(tmp_path: Path, tree: Any) -> Checkpoint:
    found = document(tmp_path, tree)
    assert tf_stylegan2.matches(found)
    return tf_stylegan2.read(found, "")


@pytest.fixture(autouse=True)
def _seeded(reference_ops: None) -> None:
    """The same numbers every time, and no compiler for a few small images."""
    torch.manual_seed(0)


# -- which network is which


@pytest.mark.parametrize("protocol", [2, 4])
def test_gs_is_taken_wherever_it_stands(tmp_path: Path, protocol: int) -> None:
    networks = [generator("G"), discriminator(), generator("Gs")]
    wanted = networks[2].state["variables"][0][1].state[-1]
    for tree in (tuple(networks), networks[::-1]):
        found = tf_stylegan2.read(document(tmp_path, tree, protocol), "")
        assert found.tensors["generator.mapping.w_avg"].numpy().tobytes() == wanted
        assert found.config["discriminator"] is not None
        assert not found.notes


def test_a_lone_network_is_said_to_be_perhaps_not_averaged(tmp_path: Path) -> None:
    found = read2(tmp_path, generator("G"))
    assert any("called G, not Gs" in note for note in found.notes)


def test_networks_of_no_use_are_named(tmp_path: Path) -> None:
    found = read2(tmp_path, (generator(), network("Inception", "inception", {"w": random(3)})))
    assert any("Inception" in note for note in found.notes)


def test_a_module_path_of_a_fork(tmp_path: Path) -> None:
    gs = generator()
    gs.function = Symbol("stylegan2.dnnlib.tflib.network", "Network")
    assert generator2(read2(tmp_path, gs).config)["resolution"] == [16, 16]


@pytest.mark.parametrize("module", ["tfutil", "network"])
def test_progressive_gans_are_refused_by_name(tmp_path: Path, module: str) -> None:
    found = document(tmp_path, (network("Gs", "G_paper", {"4x4/Dense/weight": random(5, 128)}, module=module),))
    assert not any(family.matches(found) for family in (tf_lia, tf_stylegan1, tf_stylegan2))
    assert tensorflow.matches(found)
    with pytest.raises(CheckpointError, match=r"x\.pkl holds a progressive GAN.*no mapping.*Pass a StyleGAN"):
        tensorflow.read(found, "")


def test_a_discriminator_alone_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"D \(D_stylegan2\)"):
        tensorflow.read(document(tmp_path, discriminator()), "")


def test_a_network_without_its_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no whole one"):
        tensorflow.read(document(tmp_path, pickles.call("dnnlib.tflib.network.Network")), "")


def test_other_trees_are_none_of_these(tmp_path: Path) -> None:
    bare = pickles.call("dnnlib.tflib.network.Network")
    trees: tuple[Any, ...] = ({}, (), (1, 2), "Network", bare, pickles.call("a.b.Network", state={}))
    for tree in trees:
        found = document(tmp_path, tree)
        assert not any(family.matches(found) for family in (tf_lia, tf_stylegan1, tf_stylegan2))


# -- what only the settings tell


def test_settings_reach_the_config(tmp_path: Path) -> None:
    settings = {"conv_clamp": 256, "mapping_lrmul": 0.1, "normalize_latents": False, "resample_kernel": None}
    gs, d = generator(settings=settings), discriminator(settings={"conv_clamp": 128, "resample_kernel": [1, 2, 1]})
    found = read2(tmp_path, (gs, d, gs))
    g: Any = found.config["generator"]
    d_config: Any = found.config["discriminator"]
    assert {block[part]["clamp"] for block in g["blocks"] for part in ("conv0", "conv1", "torgb") if block[part]} == {256}
    assert (g["mapping"]["lr_multiplier"], g["mapping"]["normalize"]) == (0.1, False)
    assert {block["clamp"] for block in d_config["blocks"]} == {d_config["epilogue"]["clamp"]} == {128}
    assert torch.equal(found.tensors["generator.synthesis.b8.conv0.resample_filter"], torch.full((2, 2), 0.25))
    assert torch.equal(
        found.tensors["discriminator.b16.conv1.resample_filter"] * 16, torch.outer(*[torch.tensor([1.0, 2.0, 1.0])] * 2)
    )
    built, _ = build(found.family, found.config, found.tensors)
    assert isinstance(built, StyleGAN2)
    assert built.synthesis(random(1, 6, Y)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("function", "settings", "group"),
    [
        ("D_stylegan2", {}, 4), ("D_stylegan", {}, 4), ("D_main", {}, None), ("D_main", {"mbstd_group_size": 8}, 8),
        ("D_stylegan2", {"mbstd_group_size": 2}, 2),
    ],
)  # fmt: skip
def test_group_of_the_minibatch_deviation(tmp_path: Path, function: str, settings: dict[str, Any], group: int | None) -> None:
    found = read2(tmp_path, (generator(), discriminator(function, settings=settings)))
    d_config = discriminator2(found.config)
    assert d_config is not None and d_config["epilogue"]["mbstd_group"] == group


@pytest.mark.parametrize("setting", [{"nonlinearity": "relu"}, {"mapping_nonlinearity": "relu"}])
def test_settings_that_nobody_computes_are_refused_by_name(tmp_path: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=rf"Gs was built with {next(iter(setting))} = relu.*knows.*lrelu"):
        read2(tmp_path, generator(settings=setting))


def test_unknown_settings_are_noted(tmp_path: Path) -> None:
    found = read2(tmp_path, generator(settings={"resolution_w": 16, "truncation_psi": 0.5}))
    assert [note for note in found.notes if "resolution_w = 16" in note]
    assert not any("truncation_psi" in note for note in found.notes)


@pytest.mark.parametrize(
    "odd",
    [
        {"more": {"4x4/Conv/u_sn": random(3)}}, {"more": {"16x16/FromRGB/PAGAN/weight": random(3, 4)}},
        {"settings": {"score_max": 4}}, {"settings": {"nonlinearity": "relu"}}, {"more": {"8x8/Attention/weight": random(3)}},
    ],
)  # fmt: skip
def test_odd_discriminators_cost_only_themselves(tmp_path: Path, odd: dict[str, Any]) -> None:
    found = read2(tmp_path, (generator(), discriminator("D_main", **odd)))
    assert found.config["discriminator"] is None
    assert any("the discriminator was ignored" in note for note in found.notes)


# -- networks that no published fixture has


def test_resnet_generators(tmp_path: Path) -> None:
    found = read2(tmp_path, generator(parts={"synthesis": synthesis("resnet")}))
    assert [block["architecture"] for block in generator2(found.config)["blocks"]] == ["resnet"] * 3
    build(found.family, found.config, found.tensors)


def test_labels_of_ada_are_embedded_and_normalised_for_themselves(tmp_path: Path) -> None:
    parts = mapping(labels=3)
    more = {
        "LabelEmbed/weight": random(3, 9),
        "LabelEmbed/bias": random(9),
        "Mapping0/weight": random(9, 9),
        "Mapping0/bias": random(9),
    }
    found = read2(tmp_path, (generator(parts={"mapping": parts}), discriminator("D_main", 9, more=more)))
    built, d = build(found.family, found.config, found.tensors)
    assert isinstance(built, StyleGAN2)
    assert isinstance(d, Discriminator)
    d_config = discriminator2(found.config)
    assert d_config is not None and d_config["mapping"] is not None
    assert (d_config["mapping"]["lr_multiplier"], d.c_dim) == (0.1, 3)
    z, c = random(4, 5), torch.eye(3)[[0, 2, 1, 1]]

    def norm(x: Tensor) -> Tensor:
        return x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()

    x = torch.cat([norm(z), norm(c @ parts["LabelEmbed/weight"] / 3**0.5 + parts["LabelEmbed/bias"])], dim=1)
    for i in (0, 1):
        weight, bias = parts[f"Dense{i}/weight"], parts[f"Dense{i}/bias"]
        x = torch.nn.functional.leaky_relu(x @ weight * 0.01 / len(weight) ** 0.5 + bias * 0.01, 0.2) * 2**0.5
    assert torch.allclose(built.mapping(z, c), x, atol=1e-6)
    assert d(random(4, 3, 16, 16), c).shape == (4, 1)


def test_one_class_is_still_a_class(tmp_path: Path) -> None:
    gs = generator(parts={"mapping": mapping(labels=1, concat=True)})
    found = read2(tmp_path, (gs, discriminator(settings={"label_size": 1})))
    _, d = build(found.family, found.config, found.tensors)
    assert isinstance(d, Discriminator)
    x = random(2, 3, 16, 16)
    assert torch.allclose(d(x, torch.full((2, 1), 3.0)), 3 * d(x, torch.ones(2, 1)))


def test_growing_stylegan2_is_refused(tmp_path: Path) -> None:
    parts = {"synthesis": synthesis("skip", growing=True)}
    assert read2(tmp_path, generator(parts=parts, own={"lod": random() * 0})).config["generator"] is not None
    with pytest.raises(CheckpointError, match=r"lod = 1\.5.*later checkpoint"):
        read2(tmp_path, generator(parts=parts, own={"lod": random() * 0 + 1.5}))


# -- files that are not what they say


def test_missing_unknown_and_misshapen_variables_are_named(tmp_path: Path) -> None:
    whole = synthesis()
    for change, message in (
        ({"8x8/Conv1/bias": None}, r"b8\.conv1\.bias is missing"),
        ({"8x8/Conv1/weight": random(3)}, r"b8\.conv1\.weight has shape \[3\]"),
        ({"8x8/Conv0_up/mod_bias": random(9)}, r"b8\.conv0\.affine\.bias"),
        ({"noise1": random(8, 8)[None]}, r"b8\.conv0\.noise_const has shape"),
        ({"8x8/Conv1/extra": random(3)}, r"8x8/Conv1/extra"),
        ({"8x8/Conv1/bias": "text"}, r"8x8/Conv1/bias is a str, and floats were expected"),
    ):
        variables = {key: value for key, value in (whole | change).items() if value is not None}
        with pytest.raises(CheckpointError, match=message):
            read2(tmp_path, generator(parts={"synthesis": variables}))


def test_arrays_that_share_their_numbers_are_refused(tmp_path: Path) -> None:
    variables = synthesis()
    shared = array(random(3, 3, 16, 16))
    variables |= {"8x8/Conv0_up/weight": shared, "16x16/Conv0_up/weight": shared}
    with pytest.raises(CheckpointError, match="shares its numbers"):
        read2(tmp_path, generator(parts={"synthesis": variables}))


def test_the_source_text_is_not_run(tmp_path: Path) -> None:
    read2(tmp_path, generator())  # its build_module_src would end the program


# -- StyleGAN1 and LIA


def layer1(out: int, into: int | None = None) -> dict[str, Tensor]:
    made = {
        "bias": random(out),
        "Noise/weight": random(out),
        "StyleMod/weight": random(Y, 2 * out),
        "StyleMod/bias": random(2 * out),
    }
    return made if into is None else made | {"weight": random(3, 3, into, out)}


def synthesis1() -> dict[str, Any]:
    made: dict[str, Any] = under("4x4/Const", {"const": random(1, WIDTH[4], 4, 4)} | layer1(WIDTH[4]))
    made |= under("4x4/Conv", layer1(WIDTH[4], WIDTH[4]))
    for lod, side in enumerate((16, 8, 4)):
        made |= under(f"ToRGB_lod{lod}", {"weight": random(1, 1, WIDTH[side], 3), "bias": random(3)})
    for side in (8, 16):
        made |= under(f"{side}x{side}/Conv0_up", layer1(WIDTH[side], WIDTH[side // 2]))
        made |= under(f"{side}x{side}/Conv1", layer1(WIDTH[side], WIDTH[side]))
    return made | {f"noise{i}": random(1, 1, 4 << i // 2, 4 << i // 2) for i in range(6)}


def couplings(outputs: int) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for i in range(3):
        made |= {f"{i}/f_inv/dense1/weight": random(Y // 2, 5) * 100, f"{i}/f_inv/dense1/bias": random(5) * 100}
        made |= {f"{i}/f_inv/dense2/weight": random(5, outputs) * 100, f"{i}/f_inv/dense2/bias": random(outputs) * 100}
    return made


def read1(tmp_path: Path, settings: Mapping[str, Any] | None = None, own: Mapping[str, Any] | None = None) -> Checkpoint:
    found = document(tmp_path, generator(settings=settings, parts={"synthesis": synthesis1()}, own=own))
    assert tf_stylegan1.matches(found)
    assert not tf_lia.matches(found)
    return tf_stylegan1.read(found, "")


def test_fused_layers_are_mirrored(tmp_path: Path) -> None:
    kernels = []
    for fused in (False, True, "auto"):
        torch.manual_seed(0)
        kernels.append(read1(tmp_path, {"fused_scale": fused}).tensors["generator.synthesis.b16.conv0.weight"])
    apart, fused_kernel, auto = kernels
    assert torch.equal(fused_kernel, apart.flip(2, 3))
    assert torch.equal(auto, apart)  # below 128x128


def test_settings_of_stylegan1(tmp_path: Path) -> None:
    generator: Any = read1(tmp_path, {"mapping_lrmul": 0.1, "normalize_latents": False}).config["generator"]
    mapping_config = generator["mapping"]
    assert (mapping_config["lr_multiplier"], mapping_config["normalize"]) == (0.1, False)
    for name, value in (("blur_filter", None), ("const_input_layer", False), ("fused_scale", "sometimes")):
        with pytest.raises(CheckpointError, match=name):
            read1(tmp_path, {name: value})


def test_growing_stylegan1_keeps_its_lod(tmp_path: Path) -> None:
    found = read1(tmp_path, own={"lod": torch.tensor(1.25)})
    config = found.config["generator"]
    assert config is not None and "lod" in config and config["lod"] == 1.25
    with pytest.raises(CheckpointError, match="lod of Gs is no number"):
        read1(tmp_path, own={"lod": torch.tensor(-1.0)})


def read_lia(tmp_path: Path, outputs: int, *more: Call) -> Checkpoint:
    gs = generator(parts={"synthesis": synthesis1(), "mapping": couplings(outputs)})
    ne = network("NE", "G_mapping_NE", couplings(outputs))
    found = document(tmp_path, (*more, gs, ne))
    assert tf_lia.matches(found)
    assert not tf_stylegan1.matches(found)
    return tf_lia.read(found, "")


@pytest.mark.parametrize("affine", [False, True])
def test_couplings_of_lia(tmp_path: Path, affine: bool) -> None:
    found = read_lia(tmp_path, Y if affine else Y // 2)
    config: Any = found.config["generator"]
    phi, start = InvertibleMapping.from_config(config["mapping"]), "generator.mapping."
    phi.load_state_dict({key.removeprefix(start): t for key, t in found.tensors.items() if key.startswith(start)})
    torch.manual_seed(0)
    synthesis1()
    v = couplings(Y if affine else Y // 2)
    z = random(4, Y)
    x = z
    for i in reversed(range(3)):  # LIA, sec. 3.1, and its code: reverse=True
        kept, changed = x.chunk(2, dim=1)
        h = kept
        for j in (1, 2):
            weight, bias = v[f"{i}/f_inv/dense{j}/weight"], v[f"{i}/f_inv/dense{j}/bias"]
            h = torch.nn.functional.leaky_relu(h @ weight * (2 / len(weight)) ** 0.5 * 0.01 + bias * 0.01, 0.2)
        changed = changed / torch.sigmoid(h[:, 1::2] + 2) - h[:, ::2] if affine else changed - h
        x = torch.cat([kept, changed], dim=1).flip(1)
    assert torch.allclose(phi.to_y(z), x, atol=1e-5)
    assert torch.allclose(phi.to_z(x).float(), z, atol=1e-5)
    assert any("NE has weights that were never trained" in note for note in found.notes)
    _, log_det = phi.to_y_with_log_det(z)
    jacobians = [torch.autograd.functional.jacobian(lambda row: phi.to_y(row[None])[0], row) for row in z]
    assert torch.allclose(log_det.float(), torch.stack([matrix.slogdet()[1] for matrix in jacobians]), atol=1e-4)


def encoder(stages: int = 2) -> dict[str, Tensor]:
    def norm(name: str, features: int) -> dict[str, Tensor]:
        statistics = {"beta": random(features), "moving_mean": random(features), "moving_variance": random(features) ** 2}
        return under(f"{name}/BatchNorm", statistics)

    made = {"input_image_stage/weight": random(3, 3, 3, 4)} | norm("input_image_stage/bn_input_stage", 4)
    for i in range(stages):
        into, out = min(4 << i, 8), min(8 << i, 8)
        block = {"conv1/weight": random(3, 3, into, into), "conv1/bias": random(into)} | norm("conv1/bn_1", into)
        block |= {"conv2/weight": random(3, 3, into, out), "conv2/bias": random(out)} | norm("conv2/bn_2", out)
        if into != out:
            block |= {"shortcut/weight": random(1, 1, into, out)} | norm("shortcut/shortcut_bn", out)
        made |= under(f"encoder_res_block_{i}", block)
    made |= {"encoder_fc/weight": random(16 * 8, Y)} | norm("encoder_fc/fc_1", Y)
    return under("encoder", made)


def test_the_encoder_of_lia(tmp_path: Path) -> None:
    found = read_lia(tmp_path, Y // 2, network("E", "Encoder", encoder(), {"phase": True}))
    config = found.config["encoder"]
    assert config is not None
    built = OfficialLIAEncoder(config)
    built.load_state_dict({key.removeprefix("encoder."): t for key, t in found.tensors.items() if key.startswith("encoder.")})
    x = random(2, 3, 16, 16)
    assert built(x).shape == (2, Y)
    # Its statistics are those of the training, whatever the mode and the batch.
    assert torch.allclose(built.train()(x)[:1], built.eval()(x[:1]), atol=1e-4)
    with pytest.raises(LIAError, match=r"expected \[N, 3, 16, 16\]"):
        built(x[..., :8])


def test_a_damaged_encoder_is_refused(tmp_path: Path) -> None:
    for change, message in (
        ({"encoder/encoder_fc/weight": random(7, Y)}, r"dense\.weight"),
        ({"encoder/encoder_res_block_1/conv2/bias": random(3)}, r"stages\.1\.conv2\.conv\.bias"),
        ({"encoder/more": random(3)}, "encoder/more"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_lia(tmp_path, Y // 2, network("E", "Encoder", encoder() | change))


def test_damaged_couplings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"turns 3 numbers into 4"):
        read_lia(tmp_path, 4)
