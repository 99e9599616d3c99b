"""Stage 1: a StyleGAN2 whose mapping may be LIA's invertible one, trained from scratch (LIA, sec. 3.2; Karras 2020).

Generator and discriminator change in the same step, on the same drawn images: one pass through each serves both players.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter import ranks
from lia_adapter.budget import accumulation
from lia_adapter.canonical import LR_MULTIPLIER, discriminator2, generator2
from lia_adapter.data import ImageSet, Stream, to_floats
from lia_adapter.generators import Discriminator, StyleGAN2, picture_bytes
from lia_adapter.generators.stylegan2 import Noise
from lia_adapter.loop import Average, Job, Microbatch, read_precision, step_generator
from lia_adapter.mapping import DenseCore, InvertibleMapping
from lia_adapter.training.adversarial import generator_loss, gradient_penalty
from lia_adapter.training.augment import Augment, adjust
from lia_adapter.training.gan_config import TrainConfig

__all__ = ["GanTraining", "Players", "path_lengths"]

_BETAS = (0.0, 0.99)
_CODES, _NOISE, _REAL, _DRAWN, _PATH, _PATH_NOISE, _DIRECTION = range(7)  # random streams of a step
_STREAMS = 8
_AUGMENT_EVERY = 4  # steps between changes of the augmentation's strength (Karras 2020, ADA, app. D)
_PATH_DECAY = 0.01  # of the moving mean of path lengths (Karras 2020, app. B)
_EVEN = 0.1  # weight of the unevenness of dense layers
_CODES_DRAWN = 1000  # to find the scale of y


@torch.no_grad()
def start_like_stylegan(mapping: InvertibleMapping) -> None:
    """Scales the entries of y so that it begins as StyleGAN's does: of mean square 1, most of it in a few directions.

    The covariance of y from a network of random dense layers has eigenvalues that fall like (1 + k / 6)^-2. Couplings and
    orthogonal layers keep the prior's, which are all alike, and a generator learns more slowly when every entry of y changes
    its images as much as every other. The large ones alternate between the two halves that couplings change by turns.
    """
    deviations = 1 / (1 + torch.arange(mapping.y_dim) / 6)
    mapping.colour.copy_(torch.diag(torch.cat([deviations[0::2], deviations[1::2]])))
    labels = torch.eye(mapping.c_dim)[torch.arange(_CODES_DRAWN) % mapping.c_dim] if mapping.c_dim else None
    mapping.colour /= mapping(torch.randn(_CODES_DRAWN, mapping.y_dim), labels).square().mean().sqrt()


class Players(nn.Module):
    """All that changes in a run: both networks, the averaged generator, and the moving figures of the regularisers.

    Args:
        config: The recipe.
    """

    path_mean: Tensor
    signs: Tensor

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            networks = config.networks()
            discriminator = discriminator2(networks)
            assert discriminator is not None  # noqa: S101
            self.generator, self.discriminator = StyleGAN2(generator2(networks)), Discriminator(discriminator)
            if (mapping := self.generator.learnt_mapping) is not None:
                mapping.core.randomise()
                start_like_stylegan(mapping)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.augment = Augment()
        self.register_buffer("path_mean", torch.zeros([]))
        self.register_buffer("signs", torch.zeros(2))  # of D on real images since the last change of augment.p: sum, count


class GanTraining:
    """The networks of a run and its step function.

    Args:
        config: The recipe.
        images: What is learnt from.
        device: Where.
    """

    def __init__(self, config: TrainConfig, images: ImageSet, device: torch.device) -> None:
        self.config, self.device = config, device
        self.dtype, self.half = read_precision(config.precision, device)
        self.players = Players(config).to(device, self.dtype)
        self.generator, self.discriminator = self.players.generator, self.players.discriminator
        self.num_ws = self.generator.num_ws
        self.stream = Stream(images, config.seed, mirror=config.mirror)

    def job(self, tick: Callable[[int, Mapping[str, float]], None] | None, tick_steps: int) -> Job:
        """What the loop is to do.

        Args:
            tick: Called after every `tick_steps` steps.
            tick_steps: Steps from one call of `tick` to the next.
        """
        config, players = self.config, self.players
        mapping = list(self.generator.mapping.parameters())
        rest = [*self.generator.synthesis.parameters(), *self.discriminator.parameters()]
        # Affine couplings and dense ones are plain layers: what StyleGAN's and LIA's carry in their weights comes here.
        slower = {"affine": LR_MULTIPLIER, "dense": LR_MULTIPLIER / config.y_dim**0.5}.get(config.mapping, 1.0)
        groups: list[dict[str, Any]] = [{"params": mapping, "lr": slower * config.learning_rate}, {"params": rest}]
        return Job(
            "generator",
            players,
            self.step,
            torch.optim.Adam(groups, lr=config.learning_rate, betas=_BETAS, eps=1e-8),
            steps=config.steps,
            batch=config.batch,
            accumulate=self._accumulation(),
            rate=lambda step: 1.0,
            averages=[Average(self.generator, players.average, config.ema_images)],
            tick=tick,
            tick_steps=tick_steps,
            in_samples=True,
            renamed={
                "fool": "loss/G",
                "tell": "loss/D_drawn",
                "real": "loss/D_real",
                "r1": "loss/r1",
                "path": "loss/path",
            },  # fmt: skip
        )

    def _no_class(self, n: int) -> Tensor | None:
        """Labels of nothing, where there are classes."""
        return torch.zeros(n, self.config.c_dim, device=self.device, dtype=self.dtype) if self.config.c_dim else None

    def _accumulation(self) -> int:
        """Into how many parts a process cuts its share of a batch: as the recipe says, or more where memory asks for it."""
        config, share = self.config, self.config.batch // ranks.count()
        if share <= 1 or share % config.accumulate or config.accumulate > 1:
            return config.accumulate
        # Penalties on gradients are differentiated once more, which keeps about as much again.
        each = 2 * picture_bytes(self.generator, lambda x: self.discriminator(x, self._no_class(len(x))), graph=True)
        return ranks.agreed(accumulation(share, share * each, self.device))

    def step(self, part: Microbatch) -> dict[str, Tensor]:
        """The losses of one part of a batch: non-saturating logistic, R1 and path lengths, the latter two now and then."""
        config = self.config
        rows = [number - part.step * config.batch for number in part.numbers]
        x, c = self.stream.batch(part.numbers, part.following)
        x = to_floats(x.to(self.device, non_blocking=True)).to(self.dtype)
        c = None if c is None else c.to(self.device, self.dtype)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            drawn = self.generator.synthesis(
                self._ys(part.step, _CODES, rows, c), noise_mode=self._noise(part.step, _NOISE, rows)
            )
        losses, surrogate = self._against_drawn(drawn, c, part.step, rows)
        losses |= self._on_real(x, c, part.step, rows)
        losses["loss/path"] = drawn.new_zeros([])
        if config.path_weight and part.step % config.path_every == 0:
            few = rows[: max(1, len(rows) // 2)]
            losses["loss/path"] = config.path_every * self._path_penalty(part.step, few, None if c is None else c[: len(few)])
        # What the generator learns from is a gradient, not a value: its value is that of "loss/G".
        players = losses["loss/G"] + (surrogate - surrogate.detach()) + losses["loss/D_drawn"] + losses["loss/D_real"]
        losses["loss"] = players + losses["loss/r1"] + config.path_weight * losses["loss/path"] + self._unevenness()
        self._adjust(part)
        return losses

    def _unevenness(self) -> Tensor | float:
        """Keeps a dense mapping far from one that squeezes some directions of z to nothing, and has no inverse in practice."""
        mapping = self.generator.learnt_mapping
        return _EVEN * mapping.core.unevenness() if mapping is not None and isinstance(mapping.core, DenseCore) else 0.0

    def _against_drawn(
        self, drawn: Tensor, c: Tensor | None, step: int, rows: Sequence[int]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Both players' losses on drawn images, and what has the generator's gradient.

        The discriminator looks once. Its logits tell the generator by their gradient alone, which is taken first and costs no
        gradients of weights.
        """
        seen = drawn.detach().requires_grad_(True)
        logits = self._judge(self._augmented(seen, step, _DRAWN, rows), c)
        by_generator = generator_loss(logits)
        (gradient,) = torch.autograd.grad(by_generator, seen, retain_graph=True)
        return {"loss/G": by_generator.detach(), "loss/D_drawn": F.softplus(logits).mean()}, (drawn * gradient.to(drawn)).sum()

    def _on_real(self, x: Tensor, c: Tensor | None, step: int, rows: Sequence[int]) -> dict[str, Tensor]:
        """The discriminator's loss on real images, and its gradient penalty."""
        config = self.config
        due = config.r1_gamma > 0 and step % config.r1_every == 0
        x = x.detach().requires_grad_(due)
        # The penalty is differentiated twice, and bfloat16 has eight bits.
        logits = self._judge(self._augmented(x, step, _REAL, rows), c, half=not due)
        with torch.no_grad():
            self.players.signs += torch.stack([logits.sign().sum(), logits.new_tensor(len(logits))]).to(self.players.signs)
        r1 = gradient_penalty(logits, x) if due else logits.new_zeros([])
        return {"loss/D_real": F.softplus(-logits).mean(), "loss/r1": 0.5 * config.r1_gamma * config.r1_every * r1}

    def _path_penalty(self, step: int, rows: Sequence[int], c: Tensor | None) -> Tensor:
        """How far path lengths are from their moving mean (Karras 2020, eq. 4), outside of autocast as R1."""
        ys = self._ys(step, _PATH, rows, c)
        x = self.generator.synthesis(ys, noise_mode=self._noise(step, _PATH_NOISE, rows))
        size = [self.config.batch, *x.shape[1:]]
        direction = torch.randn(size, generator=self._random(step, _DIRECTION), device=self.device, dtype=self.dtype)[rows]
        lengths = path_lengths(x, ys, direction)
        mean = lengths.detach().mean()
        ranks.average([mean])
        # From the first lengths on: a mean that came up from 0 would press all lengths down, until codes change nothing.
        self.players.path_mean.lerp_(mean, _PATH_DECAY if self.players.path_mean > 0 else 1.0)
        return (lengths - self.players.path_mean).square().mean()

    def _judge(self, x: Tensor, c: Tensor | None, *, half: bool = True) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half and self.half):
            logits: Tensor = self.discriminator(x, c)
        return logits.to(self.dtype)

    def _random(self, step: int, stream: int) -> torch.Generator:
        return step_generator(self.config.seed, step * _STREAMS + stream, self.device)

    def _ys(self, step: int, stream: int, rows: Sequence[int], c: Tensor | None) -> Tensor:
        """ys [n, num_ws, y_dim] of some rows of the batch: mostly of two z, one up to a random layer (style mixing)."""
        config, random = self.config, self._random(step, stream)
        # The whole batch is drawn everywhere: which rows a process has does not change them.
        z = torch.randn(config.batch, 2, config.z_dim, generator=random, device=self.device, dtype=self.dtype)[rows]
        mixed, place = torch.rand(2, config.batch, generator=random, device=self.device)[:, rows]
        cut = torch.where(mixed < config.mixing, 1 + (place * (self.num_ws - 1)).long(), self.num_ws)  # [n]
        y = self.generator.mapping(z.flatten(0, 1), None if c is None else c.repeat_interleave(2, dim=0))
        first, second = y.unflatten(0, [-1, 2]).unbind(1)
        layers = torch.arange(self.num_ws, device=self.device)
        return torch.where((layers < cut[:, None])[:, :, None], first[:, None], second[:, None])

    def _noise(self, step: int, stream: int, rows: Sequence[int]) -> Noise:
        random, batch = self._random(step, stream), self.config.batch
        return lambda h, w: torch.randn(batch, 1, h, w, generator=random, device=self.device, dtype=self.dtype)[rows]

    def _augmented(self, x: Tensor, step: int, stream: int, rows: Sequence[int]) -> Tensor:
        if not self.config.augment_target:
            return x
        augment = self.players.augment
        changed: Tensor = augment(x, augment.draw(self.config.batch, self._random(step, stream))[rows])
        return changed

    @torch.no_grad()
    def _adjust(self, part: Microbatch) -> None:
        """Strengthens or weakens the augmentation, so that D's logits on real images keep the sign that was asked for."""
        last = part.following is None or part.following.start >= (part.step + 1) * self.config.batch
        if not (self.config.augment_target and last and (part.step + 1) % _AUGMENT_EVERY == 0):
            return
        signs, augment = self.players.signs, self.players.augment
        ranks.average([signs])
        images = self.config.batch * _AUGMENT_EVERY
        augment.p.fill_(adjust(float(augment.p), float(signs[0] / signs[1]), images, target=self.config.augment_target))
        signs.zero_()


def path_lengths(x: Tensor, ys: Tensor, direction: Tensor) -> Tensor:
    """How much images change with their codes (Karras 2020, eq. 4), differentiable, [N].

    Args:
        x: Images [N, C, H, W] drawn from ys.
        ys: [N, num_ws, y_dim].
        direction: Normal random numbers [N, C, H, W]: a direction in image space. They are divided by sqrt(H W) here.

    Returns:
        The norm of the gradient of the projection with respect to y: the root of the mean over layers of squared norms.
    """
    projected = (x * direction).sum() / (x.shape[2] * x.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad(projected, ys, create_graph=True)
    lengths: Tensor = gradient.square().sum(dim=2).mean(dim=1).sqrt()
    return lengths
