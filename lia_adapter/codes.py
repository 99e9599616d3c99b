"""A file of codes: what `encode` and `invert` write and later commands read, bound to its generator by hash.

Files of other programs have no hash: there the user's word counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter import projected
from lia_adapter.data import Placement
from lia_adapter.encoder import one_code
from lia_adapter.errors import CheckpointError, ConfigError, LIAError, argument
from lia_adapter.generators import broadcast, fingerprint, truncate
from lia_adapter.generators.labels import Label
from lia_adapter.inversion import kept_names, redraw
from lia_adapter.lia import LIA
from lia_adapter.lia_file import reason
from lia_adapter.tensorfile import CODES, read_tensor_file, write_tensor_file

__all__ = [
    "Codes",
    "check_generator",
    "draw_code",
    "draw_codes",
    "is_codes_file",
    "join_codes",
    "open_codes",
    "read_codes",
    "given",
    "shard_paths",
]

_VERSION = 1


@dataclass(frozen=True)
class Codes:
    """Codes of N images.

    Attributes:
        names: Of the images, within their data set.
        tensors: y [N, y_dim]; z [N, y_dim] (float64); mse [N], of the reconstruction on [-1, 1]; typicality [N] in [0, 1], NaN
            where the LIA has no encoder; z_size [N]; and, where there are any, ys [N, num_ws, y_dim], c [N, c_dim] and prior_p
            [N] in [0, 1] (`LIA.prior_p`), which files of earlier versions lack; and what a method of inversion keeps beside
            codes (`inversion.redraw`). Codes of another program are y, or y and ys,
            alone.
        placements: Where each image lies in its picture, as `Placement.to_json` says it.
        generator: Fingerprint of the generator that they belong to.
        about: Where they come from, as JSON: data, split, fit, how they were made.
        unreadable: Images that could not be read, and why.
    """

    names: tuple[str, ...]
    tensors: dict[str, Tensor]
    placements: tuple[dict[str, Any], ...]
    generator: str
    about: dict[str, Any]
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def ys(self) -> Tensor:
        """What the generator is to draw: ys [N, num_ws, y_dim] where there are any, else y [N, y_dim]."""
        return self.tensors.get("ys", self.tensors["y"])

    def kept(self, rows: slice | Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """What a method of inversion found beside some of the codes, for `draw_code`; nothing of plain codes."""
        return {name: self.tensors[name][rows].to(device) for name in kept_names(self.tensors)}

    def save(self, path: Path) -> None:
        """Writes one .safetensors, whole or not at all.

        Raises:
            LIAError: The file cannot be written.
        """
        header = {
            "version": _VERSION, "names": self.names, "placements": self.placements, "generator_sha256": self.generator,
            "about": self.about, "unreadable": self.unreadable,
        }  # fmt: skip
        write_tensor_file(path, CODES, header, {name: t.contiguous() for name, t in self.tensors.items()})


def shard_paths(path: Path, count: int) -> list[Path]:
    """The files of `count` shards: the path itself for one, else codes-00001-of-00003.safetensors and so on."""
    if count == 1:
        return [path]
    stem = path.name.removesuffix(".safetensors")
    return [path.with_name(f"{stem}-{i:05d}-of-{count:05d}.safetensors") for i in range(1, count + 1)]


def read_codes(path: str | Path) -> Codes:
    """Opens a codes file, or all shards of one by the name that was given to `encode -o`.

    Raises:
        LIAError: It is missing, damaged, no codes file, or a shard is missing.
    """
    path = Path(path)
    if path.exists():
        return _read(path)
    stem = path.name.removesuffix(".safetensors")
    shards = sorted(path.parent.glob(f"{stem}-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9].safetensors"))
    if not shards:
        raise LIAError(f"there is no codes file {path}. Run lia-adapt encode first, or check the path.")
    count = int(shards[0].stem[-5:])
    missing = [shard.name for shard in shard_paths(path, count) if shard not in shards]
    if missing or len(shards) != count:
        what = f"{missing[0]} is missing" if missing else f"there are shards of another run beside those of {count}"
        raise LIAError(f"the codes {path} are not whole: {what}. Run the same lia-adapt encode again.")
    return join_codes([_read(shard) for shard in shards])


def is_codes_file(path: str | Path) -> bool:
    """Whether a file is one of codes, by its name: ours, or one of another program."""
    return Path(path).suffix.lower() in (".safetensors", *projected.ENDINGS)


def open_codes(path: str | Path, lia: LIA, *, trust: bool = False) -> Codes:
    """Codes for a LIA: a file of ours, which must be of the same generator, or one of another program.

    Args:
        path: See `read_codes` and `read_projected`.
        lia: That is to draw them.
        trust: Whether the user says that codes of another program are of this generator. Ours have a hash for that.

    Raises:
        LIAError: The file cannot be read, is of another generator, or does not say of which.
    """
    path, g = Path(path), lia.generator
    if path.suffix.lower() not in projected.ENDINGS:
        codes = read_codes(path)
        check_generator(codes, lia, path.name)
        if not codes.names or list(codes.ys.shape[1:]) not in ([g.y_dim], [g.num_ws, g.y_dim]):
            raise LIAError(f"{path.name} is damaged: it holds codes {list(codes.ys.shape)}. Run lia-adapt encode again.")
        return codes
    names, found = projected.read_projected(path, g.num_ws, g.y_dim)
    if not trust:
        raise ConfigError(
            f"{path.name} holds codes of another program, which do not say what generator they are of. If it is this one "
            f"({lia.provenance.get('source') or 'a wrapped generator'}), add {argument('trust_codes')}."
        )
    height, width = g.resolution
    whole = Placement("crop", (height, width), (0, 0, height, width), (0, 0, height, width)).to_json()
    tensors = {"y": one_code(found)} | ({"ys": found} if found.ndim == 3 else {})
    about = {"how": "another program", "lia": lia.provenance.get("source")}
    return Codes(names, tensors, (whole,) * len(names), fingerprint(g), about)


def draw_codes(lia: LIA, codes: Codes, part: range, psi: float = 1.0) -> Tensor:
    """Draws some codes of a file, with what a method of inversion found beside them.

    Args:
        lia: Whose codes they are; see `open_codes`.
        codes: The file's.
        part: Which of them.
        psi: Truncation; 1 is none.

    Returns:
        x [n, C, H, W], about in [-1, 1] (not clamped).
    """
    rows = slice(part.start, part.stop)
    return draw_code(lia, codes.ys[rows].to(lia.device), codes.kept(rows, lia.device), psi)


def draw_code(lia: LIA, code: Tensor, kept: Mapping[str, Tensor], psi: float = 1.0) -> Tensor:
    """Draws codes, of a file or edited ones, with what belongs to them.

    Args:
        lia: Whose codes they are.
        code: y [n, y_dim] or ys [n, num_ws, y_dim].
        kept: See `Codes.kept`.
        psi: Truncation; 1 is none.

    Returns:
        x [n, C, H, W], about in [-1, 1] (not clamped).
    """
    if not kept:
        return lia.synthesize(code, psi=psi)
    ys = broadcast(code, lia.generator.num_ws)
    return redraw(lia.generator, ys if psi == 1 else truncate(ys, lia.centre(None), psi), kept)


def given(
    label: Label | None, bits: int | None, align: str | None = None, landmarks: str | Path | None = None
) -> dict[str, Any]:
    """What a user said of the images, for `about`."""
    plain = label if label is None or isinstance(label, int) else list(label)
    aligned = {} if align is None else {"align": align, "landmarks": str(landmarks)}
    return {"label": plain} | ({} if bits is None else {"bits": bits}) | aligned


def join_codes(parts: Sequence[Codes]) -> Codes:
    """Several codes of one generator as one."""
    first = parts[0]
    return Codes(
        tuple(name for part in parts for name in part.names),
        {
            name: torch.cat([part.tensors[name] for part in parts])
            for name in first.tensors
            if name != "prior_p" or all(name in part.tensors for part in parts)  # some may be of an earlier version
        },
        tuple(place for part in parts for place in part.placements),
        first.generator,
        first.about,
        {name: why for part in parts for name, why in part.unreadable.items()},
    )


def check_generator(codes: Codes, lia: LIA, name: str) -> None:
    """Refuses codes of another generator.

    Raises:
        LIAError: They belong to another.
    """
    if codes.generator != fingerprint(lia.generator):
        made = codes.about.get("lia", "another file")
        raise LIAError(
            f"{name} holds codes of another generator ({made}) than this LIA file's: encode the images with this one."
        )


def _read(path: Path) -> Codes:
    try:
        found = read_tensor_file(path, CODES)
        if found is None:
            raise LIAError(f"{path.name} is a .safetensors file, but holds no codes. lia-adapt encode writes such files.")
        header, tensors = found
        codes = Codes(
            tuple(map(str, header["names"])), tensors, tuple(header["placements"]), str(header["generator_sha256"]),
            dict(header["about"]), dict(header["unreadable"]),
        )  # fmt: skip
        sizes = {len(codes.names), len(codes.placements), *(len(t) for t in tensors.values())}
        if len(sizes) != 1 or not {"y", "z", "mse", "typicality", "z_size"} <= tensors.keys():
            raise ValueError("its parts do not fit together")
    except (CheckpointError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LIAError(f"{path.name} is no readable codes file: {reason(error)}. Run lia-adapt encode again.") from error
    return codes
