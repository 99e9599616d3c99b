"""Optimisation finds codes: against a linear generator, whose answer is a formula, and through LIA.invert."""

import pytest
import torch
from torch import Tensor, nn

from lia_adapter.errors import LIAError
from lia_adapter.generators import broadcast, wrap
from lia_adapter.inversion import ReconstructionLoss, optimise, paced_coordinates, prior_loss, search_coordinates
from lia_adapter.metrics.typicality import z_size
from tests import toys


def test_a_linear_generator_is_inverted_to_the_least_squares_answer() -> None:
    random = torch.Generator().manual_seed(0)
    basis = torch.randn(4, 3 * 5 * 6, generator=random)
    x = torch.randn(7, 3, 5, 6, generator=random)
    answer = torch.linalg.lstsq(basis.t(), x.flatten(1).t()).solution.t()  # [7, 4]

    def squares(codes: Tensor) -> Tensor:
        return ReconstructionLoss()((codes @ basis).reshape(-1, 3, 5, 6), x)

    found, losses = optimise(squares, torch.zeros(7, 4), steps=30)
    assert (found - answer).abs().max() < 1e-3
    assert torch.allclose(losses, ((answer @ basis) - x.flatten(1)).square().mean(dim=1), rtol=1e-4)


def test_an_image_gets_the_same_code_in_any_batch() -> None:
    lia = toys.with_encoder(toys.stylegan())
    x = lia.sample(range(6), mapping="invertible")
    together = lia.invert(x, steps=10, start="mean")
    alone = torch.cat([lia.invert(part, steps=10, start="mean").ys for part in x.split(1)])
    assert (together.ys - alone).abs().max() < 1e-3


@pytest.mark.parametrize("space", ["y", "ys", "z"])
@pytest.mark.parametrize("start", ["encoder", "mean", "random"])
def test_every_space_and_start(space: str, start: str) -> None:
    lia = toys.with_encoder(toys.stylegan())
    x = lia.sample(range(4), mapping="invertible")
    first, last = (lia.invert(x, steps=steps, space=space, start=start, loss=ReconstructionLoss()) for steps in (0, 60))
    assert (last.loss <= first.loss).all()
    assert last.loss.mean() < 0.7 * first.loss.mean()
    assert last.ys.shape == (4, 4, 16) and last.z.shape == (4, 16) and last.images.shape == x.shape
    assert torch.allclose(lia.synthesize(last.ys), last.images, atol=1e-5)
    assert ((last.images - x).square().mean(dim=(1, 2, 3)) - last.loss).abs().max() < 1e-5
    if space != "ys":
        assert torch.allclose(last.ys, last.ys[:, :1].expand_as(last.ys), atol=1e-5)
        assert torch.allclose(broadcast(lia.to_y(last.z), 4), last.ys, atol=1e-4)


def test_a_good_start_is_never_made_worse() -> None:
    lia = toys.with_encoder(toys.stylegan())
    y = lia.generator.mapping(torch.randn(3, 16))

    def draw(codes: Tensor) -> Tensor:
        return lia.synthesize(codes)

    found, losses = optimise(lambda codes: ReconstructionLoss()(draw(codes), draw(y)), y, steps=5)
    assert torch.equal(found, y) and losses.max() == 0


def test_a_conditional_generator() -> None:
    lia = toys.with_encoder(toys.stylegan(c_dim=3))
    c = torch.eye(3)
    x = lia.sample(range(3), c=c, mapping="invertible")
    found = lia.invert(x, c, steps=20, space="z", start="random")
    assert torch.allclose(lia.to_y(found.z, c), found.ys[:, 0], atol=1e-4)


def test_without_an_encoder_other_starts_work() -> None:
    lia = toys.with_encoder(toys.stylegan())
    lia.encoder = None
    x = torch.zeros(2, 3, 8, 8)
    assert lia.invert(x, steps=2, start="mean").images.shape == x.shape
    with pytest.raises(LIAError, match="lia-adapt train-encoder"):
        lia.invert(x, steps=2)


def test_wrong_words() -> None:
    lia = toys.with_encoder(toys.stylegan())
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(LIAError, match="space is 'w'; expected y, ys or z"):
        lia.invert(x, space="w")
    with pytest.raises(LIAError, match="start is 'zero'; expected encoder, mean or random"):
        lia.invert(x, start="zero")
    with pytest.raises(LIAError, match="lia-adapt convert"):
        toys.stylegan().invert(x)


def test_search_coordinates_are_the_directions_that_move_pixels_at_their_pace() -> None:
    """Of x = y @ basis, E[JᵀJ] has the squared gains as eigenvalues."""
    gains = torch.tensor([10.0, 5.0, 2.0, 0.5])
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).Q
    basis = turn @ torch.diag(gains) @ torch.linalg.qr(torch.randn(3 * 4 * 4, 4)).Q.t()
    inner = nn.Module()
    inner.style = nn.Identity()
    generator = wrap(inner, mapping="style", synthesis=lambda y: (y @ basis).reshape(-1, 3, 4, 4), z_dim=4, y_dim=4, num_ws=1)
    matrix = search_coordinates(generator, torch.eye(4))
    assert torch.allclose(matrix.norm(dim=1), 10 / gains, rtol=0.1)  # in them, all move pixels alike
    assert (torch.nn.functional.normalize(matrix, dim=1) @ turn).abs().diagonal().min() > 0.95


def test_the_prior_s_loss_is_that_of_z_and_of_each_layer() -> None:
    """Of a y by its formula, in float64 and in float32; of ys the mean over layers; gradients are of the code alone."""
    torch.manual_seed(0)
    lia = toys.with_encoder(toys.stylegan(c_dim=3))
    mapping, c = lia.mapping, torch.eye(3)[[0, 2]]
    assert mapping is not None
    mapping.core.randomise()
    mapping.class_shift.normal_()
    ys = 3 * torch.randn(2, 4, 16)
    of_layers = torch.stack([(1 + z_size(mapping.to_z(y, c))).log() for y in ys.unbind(dim=1)], dim=1)
    torch.testing.assert_close(prior_loss(mapping, ys.double(), c), of_layers.mean(dim=1), rtol=1e-6, atol=1e-6)
    code = ys[:, 0].clone().requires_grad_(True)
    found = prior_loss(mapping, code, c)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), of_layers[:, 0], rtol=1e-4, atol=1e-5)
    found.sum().backward()
    assert code.grad is not None and code.grad.isfinite().all() and code.grad.abs().max() > 0
    assert all(p.grad is None for p in mapping.parameters())


@pytest.mark.parametrize("space", ["y", "ys", "z"])
def test_a_weight_of_the_prior_keeps_codes_near(space: str) -> None:
    """Searches without it go further out than with it; none of the networks' weights gets a gradient."""
    lia = toys.with_encoder(toys.stylegan()).requires_grad_(True)
    x = lia.sample(range(3), mapping="invertible").flip(2) * 2  # pictures that it cannot draw
    free, kept = (
        lia.invert(x, steps=40, space=space, start="random", loss=ReconstructionLoss(), prior_weight=weight)
        for weight in (0.0, 3.0)
    )
    assert z_size(kept.z).mean() < 0.7 * z_size(free.z).mean()
    assert lia.mapping is not None
    total = (kept.images - x).square().mean(dim=(1, 2, 3)) + 3 * prior_loss(lia.mapping, kept.ys)
    torch.testing.assert_close(kept.loss, total, rtol=1e-4, atol=1e-5)
    assert all(p.grad is None for p in lia.parameters())


def test_a_weight_of_the_prior_needs_a_mapping_and_labels() -> None:
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(LIAError, match="prior_weight is 0.5, but this checkpoint has no invertible mapping.*lia-adapt convert"):
        toys.stylegan().invert(x, prior_weight=0.5)
    lia = toys.with_encoder(toys.stylegan(c_dim=3))
    with pytest.raises(LIAError, match="prior_weight is -1; expected at least 0"):
        lia.invert(x, torch.eye(3)[:1], prior_weight=-1)
    with pytest.raises(LIAError, match="found no labels, expected c"):
        lia.invert(x, prior_weight=0.5)


def test_a_search_converges_where_the_scales_of_directions_differ_by_thousands() -> None:
    """In coordinates of the spectrum 60 steps come within a thousandth of the least squares answer; as y is, they do not."""
    random = torch.Generator().manual_seed(0)
    gains = torch.logspace(0, -2.5, 24)
    basis = torch.linalg.qr(torch.randn(24, 24, generator=random)).Q @ torch.diag(gains)
    basis = basis @ torch.linalg.qr(torch.randn(108, 24, generator=random)).Q.t()
    x = torch.randn(3, 24, generator=random) @ basis + 0.1 * torch.randn(3, 108, generator=random)
    least = (x - x @ torch.linalg.pinv(basis) @ basis).square().mean(dim=1)
    vectors = torch.linalg.svd(basis).U

    def losses(matrix: Tensor) -> Tensor:
        return optimise(lambda a: (a @ matrix @ basis - x).square().mean(dim=1), torch.zeros(3, 24), steps=60)[1]

    found = losses(paced_coordinates(gains.double().square(), vectors.double(), torch.eye(24)))
    assert ((found - least) < 1e-3 * least).all()
    assert found.sum() < losses(torch.eye(24)).sum()


def test_a_loss_that_is_no_number_is_stepped_back_from_and_each_image_ends_by_itself() -> None:
    """log a is no number below 0, where the first steps lead; of the image that is found already, nothing moves."""
    start = torch.tensor([[1e-3], [1.0]])
    found, loss = optimise(lambda a: (a.log() - a + 1).square().sum(dim=1), start, steps=50)
    assert loss.max() < 1e-6 and torch.equal(found[1], start[1])
