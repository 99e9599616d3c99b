"""A short adversarial refinement of a fitted mapping, against the checkpoint's own discriminator and real images."""

import copy

import torch
from torch import Tensor, nn

from lia_adapter.budget import accumulation
from lia_adapter.data import ImageSet, Stream, to_floats
from lia_adapter.generators import Generator, MappingSampler, broadcast, picture_bytes
from lia_adapter.linalg import covariance_root
from lia_adapter.loop import History, Job, Microbatch, adam, cosine, run_loop, step_generator
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.progress import Progress
from lia_adapter.training.adversarial import adversarial_losses
from lia_adapter.training.convert_config import ConvertConfig

__all__ = ["refine_mapping"]

_SAMPLES = 16
_R1_WEIGHT = 10.0  # gamma of Mescheder 2018, as in StyleGAN's training
_STREAM = 2**30  # numbers of random streams that the fit does not use


def refine_mapping(
    generator: Generator,
    discriminator: nn.Module,
    mapping: InvertibleMapping,
    images: ImageSet,
    config: ConvertConfig,
    *,
    progress: Progress | None = None,
) -> History:
    """Trains the mapping's core so that drawn images look real; a copy of the discriminator learns along.

    Non-saturating logistic loss with R1 (Goodfellow 2014; Mescheder 2018), and the squared distance of whitened y to where
    the fit had it, which keeps the seeds. Generator and discriminator of the checkpoint do not change.

    Args:
        generator: Draws the images.
        discriminator: The checkpoint's.
        mapping: Its core is trained in place.
        images: Real images.
        config: The recipe.
        progress: Is told of every step.

    Returns:
        Losses by name, one number a step.
    """
    original = MappingSampler(generator)
    device = mapping.colour.device
    root = covariance_root(original.pairs(config.statistics_samples, step_generator(config.seed, _STREAM, device))[1])[1]
    whiten = torch.linalg.inv(root).float()
    discriminator = copy.deepcopy(discriminator).requires_grad_(True)
    before = copy.deepcopy(mapping).requires_grad_(False)
    players = nn.ModuleDict({"mapping": mapping.core.requires_grad_(True), "discriminator": discriminator})
    stream = Stream(images, config.seed)

    def step(part: Microbatch) -> dict[str, Tensor]:
        random = step_generator(config.seed, _STREAM + 1 + part.step, device)
        z = torch.randn(_SAMPLES, original.dim, generator=random, device=device)[[n % _SAMPLES for n in part.numbers]]
        y = mapping.to_y(z)
        fake = generator.synthesis(broadcast(y, generator.num_ws))
        real, _ = stream.batch(part.numbers, part.following)
        real = to_floats(real.to(device))
        stay = ((y - before.to_y(z)) @ whiten).square().mean()
        players = adversarial_losses(discriminator, fake, real)
        loss = players["loss/G"] + stay + players["loss/D"] + 0.5 * _R1_WEIGHT * players["loss/r1"]
        named = {"refine/G": players["loss/G"], "refine/D": players["loss/D"], "refine/moved": stay}
        return {"loss": loss, **named}

    optimizer = adam(players, config.refine_learning_rate)
    steps = config.refine_steps
    # The penalty on a gradient is differentiated once more, which keeps about as much again.
    each = 2 * picture_bytes(generator, discriminator, graph=True)
    job = Job(
        "refine", players, step, optimizer, steps=steps, batch=_SAMPLES, rate=cosine(steps), clip=1.0,
        accumulate=accumulation(_SAMPLES, _SAMPLES * each, device), in_samples=True,
    )  # fmt: skip
    history = run_loop(job, progress=progress)
    mapping.requires_grad_(False)
    return {name: values for name, values in history.items() if name != "loss"}
