"""The losses of two players: non-saturating logistic losses with R1 (Goodfellow 2014; Mescheder 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["adversarial_losses", "generator_loss", "gradient_penalty", "discriminator_loss"]


def generator_loss(logits: Tensor) -> Tensor:
    """What the generator minimises: mean of softplus(-D(g)), for logits [N, 1] of drawn images."""
    return F.softplus(-logits).mean()


def discriminator_loss(drawn: Tensor, real: Tensor) -> Tensor:
    """What the discriminator minimises: mean of softplus(D(g)) plus that of softplus(-D(x)), of logits [N, 1] each."""
    return F.softplus(drawn).mean() + F.softplus(-real).mean()


def gradient_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """R1 without its factor γ/2: mean |∇ D(x)|² over real images, differentiable (Mescheder 2018, eq. 9).

    Args:
        logits: D(x) [N, 1].
        x: Real images [N, C, H, W] that require a gradient.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    penalty: Tensor = gradient.square().sum(dim=(1, 2, 3)).mean()
    return penalty


def adversarial_losses(
    discriminator: nn.Module, drawn: Tensor, x: Tensor, c: Tensor | None = None, real_c: Tensor | None = None
) -> dict[str, Tensor]:
    """Both players' losses; one backward pass serves both, as each sees the other's part as a constant.

    Not to be run under autocast: the penalty is differentiated twice, and bfloat16 has eight bits.

    Args:
        discriminator: Learns from "loss/D" and "loss/r1" alone.
        drawn: Images [N, C, H, W] whose maker learns from "loss/G" alone.
        x: Real images of the same size.
        c: Labels [N, c_dim] of the drawn images, for a conditional discriminator.
        real_c: Those of the real images; None: the same.

    Returns:
        "loss/G", "loss/D" and "loss/r1", the last without its factor.
    """
    frozen = {name: p.detach() for name, p in discriminator.named_parameters()}
    by_generator = generator_loss(functional_call(discriminator, frozen, (drawn, c)))
    real = x.detach().requires_grad_(True)
    logits = discriminator(real, c if real_c is None else real_c)
    by_discriminator = discriminator_loss(discriminator(drawn.detach(), c), logits)
    return {"loss/G": by_generator, "loss/D": by_discriminator, "loss/r1": gradient_penalty(logits, real)}
