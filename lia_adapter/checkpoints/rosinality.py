"""rosinality/stylegan2-pytorch's weights, and those of all that grew from it under other names.

- Training files `{"g", "d", "g_ema", ...}`, converted ones `{"g_ema", "latent_avg"}`, and bare weights.
- pSp, e4e, ReStyle, HyperStyle: `{"state_dict": {"decoder.…", "encoder.…"}, "latent_avg"}`; the encoder is left aside.
- BasicSR: `{"params_ema"}` or `{"params"}`; a generator or a discriminator.
- mmgeneration and mmagic: `{"state_dict": {"generator_ema.…", "generator.…", "discriminator.…"}, "meta"}`.

The latter two rename; `_BASICSR` and `_MMAGIC` give them rosinality's names back, `_GENERATOR` and `_DISCRIMINATOR` the
canonical ones. Weights of up-convolutions already have the orientation of the canonical form, style biases contain their 1.
"""

import re
from typing import Any, Final

import torch
from torch import Tensor

from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.stylegan2 import assemble
from lia_adapter.checkpoints.tables import Rule, Table, block_name, image, only, rename, table
from lia_adapter.checkpoints.values import as_mapping, as_tensor
from lia_adapter.errors import CheckpointError

__all__ = ["NAME", "matches", "read"]

NAME: Final = "stylegan2"


def _conv(part: str) -> Any:
    """convs.0 and convs.1 are the two layers of the block after the constant's, and so on."""
    return lambda m: f"synthesis.{block_name(int(m[1]) // 2 + 1)}.conv{int(m[1]) % 2}.{part}"


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1)


def _scalar(x: Tensor) -> Tensor:
    return x.reshape(())


def _quarter(x: Tensor) -> Tensor:
    """Filters before an up-sampling carry its gain of 4."""
    return x / 4


def _noise(m: re.Match[str]) -> str:
    index = int(m[1])
    return f"synthesis.{block_name((index + 1) // 2)}.conv{(index + 1) % 2 if index else 1}.noise_const"


_GENERATOR: Final = (
    Rule(
        r"style\.([0-9]{1,2})\.(weight|bias)",
        lambda m: f"mapping.fc{int(m[1]) - 1}.{m[2]}",
    ),
    Rule(r"embed\.(weight|bias)", r"mapping.embed.\1"),
    Rule(r"(?:latent_avg|w_avg)", "mapping.w_avg"),
    Rule(r"input\.input", "synthesis.b4.const", only),
    Rule(r"conv1\.conv\.weight", "synthesis.b4.conv1.weight", only),
    Rule(r"conv1\.conv\.modulation\.(weight|bias)", r"synthesis.b4.conv1.affine.\1"),
    Rule(r"conv1\.noise\.weight", "synthesis.b4.conv1.noise_strength", _scalar),
    Rule(r"conv1\.activate\.bias", "synthesis.b4.conv1.bias", _flat),
    Rule(r"to_rgb1\.bias", "synthesis.b4.torgb.bias", _flat),
    Rule(r"to_rgb1\.conv\.weight", "synthesis.b4.torgb.weight", only),
    Rule(r"to_rgb1\.conv\.modulation\.(weight|bias)", r"synthesis.b4.torgb.affine.\1"),
    Rule(r"convs\.([0-9]{1,2})\.conv\.weight", _conv("weight"), only),
    Rule(r"convs\.([0-9]{1,2})\.conv\.modulation\.weight", _conv("affine.weight")),
    Rule(r"convs\.([0-9]{1,2})\.conv\.modulation\.bias", _conv("affine.bias")),
    Rule(r"convs\.([0-9]{1,2})\.conv\.blur\.kernel", _conv("resample_filter"), _quarter),
    Rule(r"convs\.([0-9]{1,2})\.noise\.weight", _conv("noise_strength"), _scalar),
    Rule(r"convs\.([0-9]{1,2})\.activate\.bias", _conv("bias"), _flat),
    Rule(r"to_rgbs\.([0-9]{1,2})\.bias", lambda m: f"synthesis.{block_name(int(m[1]) + 1)}.torgb.bias", _flat),
    Rule(r"to_rgbs\.([0-9]{1,2})\.conv\.weight", lambda m: f"synthesis.{block_name(int(m[1]) + 1)}.torgb.weight", only),
    Rule(
        r"to_rgbs\.([0-9]{1,2})\.conv\.modulation\.(weight|bias)",
        lambda m: f"synthesis.{block_name(int(m[1]) + 1)}.torgb.affine.{m[2]}",
    ),
    Rule(
        r"to_rgbs\.([0-9]{1,2})\.upsample\.kernel",
        lambda m: f"synthesis.{block_name(int(m[1]) + 1)}.resample_filter",
        _quarter,
    ),
    Rule(r"noises\.noise_([0-9]{1,2})", _noise, image),
)


def _discriminator(sizes: int) -> tuple[Rule, ...]:
    """Rules for a discriminator of so many blocks; they are numbered from the finest."""

    def block(m: re.Match[str]) -> str:
        return block_name(sizes - int(m[1]) + 1)

    return (
        Rule(r"convs\.0\.0\.weight", f"{block_name(sizes)}.fromrgb.weight"),
        Rule(r"convs\.0\.1\.bias", f"{block_name(sizes)}.fromrgb.bias", _flat),
        Rule(r"convs\.([0-9]{1,2})\.conv1\.0\.weight", lambda m: f"{block(m)}.conv0.weight"),
        Rule(r"convs\.([0-9]{1,2})\.conv1\.1\.bias", lambda m: f"{block(m)}.conv0.bias", _flat),
        Rule(r"convs\.([0-9]{1,2})\.conv2\.0\.kernel", lambda m: f"{block(m)}.conv1.resample_filter"),
        Rule(r"convs\.([0-9]{1,2})\.conv2\.1\.weight", lambda m: f"{block(m)}.conv1.weight"),
        Rule(r"convs\.([0-9]{1,2})\.conv2\.2\.bias", lambda m: f"{block(m)}.conv1.bias", _flat),
        Rule(r"convs\.([0-9]{1,2})\.skip\.0\.kernel", lambda m: f"{block(m)}.skip.resample_filter"),
        Rule(r"convs\.([0-9]{1,2})\.skip\.1\.weight", lambda m: f"{block(m)}.skip.weight"),
        Rule(r"final_conv\.0\.weight", "b4.conv.weight"),
        Rule(r"final_conv\.1\.bias", "b4.conv.bias", _flat),
        Rule(r"final_linear\.0\.(weight|bias)", r"b4.fc.\1"),
        Rule(r"final_linear\.1\.(weight|bias)", r"b4.out.\1"),
    )


_BASICSR: Final = (
    (r"style_mlp\.", "style."),
    (r"constant_input\.weight", "input.input"),
    (r"style_conv1\.modulated_conv\.", "conv1.conv."),
    (r"style_conv1\.weight", "conv1.noise.weight"),
    (r"style_conv1\.", "conv1."),
    (r"style_convs\.([0-9]{1,2})\.modulated_conv\.", r"convs.\1.conv."),
    (r"style_convs\.([0-9]{1,2})\.weight", r"convs.\1.noise.weight"),
    (r"style_convs\.", "convs."),
    (r"(to_rgb1|to_rgbs\.[0-9]{1,2})\.modulated_conv\.", r"\1.conv."),
    (r"noises\.noise(?=[0-9])", "noises.noise_"),
    (r"conv_body\.", "convs."),
)
_MMAGIC: Final = (
    (r"style_mapping\.", "style."),
    (r"constant_input\.input", "input.input"),
    (r"injected_noise_", "noises.noise_"),
    (r"(.*)\.noise_injector\.weight", r"\1.noise.weight"),
    (r"(.*)\.style_modulation\.linear\.weight_orig", r"\1.modulation.weight"),
    (r"(.*)\.style_modulation\.bias", r"\1.modulation.bias"),
    (r"(embed|style\.[0-9]{1,2}|final_linear\.[01])\.linear\.weight_orig", r"\1.weight"),
    (r"(convs\.0\.0|convs\.[0-9]{1,2}\.(?:conv1\.0|conv2\.1|skip\.1)|final_conv\.0)\.conv\.weight_orig", r"\1.weight"),
    (r"(.*)\.weight_orig", r"\1.weight"),
)
# Where the generator's table may lie, and what is then missing.
_PLACES: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    ((), ""), (("g_ema",), ""), (("params_ema",), ""), (("g",), "g_ema"), (("params",), "params_ema"),
)  # fmt: skip
_IS_GENERATOR: Final = ("style.1.weight", "input.input", "conv1.conv.weight")
_IS_DISCRIMINATOR: Final = ("convs.0.0.weight", "final_conv.0.weight", "final_linear.1.weight")


def matches(document: Document) -> bool:
    """Whether there is a table with rosinality's names, or with those of its heirs."""
    generator, discriminator, _ = _find(document)
    return generator is not None or discriminator is not None


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the averaged generator, and the discriminator where there is one.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Raises:
        CheckpointError: Something in it is missing, unknown, or does not fit.
    """
    generator, discriminator, notes = _find(document)
    g = d = None
    if generator is not None:
        g = rename(generator, _GENERATOR)
        if "mapping.w_avg" not in g:
            average = _average(document, notes)
            if average is not None:
                g["mapping.w_avg"] = average
    if discriminator is not None:
        blocks = sum(re.fullmatch(r"convs\.[0-9]{1,2}\.conv1\.0\.weight", name) is not None for name in discriminator.nodes)
        d = rename(discriminator, _discriminator(blocks))
    return assemble(document, sha256, g, d, notes)


def _find(document: Document) -> tuple[Table | None, Table | None, list[str]]:
    """Generator, discriminator, and what to say about the choice."""
    notes: list[str] = []
    keys = as_mapping(document.tree) or {}
    whole = table(document, "state_dict")
    if whole is not None and any(name.startswith("decoder.") for name in whole.nodes):
        if any(name.startswith("encoder.") for name in whole.nodes):
            notes.append(
                "the encoder (pSp, e4e, ReStyle or a relative) was left aside: lia-adapt train-encoder makes one into y"
            )
        return _generator(whole.below("decoder.")), None, notes
    if whole is not None and any(re.match(r"generator(_ema)?\.|style_mapping\.", name) for name in whole.nodes):
        return _of_mmagic(whole, notes)
    for place, what in _PLACES:
        found = table(document, *place)
        if found is None:
            continue
        found = _renamed(found, _BASICSR)
        generator = _generator(found)
        if generator is None and not found.has(*_IS_DISCRIMINATOR):
            continue
        if what and generator is not None:
            notes.append(f"{what} is absent, {place[0]} was taken: it was not averaged")
        discriminator = table(document, "d") if "d" in keys else None
        return generator, found if generator is None else discriminator, notes
    return None, None, notes


def _of_mmagic(whole: Table, notes: list[str]) -> tuple[Table | None, Table | None, list[str]]:
    averaged = whole.below("generator_ema.")
    if any(name.startswith("module.") for name in averaged.nodes):
        averaged = averaged.below("module.")  # beside a counter of steps
    generator = averaged if averaged.nodes else whole.below("generator.")
    if not averaged.nodes and generator.nodes:
        notes.append("generator_ema is absent, generator was taken: it was not averaged")
    notes.append(
        "channels were assumed to be RGB; networks that mmagic itself trained draw BGR: pass --channel-order bgr to convert"
    )
    discriminator = _renamed(whole.below("discriminator."), _MMAGIC)
    found = _generator(_mapping_from_one(_renamed(generator if generator.nodes else whole, _MMAGIC)))
    return found, discriminator if discriminator.has(*_IS_DISCRIMINATOR) else None, notes


def _mapping_from_one(found: Table) -> Table:
    """A conditional network's mapping is counted from 0, because the normalisation has moved out of it."""
    if not found.has("style.0.weight"):
        return found
    nodes = {
        re.sub(r"^style\.([0-9]{1,2})", lambda m: f"style.{int(m[1]) + 1}", key): node for key, node in found.nodes.items()
    }
    return Table(found.document, nodes)


def _renamed(found: Table, names: tuple[tuple[str, str], ...]) -> Table:
    nodes = {}
    for key, node in found.nodes.items():
        for pattern, name in names:
            key = re.sub(f"^{pattern}", name, key)
        nodes[key] = node
    return Table(found.document, nodes)


def _generator(found: Table) -> Table | None:
    return found if found.has(*_IS_GENERATOR) else None


def _average(document: Document, notes: list[str]) -> Tensor | None:
    """latent_avg beside the weights: one row, or the same row for every layer."""
    node = (as_mapping(document.tree) or {}).get("latent_avg")
    if node is None:
        notes.append("the file has no latent_avg: the centre of truncation is measured from 10,000 samples of seed 0")
        return None
    average = as_tensor(node, document, "latent_avg")
    if average.ndim == 2 and len(average) and torch.equal(average, average[:1].expand_as(average)):
        average = average[0]
    if average.ndim != 1:
        raise CheckpointError(
            f"{document.name}: latent_avg has shape {list(average.shape)} and its rows differ; one row [y_dim] was expected. "
            "Pass the generator's own file."
        )
    return average
