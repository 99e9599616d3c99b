"""`encode`: codes of a folder of any size, batched, in shards, resumed where it stopped, shared out under torchrun."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter import ranks
from lia_adapter.budget import in_parts
from lia_adapter.codes import Codes, given, join_codes, read_codes, shard_paths
from lia_adapter.data import Batch, ImageSet, in_batches, none_readable, open_images
from lia_adapter.encoder import one_code
from lia_adapter.errors import LIAError, argument
from lia_adapter.generators import fingerprint
from lia_adapter.generators.labels import Label
from lia_adapter.inversion import Posterior
from lia_adapter.lia import LIA
from lia_adapter.metrics.images import mse
from lia_adapter.metrics.typicality import z_size
from lia_adapter.notes import renamed
from lia_adapter.progress import Progress

__all__ = ["UNUSUAL", "Encoded", "encode", "encode_images", "unusual_names"]

UNUSUAL = 0.01  # typicality below which an image is named: less usual than 99 % of the training images
_SHARD = 8192  # images a file


@dataclass(frozen=True)
class _Shard:
    """What is told of one file of codes, without the codes."""

    names: tuple[str, ...]
    mse: Tensor
    prior_p: Tensor
    unusual: tuple[tuple[float, str], ...]
    unreadable: dict[str, str]
    alone: tuple[str, ...]

    @staticmethod
    def of(codes: Codes) -> "_Shard":
        scores = dict(zip(codes.names, codes.tensors["typicality"].tolist(), strict=True))
        unusual = tuple((scores[name], name) for name in unusual_names(codes))
        prior_p = codes.tensors.get("prior_p", torch.full([len(codes.names)], torch.nan))
        found = codes.tensors.get("samples_found", torch.ones(len(codes.names), dtype=torch.bool)).tolist()
        alone = tuple(name for name, others in zip(codes.names, found, strict=True) if not others)
        return _Shard(codes.names, codes.tensors["mse"], prior_p, unusual, codes.unreadable, alone)


@dataclass(frozen=True)
class Encoded:
    """What `encode` made.

    Attributes:
        paths: The files.
        count: Images in them.
        mse: Mean squared error of their reconstructions, on [-1, 1].
        worst: The largest.
        prior_p: The median of the codes' (`LIA.prior_p`); 0.5 is usual. NaN where a file of an earlier version was kept.
        improbable: Share of them below 0.01, where 1 % of the generator's own codes are; NaN likewise.
        unusual: Images whose codes are less usual than those of 99 % of the training images, the least usual first.
        unreadable: Images that could not be read, and why.
        alone: Images for which no other code was found: their samples are their own code.
    """

    paths: list[Path]
    count: int
    mse: float
    worst: float
    prior_p: float
    improbable: float
    unusual: list[str]
    unreadable: dict[str, str]
    alone: list[str]

    @staticmethod
    def of(paths: list[Path], everywhere: list[list[_Shard]]) -> "Encoded":
        """Of what each process wrote."""
        shards = [shard for part in everywhere for shard in part]
        errors = torch.cat([shard.mse for shard in shards])
        unusual = sorted((item for shard in shards for item in shard.unusual), key=lambda item: item[0])
        unreadable = {name: why for shard in shards for name, why in shard.unreadable.items()}
        prior_p = torch.cat([shard.prior_p for shard in shards])
        improbable = torch.where(prior_p.isnan(), prior_p, (prior_p < UNUSUAL).to(prior_p)).mean()
        return Encoded(
            paths, len(errors), float(errors.mean()), float(errors.max()), float(prior_p.median()), float(improbable),
            [name for _, name in unusual], unreadable, [name for shard in shards for name in shard.alone],
        )  # fmt: skip


@renamed("fit", "resize_mode")
def encode(
    lia: LIA,
    data: str | Path,
    out: str | Path,
    *,
    resize_mode: str = "crop",
    split: str = "all",
    label: Label | None = None,
    bits: int | None = None,
    align: str | None = None,
    landmarks: str | Path | None = None,
    batch: int | None = None,
    samples: int = 0,
    project: bool = False,
    progress: Progress | None = None,
) -> Encoded:
    """Encodes images into files of codes; files that an earlier run of the same arguments finished are kept.

    Args:
        lia: With an encoder.
        data: A folder, a data-set zip or one picture.
        out: The file; more than 8,192 images make shards (see `shard_paths`).
        resize_mode: How images come to the size: crop, letterbox or stretch.
        split: Which images; see `open_images`.
        label: The class of all images of a conditional generator, or the numbers of their label, instead of the data set's own.
        bits: Of integer images of more than 8 bits; see `open_images`.
        align: "ffhq" cuts faces out as FFHQ has them, by their landmarks.
        landmarks: The file that tells where faces are; see `open_images`.
        batch: Images a pass, at most; None: what memory and speed allow.
        samples: Other codes of each image to find (`Posterior.samples`), n: samples_y [N, n, y_dim] and samples_z, their
            samples_mse [N, n], samples_ys of an encoder into ys, and samples_found [N]: false where there is no other.
        project: Write the nearest usual code in place of the encoder's answer (`Posterior.usual`), whose error is kept as
            own_mse [N].
        progress: Is told what is done.

    Returns:
        The files, and what was found in the images, of all processes.

    Raises:
        LIAError: No encoder, no readable image, or a file that cannot be written; a negative number of samples, or a checkpoint
            before conversion, which has no prior.
    """
    generator = lia.generator
    if lia.encoder is None:
        raise LIAError("this file has no encoder. Run lia-adapt train-encoder on it first.")
    if samples < 0:
        raise LIAError(f"{argument('samples')} is {samples}; expected 0, for none, or more.")
    if (samples or project) and lia.mapping is None:
        raise LIAError("the prior of codes is that of an invertible mapping: run lia-adapt convert on this file first.")
    images = open_images(
        data, generator.resolution, generator.channels, resize_mode=resize_mode, split=split, c_dim=generator.c_dim,
        label=label, bits=bits, align=align, landmarks=landmarks,
    )  # fmt: skip
    paths = shard_paths(Path(out), math.ceil(len(images) / _SHARD))
    about = {
        "how": "encode", "data": str(data), "identity": images.identity(), "fit": resize_mode, "split": split,
        **given(label, bits, align, landmarks), "encoder_sha256": fingerprint(lia.encoder), "lia": lia.provenance.get("source"),
        **({"samples": samples} if samples else {}), **({"project": True} if project else {}),
        **({"mapping_sha256": fingerprint(lia.mapping)} if lia.mapping is not None and (samples or project) else {}),
    }  # fmt: skip
    owner = fingerprint(generator)
    n = lia.at_once("reconstruct", batch)
    parts: list[Codes] = []
    for i in range(ranks.rank(), len(paths), ranks.count()):
        codes = _kept(paths[i], owner, about)
        if codes is None:
            numbers = range(i * _SHARD, min((i + 1) * _SHARD, len(images)))
            tell = None if progress is None else lambda done, first=numbers.start: progress("encode", first + done, len(images))
            codes = _encode_numbers(
                lia, images, numbers, about, owner, batch=n, samples=samples, project=project, progress=tell
            )
            codes.save(paths[i])
        parts.append(codes)
    return Encoded.of(paths, ranks.gathered([_Shard.of(codes) for codes in parts]))


def encode_images(lia: LIA, data: str | Path, out: str | Path, **options: Any) -> list[Path]:
    """The files that `encode` writes; see there for the arguments."""
    return encode(lia, data, out, **options).paths


@torch.no_grad()
def _encode_numbers(
    lia: LIA,
    images: ImageSet,
    numbers: range,
    about: dict[str, object],
    owner: str,
    *,
    batch: int,
    samples: int,
    project: bool,
    progress: Callable[[int], None] | None = None,
) -> Codes:
    """Codes of some images of a set; those that cannot be read are listed in `unreadable`."""
    assert lia.encoder is not None  # noqa: S101  (the caller saw to it)

    def codes_of(part: Batch) -> Codes:
        codes = lia.encode(part.x)
        extra: dict[str, Tensor] = {}
        if samples or project:
            codes, extra = _by_the_prior(lia, codes, part, samples, project, tell)
        y = one_code(codes)
        z = lia.to_z(y, part.c)
        tensors = {
            "y": y, "z": z, "mse": mse(lia.synthesize(codes), part.x), "typicality": lia.typicality_of(y), "z_size": z_size(z),
            "prior_p": lia.prior_p(y, part.c),
        } | extra  # fmt: skip
        tensors |= {"ys": codes} if codes.ndim == 3 else {}
        tensors |= {} if part.c is None else {"c": part.c}
        names = tuple(images.names[n] for n in part.numbers)
        places = tuple(placement.to_json() for placement in part.placements)
        return Codes(names, {name: t.cpu() for name, t in tensors.items()}, places, owner, dict(about))

    def tell(number: int) -> None:
        if progress:
            progress(number + 1 - numbers.start)

    parts: list[Codes] = []
    for part in in_batches(images, numbers, batch, lia.device):
        parts += in_parts(codes_of, part, len(part))
        tell(part.numbers[-1])
    if not parts:
        raise none_readable(images)
    tried = {images.names[n] for n in numbers}
    unreadable = {name: why for name, why in images.unreadable.items() if name in tried}
    whole = join_codes(parts)
    return Codes(whole.names, whole.tensors, whole.placements, owner, dict(about), unreadable)


def _by_the_prior(
    lia: LIA, codes: Tensor, part: Batch, samples: int, project: bool, tell: Callable[[int], None]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Codes of the images of a batch, the nearest usual ones if those are asked for, and what is kept beside them."""
    assert lia.mapping is not None  # noqa: S101  (`encode` saw to it)
    answered: list[Tensor] = []
    extra: dict[str, list[Tensor]] = {}
    for i, number in enumerate(part.numbers):
        # Of each image its own, so that neither batches nor processes change what it gets.
        random = torch.Generator(lia.device).manual_seed(number)
        code, c = codes[i : i + 1], None if part.c is None else part.c[i : i + 1]
        posterior = Posterior(lia.generator, lia.mapping, code, part.x[i : i + 1].to(lia.device), c, random)
        if project:
            code = posterior.usual().codes
            extra.setdefault("own_mse", []).append(torch.tensor([posterior.mse]))
        if samples:
            found = posterior.samples(samples, random)
            many = {"y": one_code(found.codes), "z": found.z, "mse": found.mse}
            many |= {"ys": found.codes} if found.codes.ndim == 3 else {}
            extra.setdefault("samples_found", []).append((found.z != posterior.z).any()[None])
            for name, values in many.items():
                extra.setdefault(f"samples_{name}", []).append(values[None])
        answered.append(code)
        tell(number)
    return torch.cat(answered), {name: torch.cat(values) for name, values in extra.items()}


def unusual_names(codes: Codes) -> list[str]:
    """Images whose codes are less usual than those of 99 % of the training images, the least usual first."""
    scores = codes.tensors["typicality"]
    order = torch.argsort(scores, stable=True)
    return [codes.names[i] for i in order.tolist() if scores[i] < UNUSUAL]


def _kept(path: Path, owner: str, about: dict[str, object]) -> Codes | None:
    """The codes that an earlier run of the same arguments wrote."""
    try:
        codes = read_codes(path)
    except LIAError:
        return None
    return codes if codes.generator == owner and codes.about == about else None
