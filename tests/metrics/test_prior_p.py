"""The prior's p is a p-value: uniform for the generator's own codes, of each class together, zero far out."""

import copy
import math

import pytest
import torch
from torch import Tensor

from lia_adapter.generators import MappingSampler
from lia_adapter.lia import LIA
from lia_adapter.linalg import covariance_root
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.prior import thicken
from tests import toys


def made(c_dim: int = 0) -> LIA:
    """A LIA whose mapping bends, is of about the size of y, and was never fitted."""
    lia = toys.with_encoder(toys.stylegan(c_dim=c_dim))
    assert lia.mapping is not None
    mean, root = lia.whitening()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lia.mapping.core.randomise()
    lia.mapping.offset.copy_(mean)
    lia.mapping.colour.copy_(root)
    return lia


def fresh(lia: LIA, n: int) -> tuple[Tensor, Tensor | None]:
    """Codes that the reference has not seen, thickened."""
    random = torch.Generator().manual_seed(11)
    _, y, c = MappingSampler(lia.generator).pairs(n, random)
    return thicken(y, covariance_root(y)[1], random), c


@pytest.mark.parametrize("c_dim", [0, 3])
def test_p_is_uniform_for_the_generator_s_own_codes(c_dim: int) -> None:
    """Kolmogorov-Smirnov of 2,000 against the reference's 1,000: 1.95 √(1/2000 + 1/1000) is exceeded once in 1,000."""
    lia = made(c_dim)
    y, c = fresh(lia, 2000)
    p = lia.prior_p(y, c).sort().values
    assert (p - torch.linspace(0, 1, 2000)).abs().max() < 1.95 * math.sqrt(1 / 2000 + 1 / 1000)
    assert lia.mapping is not None
    order = lia.mapping.log_prob(y, c).argsort()
    assert (lia.prior_p(y, c)[order].diff() >= 0).all()  # likelier codes have a larger one


@pytest.mark.parametrize("c_dim", [0, 3])
def test_p_is_zero_far_out_and_one_in_the_middle(c_dim: int) -> None:
    lia = made(c_dim)
    mean, _ = lia.whitening()
    y, c = fresh(lia, 50)
    assert (lia.prior_p(mean + 20 * (y.float() - mean), c) == 0).all()
    assert (lia.prior_p(torch.full_like(mean, math.nan)[None].expand(50, -1), c) == 0).all()  # and where no number is left
    middle = torch.zeros(50, 16)
    assert lia.mapping is not None
    assert lia.prior_p(lia.mapping.to_y(middle, c), c).min() > 0.9


def test_labels_count() -> None:
    lia = made(3)
    assert lia.mapping is not None
    lia.mapping.class_shift.normal_(generator=torch.Generator().manual_seed(0)).mul_(20)
    y, c = fresh(lia, 200)
    assert c is not None
    with pytest.raises(Exception, match="class-conditional: found no label"):
        lia.prior_p(y)
    assert not torch.equal(lia.prior_p(y, c), lia.prior_p(y, c.roll(1, dims=1)))


def test_the_reference_is_drawn_once_and_always_the_same() -> None:
    lia, other = made(), made()
    y, _ = fresh(lia, 20)
    first = lia.prior_p(y.float())
    assert first.dtype == torch.float32
    known = lia._prior_rank
    assert torch.equal(lia.prior_p(y.float()), first) and lia._prior_rank is known
    assert torch.equal(other.prior_p(y.float()), first)  # in a file of before, or in another process
    lia.mapping = copy.deepcopy(lia.mapping)
    lia.prior_p(y)
    assert lia._prior_rank is not known


def test_without_a_mapping_there_is_none() -> None:
    assert toys.stylegan().prior_p(torch.zeros(3, 16)).isnan().tolist() == [True] * 3


def test_a_generator_with_a_mapping_of_its_own_has_one() -> None:
    lia = toys.stylegan()
    lia.generator.mapping = InvertibleMapping("affine", 16).requires_grad_(False)
    lia = LIA(lia.generator)
    y, _ = fresh(lia, 500)
    assert lia.mapping_is_own and abs(float(lia.prior_p(y).mean()) - 0.5) < 0.07
