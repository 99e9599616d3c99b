"""What is measured before and after the training of an encoder."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lia_adapter.budget import GRADIENT, affordable, allowance, at_once, held_by, in_parts
from lia_adapter.data import ImageSet, in_batches, in_order, none_readable, open_images, to_pixels
from lia_adapter.encoder import one_code
from lia_adapter.errors import LIAError
from lia_adapter.files import atomic_write, make_folder
from lia_adapter.generators import Generator
from lia_adapter.metrics.typicality import Typicality
from lia_adapter.progress import Progress
from lia_adapter.resize import reduced_size, resize
from lia_adapter.training.encoder_config import EncoderConfig
from lia_adapter.training.encoder_search import SEARCHED, STEPS

__all__ = ["Checks", "held_out", "measure_typicality", "some_images"]

_TYPICAL = 20_000  # training images whose codes say what is usual, at most
_DIRECTIONS, _BEFORE, _USUAL = 0.4, 0.15, 0.3  # what each measure has of that time; what is measured before is after, too
_SEARCH_SECONDS = 120.0  # for the search, at most
_FEW = 10
_LEAST_IMAGES = 3  # for an interval of a figure over images


@dataclass(frozen=True)
class Checks:
    """How much is measured before and after a training. What a clock decided is kept, so that a resumed run measures the same.

    Attributes:
        seconds: For finding the directions that move pixels.
        known_answers: Drawn images that are encoded, and as many held-out ones, before and after.
        usual: Training images whose codes say what is usual.
        accumulate: Parts that a process cuts its share of a batch into.
        searched: Real images that are searched for after the training; few where an earlier version planned the run.
    """

    seconds: float
    known_answers: int
    usual: int
    accumulate: int
    searched: int = _FEW

    @staticmethod
    def planned(
        config: EncoderConfig, images: int, drawing: float, encoding: float, searching: float, accumulate: int
    ) -> "Checks":
        """What the time allows.

        Args:
            config: The recipe.
            images: In the data set.
            drawing: Seconds for an image.
            encoding: The same.
            searching: The same, for a step of a search.
            accumulate: As the attribute.
        """
        training = config.passes * config.steps * config.batch * GRADIENT * drawing
        seconds = allowance(training, config.check_seconds)
        search = allowance(training, min(_SEARCH_SECONDS, config.check_seconds))
        return Checks(
            seconds=_DIRECTIONS * seconds,
            known_answers=affordable(
                _BEFORE * seconds, 3 * drawing + 2 * encoding, least=min(_LEAST_IMAGES, config.known_answers),
                most=config.known_answers,
            ),
            usual=affordable(_USUAL * seconds, encoding, least=4, most=min(images, _TYPICAL)),
            accumulate=accumulate,
            searched=affordable(search, STEPS * searching, least=_LEAST_IMAGES, most=SEARCHED),
        )  # fmt: skip

    @staticmethod
    def kept(path: Path, identity: str) -> "Checks | None":
        """What an earlier run of the same identity planned, if there was one."""
        try:
            values = json.loads(path.read_text())
            return Checks(**values) if values.pop("identity") == identity else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def keep(self, path: Path, identity: str) -> None:
        """Writes the plan.

        Raises:
            LIAError: The file cannot be written.
        """
        make_folder(path.parent)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({"identity": identity, **dataclasses.asdict(self)}))


def held_out(data: str | Path, generator: Generator, config: EncoderConfig) -> ImageSet | None:
    """The images that the recipe's split leaves out; None where there are none."""
    if config.split == "all":
        return None
    split = config.split.removeprefix("not ") if config.split.startswith("not ") else f"not {config.split}"
    try:
        return open_images(
            data, generator.resolution, generator.channels, resize_mode=config.resize_mode, split=split,
            c_dim=generator.c_dim, label=config.label, bits=config.bits, align=config.align, landmarks=config.landmarks,
        )  # fmt: skip
    except LIAError:  # nothing is left
        return None


def some_images(images: ImageSet, n: int) -> Tensor:
    """About n images, evenly spread over the set, uint8 [≤ n, C, H, W], as `resize` makes them; without those unreadable.

    Raises:
        LIAError: None of them can be read.
    """
    numbers = sorted({i * len(images) // n for i in range(n)})
    small = reduced_size(images.resolution) != images.resolution
    read = (item for item in in_order(images.load, numbers, ahead=4) if item is not None)
    found = [to_pixels(resize(item.x[None]))[0] if small else item.pixels for item in read]
    if not found:
        raise none_readable(images)
    return torch.stack(found)


@torch.no_grad()
def measure_typicality(
    encode: Callable[[Tensor], Tensor], root: Tensor, images: ImageSet, n: int, device: torch.device, progress: Progress | None
) -> Typicality:
    """What is usual among the codes of n of the training images, or of all; root: of the covariance of y."""
    n = min(len(images), n)
    numbers = [i * len(images) // n for i in range(n)]
    like = torch.zeros(1, images.channels, *images.resolution, device=device)
    codes: list[Tensor] = []
    done = 0
    for part in in_batches(images, numbers, at_once(held_by(lambda: encode(torch.zeros_like(like))), device), device):
        codes += in_parts(lambda x: one_code(encode(x)), part.x, len(part))
        done += len(part)
        if progress:
            progress("typicality of codes", done, n)
    return Typicality.fit(torch.cat(codes), root)
