"""Two older ways to a generator with an encoder, on the project's networks and its one training loop.

VAE/GAN (Larsen et al. 2016): a variational autoencoder whose error is measured in the discriminator's features. ALI (Dumoulin
et al. 2017; BiGAN, Donahue et al. 2017): a discriminator of pairs (image, code). Both encode into z.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.canonical import Discriminator2Config, discriminator2, generator2
from lia_adapter.data import ImageSet, Stream, to_floats
from lia_adapter.encoder import Encoder
from lia_adapter.generators import Discriminator, StyleGAN2, broadcast
from lia_adapter.generators.discriminator import minibatch_std
from lia_adapter.generators.layers import Dense
from lia_adapter.loop import Average, Job, Microbatch, step_generator
from lia_adapter.training.adversarial import gradient_penalty
from lia_adapter.training.gan_config import TrainConfig

__all__ = ["Ali", "Rival", "VaeGan"]

_HIDDEN = 256


class _Discriminator(nn.Module):
    """The project's discriminator up to its last block; then dense layers, for images alone or for pairs."""

    def __init__(self, config: Discriminator2Config | None, code: int) -> None:
        super().__init__()
        assert config is not None
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
        """Logits [N, 1] of images, or of pairs."""
        return self.decide(self.features(x), z)

    def decide(self, features: Tensor, z: Tensor | None = None) -> Tensor:
        """The same from `features` of the images."""
        flat = minibatch_std(features, 4, 1).flatten(1)
        logits: Tensor = self.out(self.mix(self.fc(flat if z is None else torch.cat([flat, z], dim=1))))
        return logits.float()


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
                    "generator": StyleGAN2(generator2(networks)),
                    "encoder": Encoder(images.resolution, images.channels, _HIDDEN, 1, width=width),
                    "head": nn.Linear(_HIDDEN, 2 * config.z_dim),
                    "discriminator": _Discriminator(discriminator2(networks), self.code and config.z_dim),
                }
            )
        average = {name: copy.deepcopy(self.players[name]).eval() for name in ("generator", "encoder", "head")}
        self.players["average"] = nn.ModuleDict(average).requires_grad_(False)
        self.learning_rate = {"generator": 2e-3, "encoder": 1e-3, "head": 1e-3, "discriminator": 2e-3}

    def job(self) -> Job:
        """For the loop."""
        players, averages = self.players, self.players["average"]
        groups = [{"params": list(players[name].parameters()), "lr": rate} for name, rate in self.learning_rate.items()]
        return Job(
            self.name, players, self._in_precision, torch.optim.Adam(groups, betas=(0.0, 0.99), eps=1e-8),
            steps=self.config.steps, batch=self.config.batch, rate=lambda step: 1.0,
            averages=[
                Average(players[name], averages.get_submodule(name), self.config.ema_images)
                for name in ("generator", "encoder", "head")
            ],
        )  # fmt: skip

    def step(self, part: Microbatch) -> dict[str, Tensor]:
        """The losses of both players."""
        raise AssertionError("a subclass defines it")

    def _in_precision(self, part: Microbatch) -> dict[str, Tensor]:
        """The step in bfloat16 where the recipe says so, as stage 1 of LIA; never the twice differentiated penalty."""
        half = self.config.precision == "bfloat16" and part.step % self.config.r1_every > 0
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return self.step(part)

    def codes(self, x: Tensor, networks: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of z [N, z_dim] of images."""
        networks = networks or self.players["average"]
        head, encoder = networks.get_submodule("head"), networks.get_submodule("encoder")
        mean, log_variance = head(encoder(x)).float().chunk(2, dim=1)
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

    def step(self, part: Microbatch) -> dict[str, Tensor]:
        """Encoder: prior + errors; decoder: gamma * errors + GAN; discriminator: GAN. A network runs once for all of them."""
        players, discriminator = self.players, self.players["discriminator"]
        x = to_floats(self.stream.batch(part.numbers, part.following)[0]).requires_grad_(part.step % self.config.r1_every == 0)
        mean, log_variance = self.codes(x.detach(), players)
        log_variance = log_variance.clamp(-8, 4)
        prior = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
        code = mean + self._z(len(x), 2 * part.step) * (0.5 * log_variance).exp()

        start = code.detach().requires_grad_()  # the decoder's other losses must not reach the encoder
        again, drawn = self.draw(start, players, "random"), self.draw(self._z(len(x), 2 * part.step + 1), players, "random")
        seen = [image.detach().requires_grad_() for image in (again, drawn)]
        wanted, *found = (discriminator.features(image) for image in (x, *seen))  # type: ignore[operator]
        errors = (found[0] - wanted.detach()).float().square().flatten(1).sum(dim=1).mean()
        real, *logits = (discriminator.decide(features) for features in (wanted, *found))  # type: ignore[operator]
        fool = F.softplus(-torch.cat(logits)).mean() * 2
        # Gradients of the images first: the discriminator's weights learn neither from the errors nor from being fooled.
        (by_errors,) = torch.autograd.grad(errors, seen[:1], retain_graph=True)
        by_fool = torch.autograd.grad(fool, seen, retain_graph=True)
        (by_code,) = torch.autograd.grad(again, start, by_errors.to(again), retain_graph=True)
        learn = (code * by_code).sum() + (again * (self.style * by_errors + by_fool[0])).sum() + (drawn * by_fool[1]).sum()

        tell = F.softplus(-real).mean() + F.softplus(torch.cat(logits)).mean() * 2
        loss = prior + learn + tell + self._penalty(real, x, part.step)
        return {"prior": prior, "errors": errors.detach(), "fool": fool.detach(), "tell": tell, "loss": loss}


class Ali(Rival):
    """Dumoulin 2017, eq. 2, with the non-saturating logistic loss and a deterministic encoder."""

    name, code = "ALI", 1

    def step(self, part: Microbatch) -> dict[str, Tensor]:
        """Discriminator: pairs (x, encoded) against (drawn, z); generator and encoder: the other way round."""
        players, discriminator = self.players, self.players["discriminator"]
        x = to_floats(self.stream.batch(part.numbers, part.following)[0]).requires_grad_(part.step % self.config.r1_every == 0)
        z = self._z(len(x), part.step)
        encoded, drawn = self.codes(x.detach(), players)[0], self.draw(z, players, "random")
        seen = [one.detach().requires_grad_() for one in (encoded, drawn)]
        real, false = discriminator(x, seen[0]), discriminator(seen[1], z)
        fool = F.softplus(real).mean() + F.softplus(-false).mean()
        by_encoded, by_drawn = torch.autograd.grad(fool, seen, retain_graph=True)  # before the discriminator itself learns
        learn = (encoded * by_encoded).sum() + (drawn * by_drawn).sum()
        tell = F.softplus(-real).mean() + F.softplus(false).mean()
        return {"fool": fool.detach(), "tell": tell, "loss": learn + tell + self._penalty(real, x, part.step)}
