"""`invert`: codes of images by optimisation, batch by batch, resumed at the batch where it stopped."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter.budget import affordable, in_parts, seconds_of
from lia_adapter.codes import Codes, draw_codes, given, join_codes, read_codes
from lia_adapter.config import load_recipe
from lia_adapter.data import Batch, ImageSet, in_batches, none_readable, open_images
from lia_adapter.encoder import one_code
from lia_adapter.errors import CheckpointError, LIAError
from lia_adapter.files import make_folder, sha256_file
from lia_adapter.generators import fingerprint, graphs_at_once
from lia_adapter.inversion import (
    IMAGE_LOSS,
    LADDER,
    LOSSES,
    METHODS,
    ONE_CODE,
    RUNG,
    SEARCHING,
    Inversion,
    Problem,
    ReconstructionLoss,
    check_prior_weight,
    prior_loss,
)
from lia_adapter.jobs.invert_config import InvertConfig
from lia_adapter.jobs.run import check_inputs_kept, checked_out, report_paths, write_json, write_results
from lia_adapter.lia import LIA
from lia_adapter.metrics.images import mse
from lia_adapter.metrics.networks import load_network
from lia_adapter.metrics.typicality import z_size
from lia_adapter.pictures import paired_grid, png_bytes
from lia_adapter.progress import Progress
from lia_adapter.resize import resize
from lia_adapter.tensorfile import CODES, read_tensor_file, write_tensor_file

__all__ = ["SHOWN", "invert_figures", "invert_images", "invert_lia"]

_FORMAT = "lia-adapter-coordinates"
_COORDINATES = "coordinates.safetensors"
_LEAST_STEPS = 10
SHOWN = 16
"""Images in the picture, at most."""


def invert_images(
    lia: LIA,
    data: str | Path,
    out: str | Path,
    recipe: str = "invert",
    *,
    batch: int | None = None,
    progress: Progress | None = None,
    **keys: Any,
) -> Codes:
    """Finds the codes whose images are nearest to given ones (LIA, eq. 13), and writes them as `encode_images` does.

    Finished batches are kept in a hidden folder beside `out` until the end, and the same call goes on after them. The file has
    two more tensors: loss and start_loss [N], of the codes found and of the start; and prior [N], the part of the former that
    prior_weight weighs, where there is a weight. Typicality is NaN where the LIA has no encoder. A report is written beside it.

    Args:
        lia: Converted.
        data: A folder, a data-set zip or one picture.
        out: The file, .safetensors.
        recipe: The name of a shipped recipe or the path of a .toml.
        batch: Images worked on at once, at most; None: what memory and speed allow.
        progress: Is told the steps done and to do, over all images.
        **keys: Keys of the recipe and their values, such as steps=100: see `InvertConfig`.

    Raises:
        LIAError: No mapping, no encoder to start from, no readable image, or a file that cannot be written.
    """
    return invert_lia(lia, data, out, load_recipe(InvertConfig, recipe, keys), batch=batch, progress=progress)


def invert_lia(
    lia: LIA,
    data: str | Path,
    out: str | Path,
    config: InvertConfig,
    *,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Codes:
    """`invert_images` by a recipe that was read."""
    out, g = Path(out), lia.generator
    check_prior_weight(config.prior_weight, lia.mapping)
    if lia.mapping is None:
        raise LIAError("this checkpoint was not converted, so its codes have no z. Run lia-adapt convert on it first.")
    if config.method.endswith("in-domain") and lia.encoder is None:
        raise LIAError(f"{config.method} asks the encoder at every step. Run lia-adapt train-encoder on this file first.")
    if config.start == "encoder" and lia.encoder is None:
        raise LIAError("this file has no encoder to start from. Run lia-adapt train-encoder on it, or start from the mean.")
    out = checked_out(out, "", kind=CODES)
    images = open_images(
        data, g.resolution, g.channels, resize_mode=config.resize_mode, split=config.split, c_dim=g.c_dim, label=config.label,
        bits=config.bits, align=config.align, landmarks=config.landmarks,
    )  # fmt: skip
    check_inputs_kept(report_paths(out).values(), images.path, images.names)
    network = None if config.features is None else load_network(config.features).to(lia.device)
    climbs = config.method == "ladder"
    about = {  # also what a run that goes on is known by
        "how": "invert", "data": str(data), "identity": images.identity(), "fit": config.resize_mode, "split": config.split,
        **given(config.label, config.bits, config.align, config.landmarks),
        "space": config.space, "start": config.start, "steps": config.steps, "seed": config.seed,
        "features": None if network is None else network.name,
        "features_sha256": None if config.features is None else sha256_file(config.features),
        **({} if network else {"pyramid": IMAGE_LOSS.pyramid_weight}),  # runs of before it had pixels alone
        "encoder_sha256": None if lia.encoder is None else fingerprint(lia.encoder),
        "mapping_sha256": None if lia.mapping is None else fingerprint(lia.mapping),
        "lia": lia.provenance.get("source"),
        **({"prior_weight": config.prior_weight} if config.prior_weight else {}),  # the last release did not know it
        **({"by": "L-BFGS"} if config.method in ("search", *SEARCHING) else {}),  # it was Adam
        **({} if config.method == "search" else {
            "method": config.method, "learning_rate": config.learning_rate, "codes": config.codes,
            **({"quality": config.quality, "seconds": config.seconds, "faithful": config.faithful} if climbs else {}),
        }),
    }  # fmt: skip
    loss = IMAGE_LOSS if network is None else ReconstructionLoss(network)
    asks_encoder = config.method.endswith("in-domain")

    def use(drawn: Tensor) -> Tensor:
        return loss(drawn, drawn.detach()) + (lia.encode(drawn).mean() if asks_encoder else 0.0)

    n, _ = graphs_at_once(g, use, most=batch)
    n = max(1, n // config.codes) if config.method == "multi-code" else n
    work = _Work(lia, images, config, loss, about, fingerprint(g), n)
    parts = out.with_name(f".{out.name}.parts")
    codes = work.kept(out)
    if codes is None:
        work.steps = _steps_in_time(work, parts, progress) if climbs and config.seconds else config.steps
        codes = _all_batches(work, parts, progress)
        codes.save(out)
    write_results(out, png_bytes(paired_grid(*work.pictures(codes))), invert_figures(codes))
    shutil.rmtree(parts, ignore_errors=True)
    return codes


class _Work:
    """What to do with each batch."""

    def __init__(
        self,
        lia: LIA,
        images: ImageSet,
        config: InvertConfig,
        loss: ReconstructionLoss,
        about: dict[str, Any],
        owner: str,
        batch: int,
    ) -> None:
        self.lia, self.images, self.config, self.loss = lia, images, config, loss
        self.about, self.owner, self.batch, self.steps = about, owner, batch, config.steps

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
        if self.config.method != "search":
            # Where one is too many for the memory after all, half of them.
            parts = in_parts(lambda some: self._by_method(some, steps, progress), part, len(part))
            return Inversion.joined(list(parts))
        return self.lia.invert(
            part.x, part.c, steps=steps, space=self.config.space, start=self.config.start, loss=self.loss,
            prior_weight=self.config.prior_weight, seed=[self.config.seed + number for number in part.numbers],
            progress=progress,
        )  # fmt: skip

    def _by_method(self, part: Batch, steps: int, progress: Callable[[int, int], None] | None) -> Inversion:
        lia, config, seeds = self.lia, self.config, [self.config.seed + number for number in part.numbers]
        assert lia.mapping is not None  # noqa: S101  (`invert_lia` saw to it)
        tell = None if progress is None else lambda step, _: progress(step * len(part), steps * len(part))
        problem = Problem(
            lia.generator, lia.mapping, part.x, part.c, self.loss,
            lia.first_codes(part.x, part.c, "ys", config.start, seeds), steps, seeds, rate=config.learning_rate,
            prior_weight=config.prior_weight, codes=config.codes, coordinates=lia.coordinates, quality=config.quality,
            faithful=config.faithful, encode=None if lia.encoder is None else lia.encode, progress=tell,
        )  # fmt: skip
        found = METHODS[config.method](problem) if steps else problem.answer(problem.first)
        return replace(found, loss=found.loss + problem.prior(found.ys))

    @torch.no_grad()
    def codes(self, part: Batch, numbers: range, progress: Callable[[int, int], None] | None) -> Codes:
        """The codes of a batch, which is what could be read of these images."""
        before = self.invert(part, 0).loss
        found = self.invert(part, self.steps, progress)
        y = one_code(found.ys)
        tensors = {
            "y": y, "z": found.z, "mse": mse(found.images, part.x), "z_size": z_size(found.z),
            "typicality": self.lia.typicality_of(y), "prior_p": self.lia.prior_p(y, part.c),
            "loss": found.loss, "start_loss": before,
        }  # fmt: skip
        one = self.config.space != "ys" if self.config.method == "search" else self.config.method in ONE_CODE
        tensors |= found.kept | ({} if one else {"ys": found.ys})
        if self.config.prior_weight and self.lia.mapping is not None:
            tensors["prior"] = prior_loss(self.lia.mapping, found.ys, part.c)
        tensors |= {} if part.c is None else {"c": part.c}
        names = tuple(self.images.names[n] for n in part.numbers)
        places = tuple(place.to_json() for place in part.placements)
        here = {self.images.names[number] for number in numbers}
        unreadable = {name: why for name, why in self.images.unreadable.items() if name in here}
        return Codes(names, {name: t.cpu() for name, t in tensors.items()}, places, self.owner, self.about, unreadable)

    def coordinates(self, path: Path, progress: Progress | None) -> None:
        """Finds what the search moves in, once for a run: how well depends on the clock, and a resumed run must go on alike."""
        bound = {"generator": self.owner, "about": self.about}
        try:
            found = read_tensor_file(path, _FORMAT)
            if found is not None and found[0] == bound:
                self.lia.coordinates = found[1]["matrix"].to(self.lia.device)
                return
        except (OSError, CheckpointError, KeyError):
            pass  # not found yet
        given = self.config.seconds
        seconds = self.lia.search_seconds(len(self.images) * self.steps) if given is None else _share(given, len(self.images))
        matrix = self.lia.find_coordinates(seconds, progress)
        make_folder(path.parent)
        write_tensor_file(path, _FORMAT, bound, {"matrix": matrix})

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
            if count >= SHOWN:
                break
        x, begun = (torch.cat(side)[:SHOWN] for side in zip(*rows, strict=True))
        drawn = in_parts(
            lambda part: resize(draw_codes(self.lia, codes, part)).cpu(), range(min(SHOWN, len(codes.names))),
            self.lia.at_once("draw"),
        )  # fmt: skip
        return [x, begun, torch.cat(list(drawn))]


def _all_batches(work: _Work, folder: Path, progress: Progress | None) -> Codes:
    """The codes of all images; those of finished batches are in the folder, in files named by their first and last image."""
    steps, count = max(work.steps, 1), len(work.images)
    parts: list[Codes] = []
    first = 0
    if work.steps and (work.config.method in SEARCHING or (work.config.method == "search" and work.config.space != "z")):
        work.coordinates(folder / _COORDINATES, progress)
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
    whole = join_codes(parts)
    # Of batches that an earlier run finished, only they themselves know.
    unreadable = dict(sorted({**whole.unreadable, **work.images.unreadable}.items()))
    return Codes(whole.names, whole.tensors, whole.placements, whole.generator, whole.about, unreadable)


def _share(seconds: float, images: int) -> float:
    """Of the seconds an image that a user gave, what a measurement beside the search may take: a tenth of all."""
    return 0.1 * seconds * images


def _steps_in_time(work: _Work, folder: Path, progress: Progress | None) -> int:
    """How many steps fit in the seconds an image, less what finding this out takes; once for a run that may be resumed.

    Steps of the rungs cost what they cost: the ladder itself is climbed in a few, by some images.
    """
    path = folder / "steps.json"
    try:
        found = json.loads(path.read_text())
        if found["about"] == work.about:
            return int(found["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not measured yet
    begun, count = time.monotonic(), len(work.images)
    work.coordinates(folder / _COORDINATES, progress)
    part = next((part for i in range(0, count, work.batch) if (part := work.read(i)) is not None), None)
    if part is None:
        raise none_readable(work.images)
    alone = min(seconds_of(lambda: work.invert(part[:1], _LEAST_STEPS)) for _ in range(2))  # the first time is slower
    n = affordable(_share(work.config.seconds or 0, count), alone, least=1, most=len(part))  # many at once cost less each
    each = (alone if n == 1 else seconds_of(lambda: work.invert(part[:n], _LEAST_STEPS))) / (_LEAST_STEPS * n)
    left = (work.config.seconds or 0) * count - (time.monotonic() - begun)
    steps = max(_LEAST_STEPS, int(left / (each * count)))
    write_json(path, {"about": work.about, "steps": steps})
    return steps


def _finished(work: _Work, folder: Path, first: int) -> tuple[int, Codes | None]:
    """The end of the batch that begins at an image, and its codes where an earlier run finished it, of whatever size it was."""
    for path in folder.glob(f"{first:08d}-*.safetensors"):
        last = path.stem.partition("-")[2]
        if last.isdecimal() and first < int(last) <= len(work.images) and (codes := work.kept(path)) is not None:
            return int(last), codes
    return min(first + work.batch, len(work.images)), None


def invert_figures(codes: Codes) -> dict[str, Any]:
    """What `invert_images` measured of each image, and the means."""
    names = [
        name for name in ("mse", "start_loss", "loss", "prior", "typicality", "prior_p", "z_size") if name in codes.tensors
    ]
    of_each: dict[str, Any] = {name: codes.tensors[name].tolist() for name in names}
    means = {name: sum(values) / len(values) for name, values in of_each.items()}
    climbed = {}
    if RUNG in codes.tensors:
        names_of = ["start", *(name for name, _ in LADDER[codes.about["quality"]])]
        rungs = codes.tensors[RUNG].long().tolist()
        losses = codes.tensors[LOSSES].double().mean(dim=0).tolist()
        climbed = {
            "rungs": [
                {"name": name, "loss": loss, "ended_here": rungs.count(i)}
                for i, (name, loss) in enumerate(zip(names_of, losses, strict=True))
            ]
        }
        of_each |= {RUNG: rungs, LOSSES: codes.tensors[LOSSES].tolist()}
    return {
        "about": codes.about, "mean": means, "unreadable": codes.unreadable, **climbed,
        "left_out": {} if "prior_p" in means else {"prior p": "these codes were found by a version that did not measure it"},
        "of_each": {"name": list(codes.names), **of_each},
    }  # fmt: skip
