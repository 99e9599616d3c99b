"""`invert`: codes of images by optimisation, batch by batch, resumed at the batch where it stopped."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter.commands.codes import Codes, joined, read_codes
from lia_adapter.commands.reports import write_invert_report
from lia_adapter.data import Batch, ImageSet, in_batches, none_readable, open_images
from lia_adapter.encoder import one_code
from lia_adapter.errors import LIAError
from lia_adapter.files import check_writable, make_folder, sha256_file
from lia_adapter.inversion import Inversion, ReconstructionLoss
from lia_adapter.lia import LIA, fingerprint
from lia_adapter.metrics.images import mse
from lia_adapter.metrics.networks import load_network
from lia_adapter.metrics.typicality import z_size
from lia_adapter.report import report_paths
from lia_adapter.resize import resize

__all__ = ["invert_images"]

_SHOWN = 16  # images in the picture


def invert_images(
    lia: LIA,
    data: str | Path,
    out: str | Path,
    *,
    space: str = "y",
    start: str = "encoder",
    steps: int = 500,
    features: str | Path | None = None,
    fit: str = "crop",
    split: str = "all",
    label: int | None = None,
    batch: int = 16,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Codes:
    """Finds the codes whose images are nearest to given ones (LIA, eq. 13), and writes them as `encode_images` does.

    Finished batches are kept in a hidden folder beside `out` until the end, and the same call goes on after them. The file has
    two more tensors: loss and start_loss [N], of the codes found and of the start. Typicality is NaN where the LIA has no
    encoder. A report is written beside the file.

    Args:
        lia: Converted.
        data: A folder, a data-set zip or one picture.
        out: The file, .safetensors.
        space: Where to search: y, ys (a y of its own for every layer) or z.
        start: encoder, mean or random.
        steps: Of Adam.
        features: File of a network for the perceptual part of the loss; None: pixels alone.
        fit: crop, letterbox or stretch.
        split: Which images; see `open_images`.
        label: The class of all images of a conditional generator, instead of the data set's own labels.
        batch: Images worked on at once.
        seed: Of random starts.
        progress: Is told the steps done and to do, over all batches.

    Raises:
        LIAError: No mapping, no encoder to start from, no readable image, or a file that cannot be written.
    """
    out, g = Path(out), lia.generator
    if start == "encoder" and lia.encoder is None:
        raise LIAError("this file has no encoder to start from. Run lia-adapt train-encoder on it, or start from the mean.")
    for path in (out, *report_paths(out).values()):
        check_writable(path)
    images = open_images(data, g.resolution, g.channels, fit=fit, split=split, c_dim=g.c_dim, label=label)
    network = None if features is None else load_network(features).to(lia.device)
    about = {
        "how": "invert", "data": str(data), "identity": images.identity(), "fit": fit, "split": split, "label": label,
        "space": space, "start": start, "steps": steps, "batch": batch, "seed": seed,
        "features": None if network is None else network.name,
        "features_sha256": None if features is None else sha256_file(features),
        "encoder_sha256": None if lia.encoder is None else fingerprint(lia.encoder),
        "mapping_sha256": None if lia.mapping is None else fingerprint(lia.mapping),
        "lia": lia.provenance.get("source"),
    }  # fmt: skip
    work = _Work(lia, images, ReconstructionLoss(network), about, fingerprint(g))  # type: ignore[arg-type]
    parts = out.with_name(f".{out.name}.parts")
    codes = work.kept(out)
    if codes is None:
        codes = _all_batches(work, parts, progress)
        codes.save(out)
    write_invert_report(out, _figures(codes), work.pictures(codes))
    shutil.rmtree(parts, ignore_errors=True)
    return codes


class _Work:
    """What to do with each batch."""

    def __init__(self, lia: LIA, images: ImageSet, loss: ReconstructionLoss, about: dict[str, Any], owner: str) -> None:
        self.lia, self.images, self.loss, self.about, self.owner = lia, images, loss, about, owner
        self.batch, self.steps = int(about["batch"]), int(about["steps"])

    def kept(self, path: Path) -> Codes | None:
        """The codes in a file, if this very work made them."""
        try:
            codes = read_codes(path)
        except LIAError:
            return None
        return codes if codes.generator == self.owner and codes.about == self.about else None

    def read(self, first: int) -> Batch | None:
        """The batch that begins at an image, without what can't be read."""
        numbers = range(first, min(first + self.batch, len(self.images)))
        return next(in_batches(self.images, numbers, self.batch, self.lia.device), None)

    def invert(self, part: Batch, steps: int, progress: Callable[[int, int], None] | None = None) -> Inversion:
        """With a seed of the batch's own, lest all batches have the same random starts."""
        return self.lia.invert(
            part.x, part.c, steps=steps, space=self.about["space"], start=self.about["start"], loss=self.loss,
            seed=self.about["seed"] + part.numbers[0], progress=progress,
        )  # fmt: skip

    @torch.no_grad()
    def codes(self, part: Batch, progress: Callable[[int, int], None] | None) -> Codes:
        """The codes of a batch."""
        before = self.invert(part, 0).loss
        found = self.invert(part, self.steps, progress)
        y = one_code(found.ys)
        tensors = {
            "y": y, "z": found.z, "mse": mse(found.images, part.x), "z_size": z_size(found.z),
            "typicality": self.lia.typicality_of(y),
            "loss": found.loss, "start_loss": before,
        }  # fmt: skip
        tensors |= {"ys": found.ys} if self.about["space"] == "ys" else {}
        tensors |= {} if part.c is None else {"c": part.c}
        names = tuple(self.images.names[n] for n in part.numbers)
        places = tuple(place.to_json() for place in part.placements)
        here = range(part.numbers[0] // self.batch * self.batch, len(self.images))[: self.batch]
        unreadable = {name: why for name, why in self.images.unreadable.items() if name in {self.images.names[n] for n in here}}
        return Codes(names, {name: t.cpu() for name, t in tensors.items()}, places, self.owner, self.about, unreadable)

    @torch.no_grad()
    def pictures(self, codes: Codes) -> list[Tensor]:
        """Of the first images: the originals, what the search began with, and what it found; each [n, C, H, W]."""
        rows: list[tuple[Tensor, Tensor]] = []
        count = 0
        for first in range(0, len(self.images), self.batch):
            part = self.read(first)
            if part is not None:
                rows.append((resize(part.x).cpu(), resize(self.invert(part, 0).images).cpu()))
                count += len(part.x)
            if count >= _SHOWN:
                break
        x, begun = (torch.cat(side)[:_SHOWN] for side in zip(*rows, strict=True))
        drawn = [self.lia.synthesize(part.to(self.lia.device)) for part in codes.ys[:_SHOWN].split(self.batch)]
        return [x, begun, resize(torch.cat(drawn)).cpu()]


def _all_batches(work: _Work, folder: Path, progress: Callable[[str, int, int], None] | None) -> Codes:
    """The codes of all images; those of finished batches are in the folder."""
    steps = max(work.steps, 1)
    starts = range(0, len(work.images), work.batch)
    parts, total = [], len(starts) * steps
    for i, first in enumerate(starts):
        path = folder / f"{i:06d}.safetensors"
        codes = work.kept(path)
        if codes is None and (part := work.read(first)) is not None:

            def tell(step: int, _: int, before: int = i * steps) -> None:
                if progress and step < steps:
                    progress("invert", before + step, total)

            codes = work.codes(part, tell)
            make_folder(folder)
            codes.save(path)
        parts += [] if codes is None else [codes]
        if progress:
            progress("invert", (i + 1) * steps, total)
    if not parts:
        raise none_readable(work.images)
    whole = joined(parts)
    # Of batches that an earlier run finished, only they themselves know.
    unreadable = dict(sorted({**whole.unreadable, **work.images.unreadable}.items()))
    return Codes(whole.names, whole.tensors, whole.placements, whole.generator, whole.about, unreadable)


def _figures(codes: Codes) -> dict[str, Any]:
    of_each = {name: codes.tensors[name].tolist() for name in ("mse", "start_loss", "loss", "typicality", "z_size")}
    means = {name: sum(values) / len(values) for name, values in of_each.items()}
    return {
        "about": codes.about, "mean": means, "unreadable": codes.unreadable, "of_each": {"name": list(codes.names), **of_each},
    }  # fmt: skip
