"""Configs of mappings."""

from typing import Final, Literal, NotRequired, TypedDict, final

__all__ = [
    "ACTIVATION",
    "LR_MULTIPLIER",
    "InvertibleConfig",
    "MappingConfig",
    "MappingLabel",
    "mapping_config",
    "whole_mapping",
]

ACTIVATION: Final = "lrelu"
"""One of `lia_adapter.ops.ACTIVATIONS`, here and in all configs."""
LR_MULTIPLIER: Final = 0.01
"""Of the learning rate in a mapping (Karras 2019, app. C), which scales its weights and biases."""

MappingLabel = Literal["embed", "concat", "table"]
"""How a label enters a mapping: through a dense layer of its own (StyleGAN2-ADA), through a matrix before the normalisation
(StyleGAN 1 and 2 in TensorFlow), or as a class's row of a table (StyleGAN-XL)."""

# "class" cannot be written as an attribute.
OfClass = TypedDict("OfClass", {"class": int | list[float]}, total=False)
"""class: the one class, or the numbers of the one label, that is drawn or judged, whatever the label is."""


@final
class MappingConfig(OfClass):
    """A mapping of dense layers, z -> y, or that of a discriminator's labels.

    Attributes:
        z_dim: Entries of z; 0 for a discriminator's.
        c_dim: Entries of the label; 0 for none.
        embed_features: Width of the embedded label; None without one.
        features: Width of each layer.
        activation: Behind each layer.
        lr_multiplier: Scale of weights and biases.
        has_average: Whether it has the average y of its training, w_avg.
        label: How a label enters it. Absent: "embed".
        normalize: Whether z is normalised. Absent: true.
        average_width: Entries of w_avg, where that differs from the last layer's width.
        table_features: Features of each class, where `label` is "table". Then `table` is [c_dim, table_features], `embed_proj`
            [embed_features, table_features] projects it, and w_avg is [c_dim, y_dim].
    """

    z_dim: int
    c_dim: int
    embed_features: int | None
    features: list[int]
    activation: str
    lr_multiplier: float
    has_average: bool
    label: NotRequired[MappingLabel]
    normalize: NotRequired[bool]
    average_width: NotRequired[int]
    table_features: NotRequired[int]


@final
class InvertibleConfig(TypedDict):
    """The arguments of `lia_adapter.mapping.InvertibleMapping`, which takes the place of a mapping of dense layers."""

    coupling: str
    y_dim: int
    c_dim: int
    depth: NotRequired[int]
    width: NotRequired[int]
    large: NotRequired[int]
    layers: NotRequired[int]
    alpha: NotRequired[float]
    label_features: NotRequired[int]


def mapping_config(
    *,
    z_dim: int,
    c_dim: int,
    embed_features: int | None,
    features: list[int],
    has_average: bool,
    activation: str = ACTIVATION,
    lr_multiplier: float = LR_MULTIPLIER,
) -> MappingConfig:
    """See `MappingConfig`."""
    return {
        "z_dim": z_dim, "c_dim": c_dim, "embed_features": embed_features, "features": features, "activation": activation,
        "lr_multiplier": lr_multiplier, "has_average": has_average,
    }  # fmt: skip


def whole_mapping(config: MappingConfig) -> MappingConfig:
    """The same with the keys that may be absent, but for those that not every mapping has."""
    return {"label": "embed", "normalize": True, **config}
