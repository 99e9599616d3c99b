"""What a tree is, when no family here reads it.

Nobody should have to guess why a file is refused: this table knows the neighbours by their keys. A family that learns
to read one of them takes its line away.
"""

from collections.abc import Callable
from typing import Any, Final

from lia_adapter.checkpoints.decoder import Call, Symbol, clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.values import as_mapping

__all__ = ["explain"]

_Keys = set[str]


def explain(document: Document) -> str:
    """One sentence that says what the file holds instead of a known generator.

    Args:
        document: The decoded file.

    Returns:
        The whole message.
    """
    name, tree = document.name, document.tree
    what = _network(tree)
    top, inner = _keys(tree), _all_keys(tree)
    if what is None:
        what = next((what for what, fits in _NEIGHBOURS if fits(top, inner)), None)
    if what is not None:
        return (
            f"{name} holds {what}, which this version cannot convert. It reads StyleGAN2 .pkl files of NVlabs' PyTorch "
            "code: pass the original in that form, if there is one."
        )
    shown = ", ".join(clean(key, 40) for key in sorted(top)[:8]) + (", ..." if len(top) > 8 else "")
    found = f"the keys {shown}" if top else f"a {_kind(tree)}"
    return (
        f"{name} has no known generator in it: it holds {found}. A StyleGAN2 .pkl as NVlabs' PyTorch code writes "
        "it was expected (a dict with G_ema): pass one of those."
    )


def _begins(*starts: str) -> Callable[[_Keys, _Keys], bool]:
    return lambda top, inner: all(any(key.startswith(start) for key in inner) for start in starts)


def _has(*keys: str) -> Callable[[_Keys, _Keys], bool]:
    return lambda top, inner: top.issuperset(keys)


# What to call it, and how to know it by the keys on top and by all keys of the tables of tensors, in this order.
_NEIGHBOURS: Final[tuple[tuple[str, Callable[[_Keys, _Keys], bool]], ...]] = (
    ("a lucidrains StyleGAN2 (another network under the same name)", _has("GAN", "version")),
    ("a GFPGAN face restorer (no generator)", _begins("stylegan_decoder.")),
    ("a BasicSR StyleGAN2 generator", _begins("style_mlp.")),
    ("a BasicSR StyleGAN2 discriminator", lambda top, inner: bool({"params", "params_ema"} & top)),
    ("an encoder with its generator (pSp, e4e, ReStyle)", _begins("decoder.")),
    ("a mmagic or mmgeneration generator", _begins("generator", "generator_ema.")),
    ("a genforce generator", lambda top, inner: bool({"generator_smooth", "models"} & top)),
    ("a huangzh13 StyleGAN1 generator", _begins("g_mapping.map.")),
    ("a lernapparat StyleGAN1 generator", _begins("g_mapping.")),
    ("the weights of an idinvert generator", _begins("mapping.dense0.")),
    ("the weights of an idinvert encoder", _begins("block0.", "block1.")),
    ("a rosinality StyleGAN2", lambda top, inner: "g_ema" in top or _begins("style.1.", "convs.0.conv.")(top, inner)),
    ("the bare weights of a StyleGAN3 generator", _begins("mapping.fc0.", "synthesis.input.")),
    ("the bare weights of a StyleGAN2 generator", _begins("mapping.fc0.", "synthesis.b4.")),
    ("a huangzh13 StyleGAN1 discriminator", _begins("final_block.", "from_rgb.")),
    ("a MobileStyleGAN", _has("params", "ckpt")),
    ("an adriansahlman StyleGAN2", _has("G_mapping", "G_synthesis")),
)


def _network(tree: Any) -> str | None:
    """What a file of TensorFlow networks holds; their number tells."""
    nodes = tree if isinstance(tree, (tuple, list)) else (tree,)
    functions = [node.function for node in nodes[:10] if isinstance(node, Call)]
    classes = [function for function in functions if isinstance(function, Symbol) and function.name == "Network"]
    if not classes:
        return None
    if classes[0].module != "dnnlib.tflib.network":
        return "a progressive GAN (it has no mapping that could be made invertible)"
    return {3: "a TensorFlow StyleGAN (G, D, Gs)", 4: "a TensorFlow LIA", 5: "a TensorFlow LIA"}.get(
        len(classes), "a TensorFlow network"
    )


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
