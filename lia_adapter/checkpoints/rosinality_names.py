"""How rosinality's program calls and keeps the tensors of a StyleGAN2: one table, by which its files are read and written."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from lia_adapter.checkpoints.tables import Rule, block_name, image, only

__all__ = ["DISCRIMINATOR", "GENERATOR", "Name", "named", "rules"]


@dataclass(frozen=True)
class _Numbers:
    """What tensors of one kind are numbered by.

    Attributes:
        part: What the canonical name has in place of a number: a function of it, and of the network's number of sizes.
        all: The numbers of a network with so many sizes and so many layers in its mapping.
    """

    part: Callable[[int, int], str]
    all: Callable[[int, int], range]


@dataclass(frozen=True)
class _Kept:
    """How a tensor is kept there: `read` makes the canonical one of it, `write` it of the canonical one."""

    read: Callable[[Tensor], Tensor] | None
    write: Callable[[Tensor], Tensor]


_ONCE: Final = _Numbers(lambda n, sizes: "", lambda sizes, layers: range(1))
_DENSE: Final = _Numbers(lambda n, sizes: str(n - 1), lambda sizes, layers: range(1, layers + 1))  # style.0 normalises z
# convs.0 and convs.1 are the two layers of the block after the constant's, and so on.
_CONV: Final = _Numbers(lambda n, sizes: f"{block_name(n // 2 + 1)}.conv{n % 2}", lambda sizes, layers: range(2 * (sizes - 1)))
_UP: Final = _Numbers(_CONV.part, lambda sizes, layers: range(0, 2 * (sizes - 1), 2))
_NOISE: Final = _Numbers(
    lambda n, sizes: f"{block_name((n + 1) // 2)}.conv{(n + 1) % 2 if n else 1}", lambda sizes, layers: range(2 * sizes - 1)
)
_BLOCK: Final = _Numbers(lambda n, sizes: block_name(n + 1), lambda sizes, layers: range(sizes - 1))
# A discriminator's blocks are numbered from the finest, which convs.0 leads to.
_FINEST: Final = _Numbers(lambda n, sizes: block_name(sizes), lambda sizes, layers: range(1))
_FROM_FINEST: Final = _Numbers(lambda n, sizes: block_name(sizes - n + 1), lambda sizes, layers: range(1, sizes + 1))

_SAME: Final = _Kept(None, lambda x: x)
_ONE: Final = _Kept(only, lambda x: x[None])
_FLAT: Final = _Kept(lambda x: x.reshape(-1), lambda x: x)
_PLANES: Final = _Kept(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1, 1, 1))
_NUMBER: Final = _Kept(lambda x: x.reshape(()), lambda x: x.reshape(1))
_IMAGE: Final = _Kept(image, lambda x: x[None, None])
_UP_FILTER: Final = _Kept(lambda x: x / 4, lambda x: x * 4)  # filters behind an up-sampling carry its gain


@dataclass(frozen=True)
class Name:
    """What tensors of one kind are called.

    Attributes:
        theirs: In rosinality's program, with {} for a number.
        ours: The canonical name, with {} for what stands for that number in it.
        numbers: What they are numbered by.
        kept: How they are kept.
    """

    theirs: str
    ours: str
    numbers: _Numbers = _ONCE
    kept: _Kept = _SAME


def _both(theirs: str, ours: str, numbers: _Numbers = _ONCE) -> tuple[Name, ...]:
    """Weight and bias of a dense layer."""
    return tuple(Name(f"{theirs}.{part}", f"{ours}.{part}", numbers) for part in ("weight", "bias"))


def _layer(theirs: str, ours: str, numbers: _Numbers = _ONCE) -> tuple[Name, ...]:
    return (
        Name(f"{theirs}.conv.weight", f"{ours}.weight", numbers, _ONE),
        *_both(f"{theirs}.conv.modulation", f"{ours}.affine", numbers),
        Name(f"{theirs}.noise.weight", f"{ours}.noise_strength", numbers, _NUMBER),
        Name(f"{theirs}.activate.bias", f"{ours}.bias", numbers, _FLAT),
    )


def _torgb(theirs: str, ours: str, numbers: _Numbers = _ONCE) -> tuple[Name, ...]:
    return (
        Name(f"{theirs}.conv.weight", f"{ours}.weight", numbers, _ONE),
        *_both(f"{theirs}.conv.modulation", f"{ours}.affine", numbers),
        Name(f"{theirs}.bias", f"{ours}.bias", numbers, _PLANES),
    )


GENERATOR: Final = (
    *_both("style.{}", "mapping.fc{}", _DENSE),
    Name("input.input", "synthesis.b4.const", kept=_ONE),
    *_layer("conv1", "synthesis.b4.conv1"),
    *_torgb("to_rgb1", "synthesis.b4.torgb"),
    *_layer("convs.{}", "synthesis.{}", _CONV),
    Name("convs.{}.conv.blur.kernel", "synthesis.{}.resample_filter", _UP, _UP_FILTER),
    *_torgb("to_rgbs.{}", "synthesis.{}.torgb", _BLOCK),
    Name("to_rgbs.{}.upsample.kernel", "synthesis.{}.resample_filter", _BLOCK, _UP_FILTER),
    Name("noises.noise_{}", "synthesis.{}.noise_const", _NOISE, _IMAGE),
)
"""A generator's; its sizes are 4x4 and all after it."""

DISCRIMINATOR: Final = (
    Name("convs.0.0.weight", "{}.fromrgb.weight", _FINEST),
    Name("convs.0.1.bias", "{}.fromrgb.bias", _FINEST, _FLAT),
    Name("convs.{}.conv1.0.weight", "{}.conv0.weight", _FROM_FINEST),
    Name("convs.{}.conv1.1.bias", "{}.conv0.bias", _FROM_FINEST, _FLAT),
    Name("convs.{}.conv2.0.kernel", "{}.conv1.resample_filter", _FROM_FINEST),
    Name("convs.{}.conv2.1.weight", "{}.conv1.weight", _FROM_FINEST),
    Name("convs.{}.conv2.2.bias", "{}.conv1.bias", _FROM_FINEST, _FLAT),
    Name("convs.{}.skip.0.kernel", "{}.skip.resample_filter", _FROM_FINEST),
    Name("convs.{}.skip.1.weight", "{}.skip.weight", _FROM_FINEST),
    Name("final_conv.0.weight", "b4.conv.weight"),
    Name("final_conv.1.bias", "b4.conv.bias", kept=_FLAT),
    *_both("final_linear.0", "b4.fc"),
    *_both("final_linear.1", "b4.out"),
)
"""A discriminator's; its sizes are those of its blocks, without 4x4."""


def rules(names: Sequence[Name], sizes: int = 0) -> tuple[Rule, ...]:
    """What gives tensors of a file their canonical names.

    Args:
        names: `GENERATOR` or `DISCRIMINATOR`.
        sizes: Of the discriminator.
    """

    def rule(name: Name) -> Rule:
        def ours(match: re.Match[str]) -> str:
            return name.ours.format(name.numbers.part(int(match[1]) if match.re.groups else 0, sizes))

        return Rule(re.escape(name.theirs).replace(r"\{\}", "([0-9]{1,2})"), ours, name.kept.read)

    return tuple(rule(name) for name in names)


def named(names: Sequence[Name], state: Mapping[str, Tensor], sizes: int, layers: int = 0) -> dict[str, Tensor]:
    """A network's tensors as rosinality's program has them.

    Args:
        names: `GENERATOR` or `DISCRIMINATOR`.
        state: By canonical names.
        sizes: How many sizes it has.
        layers: How many layers the generator's mapping has.
    """
    return {
        name.theirs.format(n): name.kept.write(state[name.ours.format(name.numbers.part(n, sizes))])
        for name in names
        for n in name.numbers.all(sizes, layers)
    }
