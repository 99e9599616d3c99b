"""The ops against formulas in float64 and a filter written out as loops."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from lia_adapter.ops import ACTIVATIONS, bias_act, modconv_epilogue, setup_filter, upfirdn2d, upfirdn2d_act

pytestmark = pytest.mark.usefixtures("each_implementation")

Array = NDArray[np.float64]

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
FORMULAS: dict[str, tuple[Callable[[Array], Array], float]] = {
    "linear": (lambda x: x, 1),
    "relu": (lambda x: np.where(x > 0, x, 0), math.sqrt(2)),
    "lrelu": (lambda x: np.where(x > 0, x, 0.2 * x), math.sqrt(2)),
    "tanh": (lambda x: (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)), 1),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 1),
    "elu": (lambda x: np.where(x > 0, x, np.exp(x) - 1), 1),
    "selu": (lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * (np.exp(x) - 1)), 1),
    "softplus": (lambda x: np.log(1 + np.exp(x)), 1),
    "swish": (lambda x: x / (1 + np.exp(-x)), math.sqrt(2)),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check(found: Tensor, expected: Any, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(expected), rtol=1e-9, atol=atol)


# -- bias_act


def test_every_activation_has_a_formula_here() -> None:
    assert set(ACTIVATIONS) == set(FORMULAS)


@pytest.mark.parametrize("act", FORMULAS)
@pytest.mark.parametrize("gain", [None, 0.7])
@pytest.mark.parametrize("clamp", [None, 0.5])
def test_bias_act_is_its_formula(act: str, gain: float | None, clamp: float | None) -> None:
    x, b = 2 * normal(3, 5, 2, 4), normal(5, seed=1)
    formula, own_gain = FORMULAS[act]
    expected = formula(x.numpy() + b.numpy()[:, None, None]) * (own_gain if gain is None else gain)
    if clamp is not None:
        expected = np.minimum(np.maximum(expected, -clamp), clamp)
    check(bias_act(x, b, act=act, gain=gain, clamp=clamp), expected)


def test_the_slope_of_the_negative_side_can_be_set() -> None:
    x = normal(4, 3)
    check(bias_act(x, act="lrelu", alpha=0.5, gain=1), np.where(x > 0, x, x / 2))


@pytest.mark.parametrize(("shape", "dim"), [((4, 3), 0), ((4, 3), 1), ((4, 3), -1), ((2, 3, 4), 2), ((2, 3, 4), -3)])
def test_the_bias_belongs_to_one_dimension(shape: tuple[int, ...], dim: int) -> None:
    x, b = normal(*shape), normal(shape[dim], seed=1)
    check(bias_act(x, b, dim=dim), np.moveaxis(np.moveaxis(x.numpy(), dim, -1) + b.numpy(), -1, dim))


@pytest.mark.parametrize(("act", "slopes"), [("linear", [0, 2, 2, 2, 0]), ("lrelu", [0, 0.4, 0.4, 2, 0])])
def test_no_gradient_where_the_clamp_acts(act: str, slopes: list[float]) -> None:
    x = torch.tensor([-9, -0.3, -0.1, 0.3, 9], dtype=torch.float64, requires_grad=True)
    bias_act(x[None], act=act, gain=2, clamp=1).sum().backward()
    assert x.grad is not None
    check(x.grad, slopes)


@pytest.mark.parametrize("act", FORMULAS)
def test_bias_act_is_differentiable_twice(act: str) -> None:
    x, b = normal(2, 3, 2).requires_grad_(), normal(3, seed=1).requires_grad_()
    function = partial(bias_act, act=act, gain=1.3, clamp=1.1)
    assert torch.autograd.gradcheck(function, (x, b))
    assert torch.autograd.gradgradcheck(function, (x, b))


# -- setup_filter


def test_one_row_of_taps_becomes_a_separable_filter_of_sum_one() -> None:
    check(setup_filter([1, 3, 3, 1]), np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64)
    check(setup_filter([1.0, 2.0, 5.0]), np.outer([1, 2, 5], [1, 2, 5]) / 64, atol=1e-7)


def test_two_dimensional_taps_are_only_normalised() -> None:
    found = setup_filter(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 1.0]]))
    check(found, np.array([[1, 2, 3], [4, 5, 1]]) / 16)
    assert found.dtype == torch.float32


# -- upfirdn2d


def slow_upfirdn2d(
    x: Array,
    f: Array,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    flip_filter: bool,
    gain: float,
) -> Array:
    """The definition, one number at a time: out[i, j] = gain * sum of f[a, b] * padded[i - a, j - b], 'valid' part."""
    (n, c, h, w), (fh, fw), (left, right, top, bottom) = x.shape, f.shape, padding

    def padded(sample: Array, i: int, j: int) -> float:
        i, j = i - top, j - left
        inside = 0 <= i < h * up[1] and 0 <= j < w * up[0]
        stuffed = i % up[1] or j % up[0]
        return 0.0 if stuffed or not inside else float(sample[i // up[1], j // up[0]])

    rows = range(0, h * up[1] + top + bottom - fh + 1, down[1])
    columns = range(0, w * up[0] + left + right - fw + 1, down[0])
    out = np.zeros((n, c, len(rows), len(columns)))
    for index in np.ndindex(n, c):
        for a, b in np.ndindex(fh, fw):
            # A convolution runs backwards through the image, a correlation forwards.
            di, dj = (a, b) if flip_filter else (fh - 1 - a, fw - 1 - b)
            for p, i in enumerate(rows):
                for q, j in enumerate(columns):
                    out[*index, p, q] += gain * f[a, b] * padded(x[index], i + di, j + dj)
    return out


small, pad = st.integers(1, 3), st.integers(-2, 4)


@st.composite
def filterings(draw: st.DrawFn) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """An image, a filter and the arguments of a filtering that leaves at least one pixel."""
    h, w, fh, fw = (draw(st.integers(1, 4)) for _ in range(4))
    up, down = draw(st.tuples(small, small)), draw(st.tuples(small, small))
    padding = draw(st.tuples(pad, pad, pad, pad))
    for size, taps, factor, before, after in ((w, fw, up[0], *padding[:2]), (h, fh, up[1], *padding[2:])):
        assume(size * factor + before + after >= taps)
        assume(size * factor + min(before, 0) + min(after, 0) >= 1)
    x, f = normal(draw(st.integers(1, 2)), draw(st.integers(1, 2)), h, w), normal(fh, fw, seed=1)
    arguments = {"up": up, "down": down, "padding": padding, "flip_filter": draw(st.booleans())}
    return x, f, {**arguments, "gain": draw(st.sampled_from([1.0, 4.0, -0.5]))}


@given(filterings())
@settings(deadline=None)
def test_upfirdn2d_is_its_definition(filtering: tuple[Tensor, Tensor, dict[str, Any]]) -> None:
    x, f, arguments = filtering
    check(upfirdn2d(x, f, **arguments), slow_upfirdn2d(x.numpy(), f.numpy(), **arguments))


@given(filterings())
@settings(deadline=None)
def test_the_gradient_of_upfirdn2d_is_upfirdn2d_run_backwards(filtering: tuple[Tensor, Tensor, dict[str, Any]]) -> None:
    x, f, arguments = filtering
    out = upfirdn2d(x.requires_grad_(), f, **arguments)
    upstream = normal(*out.shape, seed=2)
    (gradient,) = torch.autograd.grad(out, x, upstream)
    (up_x, up_y), (down_x, down_y), (left, _, top, _) = arguments["up"], arguments["down"], arguments["padding"]
    (fh, fw), (h, w), (oh, ow) = f.shape, x.shape[2:], out.shape[2:]
    padding = (
        fw - left - 1, w * up_x - ow * down_x + left - up_x + 1,
        fh - top - 1, h * up_y - oh * down_y + top - up_y + 1,
    )  # fmt: skip
    swapped = {"up": arguments["down"], "down": arguments["up"], "flip_filter": not arguments["flip_filter"]}
    expected = slow_upfirdn2d(upstream.numpy(), f.numpy(), padding=padding, gain=arguments["gain"], **swapped)
    check(gradient, expected)


def test_upfirdn2d_is_differentiable_twice() -> None:
    x, f = normal(1, 2, 3, 4).requires_grad_(), normal(2, 3, seed=1).requires_grad_()
    function = partial(upfirdn2d, up=2, down=(1, 3), padding=(2, 1, -1, 3), gain=2)
    assert torch.autograd.gradcheck(function, (x, f))
    assert torch.autograd.gradgradcheck(function, (x, f))


@pytest.mark.parametrize("flip_filter", [False, True])
def test_a_one_dimensional_filter_acts_along_both_axes(flip_filter: bool) -> None:
    x, f = normal(2, 3, 5, 4), normal(3, seed=1)
    arguments: dict[str, Any] = {"up": (2, 1), "down": (1, 2), "padding": (1, 2, 0, 3), "gain": 4}
    outer = upfirdn2d(x, torch.outer(f, f), flip_filter=flip_filter, **arguments)
    check(upfirdn2d(x, f, flip_filter=flip_filter, **arguments), outer)


def test_no_filter_is_a_filter_of_one() -> None:
    x = normal(2, 3, 5, 4)
    arguments: dict[str, Any] = {"up": (3, 2), "down": (1, 2), "padding": (1, -2, 0, 3), "gain": 0.5}
    check(upfirdn2d(x, None, **arguments), upfirdn2d(x, torch.ones(1, 1), **arguments))


def test_short_forms_of_the_sizes() -> None:
    x, f = normal(1, 2, 5, 4), normal(2, 3, seed=1)
    check(upfirdn2d(x, f, up=2, down=3, padding=2), upfirdn2d(x, f, up=(2, 2), down=(3, 3), padding=(2, 2, 2, 2)))
    check(upfirdn2d(x, f, padding=(2, 1)), upfirdn2d(x, f, padding=(2, 2, 1, 1)))


# -- the tail of a modulated convolution


def noises() -> list[Tensor | None]:
    return [None, normal(5, 4, seed=3), normal(2, 1, 5, 4, seed=4)]


@pytest.mark.parametrize("noise", noises(), ids=["no noise", "one noise", "noise of each"])
@pytest.mark.parametrize("scaled", [False, True])
def test_modconv_epilogue_is_its_formula(noise: Tensor | None, scaled: bool) -> None:
    x, b = normal(2, 3, 5, 4), normal(3, seed=1)
    scale = normal(2, 3, seed=2) if scaled else None
    expected = np.stack(
        [
            np.stack(
                [
                    x[n, c].numpy() * (1 if scale is None else float(scale[n, c]))
                    + (0 if noise is None else noise.expand(2, 1, 5, 4)[n, 0].numpy())
                    + float(b[c])
                    for c in range(3)
                ]
            )
            for n in range(2)
        ]
    )
    expected = np.clip(np.where(expected > 0, expected, 0.2 * expected) * 1.5, -1.2, 1.2)
    check(modconv_epilogue(x, scale, noise, b, gain=1.5, clamp=1.2), expected)


def test_upfirdn2d_act_is_the_filter_and_then_the_tail() -> None:
    x, f, scale, b = normal(2, 3, 3, 2), normal(3, 4, seed=1), normal(2, 3, seed=2), normal(3, seed=3)
    how: dict[str, Any] = {"up": (3, 2), "down": (2, 1), "padding": (2, 3, 1, 2), "flip_filter": True}
    tail: dict[str, Any] = {"act": "lrelu", "alpha": 0.1, "gain": 1.7, "clamp": 2.0}
    filtered = upfirdn2d(x, f, gain=4, **how)
    for noise in (None, normal(*filtered.shape[2:], seed=4), normal(2, 1, *filtered.shape[2:], seed=5)):
        expected = modconv_epilogue(filtered, scale, noise, b, **tail)
        check(upfirdn2d_act(x, f, scale, noise, b, filter_gain=4, **how, **tail), expected)


@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float16, 1e-2), (torch.bfloat16, 8e-2)])
def test_half_precision_stays_and_is_about_right(dtype: torch.dtype, accuracy: float) -> None:
    x, f, scale, noise, b = normal(2, 3, 4, 4), setup_filter([1, 3, 3, 1]), normal(2, 3), normal(8, 8), normal(3)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: bias_act(x, b, act="swish"),
        lambda x: upfirdn2d(x, f, up=2, padding=(2, 1), gain=4),
        lambda x: modconv_epilogue(x, scale, noise[:4, :4], b),
        lambda x: upfirdn2d_act(x, f, scale, noise, b, up=2, padding=(2, 1, 2, 1), filter_gain=4),
    ]
    for function in functions:
        found = function(x.to(dtype))
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), function(x), rtol=accuracy, atol=accuracy)
