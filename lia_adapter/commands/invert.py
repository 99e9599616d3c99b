"""`invert`: codes of images by optimisation, batch by batch, resumed at the batch where it stopped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.commands.codes import Codes, joined, read_codes, said
from lia_adapter.commands.reports import write_invert_report
from lia_adapter.data import Batch, ImageSet, in_batches, none_readable, open_images
from lia_adapter.encoder import one_code
from lia_adapter.errors import LIAError
from lia_adapter.files import atomic_write, check_writable, make_folder, sha256_file
from lia_adapter.generators import graphs_at_once
from lia_adapter.generators.labels import Label
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
    label: Label | None = None,
    bits: int | None = None,
    batch: int | None = None,
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
        label: The class of all images of a conditional generator, or the numbers of their label, instead of the data set's own.
        bits: Of integer images of more than 8 bits; see `open_images`.
        batch: Images worked on at once, at most; None: what memory and speed allow.
        seed: Of random starts.
        progress: Is told the steps done and to do, over all images.

    Raises:
        LIAError: No mapping, no encoder to start from, no readable image, or a file that cannot be written.
    """
    out, g = Path(out), lia.generator
    if lia.mapping is None:
        raise LIAError("this checkpoint was not converted, so its codes have no z. Run lia-adapt convert on it first.")
    if start == "encoder" and lia.encoder is None:
        raise LIAError("this file has no encoder to start from. Run lia-adapt train-encoder on it, or start from the mean.")
    for path in (out, *report_paths(out).values()):
        check_writable(path)
    images = open_images(data, g.resolution, g.channels, fit=fit, split=split, c_dim=g.c_dim, label=label, bits=bits)
    network = None if features is None else load_network(features).to(lia.device)
    about = {
        "how": "invert", "data": str(data), "identity": images.identity(), "fit": fit, "split": split, **said(label, bits),
        "space": space, "start": start, "steps": steps, "seed": seed,
        "features": None if network is None else network.name,
        "features_sha256": None if features is None else sha256_file(features),
        "encoder_sha256": None if lia.encoder is None else fingerprint(lia.encoder),
        "mapping_sha256": None if lia.mapping is None else fingerprint(lia.mapping),
        "lia": lia.provenance.get("source"),
    }  # fmt: skip
    loss = ReconstructionLoss(network)
    n, _ = graphs_at_once(g, lambda drawn: loss(drawn, drawn.detach()), most=batch)
    work = _Work(lia, images, loss, about, fingerprint(g), n)
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

    def __init__(
        self, lia: LIA, images: ImageSet, loss: ReconstructionLoss, about: dict[str, Any], owner: str, batch: int
    ) -> None:
        self.lia, self.images, self.loss, self.about, self.owner = lia, images, loss, about, owner
        self.batch, self.steps = batch, int(about["steps"])

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
        """With a seed for each image, so that batches change no random start."""
        return self.lia.invert(
            part.x, part.c, steps=steps, space=self.about["space"], start=self.about["start"], loss=self.loss,
            seed=[self.about["seed"] + number for number in part.numbers], progress=progress,
        )  # fmt: skip

    @torch.no_grad()
    def codes(self, part: Batch, numbers: range, progress: Callable[[int, int], None] | None) -> Codes:
        """The codes of a batch, which is what could be read of these images."""
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
        here = {self.images.names[number] for number in numbers}
        unreadable = {name: why for name, why in self.images.unreadable.items() if name in here}
        return Codes(names, {name: t.cpu() for name, t in tensors.items()}, places, self.owner, self.about, unreadable)

    def coordinates(self, path: Path, progress: Callable[[str, int, int], None] | None) -> None:
        """Finds what the search moves in, once for a run: how well depends on the clock, and a resumed run must go on alike."""
        bound = {"generator": self.owner, "about": json.dumps(self.about, sort_keys=True)}
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                if file.metadata() == bound:
                    # Cloned, as memory of another alignment may be multiplied by other kernels, with another last bit.
                    mean, matrix = (file.get_tensor(name).clone().to(self.lia.device) for name in ("mean", "matrix"))
                    self.lia.coordinates = mean, matrix
                    return
        except (OSError, safetensors.SafetensorError):
            pass  # not found yet
        seconds = self.lia.search_seconds(len(self.images) * self.steps)
        mean, matrix = self.lia.find_coordinates(seconds, progress)
        make_folder(path.parent)
        content = save({"mean": mean.cpu().contiguous(), "matrix": matrix.cpu().contiguous()}, metadata=bound)
        with atomic_write(path, needs=len(content)) as temporary:
            temporary.write_bytes(content)

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
        drawn = in_parts(
            lambda ys: resize(self.lia.synthesize(ys.to(self.lia.device))).cpu(), codes.ys[:_SHOWN], self.lia.at_once("draw")
        )
        return [x, begun, torch.cat(list(drawn))]


def _all_batches(work: _Work, folder: Path, progress: Callable[[str, int, int], None] | None) -> Codes:
    """The codes of all images; those of finished batches are in the folder, in files named by their first and last image."""
    steps, count = max(work.steps, 1), len(work.images)
    parts: list[Codes] = []
    first = 0
    if work.steps and work.about["space"] != "z":
        work.coordinates(folder / "coordinates.safetensors", progress)
    while first < count:
        last, codes = _finished(work, folder, first)
        if codes is None and (part := work.read(first)) is not None:

            def tell(done: int, _: int, before: int = first * steps) -> None:
                if progress:
                    progress("invert", before + done, count * steps)

            codes = work.codes(part, range(first, last), tell)
            make_folder(folder)
            codes.save(folder / f"{first:08d}-{last:08d}.safetensors")
        parts += [] if codes is None else [codes]
        first = last
        if progress:
            progress("invert", first * steps, count * steps)
    if not parts:
        raise none_readable(work.images)
    whole = joined(parts)
    # Of batches that an earlier run finished, only they themselves know.
    unreadable = dict(sorted({**whole.unreadable, **work.images.unreadable}.items()))
    return Codes(whole.names, whole.tensors, whole.placements, whole.generator, whole.about, unreadable)


def _finished(work: _Work, folder: Path, first: int) -> tuple[int, Codes | None]:
    """The end of the batch that begins at an image, and its codes where an earlier run finished it, of whatever size it was."""
    for path in folder.glob(f"{first:08d}-*.safetensors"):
        last = path.stem.partition("-")[2]
        if last.isdecimal() and first < int(last) <= len(work.images) and (codes := work.kept(path)) is not None:
            return int(last), codes
    return min(first + work.batch, len(work.images)), None


def _figures(codes: Codes) -> dict[str, Any]:
    of_each = {name: codes.tensors[name].tolist() for name in ("mse", "start_loss", "loss", "typicality", "z_size")}
    means = {name: sum(values) / len(values) for name, values in of_each.items()}
    return {
        "about": codes.about, "mean": means, "unreadable": codes.unreadable, "of_each": {"name": list(codes.names), **of_each},
    }  # fmt: skip
