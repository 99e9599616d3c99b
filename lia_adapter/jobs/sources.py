"""Where codes come from that are mixed, moved or filmed: pictures, a file of codes, or seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.codes import is_codes_file, open_codes
from lia_adapter.config import parse_seeds
from lia_adapter.data import ImageSet, Placement, in_batches, none_readable, open_images
from lia_adapter.encoder import for_layers, one_code
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.generators import broadcast, seed_to_z, truncate
from lia_adapter.generators.base import one_class
from lia_adapter.generators.labels import Label, check_given_label
from lia_adapter.jobs.sample import check_samples
from lia_adapter.lia import LIA
from lia_adapter.notes import say_once
from lia_adapter.progress import Progress

__all__ = ["SEEDS", "Sources", "count_sources", "join_sources", "open_sources", "truncated", "why_no_z"]

SEEDS = "seeds:"
"""What a source begins with that is seeds, as in seeds:0-3,7."""


@dataclass(frozen=True)
class Sources:
    """Codes of N things that have names.

    Attributes:
        names: Of images within their data set, or seed0042.
        ys: What the generator is to draw [N, num_ws, y_dim], on the CPU.
        y: The one y of each [N, y_dim]; where layers differ, their mean.
        c: Labels [N, c_dim]; None of an unconditional generator, and of codes that do not say theirs.
        placements: Where each image lies in its picture; None of seeds.
        images: The data set, and which of its images these are; None of codes and of seeds.
        numbers: Of the images, within the data set.
        unreadable: Images that could not be read, and why.
    """

    names: tuple[str, ...]
    ys: Tensor
    y: Tensor
    c: Tensor | None = None
    placements: tuple[Placement, ...] | None = None
    images: ImageSet | None = None
    numbers: tuple[int, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def beside(self) -> Tensor:
        """What each layer has beside the one y [N, num_ws, y_dim]; zero where all layers have the same."""
        return self.ys - for_layers(self.y, self.ys)

    def z(self, lia: LIA) -> Tensor:
        """The z of the one y [N, y_dim], float64, on the CPU, where `why_no_z` knows no reason against it."""
        return lia.to_z(self.y.to(lia.device), self.c).cpu()


@torch.no_grad()
def open_sources(
    lia: LIA,
    source: str | Path,
    *,
    resize_mode: str = "crop",
    split: str = "all",
    label: Label | None = None,
    trust_codes: bool = False,
    psi: float = 1.0,
    most: int | None = None,
    progress: Progress | None = None,
) -> Sources:
    """Codes of pictures, of a file, or of seeds.

    What a method of inversion found beside codes, such as noise, is left out, as it belongs to one image: a note says so.

    Args:
        lia: With an encoder, if the source are images.
        source: A folder, a data-set zip or one picture; a file of codes, see `open_codes`; or StyleGAN's seeds, as seeds:0-3,7,
            which the original mapping makes codes of.
        resize_mode: Of images, how they come to the size: crop, letterbox or stretch.
        split: Of images: which; see `open_images`.
        label: The class of all images or seeds of a conditional generator, or the numbers of their label.
        trust_codes: See `open_codes`.
        psi: Truncation; 1 is none.
        most: More than so many are refused.
        progress: Is told the images encoded.

    Raises:
        LIAError: No encoder, no readable image, codes of another generator, seeds that are none, no label, or too many.
    """
    text = str(source)
    check_given_label(label, lia.generator.c_dim)
    if text.startswith(SEEDS):
        return _truncated(lia, _of_seeds(lia, parse_seeds(text.removeprefix(SEEDS)), label, most, text), psi)
    if is_codes_file(text):
        return _truncated(lia, _of_codes(lia, text, label, trust_codes, most), psi)
    _check_encoder(lia, text)
    return _truncated(lia, _of_images(lia, text, resize_mode, split, label, most, progress), psi)


def count_sources(
    lia: LIA, source: str | Path, *, split: str = "all", label: Label | None = None, trust_codes: bool = False
) -> tuple[int, int]:
    """How many things a source holds, and how many of them would have to be encoded; see `open_sources`."""
    text = str(source)
    check_given_label(label, lia.generator.c_dim)
    if text.startswith(SEEDS):
        check_samples(lia, label)
        return len(parse_seeds(text.removeprefix(SEEDS))), 0
    if is_codes_file(text):
        return len(open_codes(text, lia, trust=trust_codes).names), 0
    _check_encoder(lia, text)
    count = len(open_images(text, lia.generator.resolution, lia.generator.channels, split=split))
    return count, count


def join_sources(parts: Sequence[Sources]) -> Sources:
    """Several as one, in order; their data sets, which differ, are left out."""
    labels = [part.c for part in parts if part.c is not None]
    return Sources(
        tuple(name for part in parts for name in part.names), torch.cat([part.ys for part in parts]),
        torch.cat([part.y for part in parts]), torch.cat(labels) if len(labels) == len(parts) else None,
        unreadable=tuple(item for part in parts for item in part.unreadable),
    )  # fmt: skip


def why_no_z(lia: LIA, found: Sources) -> str:
    """Why there is no way through z from one to another, as a sentence; nothing where there is one."""
    if lia.mapping is None:
        return "This checkpoint was not converted, so that its codes have no z: run lia-adapt convert on it first."
    if lia.generator.c_dim and found.c is None:
        return "The codes do not say their labels, by which this generator makes y of z."
    if found.c is not None and (found.c != found.c[:1]).any():
        return "The codes are of different labels, each of which has a z of its own."
    return ""


def truncated(lia: LIA, ys: Tensor, psi: float, c: Tensor | None) -> Tensor:
    """ys [N, num_ws, y_dim] moved towards the mean, that of the class where there is one for each; psi 1 leaves them."""
    return ys if psi == 1 else truncate(ys.to(lia.device), lia.centre(c), psi).to(ys)


def _truncated(lia: LIA, found: Sources, psi: float) -> Sources:
    """As the sources are to be seen, so that ways between them begin and end there."""
    if psi == 1:
        return found
    c = None if found.c is None else found.c.to(lia.device)
    ys = truncated(lia, found.ys, psi, c)
    return Sources(
        found.names, ys, one_code(ys), found.c, found.placements, found.images, found.numbers, found.unreadable
    )  # fmt: skip


def _of_seeds(lia: LIA, seeds: Sequence[int], label: Label | None, most: int | None, source: str) -> Sources:
    g = lia.generator
    check_samples(lia, label)
    _check_count(source, len(seeds), most, "Give fewer")
    z = seed_to_z(seeds, g.z_dim).to(lia.device)
    c = None if label is None else one_class(label, g.c_dim, len(seeds), z)
    found = g.mapping(z, c).cpu()
    ys = broadcast(found, g.num_ws, g.y_dim)
    y = found if found.shape[1] == g.y_dim else one_code(ys)
    return Sources(tuple(f"seed{seed:04d}" for seed in seeds), ys, y, None if c is None else c.cpu())


def _of_codes(lia: LIA, source: str, label: Label | None, trust: bool, most: int | None) -> Sources:
    g, codes = lia.generator, open_codes(source, lia, trust=trust)
    _check_count(source, len(codes.names), most, "Encode fewer into a file")
    if codes.kept(slice(0, 1), torch.device("cpu")):
        say_once(f"{Path(source).name}: what its method found beside codes, such as noise, is left out here")
    c = codes.tensors.get("c")
    if c is None and label is not None:
        c = one_class(label, g.c_dim, len(codes.names), torch.zeros(()))
    places = tuple(Placement.from_json(placement) for placement in codes.placements)
    y = codes.tensors["y"].float()
    return Sources(codes.names, broadcast(codes.ys.float(), g.num_ws), y, c, places)


def _of_images(
    lia: LIA, source: str, resize_mode: str, split: str, label: Label | None, most: int | None, progress: Progress | None
) -> Sources:
    g = lia.generator
    images = open_images(
        source, g.resolution, g.channels, resize_mode=resize_mode, split=split, c_dim=g.c_dim, label=label
    )  # fmt: skip
    _check_count(source, len(images), most, f"Choose some by {argument('split')}")
    codes: list[Tensor] = []
    labels: list[Tensor] = []
    places: list[Placement] = []
    numbers: list[int] = []
    if progress:
        progress("encode", 0, len(images))
    for part in in_batches(images, range(len(images)), lia.at_once("reconstruct")):
        codes += in_parts(lambda x: lia.encode(x).cpu(), part.x, len(part))
        labels += [] if part.c is None else [part.c]
        places += part.placements
        numbers += part.numbers
        if progress:
            progress("encode", numbers[-1] + 1, len(images))
    if not numbers:
        raise none_readable(images)
    if progress:
        progress("encode", len(images), len(images))
    found = torch.cat(codes)
    return Sources(
        tuple(images.names[n] for n in numbers), broadcast(found, g.num_ws), one_code(found),
        torch.cat(labels) if labels else None, tuple(places), images, tuple(numbers), tuple(images.unreadable.items()),
    )  # fmt: skip


def _check_encoder(lia: LIA, source: str) -> None:
    if lia.encoder is None:
        raise LIAError(
            f"this file has no encoder to read {source} with. Run lia-adapt train-encoder on it first, or give codes, or seeds "
            f"as in {SEEDS}0-3."
        )


def _check_count(source: str, count: int, most: int | None, instead: str) -> None:
    if most is not None and count > most:
        raise ConfigError(f"{source} holds {count:,} pictures; at most {most} are shown. {instead}.")
