"""Made the files of tests/data/release-0.1, which later releases must read: run with lia-adapter 0.1, and never again.

    python -m tests.data.make_release FOLDER

A later release that writes another format gets a folder of its own by the same program.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from lia_adapter.codes import read_codes
from lia_adapter.config import load_recipe
from lia_adapter.data import open_images
from lia_adapter.generators import MappingSampler
from lia_adapter.jobs.convert import convert_lia
from lia_adapter.jobs.encode import encode_images
from lia_adapter.jobs.train_encoder import train_encoder
from lia_adapter.lia import LIA
from lia_adapter.linalg import covariance_root
from lia_adapter.loading import load
from lia_adapter.mapping import AdditiveCouplings, InvertibleMapping
from lia_adapter.training.convert_config import ConvertConfig
from tests import toys


def make(folder: Path) -> None:
    """Writes three LIA files, two pictures, their codes, and what the build says of them (answers.npz)."""
    plain = toys.stylegan(resolution=16)
    converted = convert_lia(plain, load_recipe(ConvertConfig, "convert", toys.QUICK))
    converted.save(folder / "converted.safetensors")
    LIA(plain.generator, additive(plain), family=plain.family, provenance=plain.provenance).save(
        folder / "adapter.safetensors", adapter_only=True
    )
    with tempfile.TemporaryDirectory() as many:
        data = toys.pictures(Path(many) / "data", 12, (16, 16))
        trained = train_encoder(converted, data, overrides=toys.QUICK_ENCODER | {"images": 64, "width_max": 8})
    trained.save(folder / "encoder.safetensors")
    toys.pictures(folder / "pictures", 2, (16, 24))
    with contextlib.chdir(folder):  # codes keep the name of their data, which is to be no path of this machine
        encode_images(load("encoder.safetensors"), "pictures", "codes.safetensors")
    answers(folder)


def additive(lia: LIA) -> InvertibleMapping:
    """A small mapping of another kind than the converted one's, with weights that are drawn and not fitted."""
    _, y, _ = MappingSampler(lia.generator).pairs(500, torch.Generator().manual_seed(0))
    mean, root = covariance_root(y)
    torch.manual_seed(2)
    mapping = InvertibleMapping("additive", lia.generator.y_dim, depth=2, width=8)
    assert isinstance(mapping.core, AdditiveCouplings)
    mapping.core.randomise()
    mapping.offset.copy_(mean)
    mapping.colour.copy_(root)
    return mapping.requires_grad_(False)


@torch.no_grad()
def answers(folder: Path) -> None:
    """Writes answers.npz: what the files in a folder say when this build reads them."""
    converted = load(folder / "converted.safetensors")
    adapter = load(folder / "adapter.safetensors", generator=converted.generator)
    encoder, discriminator = load(folder / "encoder.safetensors"), converted.discriminator
    assert discriminator is not None
    codes = read_codes(folder / "codes.safetensors")
    images = open_images(folder / "pictures", (16, 16), 3)
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(7))
    y = converted.generator.mapping(z)
    found = {
        "z": z, "y": y, "converted_y": converted.to_y(z), "converted_z": converted.to_z(y),
        "adapter_y": adapter.to_y(z), "adapter_z": adapter.to_z(y),
        "images": converted.sample([0, 1], psi=0.7, mapping="invertible"),
        "logits": discriminator(converted.sample([0, 1], mapping="invertible")),
        "x": torch.stack([item.x for item in map(images.load, range(2)) if item is not None]),
        **{f"codes_{name}": tensor for name, tensor in codes.tensors.items()},
    }  # fmt: skip
    found["encoded"] = encoder.encode(found["x"])
    found["reconstructed"], found["typicality"] = encoder.reconstruct(found["x"]), encoder.typicality_of(found["encoded"])
    np.savez_compressed(folder / "answers.npz", **{name: tensor.numpy() for name, tensor in found.items()})


if __name__ == "__main__":
    made = Path(sys.argv[1])
    made.mkdir(parents=True)
    make(made)
