"""Sizes of wrapped generators are proved: thirty toys whose parts truncate, ignore or broadcast what they are given."""

import random

import pytest
import torch
from torch import Tensor, nn

from lia_adapter.errors import WrapError
from lia_adapter.generators import wrap

SYNTHESES = ("strict", "index", "zip", "growing", "first", "broadcast", "mean", "flat", "either", "clamp", "last")
MAPPINGS = ("linear", "truncates", "ignores", "normalises", "broadcasts", "repeats")


class Toy(nn.Module):
    """A generator of known sizes that checks little of what it is given."""

    def __init__(self, mapping: str, synthesis: str, z_dim: int, y_dim: int, layers: int) -> None:
        super().__init__()
        self.kinds, self.truth = (mapping, synthesis), (z_dim, y_dim, layers)
        self.first = nn.Linear(z_dim, y_dim)
        self.layers = nn.ModuleList(nn.Linear(y_dim, 3 * 8 * 8) for _ in range(layers))

    def mapping(self, z: Tensor) -> Tensor:
        kind, (z_dim, _, layers) = self.kinds[0], self.truth
        if kind in ("truncates", "ignores"):
            z = z[:, :z_dim]
        if kind == "normalises":
            z = z / z.square().mean(dim=1, keepdim=True).sqrt()
        if kind == "broadcasts":
            z = z * torch.ones(z_dim)
        y = torch.tanh(self.first(z))
        return y[:, None].expand(-1, layers, -1) if kind == "repeats" else y

    def synthesis(self, ys: Tensor) -> Tensor:
        kind, (_, y_dim, layers) = self.kinds[1], self.truth
        if kind == "either" and ys.ndim == 2:
            ys = ys[:, None].expand(-1, layers, -1)
        if kind == "mean":
            ys = ys.mean(dim=1, keepdim=True).expand(-1, layers, -1)
        if ys.ndim != 3 or ys.shape[2] != y_dim:
            raise ValueError(f"expected [N, {layers}, {y_dim}], got {list(ys.shape)}")
        if kind in ("strict", "either") and ys.shape[1] != layers:
            raise ValueError(f"expected {layers} layers, got {ys.shape[1]}")
        if kind == "broadcast":
            ys = ys.expand(-1, layers, -1)
        if kind == "flat":
            ys = ys.reshape(-1, layers, y_dim)
        if kind == "first":
            ys = ys[:, :1].expand(-1, layers, -1)
        if kind == "last":
            ys = ys[:, -1:].expand(-1, layers, -1)
        x = torch.zeros(len(ys), 3, 4, 4) if kind == "growing" else torch.zeros(len(ys), 3, 8, 8)
        if kind in ("index", "clamp"):
            rows = [ys[:, min(i, ys.shape[1] - 1) if kind == "clamp" else i] for i in range(layers)]
        else:
            rows = list(ys.transpose(0, 1))
        for i, (layer, y) in enumerate(zip(self.layers, rows, strict=False)):
            if kind == "growing" and i:
                x = nn.functional.interpolate(x, scale_factor=2)
            x = x + nn.functional.interpolate(layer(y).reshape(-1, 3, 8, 8), x.shape[2:]) * (i + 1)
        return x


def a_toy(seed: int) -> tuple[Toy, bool]:
    """A toy and whether it says its sizes truly."""
    draw = random.Random(seed)
    mapping, synthesis = draw.choice(MAPPINGS), SYNTHESES[seed % len(SYNTHESES)]
    toy = Toy(mapping, synthesis, draw.randint(2, 40), draw.randint(2, 40), draw.randint(2, 4))
    said = draw.choice(["nothing", "truth", "lies"])
    if said == "truth":
        toy.z_dim, toy.num_ws = toy.truth[0], toy.truth[2]  # type: ignore[assignment]
    if said == "lies":
        toy.num_layers, toy.latent_dim = toy.truth[2] + draw.choice([-1, 1, 3]), toy.truth[0] + draw.choice([-1, 2])  # type: ignore[assignment]
    return toy, said == "truth"


@pytest.mark.parametrize("seed", range(33))
def test_a_wrong_size_cannot_be_wrapped(seed: int) -> None:
    torch.manual_seed(seed)
    toy, said = a_toy(seed)
    z_dim, y_dim, layers = toy.truth
    one = toy.kinds[1] in ("first", "last")  # whatever it has, one code alone draws the image
    try:
        g = wrap(toy)
    except WrapError as error:
        # What is left open is named, and settled by the word of the user.
        assert not said or toy.kinds[1] in ("first", "last", "flat", "clamp", "broadcast"), error
        assert "z_dim=" in str(error) or "num_ws=" in str(error)
        g = wrap(toy, z_dim=z_dim, num_ws=1 if one else layers)
    assert (g.z_dim, g.y_dim) == (z_dim, y_dim)
    assert g.num_ws == (1 if one else layers) or toy.kinds[1] in ("mean", "last")
    z = torch.randn(3, z_dim)
    y = toy.mapping(z)
    y = y[:, 0] if y.ndim == 3 else y
    whole = y[:, None].expand(-1, layers, -1)
    assert torch.equal(g.mapping(z), y)
    torch.testing.assert_close(g.synthesis(y), toy.synthesis(whole))


@pytest.mark.parametrize("kind", ["index", "zip", "growing", "either", "strict", "broadcast"])
def test_layers_are_counted_without_a_word_of_the_module(kind: str) -> None:
    torch.manual_seed(0)
    toy = Toy("linear", kind, 7, 5, 4)
    g = wrap(toy)
    assert (g.z_dim, g.y_dim, g.num_ws) == (7, 5, 4)
    assert g.resolution == ((32, 32) if kind == "growing" else (8, 8))


@pytest.mark.parametrize(
    ("mapping", "synthesis", "words"),
    [
        ("broadcasts", "strict", ["1 or 7", "z_dim="]),
        ("linear", "mean", ["any number", "num_ws="]),
        ("linear", "last", ["any number", "num_ws="]),
    ],
)
def test_two_possible_sizes_are_named(mapping: str, synthesis: str, words: list[str]) -> None:
    torch.manual_seed(0)
    with pytest.raises(WrapError) as caught:
        wrap(Toy(mapping, synthesis, 7, 5, 4))
    assert all(word in str(caught.value) for word in words), caught.value


def test_z_that_is_cut_off() -> None:
    torch.manual_seed(0)
    toy = Toy("truncates", "strict", 7, 5, 4)
    assert wrap(toy).z_dim == 7
    toy.z_dim = 16  # type: ignore[assignment]
    with pytest.raises(WrapError, match="says that z has 16 entries.*with z_dim=7 all do"):
        wrap(toy)
    assert wrap(toy, z_dim=16).z_dim == 16
