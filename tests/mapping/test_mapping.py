"""The invertible mapping: inverses, log-determinants against autograd, and LIA's coupling as the paper has it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lia_adapter.errors import LIAError
from lia_adapter.keys import COUPLINGS
from lia_adapter.mapping import AdditiveCouplings, DenseCore, InvertibleMapping

DIM = 9  # odd: the halves of a coupling differ


def make(coupling: str, c_dim: int = 0, seed: int = 0, dim: int = DIM) -> InvertibleMapping:
    """A mapping in which every parameter and every measured step does something."""
    torch.manual_seed(seed)
    extra = {"layers": 3, "label_features": 5 if c_dim else 0} if coupling == "dense" else {}
    mapping = InvertibleMapping(coupling, dim, c_dim, **extra)
    with torch.no_grad():
        for parameter in mapping.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 * mapping.core.weight_scale))
        if not isinstance(mapping.core, DenseCore):
            mapping.core.rotation.copy_(torch.linalg.qr(torch.randn(dim, dim))[0])
        for name in ("white", "colour"):
            getattr(mapping, name).copy_(torch.eye(dim) + 0.1 * torch.randn(dim, dim))
        for name in ("centre", "offset", "class_shift"):
            getattr(mapping, name).copy_(torch.randn_like(getattr(mapping, name)))
        mapping.power.fill_(0.7)
        mapping.scale.fill_(1.8)
    return mapping


def labels(n: int, c_dim: int) -> Tensor | None:
    return torch.eye(c_dim)[torch.arange(n) % c_dim] if c_dim else None


CASES = [(coupling, c_dim) for coupling in COUPLINGS for c_dim in (0, 3)]


@pytest.mark.parametrize(("coupling", "c_dim"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 1e-10)])
def test_both_ways_undo_each_other(coupling: str, c_dim: int, dtype: torch.dtype, tolerance: float) -> None:
    mapping, c = make(coupling, c_dim).to(dtype), labels(200, c_dim)
    z = torch.randn(200, DIM, dtype=dtype)
    y = mapping.to_y(z, c)
    assert y.dtype == dtype
    assert mapping.to_z(y, c).dtype == torch.float64  # float32 would not hold what a seed-keeping mapping squeezes
    assert (mapping.to_z(y, c) - z).abs().max() < tolerance
    assert (mapping.to_y(mapping.to_z(y, c), c) - y).abs().max() < tolerance


@pytest.mark.parametrize(("coupling", "c_dim"), CASES)
def test_log_determinants_equal_those_of_the_jacobian(coupling: str, c_dim: int) -> None:
    mapping, c = make(coupling, c_dim).double(), labels(5, c_dim)
    z = torch.randn(5, DIM, dtype=torch.float64)
    y, log_det = mapping.to_y_with_log_det(z, c)
    _, log_det_back = mapping.to_z_with_log_det(y, c)
    for i in range(5):
        label = None if c is None else c[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda v, label=label: mapping.to_y(v[None], label)[0], z[i])
        assert torch.linalg.slogdet(jacobian)[1] == pytest.approx(float(log_det[i].detach()), abs=1e-9)
    assert torch.allclose(log_det, -log_det_back, atol=1e-9)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_log_prob_is_a_density(coupling: str) -> None:
    """In one plane the density must integrate to 1 over a grid that holds all of it."""
    mapping = make(coupling, dim=2).double()
    points = 1000 if coupling == "dense" else 300  # leaky ReLUs fold the density: it jumps
    with torch.no_grad():
        y = mapping.to_y(torch.randn(20_000, 2, dtype=torch.float64))
        low, high = y.min(dim=0).values - 2, y.max(dim=0).values + 2
        axes = [torch.linspace(float(a), float(b), points, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
        grid = torch.cartesian_prod(*axes)
        total = mapping.log_prob(grid).exp().sum() * (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    assert float(total) == pytest.approx(1.0, abs=0.03)


def test_additive_coupling_is_lias() -> None:
    """Reverse, split, z2 += F(z1); F: two dense layers, both leaky ReLU 0.2, gain sqrt 2, lr multiplier 0.01."""
    core = AdditiveCouplings(8, depth=1, width=5).double()
    torch.manual_seed(0)
    first, last = core.layers[0].get_submodule("0"), core.layers[0].get_submodule("1")
    assert isinstance(first.weight, Tensor) and isinstance(first.bias, Tensor)
    assert isinstance(last.weight, Tensor) and isinstance(last.bias, Tensor)
    with torch.no_grad():
        for tensor in (first.weight, first.bias, last.weight, last.bias):
            tensor.normal_(0, 100)
    u = torch.randn(6, 8, dtype=torch.float64)
    x = u.flip(1)

    def lrelu(t: Tensor) -> Tensor:
        return torch.maximum(t, 0.2 * t)

    hidden = lrelu(x[:, :4] @ (first.weight.t() * math.sqrt(2 / 4) * 0.01) + 0.01 * first.bias)
    shift = lrelu(hidden @ (last.weight.t() * math.sqrt(2 / 5) * 0.01) + 0.01 * last.bias)
    z, log_det = core.to_z(u)
    assert torch.allclose(z, torch.cat([x[:, :4], x[:, 4:] + shift], dim=1), atol=1e-12)
    assert float(log_det.abs().max()) == 0  # determinant 1


def test_defaults_are_those_of_the_paper() -> None:
    assert AdditiveCouplings(512).config() == {"dim": 512, "depth": 4, "width": 512, "c_dim": 0}


@pytest.mark.parametrize("coupling", ["additive", "affine"])
def test_new_couplings_turn_nothing_but_the_order(coupling: str) -> None:
    mapping = InvertibleMapping(coupling, 8)
    z = torch.randn(10, 8)
    y = mapping.to_y(z)
    assert torch.allclose(y.norm(dim=1), z.norm(dim=1), atol=1e-5)


@pytest.mark.parametrize(("coupling", "c_dim"), CASES)
def test_config_rebuilds_the_mapping(coupling: str, c_dim: int) -> None:
    mapping = make(coupling, c_dim)
    again = InvertibleMapping.from_config(mapping.config())
    again.load_state_dict(mapping.state_dict())
    z, c = torch.randn(4, DIM), labels(4, c_dim)
    assert torch.equal(again.to_y(z, c), mapping.to_y(z, c))


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_labels_matter_and_must_fit(coupling: str) -> None:
    mapping, z = make(coupling, 3), torch.randn(3, DIM)
    c = labels(3, 3)
    assert c is not None
    assert not torch.allclose(mapping.to_y(z, c), mapping.to_y(z, c.roll(1, 0)))
    with pytest.raises(LIAError, match="class-conditional"):
        mapping.to_y(z)
    with pytest.raises(LIAError, match=r"expected c \[3, 3\]"):
        mapping.to_y(z, torch.zeros(2, 3))


def test_wrong_shapes_and_names_are_told() -> None:
    with pytest.raises(LIAError, match=r"z has shape \[2, 3\]; expected \[N, 9\]"):
        make("affine").to_y(torch.zeros(2, 3))
    with pytest.raises(LIAError, match="expected one of flow, affine, additive, dense"):
        InvertibleMapping("cubic", 4)
    with pytest.raises(LIAError, match="at least 2 entries"):
        InvertibleMapping("affine", 1)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_gradients_flow_through_both_directions(coupling: str) -> None:
    mapping = make(coupling).double()
    z = torch.randn(2, DIM, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mapping.to_y, (z,))
    assert torch.autograd.gradcheck(mapping.to_z, (mapping.to_y(z).detach().requires_grad_(),))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(COUPLINGS), st.integers(2, 12), st.integers(0, 2**16), st.integers(1, 20))
def test_any_size_and_weights_are_invertible(coupling: str, dim: int, seed: int, n: int) -> None:
    mapping = make(coupling, dim=dim, seed=seed).double()
    z = torch.randn(n, dim, dtype=torch.float64)
    assert (mapping.to_z(mapping.to_y(z)) - z).abs().max() < 1e-7


# -- steps


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_each_step_has_its_inverse_and_its_log_determinant(coupling: str, c_dim: int) -> None:
    """And both ways keep the same for the latter."""
    mapping, c = make(coupling, c_dim).double(), labels(4, c_dim)
    x = torch.randn(4, DIM, dtype=torch.float64)
    for step in mapping.steps(x):
        y, kept = step.run(x, c)
        back, kept_back = step.undo(y, c)
        assert torch.allclose(back, x, atol=1e-10)
        log_det = step.log_det(kept).expand(4)
        assert torch.allclose(step.log_det(kept_back), step.log_det(kept), atol=1e-10)
        for i in range(4):
            label = None if c is None else c[i : i + 1]
            jacobian = torch.autograd.functional.jacobian(lambda v, s=step, label=label: s.run(v[None], label)[0][0], x[i])
            assert torch.linalg.slogdet(jacobian)[1] == pytest.approx(float(log_det[i].detach()), abs=1e-9)
        x = y.detach()
    assert torch.allclose(mapping.to_y(mapping.to_z(x, c), c), x, atol=1e-9)


def test_steps_make_the_whole() -> None:
    mapping = make("affine").double()
    x = z = torch.randn(3, DIM, dtype=torch.float64)
    steps = mapping.steps(z)
    for step in steps:
        x, _ = step.run(x)
    assert torch.equal(x, mapping.to_y(z))
    assert torch.equal(mapping.from_core(steps[0].run(z)[0]), x)
    assert torch.equal(steps[0].undo(mapping.to_core(x))[0], mapping.to_z(x))


def test_the_names_in_files() -> None:
    names = [name for name in InvertibleMapping("dense", 4, 3, layers=1, label_features=2).state_dict() if name[:5] != "core."]
    assert names == ["y_mean", "centre", "white", "power", "scale", "colour", "offset", "class_shift"]


def test_equations_can_be_solved_in_another_way() -> None:
    mapping = make("affine").double()
    y, calls = torch.randn(3, DIM, dtype=torch.float64), []

    def solve(matrix: Tensor, x: Tensor) -> Tensor:
        calls.append(matrix.shape)
        solved: Tensor = x @ torch.linalg.inv(matrix).t()
        return solved

    expected = mapping.to_z(y)
    mapping.solve = mapping.core.solve = solve
    assert torch.allclose(mapping.to_z(y), expected, atol=1e-9)
    assert len(calls) == 2
    assert torch.allclose(mapping.to_y(expected), y, atol=1e-9)
    assert len(calls) == 3  # of the couplings' rotation


def test_a_flow_of_one_scale_is_told_from_a_torn_file() -> None:
    with pytest.raises(LIAError, match=r"unreleased version, in one scale. Run lia-adapt convert again"):
        InvertibleMapping.from_config({"coupling": "flow", "y_dim": 8, "c_dim": 0, "depth": 6, "width": 256})


@pytest.mark.parametrize("dim", [2, 3, 5, 16, 200])
def test_small_components_of_a_flow_change_no_large_ones(dim: int) -> None:
    mapping = InvertibleMapping("flow", dim)
    large = min(64, dim // 2)
    with torch.no_grad():
        for parameter in mapping.core.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    z = torch.randn(4, dim, dtype=torch.float64)
    moved = z + torch.cat([torch.zeros(large), torch.ones(dim - large)])
    a, b = mapping.core.run(z)[0], mapping.core.run(moved)[0]
    assert torch.equal(a[:, :large], b[:, :large]) and not torch.isclose(a[:, large:], b[:, large:]).any()
    torch.testing.assert_close(mapping.core.undo(a)[0], z)
