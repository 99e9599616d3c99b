"""`evaluate`: how well a LIA encodes and redraws real images, by every measure of `lia_adapter.metrics`."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lia_adapter.commands.encode import UNUSUAL
from lia_adapter.data import ImageSet, in_batches, open_images
from lia_adapter.encoder import Encoder, one_code
from lia_adapter.errors import LIAError
from lia_adapter.lia import LIA, fingerprint, versions
from lia_adapter.metrics.distances import frechet_distance
from lia_adapter.metrics.features import Features, NetworkFeatures, PixelFeatures, inception_features
from lia_adapter.metrics.images import mse, psnr, ssim
from lia_adapter.metrics.networks import FeatureNetwork, load_network, perceptual_distance
from lia_adapter.metrics.paths import path_length
from lia_adapter.metrics.recovery import known_answer
from lia_adapter.metrics.swd import image_swd
from lia_adapter.metrics.typicality import z_size

__all__ = ["BINS", "evaluate"]

BINS = 20  # of the histogram of typicality
_SWD_IMAGES = 2048  # its patches fill 0.4 MB an image of 256², and a set's are all in memory at once
_KNOWN_ANSWERS = 1000
_PATHS = 16  # at once

Progress = Callable[[str, int, int], None]


@torch.no_grad()
def evaluate(
    lia: LIA,
    data: str | Path,
    *,
    fit: str = "crop",
    split: str = "all",
    label: int | None = None,
    features: str | Path | None = None,
    fid: bool = False,
    batch: int = 32,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Encodes images, draws them again and measures. Images are read as they are needed and never all in memory.

    As many codes of the prior and pairs of codes are drawn as there are images, so the split also decides how long it takes.

    Args:
        lia: With an encoder.
        data: A folder or data-set zip of at least two images; for a conditional generator, with labels.
        fit: crop, letterbox or stretch.
        split: Which images; better not those of the training; see `open_images`.
        label: The class of all images of a conditional generator, instead of the data set's own labels.
        features: File of a network for perceptual distance and path length, which are left out without one, and for the
            Fréchet distances, which without one compare pixels.
        fid: Take Inception's features for the Fréchet distances, the usual FID (needs torch-fidelity).
        batch: Images a pass.
        progress: Is told what is done.

    Returns:
        Figures as JSON could say them (but for PSNR, which is infinite where an image comes back exactly):

        - mse, on [-1, 1]; psnr, in dB; ssim; perceptual, where there is a network: means over the images
        - swd: ProGAN's, by level and the mean of levels, times 1000, and the number of images
        - frechet: of the reconstructions, and of samples of the prior, to the images, and by which features
        - path_length: in z and y, where there is a network
        - round_trip: largest |to_y(to_z(y)) - y| over the images, in standard deviations of y
        - known_answer: see `lia_adapter.metrics.recovery.known_answer`
        - typicality: share of unusual images, histogram, and the median of z_size
        - left_out: what was not measured, and why
        - of_each: names of the images and their figures

    Raises:
        LIAError: No encoder, fewer than two images that can be read, or no network in the file.
    """
    start, g = time.monotonic(), lia.generator
    if not isinstance(lia.encoder, Encoder) or lia.typicality is None:
        has = "the encoder that was published with it" if lia.encoder is not None else "no encoder"
        raise LIAError(f"this file has {has}; evaluate judges one of this program. Run lia-adapt train-encoder on it first.")
    network = None if features is None else load_network(features).to(lia.device)
    judge = (inception_features() if fid else PixelFeatures() if network is None else NetworkFeatures(network)).to(lia.device)
    images = open_images(data, g.resolution, g.channels, fit=fit, split=split, c_dim=g.c_dim, label=label)
    if len(images) < 2:
        raise LIAError(f"evaluate compares sets of images; found one in {images.path}. Give a folder or a larger split.")
    seen = _Seen(lia, images, network, judge, batch)
    seen.look(progress)
    count = len(seen.numbers)
    if count < 2:
        name, why = next(iter(images.unreadable.items()))
        raise LIAError(f"evaluate needs 2 images, but of {images.path} it can read {count}; {name!r}: {why}. Give others.")
    real, drawn = torch.cat(seen.real), torch.cat(seen.drawn)
    of_each = {name: torch.cat(values).tolist() for name, values in seen.figures.items()}
    typical = torch.tensor(of_each["typicality"], dtype=torch.float64)
    if progress:
        progress("patches", 0, 1)
    swd_numbers = [i * count // min(count, _SWD_IMAGES) for i in range(min(count, _SWD_IMAGES))]
    swd = image_swd(seen.again(swd_numbers), seen.redrawn(swd_numbers))
    if progress:
        progress("patches", 1, 1)
    result: dict[str, Any] = {
        "images": {
            "data": str(data), "identity": images.identity(), "fit": fit, "split": split, "count": count,
            "unreadable": images.unreadable,
        },
        **{name: _mean(of_each[name]) for name in ("mse", "psnr", "ssim", "perceptual") if name in of_each},
        "swd": {"mean": swd.pop("mean"), "levels": swd, "images": len(swd_numbers)},
        "frechet": {
            "features": judge.name,
            "reconstructions": frechet_distance(real, drawn),
            "samples": frechet_distance(real, torch.cat(list(seen.samples(progress)))),
        },
        "round_trip": max(of_each["round_trip"]),
        "typicality": {
            "unusual": float((typical < UNUSUAL).double().mean()),
            "histogram": torch.histc(typical, BINS, 0, 1).long().tolist(),
            "z_size": float(torch.tensor(of_each["z_size"], dtype=torch.float64).median()),
        },
        "known_answer": {
            **known_answer(g, lia.encode, lia.encoder.root, samples=min(count, _KNOWN_ANSWERS)),
            "images": min(count, _KNOWN_ANSWERS),
        },
        "left_out": {},
    }  # fmt: skip
    if network is None:
        why = "no feature network was given (--features FILE)"
        result["left_out"] = {"perceptual distance": why, "path length": why}
    else:
        result["network"] = network.name
        result["path_length"] = {"pairs": count, **{space: seen.path(space, network, progress) for space in ("z", "y")}}
    return {
        **result, "of_each": {"name": [images.names[n] for n in seen.numbers], **of_each},
        "lia": lia.provenance.get("source"), "generator_sha256": fingerprint(g),  # type: ignore[arg-type]
        "encoder_sha256": fingerprint(lia.encoder), "versions": versions(), "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip


class _Seen:
    """The images that were read, their codes and features, and what is measured on more than one pass."""

    def __init__(self, lia: LIA, images: ImageSet, network: FeatureNetwork | None, judge: Features, batch: int) -> None:
        self.lia, self.images, self.network, self.judge, self.batch = lia, images, network, judge, batch
        self.numbers: list[int] = []
        self.codes: list[Tensor] = []  # y or ys of each batch
        self.real: list[Tensor] = []  # features of each batch [n, D]
        self.drawn: list[Tensor] = []
        self.figures: dict[str, list[Tensor]] = {}

    def look(self, progress: Progress | None) -> None:
        """Encodes and redraws every image once."""
        lia, encoder, typicality = self.lia, self.lia.encoder, self.lia.typicality
        assert isinstance(encoder, Encoder) and typicality is not None  # noqa: S101  (the caller saw to it)
        std = encoder.root.square().sum(dim=0).sqrt()  # root is symmetric, and its square the covariance of y
        for part in in_batches(self.images, range(len(self.images)), self.batch, lia.device):
            codes = lia.encode(part.x)
            drawn = lia.synthesize(codes)
            y = one_code(codes)
            z = lia.to_z(y, part.c)
            figures = {
                "mse": mse(drawn, part.x), "psnr": psnr(drawn, part.x), "ssim": ssim(drawn, part.x),
                "typicality": typicality(y), "z_size": z_size(z),
                "round_trip": ((lia.to_y(z, part.c) - y).abs() / std).amax(dim=1),
            }  # fmt: skip
            if self.network is not None:
                figures["perceptual"] = perceptual_distance(self.network, drawn, part.x)
            for name, values in figures.items():
                self.figures.setdefault(name, []).append(values.cpu())
            self.numbers += part.numbers
            self.codes.append(codes.cpu())
            self.real.append(self.judge(part.x).cpu())
            self.drawn.append(self.judge(drawn).cpu())
            if progress:
                progress("images", part.numbers[-1], len(self.images))
        if progress:
            progress("images", len(self.images), len(self.images))

    def again(self, chosen: Sequence[int]) -> Iterator[Tensor]:
        """Some of the images that were read."""
        numbers = [self.numbers[i] for i in chosen]
        return (part.x for part in in_batches(self.images, numbers, self.batch, self.lia.device))

    def redrawn(self, chosen: Sequence[int]) -> Iterator[Tensor]:
        """Their reconstructions, drawn anew: to keep them would take more memory than anything else."""
        codes = torch.cat(self.codes)[list(chosen)]
        return (self.lia.synthesize(part.to(self.lia.device)) for part in codes.split(self.batch))

    def samples(self, progress: Progress | None) -> Iterator[Tensor]:
        """Features [n, D] of as many images of the prior, with the labels of the real ones."""
        random = torch.Generator().manual_seed(0)
        for first in range(0, len(self.numbers), self.batch):
            numbers = self.numbers[first : first + self.batch]
            z = torch.randn(len(numbers), self.lia.z_dim, generator=random).to(self.lia.device)
            yield self.judge(self.lia.synthesize(self.lia.to_y(z, self._labels(numbers)))).cpu()
            if progress:
                progress("samples", first + len(numbers), len(self.numbers))

    def path(self, space: Literal["z", "y"], network: FeatureNetwork, progress: Progress | None) -> float:
        """Path length between as many pairs of codes, those of a batch with labels from all over the data set."""
        count = len(self.numbers)
        labels = self._labels([self.numbers[i * count // _PATHS] for i in range(_PATHS)])
        done = 0

        def distance(a: Tensor, b: Tensor) -> Tensor:
            nonlocal done
            done += len(a)
            if progress:
                progress(f"path length in {space}", done, count)
            return perceptual_distance(network, a, b)

        return path_length(
            lambda z: self.lia.to_y(z, None if labels is None else labels[: len(z)]), self.lia.synthesize, distance,
            space=space, dim=self.lia.z_dim, samples=count, batch=min(_PATHS, self.batch), device=self.lia.device,
        )  # fmt: skip

    def _labels(self, numbers: Sequence[int]) -> Tensor | None:
        c = self.images.labels(numbers)
        return None if c is None else c.to(self.lia.device)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
