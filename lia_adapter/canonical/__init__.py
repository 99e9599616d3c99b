"""The canonical configs: what every generator, discriminator and mapping is described by, whatever file it came from.

They are plain JSON: a `Checkpoint` and a `LIA` carry them, a LIA file stores them as they are, and the modules of
`lia_adapter.generators` are built from them. Types hold for what this project makes; what stands in somebody's LIA file may be
anything, and the modules refuse it.

What a StyleGAN of Karras et al. has where nobody says otherwise stands here, once: in the constants, in the constructors, and
in `whole_mapping`, `whole_epilogue` and `whole_encoder` for the keys that may be absent.

Sizes are [H, W] in pixels; those of filters are in taps.
"""

from lia_adapter.canonical.discriminators import (
    MBSTD_GROUP,
    Discriminator1Config,
    Discriminator2Config,
    DiscriminatorBlock1Config,
    DiscriminatorBlock2Config,
    DiscriminatorLabel,
    Epilogue1Config,
    Epilogue2Config,
    discriminator_block2,
    epilogue2,
    whole_epilogue,
)
from lia_adapter.canonical.generators import (
    ARCHITECTURES,
    FILTER,
    HALF_CLAMP,
    MAX_SIDE,
    NORM_EPS,
    TAPS,
    Architecture,
    Block1Config,
    Block2Config,
    Generator1Config,
    Generator2Config,
    Generator3Config,
    InputConfig,
    Layer2Config,
    Layer3Config,
    Torgb2Config,
    layer2,
    torgb2,
)
from lia_adapter.canonical.mappings import (
    ACTIVATION,
    LR_MULTIPLIER,
    InvertibleConfig,
    MappingConfig,
    MappingLabel,
    mapping_config,
    whole_mapping,
)
from lia_adapter.canonical.networks import (
    Clamped,
    DiscriminatorConfig,
    GeneratorConfig,
    NetworksConfig,
    PublishedEncoderConfig,
    clamped_parts,
    discriminator2,
    generator2,
    generator3,
    whole_encoder,
)

__all__ = [
    "ACTIVATION",
    "ARCHITECTURES",
    "FILTER",
    "HALF_CLAMP",
    "LR_MULTIPLIER",
    "MAX_SIDE",
    "MBSTD_GROUP",
    "NORM_EPS",
    "TAPS",
    "Architecture",
    "Block1Config",
    "Block2Config",
    "Clamped",
    "Discriminator1Config",
    "Discriminator2Config",
    "DiscriminatorBlock1Config",
    "DiscriminatorBlock2Config",
    "DiscriminatorConfig",
    "DiscriminatorLabel",
    "Epilogue1Config",
    "Epilogue2Config",
    "Generator1Config",
    "Generator2Config",
    "Generator3Config",
    "GeneratorConfig",
    "InputConfig",
    "InvertibleConfig",
    "Layer2Config",
    "Layer3Config",
    "MappingConfig",
    "MappingLabel",
    "NetworksConfig",
    "PublishedEncoderConfig",
    "Torgb2Config",
    "clamped_parts",
    "discriminator2",
    "discriminator_block2",
    "epilogue2",
    "generator2",
    "generator3",
    "layer2",
    "mapping_config",
    "torgb2",
    "whole_encoder",
    "whole_epilogue",
    "whole_mapping",
]
