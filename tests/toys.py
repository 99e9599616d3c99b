"""Small generators and quick recipes for tests."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from lia_adapter.encoder import Encoder
from lia_adapter.generators import MappingSampler, build_random, stylegan2_config
from lia_adapter.lia import LIA
from lia_adapter.linalg import covariance_root
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.typicality import Typicality
from tests import pickles

QUICK: dict[str, Any] = {
    "steps": 30, "batch": 64, "statistics_samples": 2000, "eval_samples": 400, "eval_seeds": 1, "image_seconds": 0.0,
}  # fmt: skip
"""A recipe that ends within seconds."""


def stylegan(seed: int = 0, resolution: int = 8, **changes: Any) -> LIA:
    """A plain LIA around a StyleGAN2 of 8x8 with random weights, z and y of 16."""
    config = stylegan2_config(resolution, **({"z_dim": 16, "y_dim": 16, "mapping_layers": 3, "channel_base": 64} | changes))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator, discriminator = build_random("stylegan2", config)
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
    provenance = {"source": "toy.pkl", "source_sha256": "0" * 64}
    return LIA(generator, discriminator=discriminator, family="stylegan2", config=config, provenance=provenance)


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


def with_encoder(lia: LIA) -> LIA:
    """The same generator with an invertible mapping, an encoder and a typicality that were never trained."""
    generator = lia.generator
    with torch.random.fork_rng():
        torch.manual_seed(1)
        mapping = InvertibleMapping("affine", generator.y_dim, generator.c_dim)
        encoder = Encoder(generator.resolution, generator.channels, generator.y_dim, generator.num_ws, width=4)
    _, y, _ = MappingSampler(generator).pairs(500, torch.Generator().manual_seed(0))
    mean, root = covariance_root(y)
    encoder.mean.copy_(mean)
    encoder.root.copy_(root)
    made = LIA(
        generator, mapping, lia.discriminator, encoder, Typicality.fit(y, encoder.root),
        family=lia.family, config=lia.config, provenance=lia.provenance,
    )  # fmt: skip
    return made.eval().requires_grad_(False)


def pictures(folder: Path, n: int, size: tuple[int, int] = (8, 8)) -> Path:
    """A folder of n small pictures, PNG, of smooth random colours."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for i in range(n):
        small = Image.fromarray(random.integers(0, 256, (2, 2, 3), dtype=np.uint8))
        small.resize(size[::-1], Image.Resampling.BILINEAR).save(folder / f"{i:03d}.png")
    return folder


QUICK_ENCODER: dict[str, Any] = {
    "images": 160, "batch": 8, "width": 4, "width_max": 16, "features": "none", "adversarial_weight": 0.0,
    "statistics_samples": 500, "known_answers": 16, "learning_rate": 2e-3, "ema_images": 50,
}  # fmt: skip
"""A recipe of 20 steps that ends within seconds."""


def squeezenet(folder: Path) -> Path:
    """Writes a SqueezeNet with random weights, as torchvision's."""
    from torchvision.models import squeezenet1_1

    path = folder / "squeezenet1_1.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(squeezenet1_1().state_dict(), path)
    return path
