"""`train-encoder`: trains x → y against the frozen generator, on real images (LIA, stage 2).

Pixel, perceptual and adversarial losses; a known-answer test before and after.
"""

import copy
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from lia_adapter.budget import accumulation, held_by, in_parts, seconds_of
from lia_adapter.config import load_recipe, to_toml
from lia_adapter.data import ImageSet, Stream, open_images, to_floats
from lia_adapter.encoder import Encoder
from lia_adapter.errors import LIAError
from lia_adapter.files import sha256_file
from lia_adapter.generators import Original, broadcast, graphs_at_once, judge_of
from lia_adapter.inversion.loss import ReconstructionLoss
from lia_adapter.lia import LIA, fingerprint, versions
from lia_adapter.mapping import covariance_root
from lia_adapter.metrics.images import mse
from lia_adapter.metrics.networks import FeatureNetwork, load_network, vgg16_paper
from lia_adapter.metrics.recovery import KnownAnswers
from lia_adapter.resize import resize
from lia_adapter.training import ranks
from lia_adapter.training.encoder_checks import Checks, encoder_verdict, held_out, measure_typicality, some_images
from lia_adapter.training.encoder_config import EncoderConfig
from lia_adapter.training.log import RunLog
from lia_adapter.training.loop import Average, Job, Part, Progress, cosine, run_loop, step_generator
from lia_adapter.training.precision import precision_of

__all__ = ["EncoderConfig", "encoder_verdict", "train_encoder", "train_encoder_lia"]

Picture = Callable[[Path, Tensor, Tensor], None]
"""Writes a picture of real images and their reconstructions, both [N, C, H, W]."""

_STATISTICS = 2**31  # a random stream that no step has
_BETAS = (0.9, 0.99)
_SMALL = 128 * 128  # pixels; of larger images a batch is not put through the networks to see what it takes
_GRIDS = 20  # pictures of a run
_GRID_IMAGES = 16
_QUARTERS, _DECAY = 4, 0.8


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
        label=config.given_label, bits=config.bits or None,
    )  # fmt: skip
    network = _network(config.features, progress)
    before = fingerprint(generator)
    identity = _identity(before, config, images)
    if progress:
        progress("statistics of codes", 0, 1)
    training = _Training(lia, images, config, network)
    checks = _plan(training, None if folder is None else folder / "checks.json", identity, progress)
    training.prepare(held_out(data, generator, config) or images, checks, progress)
    watch = None
    if folder is not None and ranks.rank() == 0:
        watch = _Watch(RunLog(folder, to_toml(config)), training, picture)
    first = training.known_answer(progress)
    try:
        history = run_loop(
            training.job(watch.tick if watch else None),
            state_path=None if folder is None else folder / "state.safetensors",
            identity=identity,
            save_seconds=config.save_seconds,
            progress=progress,
            resumed=watch.log.resume if watch else None,
        )
    finally:
        if watch is not None:
            watch.log.close()
    last = training.known_answer(progress)
    encoder = training.average.float().requires_grad_(False)
    typicality = measure_typicality(encoder, images, checks.usual, device, progress)
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


def _plan(training: "_Training", path: Path | None, identity: str, progress: Progress | None) -> Checks:
    """How much to measure: as an earlier run did, else by the time that one picture takes."""
    kept = ranks.agreed(None if path is None else Checks.kept(path, identity))
    if kept is not None:
        return kept
    if progress:
        progress("measure one picture", 0, 1)
    plan = ranks.agreed(Checks.planned(training.config, len(training.images), *training.timed(), training.accumulation()))
    if progress:
        progress("measure one picture", 1, 1)
    if path is not None and ranks.rank() == 0:
        plan.keep(path, identity)
    return plan


class _Training:
    """The networks of a run and its step function.

    The frozen generator draws as many images of a batch at once as memory and speed allow (`at_once`), each with its gradient
    with respect to its code; the encoder has the batch as a whole, which its batch normalisation looks at.
    """

    answers: KnownAnswers
    held_out: Tensor
    checks: Checks

    def __init__(self, lia: LIA, images: ImageSet, config: EncoderConfig, network: FeatureNetwork | None) -> None:
        generator, device = lia.generator, lia.device
        self.config, self.images, self.device = config, images, device
        self.dtype, self.half = precision_of(config.precision, device)
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
                judge = judge_of(lia.discriminator, generator.resolution, generator.channels, generator.c_dim)
        encoder.mean.copy_(mean)
        encoder.root.copy_(root)
        self.encoder = encoder.to(device, self.dtype).train()
        self.average = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        self.module = nn.ModuleDict({"encoder": self.encoder, "average": self.average})
        self.judge = None if judge is None else judge.to(device, self.dtype).requires_grad_(True)
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
        self.at_once, self.drawing = graphs_at_once(self.generator, lambda drawn: self.loss(drawn, drawn.detach()))

    def prepare(self, held_out: ImageSet, checks: Checks, progress: Progress | None) -> None:
        """Gets what the measures before and after need."""
        self.checks = checks
        self.held_out = some_images(held_out, checks.known_answers)
        self.answers = KnownAnswers(
            self.original, self.average.root.float(), seed=self.config.seed, seconds=checks.seconds, progress=progress
        )

    @torch.no_grad()
    def timed(self) -> tuple[float, float]:
        """Seconds for drawing and for encoding one image, of as many as are worked on at once."""
        h, w = self.encoder.looks_at
        y = self.average.mean.expand(self.at_once, -1)
        x = torch.zeros(self.at_once, self.encoder.channels, h, w, device=self.device, dtype=self.dtype)
        # The first time is slower.
        drawing, encoding = (
            min(seconds_of(work), seconds_of(work)) / self.at_once
            for work in (lambda: self.draw(y), lambda: self.average(x))
        )
        return drawing, encoding

    def accumulation(self) -> int:
        """Into how many parts a process cuts its share of a batch: as the recipe says, or more where memory asks for it."""
        config, (h, w) = self.config, self.encoder.looks_at
        share = config.batch // ranks.count()
        encoder = copy.deepcopy(self.encoder).eval()  # its statistics are not to change

        def work(n: int) -> None:
            x = torch.zeros(n, encoder.channels, h, w, device=self.device, dtype=self.dtype)
            torch.autograd.grad(encoder(x).sum(), list(encoder.parameters()))
            if self.judge is not None:
                size = [n, encoder.channels, *self.judge.resolution]  # type: ignore[misc]
                x = torch.zeros(size, device=self.device, dtype=self.dtype, requires_grad=True)
                c = None if not self.generator.c_dim else x.new_zeros(n, self.generator.c_dim)
                logits = self.judge(x, c)
                (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
                torch.autograd.grad(gradient.square().sum() + logits.sum(), list(self.judge.parameters()), allow_unused=True)

        if share <= 1 or share % config.accumulate or config.accumulate > 1:
            return config.accumulate
        # Small ones as they are: following sizes without computing takes a second to begin with.
        with torch.enable_grad():
            if h * w <= _SMALL:
                return accumulation(share, held_by(lambda: work(2)) * share // 2, self.device)
            return accumulation(share, held_by(lambda: work(share), pretend=True), self.device)

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
            accumulate=self.checks.accumulate,
            rate=cosine(config.steps) if config.schedule == "cosine" else self._quarters,
            averages=[Average(self.encoder, self.average, config.ema_images)],
            tick=tick,
            tick_steps=config.tick_steps,
            in_samples=True,
        )

    def _quarters(self, step: int) -> float:
        """The paper's schedule: a factor of 0.8 after each quarter of the run."""
        return _DECAY ** (_QUARTERS * step // self.config.steps)

    def step(self, part: Part) -> dict[str, Tensor]:
        """The losses of one part of a batch (LIA, eq. 12 and 13)."""
        pixels, c = self.stream.batch(part.numbers, part.following)
        pixels = pixels.to(self.device, non_blocking=True)
        c = None if c is None else c.to(self.device, self.dtype)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            codes = self.encoder(self._floats(pixels, resize))
        if self.judge is None:
            losses, surrogate = self._redrawn(codes, pixels, part.tell)
            # What the encoder learns from is a gradient, not a value.
            losses["loss"] = losses["loss"] + (surrogate - surrogate.detach())
            return losses
        size = tuple(self.judge.resolution)  # type: ignore[arg-type]
        losses, drawn = self._redrawn_for(codes, pixels, size, part.tell)
        self._play(self.judge, drawn, self._floats(pixels, lambda x: _resized(x, size)), c, losses)
        return losses

    def draw(self, codes: Tensor) -> Tensor:
        """y [N, y_dim] or ys -> images [N, C, H, W], with the generator's constant noise."""
        return self.generator.synthesis(broadcast(codes, self.generator.num_ws), noise_mode="const")

    def _floats(self, pixels: Tensor, then: Callable[[Tensor], Tensor]) -> Tensor:
        """uint8 [N, C, H, W] -> images in [-1, 1], each brought to the size that is looked at before the next is made."""
        return torch.cat([then(to_floats(part)).to(self.dtype) for part in pixels.split(self.at_once)])

    def _losses(self, codes: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Drawn images [n, C, H, W], the loss [n] and its parts."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half), self.drawing():
            drawn = self.draw(codes)
            parts = self.loss.parts(drawn, to_floats(pixels).to(self.dtype))
        return drawn, self.loss.weighted(parts), parts

    def _redrawn(self, codes: Tensor, pixels: Tensor, tell: Callable[[int], None]) -> tuple[dict[str, Tensor], Tensor]:
        """Mean losses, and what has the gradient of their sum with respect to the codes."""
        sums: dict[str, Tensor] = {}
        gradients: list[Tensor] = []
        done = 0

        def look(numbers: range) -> tuple[Tensor, dict[str, Tensor]]:
            leaf = codes[numbers.start : numbers.stop].detach().requires_grad_(True)
            _, loss, parts = self._losses(leaf, pixels[numbers.start : numbers.stop])
            (gradient,) = torch.autograd.grad(loss.sum() / len(codes), leaf)
            return gradient, {name: values.detach() for name, values in {**parts, "loss": loss}.items()}

        for gradient, values in in_parts(look, range(len(codes)), self.at_once):
            gradients.append(gradient)
            done += len(gradient)
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value.sum()
            tell(done)
        return {name: value / len(codes) for name, value in sums.items()}, (codes * torch.cat(gradients)).sum()

    def _redrawn_for(
        self, codes: Tensor, pixels: Tensor, size: tuple[int, ...], tell: Callable[[int], None]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Mean losses, and the drawn images at the judge's size, both with gradients.

        The judge compares the images of a batch with each other, so that their gradients are known only when all are drawn:
        where the batch is drawn in parts, each part is drawn again when its gradient is due.
        """

        def look(numbers: range) -> tuple[Tensor, ...]:
            def one(codes: Tensor, pixels: Tensor) -> tuple[Tensor, ...]:
                drawn, loss, parts = self._losses(codes, pixels)
                return _resized(drawn.to(self.dtype), size), loss, *parts.values()

            here = slice(numbers.start, numbers.stop)
            whole = len(numbers) == len(codes)
            answer: tuple[Tensor, ...] = (
                one(codes, pixels) if whole else checkpoint(one, codes[here], pixels[here], use_reentrant=False)
            )
            tell(numbers.stop)
            return answer

        names = ["loss", "pixel", *(["perceptual"] if self.loss.network is not None else [])]
        drawn, *values = (torch.cat(same) for same in zip(*in_parts(look, range(len(codes)), self.at_once), strict=True))
        return {name: value.mean() for name, value in zip(names, values, strict=True)}, drawn

    def _play(self, judge: nn.Module, drawn: Tensor, x: Tensor, c: Tensor | None, losses: dict[str, Tensor]) -> None:
        """Adds both players' losses; one backward pass serves both, as each sees the other's part as a constant.

        Outside of autocast: the gradient penalty is differentiated twice, and bfloat16 has eight bits.
        """
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

    def known_answer(self, progress: Progress | None) -> dict[str, Any]:
        """How well the averaged encoder finds codes of drawn images, and redraws real ones: tells whose fault an error is."""
        figures = self.answers.test(
            lambda x: self.average(x.to(self.dtype)).to(x), self.checks.known_answers, progress
        )
        with torch.no_grad():
            errors = torch.cat([mse(drawn, x) for x, drawn in self.redrawn(self.held_out)])
        return {**figures, "mse_of_real_images": float(errors.double().mean())}

    def redrawn(self, pixels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Images as `resize` makes them, uint8 -> batches of them and of what is drawn of them, in [-1, 1]."""

        @torch.no_grad()
        def look(part: Tensor) -> tuple[Tensor, Tensor]:
            x = to_floats(part.to(self.device)).to(self.dtype)
            return x, resize(self.draw(self.average(x)))

        return in_parts(look, pixels, self.at_once)


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.interpolate(x, size=size, mode="bilinear", antialias=True)


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
            x, drawn = (torch.cat(side) for side in zip(*self.training.redrawn(self.x), strict=True))
            self.picture(self.log.folder / f"reconstructions-{step:06d}.png", x, drawn)


def _network(features: str, progress: Progress | None) -> FeatureNetwork | None:
    """The perceptual network that a recipe names: vgg16 is fetched, none is none, else a local file."""
    if features == "none":
        return None
    if features != "vgg16":
        return load_network(features)
    tell = None if progress is None else lambda done, total: progress("download VGG16, bytes", done, total or done)
    return load_network(vgg16_paper(tell))


def _identity(generator: str, config: EncoderConfig, images: ImageSet) -> str:
    """What a saved run must agree with to be resumed: the generator, the data, and the keys that the training depends on."""
    free = ("known_answers", "check_seconds", "save_seconds", "features")
    keys = {k: v for k, v in dataclasses.asdict(config).items() if k not in free}
    features = config.features if config.features in ("vgg16", "none") else sha256_file(config.features)
    return hashlib.sha256(json.dumps([generator, keys, features, images.identity()], sort_keys=True).encode()).hexdigest()
