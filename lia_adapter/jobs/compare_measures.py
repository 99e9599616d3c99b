"""What `compare` measures of one method, and how that is kept beside the result until all methods are measured."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter.budget import held_by, in_parts
from lia_adapter.codes import draw_code
from lia_adapter.data import Batch, ImageSet
from lia_adapter.encoder import one_code
from lia_adapter.errors import CheckpointError
from lia_adapter.files import make_folder
from lia_adapter.jobs.compare_methods import Given, Method
from lia_adapter.lia import LIA
from lia_adapter.metrics.features import Features, NetworkFeatures, PixelFeatures
from lia_adapter.metrics.identity import identity_similarity, load_identity
from lia_adapter.metrics.images import mse, psnr, ssim
from lia_adapter.metrics.lpips import load_lpips
from lia_adapter.metrics.networks import load_network, perceptual_distance
from lia_adapter.metrics.swd import Patches
from lia_adapter.progress import Progress
from lia_adapter.resize import resize
from lia_adapter.tensorfile import read_tensor_file, write_tensor_file

__all__ = ["ORIGINALS", "SHOWN", "Measured", "Measures"]

SHOWN = 8
"""Images in the picture, at most."""
ORIGINALS = "originals"
"""What the images themselves are measured as."""

_FORMAT = "lia-adapter-compared"
_SWD_IMAGES = 256  # evenly spread: their patches fill at most 0.3 GB
_LEAST_SWD = 7  # pixels a side, of a patch


@dataclass
class Measured:
    """What is known of one method.

    Attributes:
        figures: Of each image [N], float64, by the name of the measure.
        features: [N, D], for distances between sets.
        shown: The first pictures, small [≤ SHOWN, C, H, W].
        facts: Figures of all: swd, seconds an image, memory in bytes; those that are known.
    """

    figures: dict[str, Tensor]
    features: Tensor
    shown: Tensor
    facts: dict[str, float] = field(default_factory=dict)


class Measures:
    """Measures methods on the same images.

    Args:
        lia: Draws codes.
        images: The originals.
        numbers: Which of them.
        features: File of a network for perceptual distance, and for distances between sets, which without one see pixels.
        lpips: Whether to measure LPIPS with learned weights, too.
        identity: File of a network whose vectors are compared.
        batch: Images a pass, at most.

    Attributes:
        extractor: The features of distances between sets.
        names: What each measure is by, in words, where a network decides it.

    Raises:
        LIAError: A network cannot be read, or is not one that the measure can take.
    """

    def __init__(
        self,
        lia: LIA,
        images: ImageSet,
        *,
        features: str | Path | None,
        lpips: bool,
        identity: str | Path | None,
        batch: int | None,
    ) -> None:
        self.lia, self.images, self.numbers = lia, images, tuple[int, ...]()
        self.network = None if features is None else load_network(features).to(lia.device)
        self.learned = load_lpips(self.network) if lpips and self.network is not None else None
        self.embedding = None if identity is None else load_identity(identity).to(lia.device)
        self.extractor: Features = PixelFeatures() if self.network is None else NetworkFeatures(self.network)
        self.extractor.to(lia.device)
        self.batch = lia.at_once("draw" if lia.encoder is None else "reconstruct", batch)
        self.names = {
            name: part.name
            for name, part in {"perceptual": self.network, "lpips": self.learned, "identity": self.embedding}.items()
            if part is not None
        }
        self._edit: Tensor | None = None
        self._white: Tensor | None = None

    def to_patch(self) -> set[int]:
        """Numbers of the images that SWD takes patches of."""
        count = min(len(self.numbers), _SWD_IMAGES) if min(self.images.resolution) >= _LEAST_SWD else 0
        return {self.numbers[i * len(self.numbers) // count] for i in range(count)}

    @torch.no_grad()
    def originals(self, progress: Progress | None) -> Measured:
        """The features and the first pictures of the images themselves."""
        method = Method(ORIGINALS, "", "", "", {number: number for number in self.numbers})
        features: list[Tensor] = []
        shown: list[Tensor] = []
        for part, _ in method.batches(self.images, self.numbers, self.batch, self.lia):
            features += in_parts(lambda x: self.extractor(x).float().cpu(), part.x, len(part))
            shown += [resize(part.x[:SHOWN]).cpu()] if sum(map(len, shown)) < SHOWN else []
            self._tell(progress, ORIGINALS, part)
        return Measured({}, torch.cat(features), torch.cat(shown)[:SHOWN])

    @torch.no_grad()
    def method(self, method: Method, progress: Progress | None) -> Measured:
        """All that can be measured of a method."""
        figures: dict[str, list[Tensor]] = {}
        features: list[Tensor] = []
        shown: list[Tensor] = []
        patches, to_patch = (Patches(), Patches()), self.to_patch()
        clock = _Clock(self.lia)
        for part, given in method.batches(self.images, self.numbers, self.batch, self.lia):

            def look(some: range, part: Batch = part, given: Given | None = given) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
                rows = slice(some.start, some.stop)
                return self._look(method, part[rows], None if given is None else given[rows], clock)

            first = 0
            for drawn, seen, found in in_parts(look, range(len(part)), len(part)):
                here = part[first : first + len(drawn)]
                first += len(drawn)
                for name, values in found.items():
                    figures.setdefault(name, []).append(values.double().cpu())
                features.append(seen)
                shown += [resize(drawn[:SHOWN]).cpu()] if sum(map(len, shown)) < SHOWN else []
                chosen = [i for i, number in enumerate(here.numbers) if number in to_patch]
                for side, x in zip(patches, (here.x, drawn), strict=True):
                    side.add(x[chosen])
            self._tell(progress, method.name, part)
        facts = {"swd": patches[0].distance(patches[1])["mean"]} if to_patch else {}
        if method.kind == "encoder":
            facts |= {"seconds": clock.seconds / len(self.numbers), "memory": float(self._memory())}
        whole = {name: torch.cat(values) for name, values in figures.items()}
        return Measured(whole, torch.cat(features), torch.cat(shown)[:SHOWN], facts)

    def _look(
        self, method: Method, part: Batch, given: Given | None, clock: "_Clock"
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Of some images: the pictures, their features, and the figures."""
        lia, x = self.lia, part.x
        kept = {} if given is None else given.kept
        if given is None:
            codes: Tensor | None = clock.encode(x)
        else:
            codes = given.found if method.kind == "codes" else None
        if codes is None:
            assert given is not None  # noqa: S101  (pictures are given)
            drawn = given.found
        else:
            drawn = draw_code(lia, codes, kept)
        found = {"mse": mse(drawn, x), "psnr": psnr(drawn, x), "ssim": ssim(drawn, x)}
        if self.network is not None:
            found["perceptual"] = perceptual_distance(self.network, drawn, x)
        if self.learned is not None:
            found["lpips"] = self.learned(drawn, x)
        if self.embedding is not None:
            found["identity"] = identity_similarity(self.embedding, drawn, x)
        if codes is not None:
            y = one_code(codes)
            if lia.typicality is not None:
                found["typicality"] = lia.typicality_of(y)
            if lia.mapping is not None:
                found["prior_p"] = lia.prior_p(y, part.c)
            if lia.encoder is not None:
                found["lec"] = self._edit_consistency(codes, kept)
        return drawn, self.extractor(drawn).float().cpu(), found

    def _edit_consistency(self, codes: Tensor, kept: dict[str, Tensor]) -> Tensor:
        """Codes y or ys are moved, drawn with what belongs to them, encoded and moved back: how far they are off [N].

        Mean |difference| of the one y in standard deviations along the principal axes of the original mapping's y, along the
        first of which they are moved by one (LEC of Tov et al. 2021's and Pehlivan et al. 2023's kind).
        """
        lia = self.lia
        if self._edit is None or self._white is None:
            _, root = lia.whitening()
            std, axes = torch.linalg.eigh(root.double())  # the root of a covariance has its axes, and their deviations
            self._white = axes / std
            self._edit = (axes[:, -1] * std[-1]).to(codes)
        moved = lia.encode(draw_code(lia, codes + self._edit, kept))
        gap = one_code(moved) - self._edit - one_code(codes)
        return (gap.double() @ self._white).abs().mean(dim=1)

    def _memory(self) -> int:
        g = self.lia.generator
        x = torch.zeros(1, g.channels, *g.resolution, device=self.lia.device)
        return held_by(lambda: self.lia.encode(x))

    def _tell(self, progress: Progress | None, name: str, part: Batch) -> None:
        if progress:
            progress(f"measure {name}", self.numbers.index(part.numbers[-1]) + 1, len(self.numbers))

    def kept_or(
        self, folder: Path | None, about: Mapping[str, Any], method: Method | None, progress: Progress | None
    ) -> Measured:
        """What an earlier run kept in a folder of a method (None: of the originals); else measures it, and keeps it there."""
        text = json.dumps(
            {**about, "of": [] if method is None else [method.name, method.kind, method.identity]}, sort_keys=True
        )
        path = None if folder is None else folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        if path is not None and (kept := _kept(path, text)) is not None:
            return kept
        found = self.originals(progress) if method is None else self.method(method, progress)
        if path is not None:
            make_folder(path.parent)
            tensors = {f"figure.{name}": values for name, values in found.figures.items()}
            tensors |= {"features": found.features.contiguous(), "shown": found.shown.contiguous()}
            write_tensor_file(path, _FORMAT, {"about": text, "facts": found.facts}, tensors)
        return found


class _Clock:
    """Times the encoder."""

    def __init__(self, lia: LIA) -> None:
        self.lia, self.seconds, self._warm = lia, 0.0, False

    def encode(self, x: Tensor) -> Tensor:
        """Encodes images; the first time, which is slower, once more before."""
        if not self._warm:
            self.lia.encode(x[:1])
            self._warm = True
        self._wait()
        start = time.perf_counter()
        codes = self.lia.encode(x)
        self._wait()
        self.seconds += time.perf_counter() - start
        return codes

    def _wait(self) -> None:
        if self.lia.device.type == "cuda":
            torch.cuda.synchronize(self.lia.device)


def _kept(path: Path, text: str) -> Measured | None:
    try:
        found = read_tensor_file(path, _FORMAT)
        if found is None or found[0]["about"] != text:
            return None
        facts, tensors = dict(found[0]["facts"]), found[1]
        figures = {name.removeprefix("figure."): t for name, t in tensors.items() if name.startswith("figure.")}
        return Measured(figures, tensors["features"], tensors["shown"], facts)
    except (OSError, CheckpointError, KeyError, TypeError, ValueError):
        return None  # not there yet, or damaged: it is measured again
