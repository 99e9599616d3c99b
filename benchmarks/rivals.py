"""Two older ways to a generator with an encoder, on the project's networks and its one training loop.

VAE/GAN (Larsen et al. 2016): a variational autoencoder whose error is measured in the discriminator's features. ALI (Dumoulin
et al. 2017; BiGAN, Donahue et al. 2017): a discriminator of pairs (image, code). Both encode into z.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.data import ImageSet, Stream
from lia_adapter.encoder import Encoder
from lia_adapter.generators import Discriminator, StyleGAN2, broadcast
from lia_adapter.generators.discriminator import minibatch_std
from lia_adapter.generators.stylegan2 import Dense
from lia_adapter.training.gan import gradient_penalty
from lia_adapter.training.gan_config import TrainConfig
from lia_adapter.training.loop import Average, Job, Part, step_generator

__all__ = ["Ali", "Rival", "VaeGan"]

_HIDDEN = 256


class _Judge(nn.Module):
    """The project's discriminator up to its last block; then dense layers, for images alone or for pairs."""

    def __init__(self, config: Mapping[str, Any], code: int) -> None:
        super().__init__()
        self.blocks = Discriminator(config)
        last = config["epilogue"]
        h, w = last["size"]
        self.fc = Dense((int(last["in_channels"]) + 1) * h * w + code, _HIDDEN, "lrelu")
        self.mix, self.out = Dense(_HIDDEN, _HIDDEN, "lrelu"), Dense(_HIDDEN, 1)

    def features(self, x: Tensor) -> Tensor:
        """What the blocks make of images [N, C, H, W]: [N, D, h, w]."""
        found, image = None, x
        for name in self.blocks.names:
            found, image = self.blocks.get_submodule(name)(found, image)
        assert isinstance(found, Tensor)  # noqa: S101
        return found

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Logits [N, 1]."""
        flat = minibatch_std(self.features(x), 4, 1).flatten(1)
        logits: Tensor = self.out(self.mix(self.fc(flat if z is None else torch.cat([flat, z], dim=1))))
        return logits


class Rival:
    """Networks, step function and use of one of them.

    Args:
        config: Sizes and budget, as for `train`; its mapping must be "mlp".
        images: What is learnt from.
        width: Of the encoder.
    """

    name = ""
    code = 0

    def __init__(self, config: TrainConfig, images: ImageSet, width: int) -> None:
        self.config, self.stream = config, Stream(images, config.seed, mirror=config.mirror)
        networks = config.networks()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.players = nn.ModuleDict(
                {
                    "generator": StyleGAN2(networks["generator"]),
                    "encoder": Encoder(images.resolution, images.channels, _HIDDEN, 1, width=width),
                    "head": nn.Linear(_HIDDEN, 2 * config.z_dim),
                    "judge": _Judge(networks["discriminator"], self.code and config.z_dim),
                }
            )
        average = {name: copy.deepcopy(self.players[name]).eval() for name in ("generator", "encoder", "head")}
        self.players["average"] = nn.ModuleDict(average).requires_grad_(False)
        self.learning_rate = {"generator": 2e-3, "encoder": 1e-3, "head": 1e-3, "judge": 2e-3}

    def job(self) -> Job:
        """For the loop."""
        players, averages = self.players, self.players["average"]
        groups = [{"params": list(players[name].parameters()), "lr": rate} for name, rate in self.learning_rate.items()]
        return Job(
            self.name, players, self.step, torch.optim.Adam(groups, betas=(0.0, 0.99), eps=1e-8),
            steps=self.config.steps, batch=self.config.batch, rate=lambda step: 1.0,
            averages=[
                Average(players[name], averages.get_submodule(name), self.config.ema_images)
                for name in ("generator", "encoder", "head")
            ],
        )  # fmt: skip

    def step(self, part: Part) -> dict[str, Tensor]:
        """The losses of both players."""
        raise AssertionError("a subclass defines it")

    def codes(self, x: Tensor, networks: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of z [N, z_dim] of images."""
        networks = networks or self.players["average"]
        mean, log_variance = networks.get_submodule("head")(networks.get_submodule("encoder")(x)).chunk(2, dim=1)
        return mean, log_variance

    def draw(self, z: Tensor, networks: nn.Module | None = None, noise: str = "const") -> Tensor:
        """Images of z."""
        generator: StyleGAN2 = (networks or self.players["average"]).get_submodule("generator")  # type: ignore[assignment]
        drawn: Tensor = generator.synthesis(broadcast(generator.mapping(z), generator.num_ws), noise_mode=noise)
        return drawn

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images encoded and drawn again, by the averaged networks."""
        with torch.no_grad():
            return torch.cat([self.draw(self.codes(part)[0]) for part in x.split(100)])

    def _z(self, n: int, step: int) -> Tensor:
        return torch.randn(n, self.config.z_dim, generator=step_generator(self.config.seed, step, torch.device("cpu")))

    def _penalty(self, logits: Tensor, x: Tensor, step: int) -> Tensor:
        """R1, lazily, as in stage 1 of LIA."""
        if step % self.config.r1_every:
            return logits.new_zeros([])
        return 0.5 * self.config.r1_gamma * self.config.r1_every * gradient_penalty(logits, x)


class VaeGan(Rival):
    """Larsen 2016, algorithm 1, with the non-saturating logistic loss."""

    name = "VAE/GAN"
    style = 1e-2  # weight of the feature error for the decoder, gamma of eq. 9

    def step(self, part: Part) -> dict[str, Tensor]:
        """Encoder: prior + features; decoder: gamma * features + GAN; discriminator: GAN."""
        players, judge = self.players, self.players["judge"]
        x = self.stream.batch(part.numbers, part.following)[0].requires_grad_(part.step % self.config.r1_every == 0)
        mean, log_variance = self.codes(x.detach(), players)
        log_variance = log_variance.clamp(-8, 4)
        noise = self._z(len(x), 2 * part.step)
        prior = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
        code = mean + noise * (0.5 * log_variance).exp()
        judge.requires_grad_(False)
        wanted = judge.features(x.detach())  # type: ignore[operator]
        # The encoder's pass: neither generator nor discriminator learns from it.
        players["generator"].requires_grad_(False)
        again = self.draw(code, players, "random")
        errors = (judge.features(again) - wanted).square().flatten(1).sum(dim=1).mean()  # type: ignore[operator]
        players["generator"].requires_grad_(True)
        # The decoder's: the code stays as it is.
        again = self.draw(code.detach(), players, "random")
        drawn = self.draw(self._z(len(x), 2 * part.step + 1), players, "random")
        style = (judge.features(again) - wanted).square().flatten(1).sum(dim=1).mean()  # type: ignore[operator]
        fool = F.softplus(-judge(again)).mean() + F.softplus(-judge(drawn)).mean()
        judge.requires_grad_(True)
        logits = judge(x)
        tell = F.softplus(-logits).mean() + F.softplus(judge(again.detach())).mean() + F.softplus(judge(drawn.detach())).mean()
        loss = prior + errors + self.style * style + fool + tell + self._penalty(logits, x, part.step)
        return {"prior": prior, "errors": errors, "fool": fool, "tell": tell, "loss": loss}


class Ali(Rival):
    """Dumoulin 2017, eq. 2, with the non-saturating logistic loss and a deterministic encoder."""

    name, code = "ALI", 1

    def step(self, part: Part) -> dict[str, Tensor]:
        """Discriminator: pairs (x, encoded) against (drawn, z); generator and encoder: the other way round."""
        players, judge = self.players, self.players["judge"]
        x = self.stream.batch(part.numbers, part.following)[0].requires_grad_(part.step % self.config.r1_every == 0)
        z = self._z(len(x), part.step)
        encoded = self.codes(x.detach(), players)[0]
        drawn = self.draw(z, players, "random")
        logits = judge(x, encoded.detach())
        tell = F.softplus(-logits).mean() + F.softplus(judge(drawn.detach(), z)).mean()
        judge.requires_grad_(False)
        fool = F.softplus(judge(x.detach(), encoded)).mean() + F.softplus(-judge(drawn, z)).mean()
        judge.requires_grad_(True)
        return {"fool": fool, "tell": tell, "loss": fool + tell + self._penalty(logits, x, part.step)}
