"""What a tree is, when no family here reads it, and why.

Nobody should have to guess why a file is refused: this table knows the neighbours by their keys.
"""

from typing import Any, Final

from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.networks import names_in
from lia_adapter.checkpoints.values import as_mapping, kind_of
from lia_adapter.checkpoints.zips import SHARD
from lia_adapter.errors import argument

__all__ = ["explain"]

_PLAN: Final = "torch.distributed.checkpoint.metadata.Metadata"


def explain(document: Document) -> str:
    """One sentence that says what the file holds instead of a known network, and what to do.

    Args:
        document: The decoded file.

    Returns:
        The whole message.
    """
    name, top = document.name, _keys(document.tree)
    if _PLAN in document.names:
        return f"{name} is {SHARD}"
    names = [f".{key}" for key in names_in(document)]
    for what, why, parts in _NEIGHBOURS:
        if all(any(part in key for key in names) for part in parts):
            return f"{name} holds {what}, which cannot be converted: {why}."
    shown = ", ".join(clean(key, 40) for key in sorted(top)[:8]) + (", ..." if len(top) > 8 else "")
    found = f"the keys {shown}" if top else kind_of(document.tree)
    return (
        f"{name} has no known generator in it: it holds {found}. Expected is a file of the StyleGAN family: NVlabs' or "
        "TensorFlow's .pkl, rosinality's, genforce's, BasicSR's or mmagic's .pt or .pth, or a generator's bare weights."
    )


_WRAP: Final = "lia_adapter.wrap takes it as it is in its own program"
# What to call it, why it is refused and what to do, and how to know it: by parts of the dotted names of its tensors, all of
# which must be there, in this order.
_NEIGHBOURS: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    (
        "a lucidrains StyleGAN2",
        "it is another network under the same name (z of unit length, no equalised learning rate, other noise). " + _WRAP,
        (".GAN.", ".version"),
    ),
    (
        "a MobileStyleGAN",
        "its generator predicts wavelets. Pass the StyleGAN2 that it was distilled from",
        (".params.", ".ckpt."),
    ),
    (
        "an adriansahlman StyleGAN2",
        "this layout is not read. Pass the TensorFlow .pkl that it was made from",
        (".G_mapping.", ".G_synthesis."),
    ),
    (
        "a StyleGAN1 of rosinality/style-based-gan-pytorch",
        "its function differs from StyleGAN's (normalisation after the activation, other gains). " + _WRAP,
        (".generator.progression.",),
    ),
    (
        "a rosinality alias-free GAN",
        "its function was never that of StyleGAN3. Pass a StyleGAN3 .pkl",
        (".input.freqs", ".convs.0.conv.modulation."),
    ),
    ("a StyleGAN-T", "its layers are others; without a text, " + _WRAP, (".mapping.mlp.", ".mapping.x_avg")),
    ("a CIPS", "it draws every pixel by itself, without convolutions. " + _WRAP, (".lff.", ".emb.input")),
    ("a StyleSwin", "it is a transformer. " + _WRAP, (".relative_position_bias_table", ".style.1.weight")),
    (
        "a StyleMapGAN",
        "its code is a map with a place for every part of the image, not one vector. " + _WRAP,
        (".mapping_z.", ".decoder.convs."),
    ),
    ("a FastGAN", "it has no mapping, so there is no y to find", (".init.init.", ".se_64.")),
    ("a BigGAN", "it has no mapping, so there is no y to find", (".blocks.0.0.conv1.", ".blocks.0.0.bn1.gain.")),
    ("a BigGAN", "it has no mapping, so there is no y to find", (".gen_z.", ".embeddings.")),
    (
        "a network of PaddlePaddle",
        "its weights are laid out in another way. Pass the file that it was converted from",
        (".StructuredToParameterName@@",),
    ),
    (
        "a diffusion model",
        "it has no mapping from one code to one image. Pass a file of the StyleGAN family",
        (".model.diffusion_model.",),
    ),
    ("a diffusion model", "it has no mapping from one code to one image. Pass a file of the StyleGAN family", ("time_embed",)),
    *(
        (
            "a classifier",
            f"it makes no images. Pass a generator; a perceptual network is given by {argument('features')}",
            (part,),
        )
        for part in (".fc.weight", ".classifier.weight", ".classifier.6.weight", ".head.weight")
    ),
)


def _keys(node: Any) -> set[str]:
    mapping = as_mapping(node)
    return {key for key in mapping if isinstance(key, str)} if mapping is not None else set()
