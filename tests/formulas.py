"""What oracles of the project's own have in common: random weights of a network, and the formulas that all papers share.

All is in float64, and nothing of the product is called.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]
ROOT2 = math.sqrt(2)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(module: nn.Module, seed: int = 0) -> State:
    """Makes a network's weights random where they are constants at first, and gives them all, in float64."""
    module.double().eval().requires_grad_(False)
    for i, (name, tensor) in enumerate(sorted(module.state_dict().items())):
        if not tensor.is_floating_point() or name.endswith(("resample_filter", "transform")):
            continue
        noise = random(*tensor.shape, seed=seed + i)
        if name.endswith(("running_var", "magnitude_ema")):
            tensor.copy_(1 + noise**2)
        elif name.endswith("_filter"):
            tensor.copy_(0.3 * noise / tensor.numel() ** 0.5 + 1 / tensor.numel())
        else:
            tensor.add_(noise * (0.3 if name.endswith("strength") else 1.0))
    return module.state_dict()


def part(state: State, name: str) -> State:
    return {key.removeprefix(f"{name}."): tensor for key, tensor in state.items() if key.startswith(f"{name}.")}


def same(found: Tensor, expected: Tensor, rtol: float = 1e-7) -> None:
    assert found.shape == expected.shape and float(expected.std()) > 1e-3
    assert float((found - expected).abs().max()) < rtol * float(expected.abs().max())


def dense(s: State, x: Tensor, lr: float = 1.0) -> Tensor:
    """Equalised learning rate (Karras 2018, sec. 4.1), with a multiplier for the mapping (Karras 2019, app. C)."""
    return x @ (s["weight"] * lr / math.sqrt(s["weight"].shape[1])).T + s["bias"] * lr


def lrelu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def unit(x: Tensor) -> Tensor:
    return x / (x.pow(2).mean(dim=1, keepdim=True) + 1e-8).sqrt()
