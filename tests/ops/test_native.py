"""The native ops on the CPU against the reference path in float64: values, gradients of two orders, and torch's own checks."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from lia_adapter.generators import build_random
from lia_adapter.generators.presets import stylegan2_config
from lia_adapter.ops import (
    ACTIVATIONS,
    bias_act,
    library,
    modconv_epilogue,
    reference,
    setup_filter,
    upfirdn2d,
    upfirdn2d_act,
    using,
)

TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}

pytestmark = pytest.mark.skipif(
    "__import__('lia_adapter.ops').ops.status()['bias_act']['cpu'] != 'native'", reason="no compiler"
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def wide(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.double()


def close(found: Tensor, expected: Tensor, dtype: torch.dtype, *, size: float = 1.0) -> None:
    """Within the dtype's precision, relative to the largest number that the sums were made of."""
    assert found.dtype == dtype
    assert found.shape == expected.shape
    largest = size * (1 + (expected.abs().max().item() if expected.numel() else 0))
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=TOLERANCE[dtype] * largest, equal_nan=True)


def random_image(rng: random.Random, dtype: torch.dtype) -> Tensor:
    shape = (rng.randint(1, 3), rng.choice([1, 3, 16, 19, 32]), rng.randint(1, 20), rng.randint(1, 70))
    x = torch.randn(shape, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last) if rng.random() < 0.5 else x


def random_tail(
    rng: random.Random, x: Tensor, size: tuple[int, int]
) -> tuple[tuple[Tensor | None, Tensor | None, Tensor | None], dict[str, Any]]:
    n, c = x.shape[:2]
    tensors = (
        rng.choice([None, torch.randn(n, c, dtype=x.dtype)]),
        rng.choice([None, torch.randn(size, dtype=x.dtype), torch.randn(n, 1, *size, dtype=x.dtype)]),
        rng.choice([None, torch.randn(c, dtype=x.dtype)]),
    )
    numbers = {
        "act": rng.choice(list(ACTIVATIONS)), "gain": rng.choice([None, 0.7, -1.2]), "clamp": rng.choice([None, 0.5]),
        "alpha": rng.choice([None, 0.0, 0.3]),
    }  # fmt: skip
    return tensors, numbers


# -- values


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_tail_is_the_reference(dtype: torch.dtype) -> None:
    rng = random.Random(0)
    for _ in range(60):
        x = random_image(rng, dtype)
        tensors, numbers = random_tail(rng, x, (x.shape[2], x.shape[3]))
        found = modconv_epilogue(x, *tensors, **numbers)
        close(found, reference.modconv_epilogue(x.double(), *(wide(t) for t in tensors), **numbers), dtype)
        assert found.stride() == x.stride()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_result_may_take_the_memory_of_x(dtype: torch.dtype) -> None:
    rng = random.Random(1)
    for _ in range(60):
        whole, step = random_image(rng, dtype), rng.choice([1, 1, 2])  # with odd strides, too
        x = whole[..., ::step]
        tensors, numbers = random_tail(rng, x, (x.shape[2], x.shape[3]))
        for run in (modconv_epilogue, reference.modconv_epilogue):
            expected, given = run(x, *tensors, **numbers), whole.clone()[..., ::step]
            assert torch.equal(run(given, *tensors, **numbers, overwrite_x=True), expected)
            assert torch.equal(given, x)  # a graph might need it
            with torch.no_grad():
                found = run(given, *tensors, **numbers, overwrite_x=True)
            close(found, expected.double(), dtype)  # torch's functions round by the strides
            assert found is given or run is reference.modconv_epilogue


def random_filter(rng: random.Random) -> Tensor:
    kind = rng.choice(["stylegan", "rank 1", "any", "separable"])
    if kind == "stylegan":
        return setup_filter([1.0, 3.0, 3.0, 1.0])
    kh, kw = rng.choice([(4, 4), (1, 1), (3, 5), (2, 2), (12, 12), (1, 4)])

    def few(*shape: int) -> Tensor:
        """Taps of few bits: that the reference rounds them to the dtype of x is then no difference."""
        return torch.randint(-4, 5, shape) / 4

    if kind == "separable":
        return few(kw)
    return torch.outer(few(kh), few(kw)) if kind == "rank 1" else few(kh, kw)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_filter_is_the_reference(dtype: torch.dtype) -> None:
    rng = random.Random(1)
    done = 0
    while done < 60:
        x, f = random_image(rng, dtype), random_filter(rng)
        up: Any
        down: Any
        up, down = rng.choice([(1, 1), (2, 1), (1, 2), (1, 2), (2, 1), ((2, 1), 3), (3, (1, 2)), (4, 4)])
        padding = [rng.randint(-3, 8) for _ in range(4)]
        (up_x, up_y), (left, right, top, bottom) = reference.pair(up), padding
        height, width = x.shape[2] * up_y, x.shape[3] * up_x
        if height + min(top, 0) + min(bottom, 0) < 1 or width + min(left, 0) + min(right, 0) < 1:
            continue  # Nothing would be left of the image, which torch's own padding refuses.
        if height + top + bottom < f.shape[0] or width + left + right < f.shape[-1]:
            continue
        done += 1
        geometry: dict[str, Any] = {"up": up, "down": down, "padding": padding, "flip_filter": rng.random() < 0.5}
        sums = float(f.abs().sum()) ** (3 - f.ndim) * 4 + 1
        expected = reference.upfirdn2d(x.double(), f.double(), gain=4, **geometry)
        close(upfirdn2d(x, f, gain=4, **geometry), expected, dtype, size=sums)
        (scale, noise, b), numbers = random_tail(rng, x, (expected.shape[2], expected.shape[3]))
        expected = reference.upfirdn2d_act(
            x.double(), f.double(), wide(scale), wide(noise), wide(b), filter_gain=0.5, **geometry, **numbers
        )  # fmt: skip
        close(upfirdn2d_act(x, f, scale, noise, b, filter_gain=0.5, **geometry, **numbers), expected, dtype, size=4 * sums)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_threads_and_strips_do_not_show(memory_format: torch.memory_format) -> None:
    x = torch.randn(1, 32, 301, 203).contiguous(memory_format=memory_format)
    f = setup_filter([1.0, 3.0, 3.0, 1.0])
    for up, down in ((1, 1), (2, 1), (1, 2)):
        expected = reference.upfirdn2d(x.double(), f.double(), up=up, down=down, padding=[2, 1, 1, 2])
        close(upfirdn2d(x, f, up=up, down=down, padding=[2, 1, 1, 2]), expected, torch.float32)
    close(bias_act(x, act="lrelu"), reference.bias_act(x.double(), act="lrelu"), torch.float32)


@pytest.mark.parametrize(("shape", "dim"), [((5,), 0), ((4, 5), 0), ((4, 5), 1), ((3, 4, 5), -1), ((2, 3, 4, 5, 2), 1)])
def test_bias_of_any_dimension(shape: tuple[int, ...], dim: int) -> None:
    x, b = torch.randn(shape), torch.randn(shape[dim])
    expected = reference.bias_act(x.double(), b.double(), dim=dim, act="swish")
    close(bias_act(x, b, dim=dim, act="swish"), expected, torch.float32)


def test_empty_batches() -> None:
    f = setup_filter([1.0, 3.0, 3.0, 1.0])
    assert bias_act(torch.randn(0, 3, 4, 4), torch.randn(3), act="lrelu").shape == (0, 3, 4, 4)
    assert upfirdn2d(torch.randn(0, 3, 4, 4), f, up=2, padding=[2, 1, 2, 1]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_infinity_and_nan(act: str) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0]).repeat(5)[None]
    torch.testing.assert_close(bias_act(x, act=act), reference.bias_act(x, act=act), equal_nan=True)
    torch.testing.assert_close(bias_act(x, act=act, clamp=2), reference.bias_act(x, act=act, clamp=2), equal_nan=True)


def test_denormals_stay() -> None:
    """A library linked with -ffast-math would switch them off for the whole process."""
    tiny = torch.tensor([[1e-40]])
    bias_act(tiny)
    assert (tiny * 0.5).item() > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: bias_act(x, torch.zeros(2), act="lrelu"), "b has 2 elements; expected 3"),
        (lambda x: modconv_epilogue(x, torch.ones(2, 2)), "scale has 4 elements; expected 6"),
        (lambda x: upfirdn2d(x, torch.ones(9)), "smaller than the filter"),
    ],
)
def test_wrong_shapes_are_named(call: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call(torch.randn(2, 3, 4, 4))


# -- gradients


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize(("gain", "clamp"), [(None, None), (None, 0.9), (-1.3, 0.9)])
def test_gradients_of_two_orders(act: str, gain: float | None, clamp: float | None) -> None:
    f = torch.tensor([[1.0, 3.0, 2.0, 0.5], [0.5, 1.0, 2.0, 1.0], [1.0, 1.0, 4.0, 0.0], [0.0, 1.0, 0.0, 1.0]]) / 8
    x, scale, b, noise = normal(2, 3, 3, 2), normal(2, 3), normal(3), normal(2, 1, 3, 2)
    tail = lambda *t: modconv_epilogue(*t, act=act, gain=gain, clamp=clamp)  # noqa: E731
    chain = lambda *t: upfirdn2d_act(t[0], f, *t[1:], up=2, padding=[2, 2, 2, 1], act=act, gain=gain, clamp=clamp)  # noqa: E731
    last = lambda *t: bias_act(*t, dim=3, act=act, gain=gain, clamp=clamp)  # noqa: E731
    for function, inputs in ((tail, (x, scale, noise, b)), (chain, (x, scale, normal(6, 5), b)), (last, (x, normal(2)))):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("flip", [False, True])
def test_gradients_of_the_filter(up: int, down: int, flip: bool) -> None:
    f = torch.tensor([[1.0, 3.0, 2.0, 0.5], [0.5, 1.0, 2.0, 1.0], [1.0, 1.0, 4.0, 0.0]]) / 8
    function = lambda x: upfirdn2d(x, f, up=up, down=down, padding=[3, -1, 0, 2], flip_filter=flip, gain=2)  # noqa: E731
    assert gradcheck(function, (normal(1, 2, 5, 6),))
    assert gradgradcheck(function, (normal(1, 2, 5, 6),))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_gradient_is_zero_where_the_clamp_acts(dtype: torch.dtype) -> None:
    for act in ACTIVATIONS:
        # 1.1 is no number of the half types: the clamped output is a rounded one.
        x = torch.tensor([[4.0, 0.01]], dtype=dtype, requires_grad=True)
        bias_act(x, act=act, gain=1.5, clamp=1.1).sum().backward()
        assert x.grad is not None
        assert x.grad[0, 0] == 0
        assert x.grad[0, 1] > 0


def test_gradients_with_channels_last() -> None:
    f = setup_filter([1.0, 3.0, 3.0, 1.0])
    x, dy = torch.randn(2, 16, 9, 9), torch.randn(2, 16, 8, 8)
    scale, b = torch.randn(2, 16), torch.randn(16)
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        inputs = [t.clone().requires_grad_() for t in (x.contiguous(memory_format=memory_format), scale, b)]
        y = upfirdn2d_act(inputs[0], f, inputs[1], None, inputs[2], padding=1, clamp=2)
        found.append(torch.autograd.grad(y, inputs, dy))
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second)


# -- torch's own checks


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_opcheck(memory_format: torch.memory_format) -> None:
    def image(*shape: int) -> Tensor:
        return torch.randn(shape).contiguous(memory_format=memory_format).requires_grad_()

    x, scale, b, noise = (
        image(2, 3, 8, 9),
        torch.randn(2, 3, requires_grad=True),
        torch.randn(3, requires_grad=True),
        torch.randn(8, 9),
    )
    f, lrelu = torch.rand(4, 4), (library.ACTS.index("lrelu"), 0.2, 1.4, 1.0)
    torch.library.opcheck(torch.ops.lia_adapter.epilogue.default, (x, scale, noise, b, *lrelu))
    plain = [None if t is None else t.detach() for t in (x, scale, noise, b)]
    torch.library.opcheck(torch.ops.lia_adapter.epilogue_.default, (*plain, *lrelu))
    torch.library.opcheck(torch.ops.lia_adapter.act_backward.default, (image(2, 3, 8, 9), x.detach(), *lrelu))
    torch.library.opcheck(torch.ops.lia_adapter.upfirdn2d.default, (x, f, 2, 2, 1, 1, 2, 1, 2, 1, False, 4.0))
    chain = (x, f, scale, None, b, 1, 1, 2, 2, 2, 1, 2, 1, True, 4.0, *lrelu)
    torch.library.opcheck(torch.ops.lia_adapter.upfirdn2d_act.default, chain)


def test_autocast_filters_in_the_low_precision() -> None:
    x, f = torch.randn(1, 3, 8, 8, requires_grad=True), setup_filter([1.0, 3.0, 3.0, 1.0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = upfirdn2d_act(x, f, torch.rand(1, 3), None, torch.randn(3))
        assert upfirdn2d(x, f).dtype == torch.bfloat16
        assert bias_act(y, torch.randn(3), act="lrelu").dtype == torch.bfloat16
        assert bias_act(x, torch.randn(3), act="lrelu").dtype == torch.float32
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


# -- whole networks


CONFIG = stylegan2_config(64, z_dim=32, y_dim=32, channel_max=32)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_generator_compiles_into_one_graph(backend: str) -> None:
    generator: Any = build_random("stylegan2", CONFIG)[0]
    ys = torch.randn(2, generator.num_ws, 32)
    eager = generator.synthesis(ys)
    compiled: Any = torch.compile(generator.synthesis, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(ys), eager, rtol=0, atol=1e-5)
    with torch.no_grad():  # layers work in place
        torch.testing.assert_close(compiled(ys), eager, rtol=0, atol=1e-5)
    slopes: list[Tensor] = []
    for run in (generator.synthesis, compiled):
        leaf = ys.clone().requires_grad_()
        slopes += torch.autograd.grad(run(leaf).square().sum(), leaf)
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-4, atol=1e-4)


def penalties() -> list[Tensor]:
    """R1 and path length penalties of small networks, and their gradients by the weights."""
    torch.manual_seed(1)
    networks: list[Any] = [part.double().requires_grad_() for part in build_random("stylegan2", CONFIG)]
    generator, discriminator = networks
    ys = torch.randn(2, generator.num_ws, 32, dtype=torch.float64, requires_grad=True)
    images = generator.synthesis(ys)
    directions = torch.linspace(-1, 1, images.numel(), dtype=torch.float64).view_as(images)
    (slopes,) = torch.autograd.grad((images * directions).sum(), ys, create_graph=True)
    lengths = slopes.square().sum(2).mean(1).sqrt()
    real = images.detach().requires_grad_()
    (at_real,) = torch.autograd.grad(discriminator(real, None).sum(), real, create_graph=True)
    r1 = at_real.square().sum([1, 2, 3])
    found = [lengths, r1]
    for penalty, network in ((lengths, generator.synthesis), (r1, discriminator)):
        found += torch.autograd.grad(penalty.sum(), list(network.parameters()), materialize_grads=True, allow_unused=True)
    return found


def test_r1_and_path_length_run_through_the_kernels() -> None:
    found = penalties()
    with using("reference"):
        expected = penalties()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9 * float(theirs.detach().abs().max()))
