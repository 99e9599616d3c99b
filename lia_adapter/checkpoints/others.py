"""What a tree is, when no family here reads it, and why.

Nobody should have to guess why a file is refused: this table knows the neighbours by their keys.
"""

from collections.abc import Callable
from typing import Any, Final

from lia_adapter.checkpoints.decoder import Call, Symbol, clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.values import as_mapping
from lia_adapter.checkpoints.zips import SHARD

__all__ = ["explain"]

_Keys = set[str]
_PLAN: Final = "torch.distributed.checkpoint.metadata.Metadata"


def explain(document: Document) -> str:
    """One sentence that says what the file holds instead of a known network, and what to do.

    Args:
        document: The decoded file.

    Returns:
        The whole message.
    """
    name, tree = document.name, document.tree
    top, inner = _keys(tree), _all_keys(tree)
    if _PLAN in document.names:
        return f"{name} is {SHARD}"
    for what, why, fits in _NEIGHBOURS:
        if fits(top, inner):
            return f"{name} holds {what}, which cannot be converted: {why}."
    shown = ", ".join(clean(key, 40) for key in sorted(top)[:8]) + (", ..." if len(top) > 8 else "")
    found = f"the keys {shown}" if top else f"a {_kind(tree)}"
    return (
        f"{name} has no known generator in it: it holds {found}. Expected is a file of the StyleGAN family: NVlabs' or "
        "TensorFlow's .pkl, rosinality's, genforce's, BasicSR's or mmagic's .pt or .pth, or a generator's bare weights."
    )


def _begins(*starts: str) -> Callable[[_Keys, _Keys], bool]:
    return lambda top, inner: all(any(key.startswith(start) for key in inner) for start in starts)


def _has(*keys: str) -> Callable[[_Keys, _Keys], bool]:
    return lambda top, inner: top.issuperset(keys)


# What to call it, why it is refused and what to do, and how to know it by the keys on top and by all keys of the tables of
# tensors, in this order.
_NEIGHBOURS: Final[tuple[tuple[str, str, Callable[[_Keys, _Keys], bool]], ...]] = (
    (
        "a lucidrains StyleGAN2",
        "it is another network under the same name (z of unit length, no equalised learning rate, other noise)",
        _has("GAN", "version"),
    ),
    (
        "a GFPGAN face restorer",
        "its generator is steered by the image to restore. Pass the StyleGAN2 that it was made from",
        _begins("stylegan_decoder."),
    ),
    (
        "a MobileStyleGAN",
        "its generator predicts wavelets. Pass the StyleGAN2 that it was distilled from",
        _has("params", "ckpt"),
    ),
    (
        "an adriansahlman StyleGAN2",
        "this layout is not read. Pass the TensorFlow .pkl that it was made from",
        _has("G_mapping", "G_synthesis"),
    ),
    (
        "a StyleGAN1 of rosinality/style-based-gan-pytorch",
        "its function differs from StyleGAN's (normalisation after the activation, other gains)",
        _begins("generator.progression."),
    ),
    (
        "a rosinality alias-free GAN",
        "its function was never that of StyleGAN3. Pass a StyleGAN3 .pkl",
        _begins("input.freqs", "convs.0.conv.modulation."),
    ),
    (
        "a diffusion model",
        "it has no mapping from one code to one image. Pass a file of the StyleGAN family",
        lambda top, inner: any("time_embed" in key or key.startswith("model.diffusion_model.") for key in inner),
    ),
    (
        "a classifier",
        "it makes no images. Pass a generator; a perceptual network is given by --features",
        lambda top, inner: bool(inner & {"fc.weight", "classifier.weight", "classifier.6.weight", "head.weight"}),
    ),
)  # fmt: skip


def _keys(node: Any) -> _Keys:
    mapping = as_mapping(node)
    return {key for key in mapping if isinstance(key, str)} if mapping is not None else set()


def _all_keys(tree: Any) -> _Keys:
    """The keys on top and one level below, where tables of tensors lie; DistributedDataParallel's prefix taken off."""
    mapping = as_mapping(tree) or {}
    keys = _keys(tree).union(*(_keys(value) for value in list(mapping.values())[:100]))
    return {key.removeprefix("module.") for key in keys}


def _kind(tree: Any) -> str:
    if isinstance(tree, Call) and isinstance(tree.function, Symbol):
        return f"call of {clean(tree.function)}"
    return type(tree).__name__
