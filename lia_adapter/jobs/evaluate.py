"""`evaluate`: how well a LIA encodes and redraws real images, by every measure of `lia_adapter.metrics`."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lia_adapter.budget import allowance, in_parts, room
from lia_adapter.codes import given
from lia_adapter.data import Batch, ImageSet, in_batches, open_images
from lia_adapter.encoder import Encoder, one_code
from lia_adapter.errors import LIAError
from lia_adapter.generators import fingerprint, pictures_at_once
from lia_adapter.generators.labels import Label
from lia_adapter.jobs.encode import UNUSUAL
from lia_adapter.jobs.evaluate_examples import write_evaluation
from lia_adapter.jobs.run import checked_out
from lia_adapter.lia import LIA
from lia_adapter.lia_file import versions
from lia_adapter.metrics.distances import frechet_distance, frechet_of_rows
from lia_adapter.metrics.features import Features, FeatureSet, NetworkFeatures, PixelFeatures, inception_features
from lia_adapter.metrics.images import mse, psnr, ssim
from lia_adapter.metrics.intervals import jackknife
from lia_adapter.metrics.networks import FeatureNetwork, load_network, perceptual_distance
from lia_adapter.metrics.paths import path_length
from lia_adapter.metrics.recovery import KnownAnswers
from lia_adapter.metrics.swd import Patches, patch_bytes
from lia_adapter.metrics.typicality import z_size
from lia_adapter.notes import renamed
from lia_adapter.progress import Progress

__all__ = ["BINS", "evaluate"]

BINS = 20  # of the histogram of typicality
_LEAST = 10  # images, below which no figure of a set says anything
_FEW = 2000  # images, or the entries of features if these are more, below which a Fréchet distance comes with its interval
_KEPT = 4096  # features that are kept for that
_SWD_IMAGES = 2048  # its patches fill 0.4 MB an image of 256², and a set's are all in memory at once
_SHARE = 0.25  # of the memory that may be taken, for these
_KNOWN_ANSWERS = 1000
_PASSES = 4  # over the images, of drawing: reconstructions, samples, and known answers twice


@renamed("fit", "resize_mode")
@torch.no_grad()
def evaluate(
    lia: LIA,
    data: str | Path,
    *,
    resize_mode: str = "crop",
    split: str = "all",
    label: Label | None = None,
    bits: int | None = None,
    align: str | None = None,
    landmarks: str | Path | None = None,
    features: str | Path | None = None,
    fid: bool = False,
    batch: int | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Encodes images, draws them again and measures. Images are read as they are needed and never all in memory.

    All z are those of codes, and the prior is that of the invertible mapping; seeds and the original mapping play no part.
    As many codes of the prior and pairs of codes are drawn as there are images, so the split also decides how long it takes.

    Args:
        lia: With an encoder.
        data: A folder or data-set zip of at least ten images; for a conditional generator, with labels.
        resize_mode: How images come to the size: crop, letterbox or stretch.
        split: Which images; better not those of the training; see `open_images`.
        label: The class of all images of a conditional generator, or the numbers of their label, instead of the data set's own.
        bits: Of integer images of more than 8 bits; see `open_images`.
        align: "ffhq" cuts faces out as FFHQ has them, by their landmarks.
        landmarks: The file that tells where these are; see `open_images`.
        features: File of a network for perceptual distance and path length, which are left out without one, and for the
            Fréchet distances, which without one compare pixels.
        fid: Take Inception's features for the Fréchet distances, the usual FID (needs torch-fidelity).
        batch: Images a pass, at most; None: what memory and speed allow.
        out: File for the figures, .json, and beside it a picture of typical, best and worst reconstructions; None: none.
        progress: Is told what is done.

    Returns:
        Figures as JSON could say them (but for PSNR, which is infinite where an image comes back exactly):

        - mse, on [-1, 1]; psnr, in dB; ssim; perceptual, where there is a network: means over the images
        - swd: ProGAN's, by level and the mean of levels, times 1000, and the number of images
        - frechet: of the reconstructions, and of samples of the prior, to the images, and by which features; of fewer than
          2,000 images, or than features have entries, also the interval of each in which 95 % of the distances of as many
          other images lie
        - path_length: in z and y, where there is a network
        - round_trip: largest |to_y(to_z(y)) - y| over the images, in standard deviations of y
        - known_answer: see `lia_adapter.metrics.recovery.KnownAnswers`
        - typicality: share of unusual images, histogram, and the medians of z_size and of prior_p (`LIA.prior_p`)
        - left_out: what was not measured, and why
        - of_each: names of the images and their figures

    Raises:
        LIAError: No encoder, fewer than ten images that can be read, or no network in the file.
    """
    start, g = time.monotonic(), lia.generator
    target = None if out is None else checked_out(out, "", ".json")
    if not isinstance(lia.encoder, Encoder) or lia.typicality is None:
        has = "the encoder that was published with it" if lia.encoder is not None else "no encoder"
        raise LIAError(f"this file has {has}; evaluate judges one of this program. Run lia-adapt train-encoder on it first.")
    network = None if features is None else load_network(features).to(lia.device)
    extractor = inception_features() if fid else PixelFeatures() if network is None else NetworkFeatures(network)
    extractor.to(lia.device)
    images = open_images(
        data, g.resolution, g.channels, resize_mode=resize_mode, split=split, c_dim=g.c_dim, label=label, bits=bits,
        align=align, landmarks=landmarks,
    )  # fmt: skip
    if len(images) < _LEAST:
        found = "one" if len(images) == 1 else len(images)
        raise LIAError(f"evaluate compares sets of images, at least {_LEAST}; found {found} in {images.path}. Give more.")
    seen = _Seen(lia, images, network, extractor, lia.at_once("reconstruct", batch))
    seen.look(progress)
    count = len(seen.numbers)
    if count < _LEAST:
        name, why = next(iter(images.unreadable.items()))
        can = f"of {images.path} it can read {count}; {name!r}: {why}"
        raise LIAError(f"evaluate needs {_LEAST} images, but {can}. Give others.")
    of_each = {name: torch.cat(values).tolist() for name, values in seen.figures.items()}
    typical = torch.tensor(of_each["typicality"], dtype=torch.float64)
    if progress:
        progress("patches", 0, 1)
    swd = seen.patches[0].distance(seen.patches[1])
    samples, seconds = seen.samples(progress)
    answers = KnownAnswers(g, lia.encoder.root, seconds=allowance(_PASSES * seconds), progress=progress)
    result: dict[str, Any] = {
        "images": {
            "data": str(data), "identity": images.identity(), "fit": resize_mode, "split": split,
            **given(label, bits, align, landmarks), "count": count,
            "unreadable": images.unreadable,
        },
        **{name: _mean(of_each[name]) for name in ("mse", "psnr", "ssim", "perceptual") if name in of_each},
        "swd": {"mean": swd.pop("mean"), "levels": swd, "images": len(seen.patched)},
        "frechet": {
            "features": extractor.name,
            "reconstructions": frechet_distance(seen.real.whole, seen.drawn.whole),
            "samples": frechet_distance(seen.real.whole, samples.whole),
            **_interval(seen.real, {"reconstructions": seen.drawn, "samples": samples}),
        },
        "round_trip": max(of_each["round_trip"]),
        "typicality": {
            "unusual": float((typical < UNUSUAL).double().mean()),
            "histogram": torch.histc(typical, BINS, 0, 1).long().tolist(),
            **{name: float(torch.tensor(of_each[name], dtype=torch.float64).median()) for name in ("z_size", "prior_p")},
        },
        "known_answer": answers.test(lia.encode, min(count, _KNOWN_ANSWERS), progress),
        "left_out": {},
    }  # fmt: skip
    if network is None:
        why = "no feature network was given (features)"
        result["left_out"] = {"perceptual distance": why, "path length": why}
    else:
        result["network"] = network.name
        result["path_length"] = {"pairs": count, **{space: seen.path(space, network, progress) for space in ("z", "y")}}
    figures = {
        **result, "of_each": {"name": [images.names[n] for n in seen.numbers], **of_each},
        "lia": lia.provenance.get("source"), "generator_sha256": fingerprint(g),
        "encoder_sha256": fingerprint(lia.encoder), "versions": versions(), "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip
    if target is not None:
        write_evaluation(lia, figures, target)
    return figures


class _Seen:
    """The images that were read, what is measured of each, and of all together."""

    def __init__(self, lia: LIA, images: ImageSet, network: FeatureNetwork | None, extractor: Features, batch: int) -> None:
        self.lia, self.images, self.network, self.extractor, self.batch = lia, images, network, extractor, batch
        self.numbers: list[int] = []
        self.real, self.drawn = FeatureSet(extractor, _KEPT), FeatureSet(extractor, _KEPT)
        self.patches = Patches(), Patches()
        self.patched: list[int] = []
        self.figures: dict[str, list[Tensor]] = {}
        each = 2 * patch_bytes(images.resolution, images.channels)
        most = min(len(images), _SWD_IMAGES, max(1, int(_SHARE * room()) // each))
        self._to_patch = {i * len(images) // most for i in range(most)}

    def look(self, progress: Progress | None) -> None:
        """Encodes and redraws every image once."""
        for batch in in_batches(self.images, range(len(self.images)), self.batch, self.lia.device):
            for part, drawn, figures in in_parts(self._redrawn, batch, len(batch)):
                for name, values in figures.items():
                    self.figures.setdefault(name, []).append(values.cpu())
                self.numbers += part.numbers
                self.real.add(part.x)
                self.drawn.add(drawn)
                chosen = [i for i, number in enumerate(part.numbers) if number in self._to_patch]
                self.patched += [part.numbers[i] for i in chosen]
                for patches, x in zip(self.patches, (part.x, drawn), strict=True):
                    patches.add(x[chosen])
            if progress:
                progress("images", batch.numbers[-1], len(self.images))
        if progress:
            progress("images", len(self.images), len(self.images))

    def _redrawn(self, part: Batch) -> tuple[Batch, Tensor, dict[str, Tensor]]:
        """Some images, what is drawn of their codes, and their figures."""
        lia, encoder, typicality = self.lia, self.lia.encoder, self.lia.typicality
        assert isinstance(encoder, Encoder) and typicality is not None  # noqa: S101  (the caller saw to it)
        std = encoder.root.square().sum(dim=0).sqrt()  # root is symmetric, and its square the covariance of y
        codes = lia.encode(part.x)
        drawn = lia.synthesize(codes)
        y = one_code(codes)
        z = lia.to_z(y, part.c)
        figures = {
            "mse": mse(drawn, part.x), "psnr": psnr(drawn, part.x), "ssim": ssim(drawn, part.x),
            "typicality": typicality(y), "z_size": z_size(z), "prior_p": lia.prior_p(y, part.c),
            "round_trip": ((lia.to_y(z, part.c) - y).abs() / std).amax(dim=1),
        }  # fmt: skip
        if self.network is not None:
            figures["perceptual"] = perceptual_distance(self.network, drawn, part.x)
        return part, drawn, figures

    def samples(self, progress: Progress | None) -> tuple[FeatureSet, float]:
        """Features of as many images of the prior, z of codes, with the labels of the real ones, and the seconds it took."""
        start, random, seen = time.monotonic(), torch.Generator().manual_seed(0), FeatureSet(self.extractor, _KEPT)
        z = torch.randn(len(self.numbers), self.lia.z_dim, generator=random)
        done = 0

        def draw(part: range) -> Tensor:
            label = self._labels(self.numbers[part.start : part.stop])
            return self.lia.synthesize(self.lia.to_y(z[part.start : part.stop].to(self.lia.device), label))

        for x in in_parts(draw, range(len(z)), min(self.batch, self.lia.at_once("draw"))):
            seen.add(x)
            done += len(x)
            if progress:
                progress("samples", done, len(z))
        return seen, time.monotonic() - start

    def path(self, space: Literal["z", "y"], network: FeatureNetwork, progress: Progress | None) -> float:
        """Path length between as many pairs of codes, with the labels of the images."""
        count, done = len(self.numbers), 0

        def distance(a: Tensor, b: Tensor) -> Tensor:
            nonlocal done
            done += len(a)
            if progress:
                progress(f"path length in {space}", done, count)
            return perceptual_distance(network, a, b)

        # Two pictures are there at once.
        at_once = pictures_at_once(self.lia.generator, lambda x: perceptual_distance(network, x, x))
        return path_length(
            self.lia.to_y, self.lia.synthesize, distance,
            space=space, dim=self.lia.z_dim, samples=count, batch=max(1, min(at_once, self.batch) // 2),
            labels=self._labels(self.numbers), device=self.lia.device,
        )  # fmt: skip

    def _labels(self, numbers: Sequence[int]) -> Tensor | None:
        c = self.images.labels(numbers)
        return None if c is None else c.to(self.lia.device)


def _interval(real: FeatureSet, others: Mapping[str, FeatureSet]) -> dict[str, Any]:
    """Between what distances the true ones of so few images lie; nothing where they are many."""
    count, entries = real.kept.shape
    if real.count >= max(_FEW, entries) or real.count > count:
        return {}

    def between(other: Tensor) -> list[float]:
        # Not a bootstrap: that draws images twice, and the Fréchet distance of sets with twins is larger, far beyond its own
        # interval. This one covers the mean distance of as many other images; both say nothing of what many images give.
        low, high = jackknife(frechet_of_rows(real.kept, other), count) or (0.0, math.inf)
        return [max(0.0, low), high]

    return {"interval": {name: between(other.kept) for name, other in others.items()}}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
