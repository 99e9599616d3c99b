"""Small generators and quick recipes for tests."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lia_adapter.generators import build_random, stylegan2_config
from lia_adapter.lia import LIA
from tests import pickles

QUICK: dict[str, Any] = {
    "steps": 30, "batch": 64, "statistics_samples": 2000, "eval_samples": 400, "eval_seeds": 1, "image_seconds": 0.0,
}  # fmt: skip
"""A recipe that ends within seconds."""


def stylegan(seed: int = 0, **changes: Any) -> LIA:
    """A plain LIA around a StyleGAN2 of 8x8 with random weights, z and y of 16."""
    config = stylegan2_config(8, **({"z_dim": 16, "y_dim": 16, "mapping_layers": 3, "channel_base": 64} | changes))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator, discriminator = build_random("stylegan2", config)
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
    provenance = {"source": "toy.pkl", "source_sha256": "0" * 64}
    return LIA(generator, discriminator=discriminator, family="stylegan2", config=config, provenance=provenance)  # type: ignore[arg-type]


def checkpoint(path: Path, c_dim: int = 0) -> Path:
    """Writes a small file as NVlabs' programs do; z has 6 entries and y 8."""
    networks = pickles.Networks()
    path.write_bytes(pickles.dumps({"G_ema": networks.generator(c_dim), "D": networks.discriminator(c_dim)}))
    return path


class Sprites(nn.Module):
    """A generator that is no StyleGAN: a small mapping, and an image as a product of two curves."""

    def __init__(self) -> None:
        super().__init__()
        self.style = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 10))
        self.rows, self.columns = nn.Linear(10, 3 * 8), nn.Linear(10, 3 * 12)

    def draw(self, y: Tensor) -> Tensor:
        rows, columns = self.rows(y).reshape(-1, 3, 8, 1), self.columns(y).reshape(-1, 3, 1, 12)
        return torch.tanh(rows * columns)
