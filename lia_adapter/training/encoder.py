"""The networks of an encoder's training against the frozen generator, and the step function (LIA, stage 2).

Pixel, perceptual and adversarial losses; a known-answer test before and after.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lia_adapter import ranks
from lia_adapter.budget import accumulation, held_by, in_parts, seconds_of
from lia_adapter.data import ImageSet, Stream, to_floats
from lia_adapter.encoder import Encoder, encoded, for_layers
from lia_adapter.generators import MappingSampler, broadcast, discriminator_for, graphs_at_once
from lia_adapter.inversion.loss import ReconstructionLoss, quick_z
from lia_adapter.lia import LIA
from lia_adapter.linalg import covariance_root
from lia_adapter.loop import Average, Job, Microbatch, cosine, read_precision, step_generator
from lia_adapter.metrics.images import mse
from lia_adapter.metrics.networks import FeatureNetwork
from lia_adapter.metrics.recovery import KnownAnswers
from lia_adapter.ops.native import as_chosen
from lia_adapter.progress import Progress
from lia_adapter.resize import resize
from lia_adapter.training.adversarial import adversarial_losses
from lia_adapter.training.encoder_checks import Checks, some_images
from lia_adapter.training.encoder_config import EncoderConfig
from lia_adapter.training.moments import MovingMoments
from lia_adapter.training.pairs import Mixed, Source

__all__ = ["EncoderTraining"]


_STATISTICS = 2**31  # a random stream that no step has
_BETAS = (0.9, 0.99)
_SMALL = 128 * 128  # pixels; of larger images a batch is not put through the networks to see what it takes
_QUARTERS, _DECAY = 4, 0.8
_CODES = 0.1  # weight of the error of known codes, which is 1 for the mean of all codes
_REMEMBERED = 100 / 3  # batches, in the moments of z ...
_SAMPLES = 8  # ... or more, so that these are of so many images for each entry
_SCALES_RATE = 30.0  # times the rate: how far a picture tells a direction differs by factors, and weights by shares


class EncoderTraining:
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
        self.dtype, self.half = read_precision(config.precision, device)
        _, y, _ = MappingSampler(generator).pairs(config.statistics_samples, step_generator(config.seed, _STATISTICS, device))
        mean, root = covariance_root(y)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            encoder = Encoder(
                generator.resolution, generator.channels, generator.y_dim, generator.num_ws,
                space=config.space, width=config.width, width_max=config.width_max, passes=config.passes, turned=True,
            )  # fmt: skip
            discriminator = None
            if config.adversarial_weight:
                discriminator = discriminator_for(lia.discriminator, generator.resolution, generator.channels, generator.c_dim)
        encoder.place(mean, root)
        self.encoder = encoder.to(device, self.dtype).train()
        self.average = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        self.module = nn.ModuleDict({"encoder": self.encoder, "average": self.average})
        self.discriminator = None if discriminator is None else discriminator.to(device, self.dtype).requires_grad_(True)
        if self.discriminator is not None:
            self.module["judge"] = self.discriminator  # its name in the saved states of runs
        self.original = self.generator = generator
        self.mapping = lia.mapping
        # Of each pass, where the prior has a weight.
        remembered = max(_REMEMBERED * config.batch, _SAMPLES * generator.y_dim) * (
            generator.num_ws if config.space == "ys" else 1
        )
        self.moments = [MovingMoments(generator.y_dim, remembered).to(device, self.dtype) for _ in range(config.passes)]
        if config.prior_weight:
            self.module["moments"] = nn.ModuleList(self.moments)
        if self.dtype == torch.float64:
            self.generator = copy.deepcopy(generator).double()
        self.loss = ReconstructionLoss(
            None if network is None else network.to(device, self.dtype),
            config.pixel_weight, config.vgg_weight, config.perceptual_weight, config.pyramid_weight,
        )  # fmt: skip
        # Distances of normalised features are ten times the errors of pixels.
        scale = 1 if network is None or network.is_paper else 10
        self.prior_weight, self.code_weight = scale * config.prior_weight, scale * _CODES
        self.at_once, self.drawing = graphs_at_once(self.generator, lambda drawn: self.loss(drawn, drawn.detach()))
        self.source = Source(
            Stream(images, config.seed, mirror=config.mirror), MappingSampler(generator), lambda y: self.draw(y.to(self.dtype)),
            share=config.generated, seed=config.seed, batch=config.batch,
            at_once=self.at_once, judged=self.discriminator is not None,
        )  # fmt: skip
        self.module.register_buffer("code_measure", torch.eye(len(mean)).to(self.encoder.root))
        self._measure_codes_by(torch.ones_like(mean), torch.eye(len(mean)).to(root))

    def prepare(self, held_out: ImageSet, checks: Checks, progress: Progress | None) -> None:
        """Gets what the measures before and after need."""
        self.checks = checks
        self.held_out = some_images(held_out, checks.known_answers)
        self.answers = KnownAnswers(
            self.original, self.average.root.float(), seed=self.config.seed, seconds=checks.seconds, progress=progress
        )
        turn = ranks.agreed(self.answers.spectrum[1].t().cpu()).to(self.average.root)  # the clock had a say in it
        for encoder in (self.encoder, self.average):
            encoder.place(encoder.mean, encoder.root, turn)
        self._measure_codes_by(ranks.agreed(self.answers.spectrum[0].cpu()).to(self.average.root), turn)

    def _measure_codes_by(self, weights: Tensor, directions: Tensor) -> None:
        """Weights [y_dim] of the directions of whitened y, a row each: how strongly they move pixels.

        The measure [y_dim, y_dim], whose image of an error of y is as long as it counts, is saved with the run: the clock had a
        say in it.
        """
        inverse = torch.linalg.pinv(self.average.root.double(), rtol=1e-4)
        weights = weights.double() / weights.double().sum()
        measure = inverse @ directions.double().t().to(inverse) * weights.to(inverse).sqrt()
        self.module.get_buffer("code_measure").copy_(measure)

    @torch.no_grad()
    def timed(self) -> tuple[float, float, float]:
        """Seconds for drawing one image, for encoding it and for a step of a search, of as many as are worked on at once."""
        h, w = self.encoder.looks_at
        y = self.average.mean.expand(self.at_once, -1)
        x = torch.zeros(self.at_once, self.encoder.channels, h, w, device=self.device, dtype=self.dtype)

        def searching() -> None:
            with torch.enable_grad(), self.drawing():
                leaf = y.clone().requires_grad_(True)
                drawn = self.draw(leaf)
                torch.autograd.grad(self.loss(drawn, drawn.detach()).sum(), leaf)

        # The first time is slower.
        drawing, encoding, step = (
            min(seconds_of(work), seconds_of(work)) / self.at_once
            for work in (lambda: self.draw(y), lambda: self.answer(x), searching)
        )
        return drawing, encoding, step

    def accumulation(self) -> int:
        """Into how many parts a process cuts its share of a batch: as the recipe says, or more where memory asks for it."""
        config, (h, w) = self.config, self.encoder.looks_at
        share = config.batch // ranks.count()
        encoder = copy.deepcopy(self.encoder).eval()  # its statistics are not to change

        def work(n: int) -> None:
            x = torch.zeros(n, encoder.channels, h, w, device=self.device, dtype=self.dtype)
            codes = encoder(x) if encoder.corrector is None else encoder.corrected(encoder(x), x, x)
            torch.autograd.grad(codes.sum(), list(encoder.parameters()))
            if self.discriminator is not None:
                size = [n, encoder.channels, *self.discriminator.resolution]
                x = torch.zeros(size, device=self.device, dtype=self.dtype, requires_grad=True)
                c = None if not self.generator.c_dim else x.new_zeros(n, self.generator.c_dim)
                logits = self.discriminator(x, c)
                (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
                weights = list(self.discriminator.parameters())
                torch.autograd.grad(gradient.square().sum() + logits.sum(), weights, allow_unused=True)

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
        scales = [network.scales for network in (self.encoder, self.encoder.corrector) if network is not None]
        others = [p for p in self.module.parameters() if p.requires_grad and all(p is not scale for scale in scales)]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": scales, "lr": _SCALES_RATE * config.learning_rate}]
        return Job(
            "encoder",
            self.module,
            self.step,
            torch.optim.Adam(groups, lr=config.learning_rate, betas=_BETAS, eps=1e-8),
            steps=config.steps,
            batch=config.batch,
            accumulate=self.checks.accumulate,
            rate=cosine(config.steps) if config.schedule == "cosine" else self._quarters,
            averages=[Average(self.encoder, self.average, config.ema_images)],
            tick=tick,
            tick_steps=config.tick_steps,
            in_samples=True,
            renamed={
                "fool": "loss/G",
                "tell": "loss/D",
                "r1": "loss/r1",
                "pixel": "loss/pixel",
                "perceptual": "loss/perceptual",
            },  # fmt: skip
        )

    def _quarters(self, step: int) -> float:
        """The paper's schedule: a factor of 0.8 after each quarter of the run."""
        return _DECAY ** (_QUARTERS * step // self.config.steps)

    def step(self, part: Microbatch) -> dict[str, Tensor]:
        """The losses of one part of a batch (LIA, eq. 12 and 13)."""
        images = self.source.part(part, self.device)
        pixels = images.pixels
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            x = self._floats(pixels, resize)
            codes = self.encoder(x)
        # What the encoder learns from is a gradient, not a value; of each pass by itself, as the next one takes it as it is.
        learnt = codes.new_zeros(())
        for number in range(self.config.passes - 1):
            _, surrogate, drawn = self._redrawn(codes, pixels, lambda done: None)
            learnt = learnt + surrogate + sum(weight * loss for weight, loss in self._of_codes(number, codes, images).values())
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                codes = self.encoder.corrected(codes.detach(), x, drawn)
        if self.discriminator is None:
            losses, surrogate, _ = self._redrawn(codes, pixels, part.tell)
            learnt = learnt + surrogate
        else:
            size = self.discriminator.resolution
            losses, drawn = self._redrawn_for(codes, pixels, size, part.tell)
            self._play(self.discriminator, drawn, images, size, losses)
        losses["loss"] = losses["loss"] + (learnt - learnt.detach())
        for name, (weight, loss) in self._of_codes(-1, codes, images).items():
            losses[name] = loss
            losses["loss"] = losses["loss"] + weight * loss
        return losses

    def _of_codes(self, number: int, codes: Tensor, images: Mixed) -> dict[str, tuple[float, Tensor]]:
        """The losses [] of the codes of a pass, and their weights: of the prior, and of the codes that are known.

        The prior's is not how far each z is from it: photographs differ more than the generator's images do, in few directions,
        and less in the rest. Then z of a usual size lie all in a few directions, as no sample of N(0, I) does.
        """
        found, codes = {}, codes.to(self.dtype)
        if self.prior_weight and self.mapping is not None:
            c = None if images.c is None else images.c[~images.drawn]
            z = quick_z(self.mapping, codes[~images.drawn], c)
            found["loss/prior"] = (self.prior_weight, self.moments[number].unlike(z))
        if share := self.source.share:
            apart = (codes[images.drawn] - for_layers(images.y.to(codes), codes)) @ self.module.get_buffer("code_measure")
            error = apart.square().sum() / (share * codes[..., 0].numel())
            found["loss/code"] = (self.code_weight * share, error)
        return found

    def answer(self, x: Tensor) -> Tensor:
        """Images as `forward` of the encoder takes them -> the codes of all passes of the averaged encoder."""
        return encoded(self.average, x, lambda codes: resize(self.draw(codes)))

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

    def _redrawn(self, codes: Tensor, pixels: Tensor, tell: Callable[[int], None]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Mean losses, what has the gradient of their sum with respect to the codes, and what a corrector sees."""
        sums: dict[str, Tensor] = {}
        gradients: list[Tensor] = []
        images: list[Tensor] = []
        done = 0

        def look(numbers: range) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            leaf = codes[numbers.start : numbers.stop].detach().requires_grad_(True)
            drawn, loss, parts = self._losses(leaf, pixels[numbers.start : numbers.stop])
            (gradient,) = torch.autograd.grad(loss.sum() / len(codes), leaf)
            seen = resize(drawn.detach()).to(self.dtype) if self.encoder.corrector is not None else drawn[:0]
            return gradient, seen, {name: values.detach() for name, values in {**parts, "loss": loss}.items()}

        for gradient, drawn, values in in_parts(look, range(len(codes)), self.at_once):
            gradients.append(gradient)
            images.append(drawn)
            done += len(gradient)
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value.sum()
            tell(done)
        surrogate = (codes * torch.cat(gradients)).sum()
        return {name: value / len(codes) for name, value in sums.items()}, surrogate, torch.cat(images)

    def _redrawn_for(
        self, codes: Tensor, pixels: Tensor, size: tuple[int, ...], tell: Callable[[int], None]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Mean losses, and the drawn images at the discriminator's size, both with gradients.

        The discriminator compares a batch's images with each other, so that their gradients are known only when all are drawn:
        where the batch is drawn in parts, each part is drawn again when its gradient is due.
        """

        def look(numbers: range) -> tuple[Tensor, ...]:
            def one(codes: Tensor, pixels: Tensor) -> tuple[Tensor, ...]:
                drawn, loss, parts = self._losses(codes, pixels)
                return _resized(drawn.to(self.dtype), size), loss, *parts.values()

            here = slice(numbers.start, numbers.stop)
            whole = len(numbers) == len(codes)
            answer: tuple[Tensor, ...] = (
                one(codes, pixels) if whole else checkpoint(as_chosen(one), codes[here], pixels[here], use_reentrant=False)
            )
            tell(numbers.stop)
            return answer

        names = ["loss", *self.loss.names]
        drawn, *values = (torch.cat(same) for same in zip(*in_parts(look, range(len(codes)), self.at_once), strict=True))
        return {name: value.mean() for name, value in zip(names, values, strict=True)}, drawn

    def _play(
        self, discriminator: nn.Module, drawn: Tensor, images: Mixed, size: tuple[int, ...], losses: dict[str, Tensor]
    ) -> None:
        """Adds both players' losses, outside of autocast."""
        assert images.real is not None  # noqa: S101  (there is a discriminator)
        pixels, real_c = images.real
        x = self._floats(pixels, lambda x: _resized(x, size))
        c, real_c = (None if labels is None else labels.to(x) for labels in (images.c, real_c))
        losses |= adversarial_losses(discriminator, drawn, x, c, real_c)
        losses["loss"] = (
            losses["loss"]
            + self.config.adversarial_weight * losses["loss/G"]
            + losses["loss/D"]
            + 0.5 * self.config.r1_gamma * losses["loss/r1"]
        )

    def known_answer(self, progress: Progress | None) -> dict[str, Any]:
        """How well the averaged encoder finds codes of drawn images, and how well it redraws real ones."""
        figures = self.answers.test(lambda x: self.answer(x.to(self.dtype)).to(x), self.checks.known_answers, progress)
        with torch.no_grad():
            errors = torch.cat([mse(drawn, x) for x, drawn in self.redrawn(self.held_out)])
        return {**figures, "mse_of_real_images": float(errors.double().mean())}

    def redrawn(self, pixels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Images as `resize` makes them, uint8 -> batches of them and of what is drawn of them, in [-1, 1]."""

        @torch.no_grad()
        def look(part: Tensor) -> tuple[Tensor, Tensor]:
            x = to_floats(part.to(self.device)).to(self.dtype)
            return x, resize(self.draw(self.answer(x)))

        return in_parts(look, pixels, self.at_once)


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.interpolate(x, size=size, mode="bilinear", antialias=True)
