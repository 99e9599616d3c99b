"""The encoder's shapes for any size of image, and its normalisation against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.encoder import BatchNorm, Encoder, encoded, one_code
from lia_adapter.errors import LIAError
from lia_adapter.resize import resize


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (5, 12), (32, 32), (96, 128), (1, 1), (3, 40), (300, 200)])
@pytest.mark.parametrize("space", ["y", "ys"])
def test_images_of_any_size_become_codes(size: tuple[int, int], space: str) -> None:
    encoder = Encoder(size, 3, 6, 5, space=space, width=2, width_max=8).train()
    x = torch.randn(3, 3, *size)
    codes = encoder(x)
    assert codes.shape == ((3, 6) if space == "y" else (3, 5, 6))
    codes.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    again = Encoder.from_config(encoder.config())
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again.eval()(x), encoder.eval()(x))


def test_the_papers_encoder_at_128() -> None:
    """Widths and the size of the last feature map as in LIA's table of layers."""
    encoder = Encoder((128, 128), 3, 512, 12)
    widths = [encoder.stem.out_channels, *(stage.conv1.out_channels for stage in encoder.stages)]  # type: ignore[union-attr]
    assert widths == [64, 128, 256, 512, 1024, 1024]
    assert encoder.dense.in_features == 1024 * 4 * 4


def test_large_images_are_seen_at_256() -> None:
    small, large = (Encoder((side, side // 2), 1, 4, 2, width=2, width_max=8) for side in (256, 1024))
    large.load_state_dict(small.state_dict())
    x = torch.randn(2, 1, 1024, 512)
    assert torch.equal(large.eval()(x), small.eval()(resize(x)))


def test_codes_start_where_the_generator_is_at_home() -> None:
    """In training, whitened codes have mean 0 and variance 1 in every entry, whatever the images are."""
    encoder = Encoder((8, 8), 3, 6, 4, width=4).train()
    root = torch.randn(6, 6)
    encoder.root.copy_(root @ root.t() + torch.eye(6))
    encoder.mean.copy_(torch.arange(6.0))
    u = (encoder(torch.randn(64, 3, 8, 8) * 5 + 1) - encoder.mean) @ torch.linalg.inv(encoder.root)
    assert u.mean(dim=0).abs().max() < 1e-4
    assert (u.var(dim=0, correction=0) - 1).abs().max() < 1e-3


def test_one_code_of_many_is_their_mean() -> None:
    ys = torch.randn(3, 5, 6)
    assert torch.equal(one_code(ys), ys.mean(dim=1))
    assert torch.equal(one_code(ys[:, 0]), ys[:, 0])


def test_offsets_start_at_zero() -> None:
    encoder = Encoder((8, 8), 3, 6, 4, space="ys", width=4)
    ys = encoder(torch.randn(5, 3, 8, 8))
    assert torch.equal(ys, ys[:, :1].expand(-1, 4, -1))


@pytest.mark.parametrize("shape", [(7, 4), (7, 4, 5, 3)])
def test_batch_norm_is_torchs(shape: tuple[int, ...]) -> None:
    mine = BatchNorm(4).double()
    theirs: nn.Module = (nn.BatchNorm1d(4) if len(shape) == 2 else nn.BatchNorm2d(4)).double()
    for _ in range(3):
        x = torch.randn(shape, dtype=torch.float64) * 3 + 2
        assert torch.allclose(mine(x), theirs(x), atol=1e-12)
    for name in ("running_mean", "running_var"):
        assert torch.allclose(getattr(mine, name), getattr(theirs, name), atol=1e-12)
    assert torch.allclose(mine.eval()(x), theirs.eval()(x), atol=1e-12)


def test_a_batch_of_one_uses_running_statistics_and_teaches_them() -> None:
    norm, random = BatchNorm(2).double().train(), torch.Generator().manual_seed(0)
    scale, shift = torch.tensor([3.0, 0.5]).double(), torch.tensor([-1.0, 4.0]).double()

    def draw() -> Tensor:
        return torch.randn(1, 2, generator=random, dtype=torch.float64) * scale + shift

    first = draw()
    assert torch.allclose(norm(first), F.batch_norm(first, norm.running_mean, norm.running_var))
    assert torch.allclose(norm.running_mean, 0.1 * first[0])
    averages = []
    for _ in range(4000):
        assert norm(draw()).isfinite().all()
        averages.append(torch.stack([norm.running_mean, norm.running_var.sqrt()]))
    mean, spread = torch.stack(averages[500:]).mean(dim=0)
    assert (mean - shift).abs().max() < 0.1
    assert (spread / scale - 1).abs().max() < 0.1


def test_wrong_images_and_spaces_are_refused() -> None:
    encoder = Encoder((8, 8), 3, 6, 4, width=2)
    with pytest.raises(LIAError, match=r"x has shape \[1, 3, 8, 9\]; expected \[N, 3, 8, 8\]"):
        encoder(torch.zeros(1, 3, 8, 9))
    with pytest.raises(LIAError, match="space is 'w'; expected y or ys"):
        Encoder((8, 8), 3, 6, 4, space="w")


def test_directions_of_the_code_and_its_passes() -> None:
    """y = mean + a @ turn @ root; a second pass adds nothing before it has learnt what; after that, what it sees matters."""
    plain = Encoder((8, 8), 3, 6, 4, width=4, turned=True).eval()
    x = torch.randn(5, 3, 8, 8)
    whitened = plain(x)  # mean 0, root and turn the identity
    mean, turn = torch.randn(6), torch.linalg.qr(torch.randn(6, 6)).Q
    root = torch.diag(torch.arange(1.0, 7.0))
    plain.place(mean, root, turn)
    torch.testing.assert_close(plain(x), mean + whitened @ turn @ root)
    encoder = Encoder((8, 8), 3, 6, 4, width=4, passes=3, turned=True).eval()
    encoder.place(mean, root, turn)
    seen: list[Tensor] = []

    def draw(codes: Tensor) -> Tensor:
        seen.append(codes)
        return codes[:, :3, None, None].expand(-1, -1, 8, 8)

    assert torch.equal(encoded(encoder, x, draw), encoder(x)) and len(seen) == 2
    assert encoder.corrector is not None
    nn.init.ones_(encoder.corrector.scales)
    codes = encoded(encoder, x, draw)
    after = encoder.corrected(encoder(x), x, draw(encoder(x)))
    torch.testing.assert_close(codes, encoder.corrected(after, x, draw(after)))
    assert not torch.equal(codes, encoder(x))
    again = Encoder.from_config(encoder.config())
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(encoded(again.eval(), x, draw), codes)


def test_files_of_before_have_encoders_without_directions() -> None:
    old = {
        "resolution": [8, 8], "channels": 3, "y_dim": 6, "num_ws": 4, "space": "y", "width": 4, "width_max": 8,
    }  # fmt: skip
    encoder = Encoder.from_config(old)
    assert encoder.config() == old and encoder.passes == 1
    assert not [name for name in encoder.state_dict() if "turn" in name or name == "last_norm.weight"]
