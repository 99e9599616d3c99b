"""What methods learn from: codes of photographs with their attributes, or of drawn pictures that a scorer scores."""

from pathlib import Path

import torch
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.data import ImageSet, in_batches, none_readable, open_images
from lia_adapter.data.attributes import read_attributes
from lia_adapter.editing import Examples, FindConfig
from lia_adapter.editing.find_config import LABELLED
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
        groups = [_encoded(lia, path, split, config, progress)[1] for path in (than, data)]
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
    images, codes, numbers, x = _encoded_with(lia, data, split, config, judge if labels is None else None, progress)
    if x is not None and judge is not None:
        return Examples(codes, x, judge.names)
    names, values = read_attributes(images, labels)
    return Examples(codes, values[numbers].to(codes.device), names)


def _title(data: str | Path) -> str:
    """What a group of photographs is called: the name of its folder, also where that is ., or of its file."""
    path = Path(data).resolve()
    return (path.stem if path.is_file() else path.name) or "difference"


def _encoded(lia: LIA, data: str | Path, split: str, config: FindConfig, progress: Progress | None) -> tuple[ImageSet, Tensor]:
    images, codes, _, _ = _encoded_with(lia, data, split, config, None, progress)
    return images, codes


@torch.no_grad()
def _encoded_with(
    lia: LIA, data: str | Path, split: str, config: FindConfig, judge: Scorer | None, progress: Progress | None
) -> tuple[ImageSet, Tensor, list[int], Tensor | None]:
    """The images, their codes in the space that is wanted, the numbers of those that could be read, and their scores."""
    g = lia.generator
    if lia.encoder is None:
        raise LIAError("photographs get codes by an encoder, which this file lacks. Run lia-adapt train-encoder on it first.")
    images = open_images(data, g.resolution, g.channels, split=split, c_dim=g.c_dim)
    codes, numbers, scores = [], list[int](), []
    for part in in_batches(images, range(len(images)), lia.at_once("reconstruct"), lia.device):
        y = one_code(lia.encode(part.x))
        codes.append(lia.to_z(y, part.c).float() if config.space == "z" else y)
        numbers += part.numbers
        if judge is not None:
            scores.append(judge(part.x))
        if progress:
            progress(f"encode {Path(data).name}", len(numbers), len(images))
    if not codes:
        raise none_readable(images)
    return images, torch.cat(codes), numbers, torch.cat(scores) if scores else None


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
