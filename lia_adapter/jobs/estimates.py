"""What a job will take, in memory and time, on the machine at hand: for `-n`, before anything starts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lia_adapter.budget import GRADIENT, at_once, human, room, seconds_of, used_memory
from lia_adapter.data import open_images
from lia_adapter.encoder import Encoder
from lia_adapter.generators import MappingSampler, draw_reduced, graphs_at_once, picture_bytes, pictures_at_once
from lia_adapter.generators.labels import Label, check_given_label
from lia_adapter.lia import LIA
from lia_adapter.metrics.features import Features
from lia_adapter.metrics.mapping import LEAST_IMAGES, MOST_IMAGES, NOISY_IMAGES, PRIOR_SAMPLES
from lia_adapter.pictures import COLUMNS, comparison_count
from lia_adapter.progress import duration
from lia_adapter.training.convert_config import ConvertConfig
from lia_adapter.training.encoder_config import EncoderConfig
from lia_adapter.training.gan import Players
from lia_adapter.training.gan_config import TrainConfig
from lia_adapter.training.mapping import pick_coupling

__all__ = ["Work", "convert_work", "count_images", "encoder_estimate", "estimate", "train_estimate"]

_REAL = 1.6  # a guess: drawn images and their gradients that one costs whose discriminator also learns from a real one
# Guesses: what a code takes in a step of the fit, in all measures of codes, and in those of z, against mapping it once.
_STEP, _MEASURES, _PRIOR = 12, 60, 10


@dataclass(frozen=True)
class Work:
    """What a job does with pictures.

    Attributes:
        drawn: How many are drawn.
        reduced: How many are drawn at 256 pixels a side at most.
        encoded: How many are encoded.
        gradients: How many are drawn with the gradient of what they are compared by.
        seconds: What it does besides.
        memory: What it holds besides, in bytes.
    """

    drawn: int = 0
    reduced: int = 0
    encoded: int = 0
    gradients: int = 0
    seconds: float = 0.0
    memory: int = 0


def count_images(lia: LIA, data: str | Path, split: str, label: Label | None = None) -> int:
    """How many images a job would work on; refuses a label that does not fit the generator."""
    check_given_label(label, lia.generator.c_dim)
    return len(open_images(data, lia.generator.resolution, lia.generator.channels, split=split))


@torch.no_grad()
def estimate(lia: LIA, work: Work, encoder: Encoder | None = None) -> dict[str, str]:
    """Memory and time of a job, in words, by drawing and encoding a picture or two.

    Args:
        lia: On the device where the job would run.
        work: The job's.
        encoder: One that is not in the LIA yet.

    Raises:
        LIAError: There is no memory for a single picture.
    """
    generator, device = lia.generator, lia.device
    one = picture_bytes(generator, graph=work.gradients > 0)
    n = graphs_at_once(generator)[0] if work.gradients else at_once(one, device)
    held = used_memory(device)
    ys = torch.zeros(n, generator.num_ws, generator.y_dim, device=device)
    drawing = _each(lambda: generator.synthesis(ys), n)
    seconds = work.seconds + drawing * (work.drawn + GRADIENT * work.gradients)
    if work.reduced:
        seconds += work.reduced * _each(lambda: draw_reduced(generator, ys), n)
    found = encoder or lia.encoder
    if work.encoded and found is not None:
        x = torch.zeros(n, generator.channels, *generator.resolution, device=device)
        seconds += work.encoded * _each(lambda: found(x), n)
    several = f"{n} pictures" if n > 1 else "one picture"
    return {
        "memory": f"about {human(held + work.memory + n * one)}, {human(n * one)} of them for {several} at a time; "
        f"{human(held + room(device))} may be taken",
        "time": f"about {duration(seconds)} on {device}",
    }  # fmt: skip


def convert_work(lia: LIA, config: ConvertConfig, features: Features) -> Work:
    """What `convert` does."""
    generator, n = lia.generator, pictures_at_once(lia.generator, features, reduced=True)
    y = torch.zeros(n, generator.num_ws, generator.y_dim, device=lia.device)
    with torch.no_grad():
        look = _each(lambda: features(draw_reduced(generator, y)), n)
        codes = MappingSampler(generator)
        random = torch.Generator(lia.device).manual_seed(0)
        codes.pairs(config.batch, random)
        mapped = seconds_of(lambda: codes.pairs(config.batch, random)) / config.batch
    pictures = min(max(config.image_seconds, 3 * LEAST_IMAGES * look), 3 * MOST_IMAGES * look)
    fit = config.fit_steps(pick_coupling(lia.generator, config.coupling)) * config.batch * _STEP * mapped
    of_z = min(PRIOR_SAMPLES, config.kept_samples)
    measures = config.eval_seeds * (config.eval_samples * _MEASURES + of_z * _PRIOR) * mapped
    return Work(
        drawn=2 * comparison_count(lia), reduced=2 * (NOISY_IMAGES + COLUMNS),
        seconds=pictures + fit + measures + 3 * config.statistics_samples * mapped,
        memory=8 * config.kept_samples * generator.y_dim * 4,
    )  # fmt: skip


def encoder_estimate(lia: LIA, config: EncoderConfig) -> dict[str, str]:
    """What `train-encoder` takes."""
    g = lia.generator
    encoder = Encoder(
        g.resolution, g.channels, g.y_dim, g.num_ws, space=config.space, width=config.width, width_max=config.width_max,
        passes=config.passes, turned=True,
    ).to(lia.device).eval()  # fmt: skip
    images = config.steps * config.batch * config.passes
    drawn = round(config.generated * config.steps * config.batch)
    h, w = encoder.looks_at
    # Of each image its pixels (and those of the next batch), and of each stage of the encoder what it was given.
    kept = config.batch * (2 * g.channels * g.resolution[0] * g.resolution[1] + 4 * 4 * config.width * h * w)
    weights = 4 * 4 * sum(p.numel() for p in encoder.parameters())  # with their gradients and moments
    found = estimate(lia, Work(drawn=drawn, gradients=images, encoded=GRADIENT * images, memory=kept + weights), encoder)
    checks = "measures before and after take a tenth of it, at least 20 s"
    return found | {"time": f"{found['time']}; {checks}, at most {config.check_seconds:.0f} s"}


def train_estimate(config: TrainConfig, device: torch.device) -> dict[str, str]:
    """What the first stage of `train` takes."""
    players = Players(config).to(device)
    generator, discriminator = players.generator, players.discriminator

    def judged(x: Tensor) -> Tensor:
        logits: Tensor = discriminator(x, torch.zeros(len(x), config.c_dim, device=device) if config.c_dim else None)
        return logits

    each = 2 * picture_bytes(generator, judged, graph=True)  # twice, for penalties on gradients
    n = at_once(each, device, most=config.batch)
    ys = torch.zeros(n, generator.num_ws, generator.y_dim, device=device)
    seconds = config.steps * config.batch * _REAL * _each(lambda: judged(generator.synthesis(ys)).sum().backward(), n)
    weights = 4 * 4 * sum(p.numel() for p in players.parameters())  # with their gradients and moments
    batch = min(config.batch * each, room(device))
    return {
        "memory": f"about {human(weights + batch)}; {human(used_memory(device) + room(device))} may be taken",
        "time": f"about {duration(seconds)} on one {device} for the first stage, measures not counted",
    }


def _each(function: Callable[[], object], n: int) -> float:
    function()  # the first time is slower
    return seconds_of(function) / n
