"""Two rewritings of StyleGAN1 in PyTorch, huangzh13's and lernapparat's: bare weights under nearly the same names.

Both normalise with torch's own eps, 1e-5, keep no noise images, and hold TensorFlow's kernels: those of up-convolutions to
128x128 and more are mirrored. huangzh13 keeps generator and discriminator in files of their own, and an image layer for every
resolution; lernapparat keeps the last one alone.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.networks import choose, discriminator_of, networks
from lia_adapter.checkpoints.stylegan1 import assemble, over_root_2
from lia_adapter.checkpoints.tables import Rule, Table, mirrored, only, rename

__all__ = ["NAME", "matches", "read"]

NAME: Final = "stylegan1 of huangzh13 or lernapparat"

_EPS: Final = 1e-5  # of torch.nn.InstanceNorm2d
_FUSED_FROM: Final = 128
_MAX_BLOCKS: Final = 16
_PARTS: Final = {
    "bias": "conv0.bias", "conv.weight": "conv1.weight", "conv.bias": "conv1.bias",
    "conv0_up.weight": "conv0.weight", "conv0_up.bias": "conv0.bias",
    "conv1.weight": "conv1.weight", "conv1.bias": "conv1.bias",
    "epi1.top_epi.noise.weight": "conv0.noise_strength", "epi2.top_epi.noise.weight": "conv1.noise_strength",
    "epi1.style_mod.lin.weight": "conv0.affine.weight", "epi2.style_mod.lin.weight": "conv1.affine.weight",
    "epi1.style_mod.lin.bias": "conv0.affine.bias", "epi2.style_mod.lin.bias": "conv1.affine.bias",
}  # fmt: skip


# A tensor of another shape passes these as it is, and is refused by its shape then.


def _part(m: re.Match[str]) -> str:
    return f"synthesis.b{m[1]}.{_PARTS.get(m[2], 'unknown')}"


# For lernapparat's names, which have the sizes in them.
_GENERATOR: Final = (
    Rule(r"g_mapping\.(?:map\.)?dense([0-9]{1,2})\.weight", r"mapping.fc\1.weight"),
    Rule(r"g_mapping\.(?:map\.)?dense([0-9]{1,2})\.bias", r"mapping.fc\1.bias", over_root_2),
    Rule(r"class_embedding\.weight", "mapping.label_weight"),
    Rule(r"truncation\.avg_latent", "mapping.w_avg"),
    Rule(r"g_synthesis\.blocks\.4x4\.const", "synthesis.b4.const", only),
    *(
        Rule(rf"g_synthesis\.blocks\.({side})x{side}\.(conv0_up\.weight)", _part, mirrored)
        for side in (_FUSED_FROM << i for i in range(8))
    ),
    Rule(r"g_synthesis\.blocks\.([0-9]{1,5})x\1\.conv0_up\.intermediate\.kernel", None),
    Rule(r"g_synthesis\.blocks\.([0-9]{1,5})x\1\.([a-z0-9_.]+)", _part),
    Rule(r"g_synthesis\.torgb\.([0-9]{1,5})\.(weight|bias)", r"synthesis.b\1.torgb.\2"),
)


def _numbered(found: Table) -> Table:
    """Names with sizes in them, as lernapparat has them, for all."""
    nodes, finest = {}, 4
    for key, node in found.nodes.items():
        key = key.replace("g_synthesis.init_block.", "g_synthesis.blocks.4x4.")
        key = re.sub(
            r"^g_synthesis\.blocks\.([0-9]{1,2})\.", lambda m: "g_synthesis.blocks.{0}x{0}.".format(_side(m[1], 1)), key
        )
        key = re.sub(r"^g_synthesis\.to_rgb\.([0-9]{1,2})\.", lambda m: f"g_synthesis.torgb.{_side(m[1])}.", key)
        if match := re.match(r"g_synthesis\.blocks\.([0-9]{1,5})x", key):
            finest = max(finest, int(match[1]))
        nodes[key] = node
    nodes = {re.sub(r"^g_synthesis\.torgb\.(weight|bias)$", rf"g_synthesis.torgb.{finest}.\1", k): n for k, n in nodes.items()}
    return replace(found, nodes=nodes)


def _side(index: str, more: int = 0) -> int:
    return 4 << min(int(index) + more, _MAX_BLOCKS)


def _discriminator(blocks: int) -> tuple[Rule, ...]:
    """huangzh13's, of so many blocks, numbered from the finest."""

    def side(m: re.Match[str]) -> int:
        return 4 << max(min(blocks - int(m[1]), _MAX_BLOCKS), 0)

    def conv(part: str) -> Callable[[re.Match[str]], str]:
        return lambda m: f"b{side(m)}.{part}.{m[2]}"

    return (
        Rule(r"from_rgb\.([0-9]{1,2})\.(weight|bias)", conv("fromrgb")),
        Rule(r"blocks\.([0-9]{1,2})\.conv0\.(weight|bias)", conv("conv0")),
        Rule(r"blocks\.([0-9]{1,2})\.conv1_down\.(weight|bias)", conv("conv1")),
        Rule(r"blocks\.[0-9]{1,2}\.(?:blur|conv1_down\.downscale\.blur)\.kernel", None),
        Rule(r"final_block\.conv\.(weight|bias)", r"b4.conv.\1"),
        Rule(r"final_block\.dense0\.(weight|bias)", r"b4.fc.\1"),
        Rule(r"final_block\.dense1\.(weight|bias)", r"b4.out.\1"),
    )


def matches(document: Document) -> bool:
    """Whether there is a network with these programs' names."""
    return bool(_generators(document) or _discriminators(document))


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the generator, or the discriminator.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Raises:
        CheckpointError: Something in it is missing, unknown, or does not fit.
    """
    generator, notes = choose(_generators(document))
    discriminator, tensors_d = discriminator_of(generator, _discriminators(document)), None
    if discriminator is not None:
        blocks = sum(re.fullmatch(r"blocks\.[0-9]{1,2}\.conv0\.weight", name) is not None for name in discriminator.nodes)
        tensors_d = rename(discriminator, _discriminator(blocks), notes)
    tensors = None if generator is None else rename(_grown(_numbered(generator), document), _GENERATOR, notes)
    if tensors is not None and "mapping.w_avg" not in tensors:
        notes.append("the file has no average y: it is measured from 10,000 samples of seed 0")
    return assemble(document, sha256, tensors, tensors_d, notes, norm_eps=_EPS, fromrgb_activation="linear")


def _grown(found: Table, document: Document) -> Table:
    """The blocks that were grown when the file was saved: huangzh13's holds those to come as well, untrained."""
    sides = sorted({int(m[1]) for name in found.nodes if (m := re.match(r"g_synthesis\.torgb\.([0-9]{1,5})\.weight", name))})
    if len(sides) < 2:
        return found
    depth = document.assume(
        "depth", str(len(sides)), tuple(str(i + 1) for i in range(len(sides))), "Up to which block it was grown; 1 draws 4x4."
    )
    most = 4 << int(depth) - 1
    size = re.compile(r"g_synthesis\.(?:blocks|torgb)\.([0-9]{1,5})")
    return replace(
        found, nodes={name: node for name, node in found.nodes.items() if not (m := size.match(name)) or int(m[1]) <= most}
    )


def _generators(document: Document) -> list[Table]:
    constants = ("g_synthesis.init_block.const", "g_synthesis.blocks.4x4.const")
    return [found for constant in constants for found in networks(document, constant)]


def _discriminators(document: Document) -> list[Table]:
    return networks(document, "final_block.conv.weight", "from_rgb.0.weight")
