"""`reconstruct`: images, or codes of images, drawn by the generator, and pasted back into their pictures."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from lia_adapter.codes import draw_code, given
from lia_adapter.data import none_readable, paste_back
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.files import check_writable, make_folder
from lia_adapter.generators import fingerprint
from lia_adapter.generators.labels import Label
from lia_adapter.jobs.drawing import Coded, is_part, open_drawing
from lia_adapter.jobs.run import check_inputs_kept, report_paths, write_json, write_results
from lia_adapter.lia import LIA
from lia_adapter.metrics.images import mse
from lia_adapter.notes import renamed
from lia_adapter.pictures import image_grid, paired_grid, png_bytes, save_png
from lia_adapter.progress import Progress
from lia_adapter.resize import resize

__all__ = ["GRID", "picture_stems", "reconstruct_images", "refuse_others"]

_SHOWN = 64  # images in the grid, at most
GRID = "grid.json"
"""Figures in the folder, with .png and .html beside them."""


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
    opened = open_drawing(
        lia, source, resize_mode=resize_mode, split=split, label=label, bits=bits, align=align, landmarks=landmarks,
        trust_codes=trust_codes,
    )  # fmt: skip
    names, images = opened.names, opened.images
    stems = picture_stems(names)
    run = {
        "source": str(source), "generator_sha256": fingerprint(g), "fit": resize_mode, "split": split, "psi": psi,
        **given(label, bits, align, landmarks),
        "encoder_sha256": None if lia.encoder is None else fingerprint(lia.encoder),
    }  # fmt: skip
    make_folder(out)
    outputs = [out / f"{stem}{ending}" for stem in stems for ending in (".png", ".pasted.png")]
    check_inputs_kept([*outputs, *report_paths(out / GRID).values()], opened.data, names)
    refuse_others(out, stems, run)
    for path in report_paths(out / GRID).values():
        check_writable(path)
    files: dict[str, list[str]] = {}
    errors: dict[str, float] = {}
    shown: list[tuple[Tensor, Tensor | None]] = []

    def draw(part: Coded) -> list[Tensor]:
        return list(draw_code(lia, part.code, part.kept, psi).cpu())

    for drawn in opened.each(draw, batch):
        if not files:  # so that the same call may go over what an interrupted one left
            write_json(out / GRID, {"run": run})
        name, stem = names[drawn.number], stems[drawn.number]
        written = [f"{stem}.png"]
        make_folder((out / stem).parent)
        save_png(out / written[0], image_grid(drawn.made[None]))
        if paste and images is not None and drawn.x is not None and is_part(drawn.placement, lia.generator.resolution):
            original = images.original(opened.original(drawn.number))
            written.append(f"{stem}.pasted.png")
            save_png(out / written[1], paste_back(original, drawn.made, drawn.placement))
        files[name] = written
        if drawn.x is not None:
            errors[name] = float(mse(drawn.made[None], drawn.x[None]))
        if len(shown) < _SHOWN:  # small ones: 64 of 1024² would fill the memory
            shown.append((resize(drawn.made[None]), None if drawn.x is None else resize(drawn.x[None])))
        if progress:
            progress("reconstruct", drawn.number, len(names))
    if progress:
        progress("reconstruct", len(names), len(names))
    if images is not None and not files:
        raise none_readable(images)
    figures = {
        "run": run, "source": str(source), "lia": lia.provenance.get("source"), "psi": psi, "count": len(files),
        "mse": sum(errors.values()) / len(errors) if errors else None,
        "originals": opened.problem or None, "unreadable": {} if images is None else images.unreadable,
        "files": files, "mse_of": errors,
        "shown": {"count": len(shown), "originals": all(original is not None for _, original in shown)},
    }  # fmt: skip
    write_results(out / GRID, png_bytes(paired_grid(*_sets(shown))), figures)
    return figures


def refuse_others(out: Path, stems: Sequence[str], run: Mapping[str, Any]) -> None:
    """Sees to it that no picture of another run, or of another program, is lost.

    Args:
        out: The folder.
        stems: Of what is to be written there.
        run: What grid.json must say of an earlier run that may be replaced.

    Raises:
        ConfigError: There is one.
    """
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


def _sets(shown: Sequence[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
    """For the grid: the originals, where all are at hand, and the reconstructions."""
    drawn = torch.cat([image for image, _ in shown])
    x = [original for _, original in shown if original is not None]
    return [torch.cat(x), drawn] if len(x) == len(shown) else [drawn]
