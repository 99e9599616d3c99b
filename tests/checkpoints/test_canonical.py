"""The canonical configs: their defaults, what narrows them, and that tables of shapes and modules mean the same by them."""

import pytest
from torch import nn

from lia_adapter.canonical import (
    ARCHITECTURES,
    Architecture,
    Generator3Config,
    Layer3Config,
    MappingConfig,
    NetworksConfig,
    PublishedEncoderConfig,
    clamped_parts,
    discriminator2,
    epilogue2,
    generator2,
    generator3,
    layer2,
    mapping_config,
    torgb2,
    whole_encoder,
    whole_epilogue,
    whole_mapping,
)
from lia_adapter.checkpoints.layout import discriminator_shapes, generator_shapes
from lia_adapter.checkpoints.stylegan3 import stylegan3_shapes
from lia_adapter.errors import LIAError
from lia_adapter.generators import StyleGAN3, build_random, of_class, stylegan2_config

PLAIN = mapping_config(z_dim=5, c_dim=0, embed_features=None, features=[7, 6], has_average=True)
EMBED: MappingConfig = {**PLAIN, "c_dim": 3, "embed_features": 4}
CONCAT: MappingConfig = {**EMBED, "label": "concat", "normalize": False}
TABLE: MappingConfig = {**EMBED, "label": "table", "table_features": 8}


def small(architecture: Architecture = "skip", c_dim: int = 0) -> NetworksConfig:
    config = stylegan2_config((8, 16), z_dim=5, y_dim=6, c_dim=c_dim, mapping_layers=2, channel_base=32, channel_max=8)
    discriminator = discriminator2(config)
    assert discriminator is not None
    for block in generator2(config)["blocks"]:
        block["architecture"] = architecture
        block["torgb"] = torgb2(3) if architecture == "skip" or block["is_last"] else None
    for part in discriminator["blocks"]:
        part["architecture"], part["fromrgb"] = architecture, part["fromrgb"] or architecture == "skip"
    discriminator["epilogue"]["architecture"] = architecture
    return config


def three(mapping: MappingConfig) -> Generator3Config:
    layer: Layer3Config = {
        "name": "L0_8_4", "in_channels": 3, "out_channels": 4, "in_size": [8, 8], "size": [8, 8], "kernel": 3, "up": 2,
        "down": 2, "padding": [5, 5, 5, 5], "up_filter": [12], "down_filter": [12, 12], "clamp": 256.0, "torgb": False,
    }  # fmt: skip
    last: Layer3Config = {**layer, "name": "L1", "in_channels": 4, "up_filter": None, "down_filter": None, "torgb": True}
    return {
        "z_dim": 5, "c_dim": mapping["c_dim"], "y_dim": 6, "num_ws": 3, "resolution": [8, 8], "channels": 4,
        "output_scale": 0.25, "mapping": mapping, "layers": [layer, last],
        "input": {"channels": 3, "size": [8, 8], "sampling_rate": 8.0, "bandwidth": 2.0},
    }  # fmt: skip


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("c_dim", [0, 3])
def test_the_tables_of_a_stylegan2_have_its_modules_shapes(architecture: Architecture, c_dim: int) -> None:
    config = small(architecture, c_dim)
    drawn, judging = build_random("stylegan2", config)
    assert generator_shapes(generator2(config)) == shapes(drawn)
    discriminator = discriminator2(config)
    assert discriminator is not None and discriminator_shapes(discriminator) == shapes(judging)


@pytest.mark.parametrize("mapping", [PLAIN, EMBED, CONCAT, TABLE])
def test_the_table_of_a_stylegan3_has_its_modules_shapes(mapping: MappingConfig) -> None:
    assert stylegan3_shapes(three(mapping)) == shapes(StyleGAN3(three(mapping)))


def test_a_discriminator_with_an_output_a_class() -> None:
    config = small()
    discriminator = discriminator2(config)
    assert discriminator is not None
    discriminator["epilogue"] |= {"label": "sum", "outputs": 3}
    assert discriminator_shapes(discriminator) == shapes(build_random("stylegan2", config)[1])


def test_what_may_be_absent_has_one_default() -> None:
    assert whole_mapping(PLAIN) == {**PLAIN, "label": "embed", "normalize": True}
    assert whole_mapping(CONCAT) == CONCAT
    last = epilogue2("b4", architecture="resnet", in_channels=4, size=[4, 4], cmap_dim=0, filter_=[4, 4])
    assert whole_epilogue(last) == {**last, "label": "project", "outputs": 1}
    encoder: PublishedEncoderConfig = {"kind": "lia", "resolution": [8, 8], "channels": 3, "y_dim": 6, "widths": [4, 8]}
    assert whole_encoder(encoder) == {**encoder, "num_ws": 1}
    assert layer2() == {"kernel": 3, "activation": "lrelu", "clamp": None, "noise": True}


def test_clamps_are_set_in_the_config_itself() -> None:
    config, clamped = small(), three(PLAIN)
    discriminator = discriminator2(config)
    assert discriminator is not None
    for network in (generator2(config), discriminator, clamped):
        for part in clamped_parts(network):
            part["clamp"] = 7.0
    assert [block["conv1"]["clamp"] for block in generator2(config)["blocks"]] == [7.0, 7.0]
    assert [part["clamp"] for part in (*discriminator["blocks"], discriminator["epilogue"])] == [7.0, 7.0]
    assert [layer["clamp"] for layer in clamped["layers"]] == [7.0, 7.0]


def test_a_config_of_another_family_is_refused() -> None:
    two: NetworksConfig = {**small(), "discriminator": None}
    with pytest.raises(LIAError, match="a StyleGAN3 generator was expected"):
        generator3(two)
    with pytest.raises(LIAError, match="a StyleGAN2 generator was expected"):
        generator2({"generator": three(PLAIN), "discriminator": None})
    nothing: list[NetworksConfig] = [{}, {"generator": None}]
    for none in nothing:
        with pytest.raises(LIAError, match="a StyleGAN2 generator was expected"):
            generator2(none)
    assert discriminator2(two) is None and discriminator2({}) is None
    with pytest.raises(LIAError, match="a StyleGAN2 discriminator was expected"):
        discriminator2({"discriminator": {
            "c_dim": 0, "channels": 3, "resolution": [4, 4], "lod": 0.0, "fromrgb_activation": "lrelu", "blocks": [],
            "epilogue": {
                "name": "b4", "size": [4, 4], "in_channels": 4, "out_channels": 4, "fc_features": 4, "fromrgb": True,
                "mbstd_group": 4, "mbstd_channels": 1, "outputs": 1,
            },
        }})  # fmt: skip


def test_one_class_leaves_the_whole_config_alone() -> None:
    whole = small(c_dim=3)
    alone = of_class(whole, 2)
    assert whole == small(c_dim=3)
    assert generator2(alone)["c_dim"] == 0
    assert generator2(alone)["mapping"] == {**generator2(whole)["mapping"], "class": 2}
    assert discriminator2(alone) == {**(whole["discriminator"] or {}), "class": 2}
