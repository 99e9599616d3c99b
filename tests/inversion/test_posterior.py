"""The codes that one picture could have, against closed forms of a linear generator."""

import pytest
import torch
from torch import Tensor, nn

from lia_adapter.generators import wrap
from lia_adapter.inversion import ADDED_ERROR, Posterior
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.typicality import usual_size, z_size
from tests import toys

D = 6


class Linear(nn.Module):
    """x = A y: some directions of y move the picture more than others, and the last two not at all."""

    def __init__(self, strengths: Tensor) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            frame = torch.linalg.qr(torch.randn(3 * 8 * 8, D))[0]
        self.style = nn.Linear(D, D, bias=False)
        self.style.weight.data.copy_(torch.eye(D))
        self.register_buffer("a", frame * strengths)

    def draw(self, y: Tensor) -> Tensor:
        return (y @ self.get_buffer("a").t()).reshape(-1, 3, 8, 8)


STRENGTHS = torch.tensor([8.0, 4.0, 1.0, 0.2, 0.0, 0.0])


def posterior(z: Tensor, blur: float = 0.1) -> Posterior:
    """Of a picture that differs from what z draws by noise; z is y."""
    generator = wrap(Linear(STRENGTHS), mapping="style", synthesis="draw")
    x = generator.synthesis(z.float()[:, None])
    x = x + blur * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    return Posterior(generator, InvertibleMapping("affine", D), z.float(), x, None, torch.Generator().manual_seed(0))


def test_it_finds_how_strongly_directions_move_pixels() -> None:
    found = posterior(torch.randn(1, D))
    values, vectors = found.visible
    torch.testing.assert_close(values, STRENGTHS.double().square() / (3 * 64), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(vectors[:, 0].abs(), torch.eye(D, dtype=torch.float64)[0], atol=1e-3, rtol=0)
    assert found.rest == 0


def test_samples_have_the_mean_and_covariance_of_the_closed_form_and_cost_what_was_allowed() -> None:
    z = torch.tensor([[2.0, -1.0, 1.0, 3.0, 5.0, -0.5]], dtype=torch.float64)
    found = posterior(z)
    answers = found.samples(20_000, torch.Generator().manual_seed(1))
    values = STRENGTHS.double().square() / (3 * 64)
    # What is left to the prior is known up to the one number s, which the variance of any direction gives.
    part = answers.z[:, 2].var()
    s = part * values[2] / (1 - part)
    torch.testing.assert_close(answers.z.mean(dim=0), z[0] * values / (values + s), atol=0.03, rtol=0)
    torch.testing.assert_close(answers.z.t().cov(), (s / (values + s)).diag(), atol=0.03, rtol=0)
    added = float(answers.mse.mean()) / found.mse - 1
    assert 0.5 * ADDED_ERROR < added <= ADDED_ERROR
    assert torch.equal(answers.codes, answers.z.float())


def test_what_moves_no_pixel_is_the_priors() -> None:
    z = torch.full((1, D), 4.0, dtype=torch.float64)
    answers = posterior(z).samples(20_000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(answers.z[:, 4:].t().cov(), torch.eye(2, dtype=torch.float64), atol=0.03, rtol=0)
    torch.testing.assert_close(answers.z[:, 4:].mean(dim=0), torch.zeros(2, dtype=torch.float64), atol=0.03, rtol=0)


def test_a_picture_that_the_code_draws_exactly_leaves_nothing_to_choose_but_what_cannot_be_seen() -> None:
    z = torch.tensor([[2.0, -1.0, 1.0, 3.0, 5.0, -0.5]], dtype=torch.float64)
    found = posterior(z, blur=0.0)
    answers = found.samples(50, torch.Generator().manual_seed(1))
    torch.testing.assert_close(answers.z[:, :3], z[:, :3].expand(50, -1), atol=0.05, rtol=0)


def test_the_nearest_usual_code_is_usual_and_gives_up_first_what_is_not_seen() -> None:
    z = torch.tensor([[2.0, -1.0, 1.0, 3.0, 5.0, -4.0]], dtype=torch.float64)
    found = posterior(z)
    answer = found.usual()
    torch.testing.assert_close(z_size(answer.z), torch.tensor([usual_size(D)], dtype=torch.float64), atol=1e-4, rtol=0)
    kept = (answer.z / z)[0]
    assert bool((kept[:-2].diff() < 1e-6).all()) and kept[0] > 0.9 and float(kept[4:].abs().max()) < 0.1
    near = 0.1 * z
    assert torch.equal(posterior(near).usual().z, posterior(near).z)  # what is usual stays


def test_with_ys_what_layers_differ_by_is_kept() -> None:
    lia = toys.with_encoder(toys.stylegan())
    assert lia.mapping is not None
    ys = torch.randn(1, lia.generator.num_ws, 16)
    x = lia.synthesize(ys)
    found = Posterior(lia.generator, lia.mapping, ys, x + 0.1, None, torch.Generator().manual_seed(0))
    answers = found.samples(3, torch.Generator().manual_seed(1))
    assert answers.codes.shape == (3, *ys.shape[1:])
    spread = answers.codes - answers.codes.mean(dim=1, keepdim=True)
    torch.testing.assert_close(spread, (ys - ys.mean(dim=1, keepdim=True)).expand_as(spread), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lia.to_z(answers.codes.mean(dim=1)), answers.z, atol=1e-3, rtol=1e-3)
    assert float(answers.mse.mean()) <= (1 + ADDED_ERROR) * found.mse


@pytest.mark.parametrize("dim", [16, 512])
def test_the_usual_size_is_the_quantile_of_the_priors(dim: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = torch.distributions.Chi2(torch.tensor(float(dim))).sample((200_000,)).double() / dim
    assert abs(float(sizes.quantile(0.95)) / usual_size(dim) - 1) < 0.005
