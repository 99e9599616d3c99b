"""Pictures of seeds: those of the checkpoint before it was converted, or by choice those of the invertible mapping."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lia_adapter.errors import LIAError
from lia_adapter.generators import build_random, seed_to_z, stylegan2_config, wrap
from lia_adapter.jobs.sample import sample_files, sample_seeds
from lia_adapter.keys import SEED_MAPPINGS
from lia_adapter.lia import LIA
from lia_adapter.loading import load
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.pictures import one_hot
from tests import toys

SEEDS = [0, 1, 42, 2**32 - 1]
CONVERT = r"no invertible mapping to sample by: run lia-adapt convert on it first\.$"


def with_mapping(plain: LIA) -> LIA:
    """The same with an invertible mapping that is far from the original one, its centre of truncation too."""
    torch.manual_seed(1)
    mapping = InvertibleMapping("affine", plain.generator.y_dim, plain.generator.c_dim).requires_grad_(False)
    for tensor in (*mapping.parameters(), mapping.y_mean, mapping.offset):
        tensor += 0.1 * torch.randn_like(tensor)
    return LIA(plain.generator, mapping, plain.discriminator, family=plain.family, config=plain.config)


def same_pictures(plain: LIA, converted: LIA) -> None:
    """Whether seeds of both are pixel for pixel the same, at any truncation, of any class; and not so by the other mapping."""
    c_dim = plain.generator.c_dim
    c = one_hot([seed % max(c_dim, 1) for seed in SEEDS], c_dim)
    for psi in (1.0, 0.7, -0.5):
        before = plain.sample(SEEDS, psi=psi, c=c)
        assert torch.equal(converted.sample(SEEDS, psi=psi, c=c), before)
        z = seed_to_z(SEEDS, converted.z_dim)
        other = converted.sample(SEEDS, psi=psi, c=c, mapping="invertible")
        assert torch.equal(other, converted.synthesize(converted.to_y(z, c), psi=psi, c=c))  # what sample gave before
        assert not torch.equal(other, before)


@pytest.mark.parametrize(
    "name",
    [
        "sg2ada_uncond.pkl", "sg2ada_cond.pkl", "mmagic_sg2_cond.pth", "genforce_sg1.pth", "sg3t_uncond.pkl",
        "sgxl_stem_cond.pkl",  # a centre of truncation for each class
        "ros_train.pt",  # none: it is measured
    ],
)  # fmt: skip
def test_a_converted_file_draws_what_its_checkpoint_drew(name: str, shared: Path, tmp_path: Path) -> None:
    plain, out = load(shared / "checkpoints" / name, device="cpu"), tmp_path / "f.safetensors"
    with_mapping(plain).save(out)
    same_pictures(plain, load(out, device="cpu"))


@pytest.mark.parametrize(("z_dim", "y_dim", "c_dim"), [(16, 16, 0), (6, 8, 0), (8, 6, 0), (6, 8, 3)])
def test_a_seed_has_as_many_numbers_as_its_mapping_takes(z_dim: int, y_dim: int, c_dim: int) -> None:
    plain = toys.stylegan(z_dim=z_dim, y_dim=y_dim, c_dim=c_dim)
    same_pictures(plain, with_mapping(plain))


def test_converting_does_not_move_the_centre_of_a_generator_that_keeps_none() -> None:
    torch.manual_seed(0)
    generator = wrap(toys.Sprites(), mapping="style", synthesis="draw")
    assert generator.y_mean is None
    same_pictures(LIA(generator), with_mapping(LIA(generator)))


class Classes(nn.Module):
    """A conditional generator that keeps no average y."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.num_ws = 6, 3, 1
        self.style, self.tint = nn.Linear(9, 10), nn.Linear(10, 3 * 8)

    def mapping(self, z: Tensor, c: Tensor) -> Tensor:
        return torch.tanh(self.style(torch.cat([z, c], dim=1)))

    def synthesis(self, y: Tensor) -> Tensor:
        return torch.tanh(self.tint(y)).reshape(-1, 3, 2, 4)


def test_of_many_classes_the_centre_is_what_convert_measured() -> None:
    torch.manual_seed(0)
    plain, c = LIA(wrap(Classes())), torch.eye(3)
    assert plain.generator.c_dim == 3
    with pytest.raises(LIAError, match="keeps no average y"):
        plain.sample(range(3), psi=0.5, c=c)
    converted = with_mapping(plain)
    assert torch.equal(converted.sample(range(3), c=c), plain.sample(range(3), c=c))
    y, mean = plain.to_y(seed_to_z(range(3), 6), c), converted.mapping.y_mean  # type: ignore[union-attr]
    torch.testing.assert_close(converted.sample(range(3), psi=0.5, c=c), converted.synthesize(mean + 0.5 * (y - mean)))


def test_a_generator_that_learnt_with_an_invertible_mapping_has_the_one(shared: Path) -> None:
    generator = build_random("stylegan2", stylegan2_config(8, z_dim=16, y_dim=16, channel_base=64))[0]
    generator.mapping = InvertibleMapping("affine", 16)
    for lia in (LIA(generator).eval().requires_grad_(False), load(shared / "checkpoints" / "lia_tf.pkl", device="cpu")):
        assert lia.mapping_is_own
        original, invertible = (lia.sample(SEEDS, psi=0.7, mapping=mapping) for mapping in SEED_MAPPINGS)
        assert torch.equal(original, invertible)


def test_what_has_no_invertible_mapping_is_told_to_be_converted(shared: Path, tmp_path: Path) -> None:
    only_sampled = load(shared / "checkpoints" / "idinvert_generator.pth", device="cpu")
    for lia in (toys.stylegan(), only_sampled):
        assert lia.sample([1]).isfinite().all()
        with pytest.raises(LIAError, match=CONVERT):
            lia.sample([1], mapping="invertible")
        with pytest.raises(LIAError, match=CONVERT):
            sample_seeds(lia, sample_files(str(tmp_path / "new" / ""), [1]), mapping="invertible")
    assert not list(tmp_path.iterdir())


def test_an_unknown_mapping_is_refused() -> None:
    with pytest.raises(LIAError, match="mapping is 'dense'; expected original or invertible"):
        with_mapping(toys.stylegan()).sample([1], mapping="dense")
