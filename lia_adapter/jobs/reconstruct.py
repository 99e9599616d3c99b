"""`reconstruct`: images, or codes of images, drawn by the generator, and pasted back into their pictures."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.codes import Codes, draw_codes, given, is_codes_file, open_codes
from lia_adapter.data import ImageSet, Placement, in_batches, none_readable, open_images, paste_back
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.files import check_writable, make_folder
from lia_adapter.generators import fingerprint
from lia_adapter.generators.labels import Label
from lia_adapter.jobs.run import check_inputs_kept, report_paths, write_json, write_results
from lia_adapter.lia import LIA
from lia_adapter.metrics.images import mse
from lia_adapter.notes import renamed
from lia_adapter.pictures import image_grid, paired_grid, png_bytes, save_png
from lia_adapter.progress import Progress
from lia_adapter.resize import resize

__all__ = ["GRID", "picture_stems", "reconstruct_images"]

_SHOWN = 64  # images in the grid, at most
GRID = "grid.json"
"""Figures in the folder, with .png and .html beside them."""


@dataclass(frozen=True)
class _Drawn:
    """A reconstruction.

    Attributes:
        number: Of its image.
        image: What the generator draws [C, H, W].
        x: What it should draw, or None where the original is not at hand.
        placement: Where the image lies in its picture.
    """

    number: int
    image: Tensor
    x: Tensor | None
    placement: Placement


@renamed("fit", "resize_mode")
def reconstruct_images(
    lia: LIA,
    source: str | Path,
    out: str | Path,
    *,
    resize_mode: str | None = None,
    split: str | None = None,
    label: Label | None = None,
    bits: int | None = None,
    align: str | None = None,
    landmarks: str | Path | None = None,
    trust_codes: bool = False,
    psi: float = 1.0,
    paste: bool = True,
    batch: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draws a PNG of every image again, and a grid of the first 64 with their originals.

    Args:
        lia: With an encoder, if the source are images.
        source: A folder, a data-set zip or one picture; or a .safetensors of codes, whose images are found where they were; or
            codes of another program (.npz, .npy, .pt), see `read_projected`.
        out: Folder, made where there is none. Of a.jpg it gets a.png and, where the picture is more than the fitted image,
            a.pasted.png, the whole picture with the reconstruction in it, its colour profile and EXIF data (see `paste_back`);
            also grid.png and .json. What the same call wrote before is replaced; pictures of another run, and those that are
            read, are not.
        resize_mode: Of images, how they come to the size: crop, the default, letterbox or stretch.
        split: Of images: which; all by default; see `open_images`.
        label: The class of all images of a conditional generator, or the numbers of their label, instead of the data set's own.
        bits: Of integer images of more than 8 bits; see `open_images`.
        align: Of images: "ffhq" cuts faces out as FFHQ has them, by their landmarks.
        landmarks: The file that tells where faces are; see `open_images`.
        trust_codes: See `open_codes`.
        psi: Truncation; 1 is none.
        paste: Whether to paste back.
        batch: Images a pass, at most; None: what memory and speed allow.
        progress: Is told what is done.

    Returns:
        What grid.json says: the files by image, mean squared errors on [-1, 1], and what could not be read or found.

    Raises:
        LIAError: No encoder, no readable image, codes of another generator, a name that leads out of the folder, or a file
            that cannot be written.
    """
    source, out, g = Path(source), Path(out), lia.generator
    if is_codes_file(source):
        if resize_mode is not None or split is not None:
            mode, split_ = argument("resize_mode"), argument("split")
            raise ConfigError(f"{source.name} holds codes, which know how images were read. Leave {mode} and {split_} out.")
        if align is not None or landmarks is not None:
            both = f"{argument('align')} and {argument('landmarks')}"
            raise ConfigError(f"{source.name} holds codes, which know how images were read. Leave {both} out.")
        codes = open_codes(source, lia, trust=trust_codes)
        images, problem = _originals(lia, codes)
        names: Sequence[str] = codes.names
        data = codes.about.get("data", "")
        numbers = None if images is None else _numbers(images, codes)
        work = _from_codes(lia, codes, images, numbers, psi, lia.at_once("draw", batch))
    else:
        problem, numbers = "", None
        if lia.encoder is None:
            raise LIAError("this file has no encoder. Run lia-adapt train-encoder on it first, or give a file of codes.")
        images = open_images(
            source, g.resolution, g.channels, resize_mode=resize_mode or "crop", split=split or "all", c_dim=g.c_dim,
            label=label, bits=bits, align=align, landmarks=landmarks,
        )  # fmt: skip
        names, data = images.names, images.path
        work = _from_images(lia, images, psi, lia.at_once("reconstruct", batch))
    stems = picture_stems(names)
    run = {
        "source": str(source), "generator_sha256": fingerprint(g), "fit": resize_mode, "split": split, "psi": psi,
        **given(label, bits, align, landmarks),
        "encoder_sha256": None if lia.encoder is None else fingerprint(lia.encoder),
    }  # fmt: skip
    make_folder(out)
    outputs = [out / f"{stem}{ending}" for stem in stems for ending in (".png", ".pasted.png")]
    check_inputs_kept([*outputs, *report_paths(out / GRID).values()], str(data), names)
    _refuse_others(out, stems, run)
    for path in report_paths(out / GRID).values():
        check_writable(path)
    files: dict[str, list[str]] = {}
    errors: dict[str, float] = {}
    shown: list[tuple[Tensor, Tensor | None]] = []
    for drawn in work:
        if not files:  # so that the same call may go over what an interrupted one left
            write_json(out / GRID, {"run": run})
        name, stem = names[drawn.number], stems[drawn.number]
        written = [f"{stem}.png"]
        make_folder((out / stem).parent)
        save_png(out / written[0], image_grid(drawn.image[None]))
        if paste and images is not None and drawn.x is not None and _is_part(drawn.placement, lia.generator.resolution):
            original = images.original(drawn.number if numbers is None else numbers[drawn.number])
            written.append(f"{stem}.pasted.png")
            save_png(out / written[1], paste_back(original, drawn.image, drawn.placement))
        files[name] = written
        if drawn.x is not None:
            errors[name] = float(mse(drawn.image[None], drawn.x[None]))
        if len(shown) < _SHOWN:  # small ones: 64 of 1024² would fill the memory
            shown.append((resize(drawn.image[None]), None if drawn.x is None else resize(drawn.x[None])))
        if progress:
            progress("reconstruct", drawn.number, len(names))
    if progress:
        progress("reconstruct", len(names), len(names))
    if images is not None and not files:
        raise none_readable(images)
    figures = {
        "run": run, "source": str(source), "lia": lia.provenance.get("source"), "psi": psi, "count": len(files),
        "mse": sum(errors.values()) / len(errors) if errors else None,
        "originals": problem or None, "unreadable": {} if images is None else images.unreadable,
        "files": files, "mse_of": errors,
        "shown": {"count": len(shown), "originals": all(original is not None for _, original in shown)},
    }  # fmt: skip
    write_results(out / GRID, png_bytes(paired_grid(*_sets(shown))), figures)
    return figures


def _refuse_others(out: Path, stems: Sequence[str], run: Mapping[str, Any]) -> None:
    """Sees to it that no picture of another run, or of another program, is lost."""
    names = [Path(GRID).with_suffix(".png").name, *(f"{stem}{ending}" for stem in stems for ending in (".png", ".pasted.png"))]
    there = next((path for name in names if (path := out / name).exists()), None)
    if there is None:
        return
    try:
        before = json.loads((out / GRID).read_text()).get("run")
    except (OSError, ValueError, AttributeError):
        before = None
    if before != run:
        whose = f"a run on {before['source']}" if isinstance(before, dict) and "source" in before else "something else"
        raise ConfigError(
            f"{argument('out')} {out} holds {there.name}, which {whose} made, by other inputs or another file than these. "
            f"Choose another folder, or remove that one."
        )


def picture_stems(names: Sequence[str]) -> list[str]:
    """Where in a folder the pictures of images go, without ending: all different, also where upper and lower case are one.

    >>> picture_stems(["a.jpg", "b/a.jpg", "a.png"])
    ['a', 'b/a', 'a.png']

    Raises:
        LIAError: A name leads out of the folder.
    """
    stems, taken = [], {"grid.png"}
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
            raise LIAError(f"an image is named {name!r}, which leads out of the folder. Get the images or codes again.")
        others = (f"{path} ({i})" for i in itertools.count(2))
        for stem in itertools.chain([str(path).removesuffix(path.suffix), str(path)], others):
            wanted = {f"{stem}.png".lower(), f"{stem}.pasted.png".lower()}
            if not wanted & taken:
                break
        taken |= wanted
        stems.append(stem)
    return stems


@torch.no_grad()
def _from_images(lia: LIA, images: ImageSet, psi: float, size: int) -> Iterator[_Drawn]:
    for part in in_batches(images, range(len(images)), size, lia.device):
        for drawn in in_parts(lambda x: lia.synthesize(lia.encode(x), psi=psi).cpu(), part.x, len(part)):
            some, part = part[: len(drawn)], part[len(drawn) :]
            yield from map(_Drawn, some.numbers, drawn, some.x.cpu(), some.placements)


@torch.no_grad()
def _from_codes(
    lia: LIA, codes: Codes, images: ImageSet | None, numbers: Sequence[int] | None, psi: float, size: int
) -> Iterator[_Drawn]:
    first = 0
    for drawn in in_parts(lambda part: draw_codes(lia, codes, part, psi).cpu(), range(len(codes.names)), size):
        for i, image in enumerate(drawn, first):
            item = None if images is None or numbers is None else images.load(numbers[i])
            yield _Drawn(i, image, None if item is None else item.x, Placement.from_json(codes.placements[i]))
        first += len(drawn)


def _originals(lia: LIA, codes: Codes) -> tuple[ImageSet | None, str]:
    """The images that codes were made of, or why they are not at hand."""
    g, about = lia.generator, codes.about
    try:
        data, mode, split = (str(about[key]) for key in ("data", "fit", "split"))
        images = open_images(
            data, g.resolution, g.channels, resize_mode=mode, split=split, c_dim=g.c_dim, label=about.get("label"),
            bits=about.get("bits"), align=about.get("align"), landmarks=about.get("landmarks"),
        )  # fmt: skip
    except KeyError:
        return None, "The codes do not say where their images are."
    except LIAError as error:
        return None, str(error)
    if images.identity() != about.get("identity"):
        return None, f"The images in {images.path} have changed since the codes were made."
    return images, ""


def _numbers(images: ImageSet, codes: Codes) -> list[int]:
    number = {name: i for i, name in enumerate(images.names)}
    if unknown := [name for name in codes.names if name not in number]:
        raise LIAError(f"the codes name the image {unknown[0]!r}, which {images.path} does not hold. Encode the images again.")
    return [number[name] for name in codes.names]


def _is_part(placement: Placement, resolution: tuple[int, int]) -> bool:
    """Whether the picture is more than the fitted image."""
    whole = (0, 0, *placement.size)
    return placement.size != tuple(resolution) or placement.box != whole or placement.inner != whole


def _sets(shown: Sequence[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
    """For the grid: the originals, where all are at hand, and the reconstructions."""
    drawn = torch.cat([image for image, _ in shown])
    x = [original for _, original in shown if original is not None]
    return [torch.cat(x), drawn] if len(x) == len(shown) else [drawn]
