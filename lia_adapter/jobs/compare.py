"""`compare`: methods of reconstruction on the same images, by the same measures, with intervals and verdicts."""

import hashlib
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lia_adapter.codes import given
from lia_adapter.data import open_images
from lia_adapter.errors import ConfigError, argument
from lia_adapter.files import check_writable, sha256_file
from lia_adapter.generators import fingerprint
from lia_adapter.generators.labels import Label
from lia_adapter.jobs.compare_measures import Measures
from lia_adapter.jobs.compare_methods import common_images, open_methods
from lia_adapter.jobs.compare_statistics import compared, verdicts
from lia_adapter.jobs.compare_tables import table_paths, write_tables
from lia_adapter.jobs.run import checked_out, write_results
from lia_adapter.lia import LIA
from lia_adapter.lia_file import versions
from lia_adapter.pictures import paired_grid, png_bytes
from lia_adapter.progress import Progress

__all__ = ["compare", "comparison_out"]


def compare(
    lia: LIA,
    data: str | Path,
    *,
    codes: Mapping[str, str | Path] | None = None,
    also: Mapping[str, str | Path] | None = None,
    features: str | Path | None = None,
    lpips: bool = False,
    identity: str | Path | None = None,
    resize_mode: str = "crop",
    split: str = "all",
    label: Label | None = None,
    bits: int | None = None,
    align: str | None = None,
    landmarks: str | Path | None = None,
    trust_codes: bool = False,
    batch: int | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures methods on the images that all of them have. The LIA's encoder is the first, where there is one.

    With `out`, finished methods are kept in a hidden folder beside it until the end, and the same call goes on after them.

    Args:
        lia: Draws codes.
        data: The originals: a folder, a data-set zip or one picture.
        codes: By the name of a method, its file of codes: of `encode` or `invert`, or of another program (see `trust_codes`).
        also: By the name of a method, a folder of its reconstructions, made by whatever program. They belong to the images of
            the same names, with any ending, and come to the generator's size where they have another.
        features: File of a torchvision network, for perceptual distance, and for the distances between sets, which without one
            compare pixels.
        lpips: Measure LPIPS, too, on the network of `features`, which must be AlexNet, VGG16 or SqueezeNet 1.1; needs the
            package lpips.
        identity: File of a network, torchvision's or an .onnx, whose vectors of image and reconstruction are compared.
        resize_mode: How images come to the size: crop, letterbox or stretch.
        split: Which images; see `open_images`.
        label: The class of all images of a conditional generator, or the numbers of their label, instead of the data set's own.
        bits: Of integer images of more than 8 bits; see `open_images`.
        align: "ffhq" cuts faces out of the originals as FFHQ has them; pictures of `also` are cut out already.
        landmarks: The file that tells where these are; see `open_images`.
        trust_codes: See `open_codes`.
        batch: Images a pass, at most; None: what memory and speed allow.
        out: The .json, beside which a table for papers (.tex), one for spreadsheets (.csv) and a picture are written; None:
            none of them.
        progress: Is told what is done.

    Returns:
        Figures as JSON could say them (but for numbers that are not finite, such as PSNR of equal images):

        - images: how many, which, and those left out, with the reason
        - reference: name of the first method
        - methods: by name, kind, source, how many pictures were resized, figures and what was left_out; each figure has a
          value and the 95 % interval, or None, of what as many other images would give: by the bootstrap where it is a mean
          over images, by the jackknife where it is of a set (frechet, kid)
        - differences: of each other method to the first, alike, over the same images
        - verdicts: what these show, in sentences
        - networks: what measures are by; left_out: what was measured of no method
        - of_each: names of the images, and figures of each by method

    Raises:
        LIAError: No method, no image that all have, codes of another generator, or a file that cannot be read or written.
    """
    start, g = time.monotonic(), lia.generator
    target = None if out is None else comparison_out(out)
    if lpips and features is None:
        raise ConfigError(
            f"{argument('lpips')} needs a network to put its weights on. Give {argument('features')} a file of torchvision's "
            "AlexNet, VGG16 or SqueezeNet 1.1."
        )
    images = open_images(
        data, g.resolution, g.channels, resize_mode=resize_mode, split=split, c_dim=g.c_dim, label=label, bits=bits,
        align=align, landmarks=landmarks,
    )  # fmt: skip
    methods = open_methods(
        lia,
        images,
        dict(codes or {}),
        dict(also or {}),
        resize_mode=resize_mode,
        bits=bits,
        align=align,
        trust_codes=trust_codes,
    )
    measures = Measures(lia, images, features=features, lpips=lpips, identity=identity, batch=batch)
    common = common_images(images, methods, progress)
    measures.numbers = common.numbers
    names = [images.names[number] for number in common.numbers]
    about = {  # what kept figures are of
        "images": images.identity(), "names": hashlib.sha256(repr(names).encode()).hexdigest(), "generator": fingerprint(g),
        "encoder": None if lia.encoder is None else fingerprint(lia.encoder),
        "mapping": None if lia.mapping is None else fingerprint(lia.mapping), "lpips": lpips,
        "features": None if features is None else sha256_file(features),
        "identity": None if identity is None else sha256_file(identity),
    }  # fmt: skip
    parts = None if target is None else target.with_name(f".{target.name}.parts")
    originals = measures.kept_or(parts, about, None, progress)
    measured = {method.name: measures.kept_or(parts, about, method, progress) for method in methods}
    if progress:
        progress("intervals", 0, 1)
    left_out = _left_out(lia, features, lpips, identity)
    found = compared(measured, originals, measures.extractor.name, left_out)
    for method in methods:
        found["methods"][method.name] = {
            "kind": method.kind, "source": method.source, "identity": method.identity,
            "resized": common.resized.get(method.name, 0), **found["methods"][method.name],
        }  # fmt: skip
    figures: dict[str, Any] = {
        "images": {
            "data": str(data), "identity": images.identity(), "fit": resize_mode, "split": split,
            **given(label, bits, align, landmarks),
            "count": len(names), "left_out": common.left_out,
        },
        **found, "verdicts": verdicts(found, len(names)),
        "networks": {**measures.names, "sets": measures.extractor.name}, "left_out": left_out,
        "of_each": {
            "name": names,
            **{name: {key: v.tolist() for key, v in one.figures.items()} for name, one in measured.items()},
        },
        "lia": lia.provenance.get("source"), "generator_sha256": fingerprint(g), "versions": versions(),
        "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip
    if target is not None and parts is not None:
        rows = [originals.shown, *(one.shown for one in measured.values())]
        write_tables(figures, target)
        write_results(target, png_bytes(paired_grid(*rows)), figures)
        shutil.rmtree(parts, ignore_errors=True)
    if progress:
        progress("intervals", 1, 1)
    return figures


def comparison_out(out: str | Path | None) -> Path:
    """The .json that `compare` writes, found out to be writable as all that comes beside it; the .html names it, too.

    Raises:
        LIAError: The name ends in another way, or a file cannot be written there.
    """
    path = Path("comparison.json" if out is None else out)
    target = checked_out(path.with_suffix(".json") if path.suffix == ".html" else path, "", ".json")
    for table in table_paths(target).values():
        check_writable(table)
    return target


def _left_out(lia: LIA, features: str | Path | None, lpips: bool, identity: str | Path | None) -> dict[str, str]:
    """Measures that no method can have, and why."""
    why = {
        "perceptual": "" if features is not None else "no feature network was given (features)",
        "lpips": "" if lpips else "it was not asked for (lpips)",
        "identity": "" if identity is not None else "no network was given (identity)",
        "typicality": "" if lia.typicality is not None else "train-encoder has not measured what is usual",
        "prior_p": "" if lia.mapping is not None else "this file was not converted",
        "lec": "" if lia.encoder is not None else "this file has no encoder",
    }
    return {key: reason for key, reason in why.items() if reason}
