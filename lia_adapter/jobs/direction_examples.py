"""What methods learn from: codes of photographs with their attributes, or of drawn pictures that a scorer scores."""

from pathlib import Path

import torch
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.data import ImageSet, in_batches, none_readable, open_images
from lia_adapter.data.attributes import read_attributes
from lia_adapter.direction_keys import LABELLED, FindConfig
from lia_adapter.editing import Examples
from lia_adapter.encoder import one_code
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.generators import MappingSampler, broadcast, draw_reduced
from lia_adapter.lia import LIA
from lia_adapter.metrics.scorers import Scorer
from lia_adapter.progress import Progress

__all__ = ["gather_examples"]

_SCORED = 20_000  # pictures that a scorer looks at, at most


def gather_examples(
    lia: LIA, config: FindConfig, data: str | Path | None, than: str | Path | None, labels: str | Path | None,
    judge: Scorer | None, split: str, progress: Progress | None,
) -> Examples | None:  # fmt: skip
    """Codes and attributes of what a method learns from; None of one that needs nothing.

    See `find_directions` for the arguments.

    Raises:
        LIAError: Something is missing that the method needs, or given that it does not, or cannot be read.
    """
    if config.method == "difference":
        if data is None or than is None:
            raise ConfigError(
                f"difference compares two groups of photographs: give {argument('data')} those that have what is wanted, and "
                f"{argument('than')} those that lack it."
            )
        if labels is not None:
            raise ConfigError(f"difference learns from two groups of photographs, without {argument('labels')}; leave it out.")
        sets = [_opened(lia, path, split) for path in (than, data)]  # both before either is encoded
        groups = [_encoded(lia, images, config, None, progress)[0] for images in sets]
        values = torch.cat([torch.full([len(codes), 1], float(i), dtype=torch.float64) for i, codes in enumerate(groups)])
        return Examples(torch.cat(groups), values.to(lia.device), (_title(data),))
    if config.method not in LABELLED:
        given = {"data": data, "than": than, "labels": labels}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise ConfigError(f"{config.method} needs no photographs; leave {argument(wrong[0])} out.")
        return None
    if than is not None:
        raise ConfigError(f"{argument('than')} is for difference; leave it out.")
    if data is None:
        if labels is not None:
            raise ConfigError(f"{argument('labels')} tells of images: give these by {argument('data')}.")
        if judge is None:
            raise ConfigError(
                f"{config.method} learns from attributes: give {argument('data')} with labels, or {argument('scorer')}, which "
                "scores drawn pictures."
            )
        return _scored(lia, config, judge, progress)
    images = _opened(lia, data, split)
    if judge is not None and labels is None:
        codes, _, scores = _encoded(lia, images, config, judge, progress)
        return Examples(codes, scores, judge.names)
    names, values = read_attributes(images, labels)  # before the work begins
    codes, numbers, _ = _encoded(lia, images, config, None, progress)
    return Examples(codes, values[numbers].to(codes.device), names)


def _title(data: str | Path) -> str:
    """What a group of photographs is called: the name of its folder, also where that is ., or of its file."""
    path = Path(data).resolve()
    return (path.stem if path.is_file() else path.name) or "difference"


def _opened(lia: LIA, data: str | Path, split: str) -> ImageSet:
    g = lia.generator
    if lia.encoder is None:
        raise LIAError("photographs get codes by an encoder, which this file lacks. Run lia-adapt train-encoder on it first.")
    return open_images(data, g.resolution, g.channels, split=split, c_dim=g.c_dim)


@torch.no_grad()
def _encoded(
    lia: LIA, images: ImageSet, config: FindConfig, judge: Scorer | None, progress: Progress | None
) -> tuple[Tensor, list[int], Tensor]:
    """Codes in the space that is wanted, the numbers of the images that could be read, and their scores by the judge."""
    codes, numbers, scores = [], list[int](), []
    for part in in_batches(images, range(len(images)), lia.at_once("reconstruct"), lia.device):
        y = one_code(lia.encode(part.x))
        codes.append(lia.to_z(y, part.c).float() if config.space == "z" else y)
        numbers += part.numbers
        if judge is not None:
            scores.append(judge(part.x))
        if progress:
            progress(f"encode {Path(images.path).name}", len(numbers), len(images))
    if not codes:
        raise none_readable(images)
    return torch.cat(codes), numbers, torch.cat(scores) if scores else torch.empty(len(numbers), 0)


@torch.no_grad()
def _scored(lia: LIA, config: FindConfig, judge: Scorer, progress: Progress | None) -> Examples:
    """Drawn pictures and their scores (InterFaceGAN's way: labels for nothing)."""
    total = min(config.samples, _SCORED)
    random = torch.Generator(lia.device).manual_seed(config.seed)
    _, y, c = MappingSampler(lia.generator).pairs(total, random)
    values = []
    done = 0
    for part in in_parts(
        lambda part: judge(draw_reduced(lia.generator, broadcast(part, lia.generator.num_ws))), y, lia.at_once("draw")
    ):
        values.append(part)
        done += len(part)
        if progress:
            progress("score drawn pictures", done, total)
    codes = lia.to_z(y, c).float() if config.space == "z" else y
    return Examples(codes, torch.cat(values), judge.names)
