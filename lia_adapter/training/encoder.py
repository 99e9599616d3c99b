"""`train-encoder`: trains x → y against the frozen generator, on real images (LIA, stage 2).

Pixel, perceptual and adversarial losses; a known-answer test before and after.
"""

import copy
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lia_adapter.config import check_choices, check_least, load_recipe, to_toml
from lia_adapter.data import FITS, ImageSet, Stream, in_batches, in_order, none_readable, open_images
from lia_adapter.encoder import SPACES, Encoder, one_code
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.files import sha256_file
from lia_adapter.generators import Generator, Original, broadcast, fresh_discriminator
from lia_adapter.inversion.loss import ReconstructionLoss
from lia_adapter.lia import LIA, fingerprint, versions
from lia_adapter.mapping import covariance_root
from lia_adapter.metrics.images import mse
from lia_adapter.metrics.networks import FeatureNetwork, load_network, vgg16_paper
from lia_adapter.metrics.recovery import known_answer
from lia_adapter.metrics.typicality import Typicality
from lia_adapter.training import ranks
from lia_adapter.training.log import RunLog
from lia_adapter.training.loop import Average, Job, Part, Progress, cosine, run_loop, step_generator

__all__ = ["EncoderConfig", "encoder_verdict", "train_encoder", "train_encoder_lia"]

Picture = Callable[[Path, Tensor, Tensor], None]
"""Writes a picture of real images and their reconstructions, both [N, C, H, W]."""

_STATISTICS = 2**31  # a random stream that no step has
_BETAS = (0.9, 0.99)
_TICKS, _GRIDS = 400, 20  # lines of the log and pictures of a run
_GRID_IMAGES = 16
_CHUNK = 64  # images encoded at once
_QUARTERS, _DECAY = 4, 0.8
# Of the verdict: least correlation, or share of the first error; ratio of errors above which the generator is to blame.
_FOUND, _REDRAWN, _FAR = 0.8, 0.25, 2.0
_TYPICAL = 20_000  # training images whose codes say what is usual, at most


@dataclass(frozen=True)
class EncoderConfig:
    """The keys of `recipes/encoder.toml`, where each is explained."""

    images: int = 12_000_000
    batch: int = 128
    accumulate: int = 1
    seed: int = 0
    space: str = "y"
    width: int = 64
    width_max: int = 1024
    split: str = "all"
    label: int = -1
    fit: str = "crop"
    mirror: bool = False
    learning_rate: float = 1e-4
    schedule: str = "quarters"
    features: str = "vgg16"
    pixel_weight: float = 1.0
    vgg_weight: float = 5e-5
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.1
    r1_gamma: float = 10.0
    ema_images: int = 10_000
    precision: str = "auto"
    statistics_samples: int = 60_000
    known_answers: int = 1000
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        precisions = ("auto", "bfloat16", "float32", "float64")
        check_choices(self, {"space": SPACES, "fit": FITS, "schedule": ("quarters", "cosine"), "precision": precisions})
        check_least(
            self,
            {
                "images": 0, "batch": 1, "accumulate": 1, "seed": 0, "width": 1, "width_max": 1, "pixel_weight": 0,
                "vgg_weight": 0, "perceptual_weight": 0, "adversarial_weight": 0, "r1_gamma": 0, "ema_images": 1,
                "statistics_samples": 100, "known_answers": 2, "save_seconds": 0,
            },
        )  # fmt: skip
        if self.seed >= 2**31:
            raise ConfigError(f"seed is {self.seed}; expected less than 2**31.")
        if not 0 < self.learning_rate <= 1:
            raise ConfigError(f"learning_rate is {self.learning_rate}; expected more than 0 and at most 1.")

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return -(-self.images // self.batch)

    @property
    def tick_steps(self) -> int:
        """Steps between two lines of the log."""
        return max(1, self.steps // _TICKS)


def train_encoder(lia: LIA, data: str | Path, recipe: str = "encoder", overrides: Mapping[str, Any] | None = None) -> LIA:
    """Trains an encoder for a converted generator.

    Args:
        lia: From `load` or `convert`; its weights do not change.
        data: A folder of images or a data-set zip.
        recipe: The name of a shipped recipe (encoder, encoder-cpu) or the path of a .toml.
        overrides: Keys of the recipe and their values.

    Returns:
        A new LIA around the same generator, with the encoder; `LIA.save` writes it. What was measured is in its `metrics`.

    Raises:
        LIAError: The checkpoint was not converted, the data cannot be used, or the recipe has an unknown key.
    """
    return train_encoder_lia(lia, data, load_recipe(EncoderConfig, recipe, overrides))


def train_encoder_lia(
    lia: LIA,
    data: str | Path,
    config: EncoderConfig,
    *,
    folder: Path | None = None,
    picture: Picture | None = None,
    progress: Progress | None = None,
) -> LIA:
    """`train_encoder` with everything that the command line can ask for.

    Args:
        lia: As there, on the device to train on.
        data: As there.
        config: The recipe.
        folder: Where the run keeps its state, log and pictures, and goes on from; None: nowhere.
        picture: Writes the pictures into it.
        progress: Is told what is done.

    Returns:
        As there.

    Raises:
        LIAError: As there.
    """
    generator, device, start = lia.generator, lia.device, time.monotonic()
    if lia.mapping is None:
        raise LIAError("this checkpoint has no invertible mapping yet. Run lia-adapt convert on it first.")
    if not isinstance(generator, nn.Module):
        raise LIAError("train_encoder needs a generator that is a torch module; pass what lia_adapter.wrap returns.")
    generator.eval()
    images = open_images(
        data, generator.resolution, generator.channels, fit=config.fit, split=config.split, c_dim=generator.c_dim,
        label=None if config.label < 0 else config.label,
    )  # fmt: skip
    network = _network(config.features, progress)
    before = fingerprint(generator)
    training = _Training(lia, images, _held_out(data, generator, config), config, network)
    watch = None
    if folder is not None and ranks.rank() == 0:
        watch = _Watch(RunLog(folder, to_toml(config)), training, picture)
    first = training.known_answer()
    try:
        history = run_loop(
            training.job(watch.tick if watch else None),
            state_path=None if folder is None else folder / "state.safetensors",
            identity=_identity(before, config, images),
            save_seconds=config.save_seconds,
            progress=progress,
            resumed=watch.log.resume if watch else None,
        )
    finally:
        if watch is not None:
            watch.log.close()
    last = training.known_answer()
    encoder = training.average.float().requires_grad_(False)
    typicality = _typicality(encoder, images, device, progress)
    if fingerprint(generator) != before:
        raise AssertionError("the generator's weights changed during train-encoder")
    figures = {
        "before": first, "after": last, "losses": history, "parameters": sum(p.numel() for p in encoder.parameters()),
        "seconds": round(time.monotonic() - start, 1), "unreadable": ranks.merged(images.unreadable),
    }  # fmt: skip
    made_by = {
        "recipe": dataclasses.asdict(config), "data": {"images": len(images), "identity": images.identity()},
        "features": None if network is None else network.name, "device": str(device), "processes": ranks.count(),
        "versions": versions(),
    }  # fmt: skip
    return LIA(
        generator, lia.mapping, lia.discriminator, encoder, typicality, family=lia.family, config=lia.config,
        provenance={**lia.provenance, "encoder": made_by}, metrics={**lia.metrics, "encoder": figures},
    )  # fmt: skip


class _Training:
    """The networks of a run and its step function."""

    def __init__(
        self,
        lia: LIA,
        images: ImageSet,
        held_out: ImageSet | None,
        config: EncoderConfig,
        network: FeatureNetwork | None,
    ) -> None:
        generator, device = lia.generator, lia.device
        self.config, self.images, self.device = config, images, device
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.half = config.precision == "bfloat16" or (
            config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        )
        _, y, _ = Original(generator).pairs(config.statistics_samples, step_generator(config.seed, _STATISTICS, device))
        mean, root = covariance_root(y)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            encoder = Encoder(
                generator.resolution, generator.channels, generator.y_dim, generator.num_ws,
                space=config.space, width=config.width, width_max=config.width_max,
            )  # fmt: skip
            judge = None
            if config.adversarial_weight:
                judge = lia.discriminator or fresh_discriminator(generator.resolution, generator.channels, generator.c_dim)
        encoder.mean.copy_(mean)
        encoder.root.copy_(root)
        self.encoder = encoder.to(device, self.dtype).train()
        self.average = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        self.module = nn.ModuleDict({"encoder": self.encoder, "average": self.average})
        self.judge = None if judge is None else copy.deepcopy(judge).to(device, self.dtype).requires_grad_(True)
        if self.judge is not None:
            self.module["judge"] = self.judge
        self.original = self.generator = generator
        if self.dtype == torch.float64:
            self.generator = copy.deepcopy(generator).double()  # type: ignore[attr-defined]
        self.loss = ReconstructionLoss(
            None if network is None else network.to(device, self.dtype),
            config.pixel_weight, config.vgg_weight, config.perceptual_weight,
        )  # fmt: skip
        self.stream = Stream(images, config.seed, mirror=config.mirror)
        self.held_out = _some(held_out or images, config.known_answers)

    def job(self, tick: Callable[[int, Mapping[str, float]], None] | None) -> Job:
        """What the loop is to do."""
        config = self.config
        trained = [p for p in self.module.parameters() if p.requires_grad]
        return Job(
            "encoder",
            self.module,
            self.step,
            torch.optim.Adam(trained, lr=config.learning_rate, betas=_BETAS, eps=1e-8),
            steps=config.steps,
            batch=config.batch,
            accumulate=config.accumulate,
            rate=cosine(config.steps) if config.schedule == "cosine" else self._quarters,
            averages=[Average(self.encoder, self.average, config.ema_images)],
            tick=tick,
            tick_steps=config.tick_steps,
        )

    def _quarters(self, step: int) -> float:
        """The paper's schedule: a factor of 0.8 after each quarter of the run."""
        return _DECAY ** (_QUARTERS * step // self.config.steps)

    def step(self, part: Part) -> dict[str, Tensor]:
        """The losses of one part of a batch (LIA, eq. 12 and 13)."""
        x, c = self.stream.batch(part.numbers, part.following)
        x = x.to(self.device, self.dtype, non_blocking=True)
        c = None if c is None else c.to(self.device, self.dtype)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            drawn = self.draw(self.encoder(x))
            parts = self.loss.parts(drawn, x)
        losses = {name: values.mean() for name, values in parts.items()}
        losses["loss"] = self.loss.weighted(parts).mean()
        if self.judge is not None:
            # Outside of autocast: the gradient penalty is differentiated twice, and bfloat16 has eight bits.
            self._play(self.judge, drawn.to(self.dtype), x, c, losses)
        return losses

    def draw(self, codes: Tensor) -> Tensor:
        """y [N, y_dim] or ys -> images [N, C, H, W], with the generator's constant noise."""
        return self.generator.synthesis(broadcast(codes, self.generator.num_ws), noise_mode="const")

    def _play(self, judge: nn.Module, drawn: Tensor, x: Tensor, c: Tensor | None, losses: dict[str, Tensor]) -> None:
        """Adds both players' losses; one backward pass serves both, as each sees the other's part as a constant."""
        size = tuple(judge.resolution)  # type: ignore[arg-type]
        if tuple(x.shape[2:]) != size:
            drawn, x = (F.interpolate(t, size=size, mode="bilinear", antialias=True) for t in (drawn, x))
        frozen = {name: p.detach() for name, p in judge.named_parameters()}
        losses["fool"] = F.softplus(-functional_call(judge, frozen, (drawn, c))).mean()
        real = x.detach().requires_grad_(True)
        logits = judge(real, c)
        losses["tell"] = F.softplus(judge(drawn.detach(), c)).mean() + F.softplus(-logits).mean()
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        losses["r1"] = gradient.square().sum(dim=(1, 2, 3)).mean()  # (Mescheder 2018, eq. 9)
        losses["loss"] = (
            losses["loss"]
            + self.config.adversarial_weight * losses["fool"]
            + losses["tell"]
            + 0.5 * self.config.r1_gamma * losses["r1"]
        )

    def known_answer(self) -> dict[str, float]:
        """How well the averaged encoder finds codes of drawn images, and redraws real ones: tells whose fault an error is."""
        figures = known_answer(
            self.original, lambda x: self.average(x.to(self.dtype)).to(x), self.average.root.float(),
            samples=self.config.known_answers, seed=self.config.seed,
        )  # fmt: skip
        errors = []
        with torch.no_grad():
            for part in self.held_out.split(_CHUNK):
                x = part.to(self.device, self.dtype)
                errors.append(mse(self.draw(self.average(x)), x))
        return {**figures, "mse_of_real_images": float(torch.cat(errors).double().mean())}


def encoder_verdict(figures: Mapping[str, Any]) -> str:
    """What the known-answer test says, in a sentence.

    Args:
        figures: `LIA.metrics["encoder"]`.
    """
    after, before = figures["after"], figures["before"]
    drawn, real = after["mse"], after["mse_of_real_images"]
    # An encoder into ys may draw the image from other codes than a single y.
    if after["correlation"] < _FOUND and drawn > _REDRAWN * before["mse"]:
        return "the encoder does not find the codes of the generator's own images yet: train longer."
    if real > _FAR * drawn:
        return (
            f"codes of the generator's own images are found, but real images come back {real / drawn:.1f} times worse: "
            "the generator cannot draw all of them (or they are of another kind)."
        )
    return "codes are found, and real images come back as well as the generator's own."


class _Watch:
    """Writes figures and pictures into the run's folder."""

    def __init__(self, log: RunLog, training: _Training, picture: Picture | None) -> None:
        self.log, self.training, self.picture = log, training, picture
        self.x = training.held_out[:_GRID_IMAGES]

    def tick(self, step: int, losses: Mapping[str, float]) -> None:
        """Called by the loop after every `tick_steps` steps."""
        self.log.write(step, losses)
        steps = self.training.config.steps
        before = step - self.training.config.tick_steps
        if self.picture is not None and step * _GRIDS // steps > before * _GRIDS // steps:
            x = self.x.to(self.training.device, self.training.dtype)
            with torch.no_grad():
                drawn = self.training.draw(self.training.average(x))
            self.picture(self.log.folder / f"reconstructions-{step:06d}.png", x, drawn)


def _network(features: str, progress: Progress | None) -> FeatureNetwork | None:
    """The perceptual network that a recipe names: vgg16 is fetched, none is none, else a local file."""
    if features == "none":
        return None
    if features != "vgg16":
        return load_network(features)
    tell = None if progress is None else lambda done, total: progress("download VGG16, bytes", done, total or done)
    return load_network(vgg16_paper(tell))


def _held_out(data: str | Path, generator: Generator, config: EncoderConfig) -> ImageSet | None:
    """The images that the recipe's split leaves out."""
    if config.split == "all":
        return None
    split = config.split.removeprefix("not ") if config.split.startswith("not ") else f"not {config.split}"
    try:
        return open_images(data, generator.resolution, generator.channels, fit=config.fit, split=split)
    except LIAError:  # nothing is left
        return None


def _some(images: ImageSet, n: int) -> Tensor:
    """About n images, evenly spread over the set, [≤ n, C, H, W]; those that can't be read are left out.

    Raises:
        LIAError: None of them can be read.
    """
    numbers = sorted({i * len(images) // n for i in range(n)})
    found = [item.x for item in in_order(images.load, numbers) if item is not None]
    if not found:
        raise none_readable(images)
    return torch.stack(found)


@torch.no_grad()
def _typicality(encoder: Encoder, images: ImageSet, device: torch.device, progress: Progress | None) -> Typicality:
    """What is usual among the codes of the training images."""
    n = min(len(images), _TYPICAL)
    numbers = [i * len(images) // n for i in range(n)]
    codes, done = [], 0
    for part in in_batches(images, numbers, _CHUNK, device):
        codes.append(one_code(encoder(part.x)))
        done += len(part.x)
        if progress:
            progress("what is usual", done, n)
    return Typicality.fit(torch.cat(codes), encoder.root)


def _identity(generator: str, config: EncoderConfig, images: ImageSet) -> str:
    """What a saved run must agree with to be resumed: the generator, the data, and the keys that the training depends on."""
    keys = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("known_answers", "save_seconds", "features")}
    features = config.features if config.features in ("vgg16", "none") else sha256_file(config.features)
    return hashlib.sha256(json.dumps([generator, keys, features, images.identity()], sort_keys=True).encode()).hexdigest()
