"""filtered_lrelu: the native op, and the tiles of its CUDA kernels with all threads played here, against the reference path."""

import ctypes
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lia_adapter.ops import filtered_lrelu, library, native, reference

SOURCES = Path(__file__).parents[2] / "ops"
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def has_kernel() -> bool:
    native.implementation("cpu")
    return torch._C._dispatch_has_kernel_for_dispatch_key("lia_adapter::filtered_lrelu", "CPU")


needs_kernel = pytest.mark.skipif("not has_kernel()", reason="no native ops here")


def taps(*shape: int) -> Tensor:
    """Random taps of few bits, so that no rounding of the filter tells two implementations apart."""
    return torch.randint(-16, 17, shape) / 32


def random_filter(rng: random.Random) -> Tensor | None:
    kind = rng.choice(["none", "separable", "2-D"])
    if kind == "none":
        return None
    return taps(rng.randint(1, 13)) if kind == "separable" else taps(rng.randint(1, 7), rng.randint(1, 7))


def random_case(rng: random.Random, *, stylegan: bool = False) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Tensors in float64, and numbers; None where the filters are larger than the image."""
    n, c = rng.choice([(1, 1), (1, 3), (2, 9), (3, 7)])
    h, w = rng.randint(1, 60), rng.randint(1, 60)
    up, down = rng.choice([(2, 2), (4, 2), (2, 4)]) if stylegan else (rng.randint(1, 5), rng.randint(1, 5))
    fu = taps(rng.randint(1, 6 * up)) if stylegan else random_filter(rng)
    fd = taps(rng.randint(1, 6 * down)) if stylegan else random_filter(rng)
    padding = [rng.randint(-6, 14) for _ in range(4)]
    for size, k, (before, after) in ((h, 0, padding[2:]), (w, -1, padding[:2])):
        padded = size * up + before + after
        if min(size * up + before, size * up + after) < 1:
            return None
        if padded < sum(1 if f is None else f.shape[k] for f in (fu, fd)) - 1:
            return None
    tensors = {
        "x": torch.randn(n, c, h, w, dtype=torch.float64),
        "fu": fu,
        "fd": fd,
        "b": torch.randn(c, dtype=torch.float64) if rng.random() < 0.7 else None,
    }
    numbers = {
        "up": up, "down": down, "padding": padding, "gain": rng.choice([1.0, 1.5]), "slope": rng.choice([0.0, 0.2]),
        "clamp": rng.choice([None, 0.5, 2.0]), "flip_filter": rng.random() < 0.5,
    }  # fmt: skip
    return tensors, numbers


def error(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return ((got.double() - want).abs().max() / want.abs().max().clamp(min=1e-3)).item() if want.numel() else 0.0


# -- the reference


def test_without_filters_it_is_bias_act() -> None:
    x, b = torch.randn(2, 3, 5, 4), torch.randn(3)
    torch.testing.assert_close(reference.filtered_lrelu(x, b=b, clamp=0.5), reference.bias_act(x, b, act="lrelu", clamp=0.5))


def test_a_constant_image_stays_one() -> None:
    f = torch.tensor([1.0, 3, 3, 1]) / 8
    for value, expected in ((2.0, 2.0), (-2.0, -0.5)):
        x = torch.full((1, 1, 12, 12), value)
        y = reference.filtered_lrelu(x, f, f, up=2, down=2, gain=1.0, slope=0.25)
        torch.testing.assert_close(y, torch.full_like(y, expected))


# -- the native op on the CPU


@needs_kernel
@pytest.mark.parametrize("seed", range(40))
def test_native_equals_the_reference(seed: int) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    case = random_case(rng, stylegan=seed % 4 == 0)
    while case is None:
        case = random_case(rng)
    tensors, numbers = case
    dtype = rng.choice([torch.float64, torch.float64, torch.float32, torch.float16, torch.bfloat16])
    leaves = {name: value.to(dtype) for name, value in tensors.items() if name in "xb" and value is not None}
    exact = {name: value.double().requires_grad_() for name, value in leaves.items()}
    leaves = {name: value.requires_grad_() for name, value in leaves.items()}
    want = reference.filtered_lrelu(**{**tensors, **exact}, **numbers)
    got = filtered_lrelu(**{**tensors, **leaves}, **numbers)
    assert got.dtype == dtype
    assert error(got, want) < TOLERANCE[dtype]
    with torch.no_grad():
        torch.testing.assert_close(filtered_lrelu(**{**tensors, **leaves}, **numbers), got, rtol=0, atol=0)
    if dtype == torch.float64:  # In lower precision a sample may be on the other side of zero or of the clamp.
        dy = torch.randn_like(want)
        wanted = torch.autograd.grad(want, list(exact.values()), dy)
        for g, w in zip(torch.autograd.grad(got, list(leaves.values()), dy), wanted, strict=True):
            assert error(g, w) < TOLERANCE[dtype]


@needs_kernel
@pytest.mark.parametrize("shape", [(1, 1, 200, 30), (1, 2, 40, 700), (5, 7, 20, 20), (0, 3, 20, 20)])
def test_however_the_work_is_divided(shape: tuple[int, ...]) -> None:
    x, f = torch.randn(shape, dtype=torch.float64), taps(12)
    want = reference.filtered_lrelu(x, f, f, up=2, down=2, padding=9) if len(x) else torch.empty(0, 3, 18, 18)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert error(filtered_lrelu(x, f, f, up=2, down=2, padding=9), want) < 1e-12
    finally:
        torch.set_num_threads(threads)


@needs_kernel
def test_any_memory_layout() -> None:
    x, f = torch.randn(2, 4, 16, 15), taps(6)
    want = filtered_lrelu(x, f, f, up=2, down=2)
    for laid_out in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(filtered_lrelu(laid_out, f, f, up=2, down=2), want, rtol=0, atol=0)


@needs_kernel
def test_nan_and_infinity_pass() -> None:
    x = torch.randn(1, 1, 8, 8)
    x[0, 0, 2, 3], x[0, 0, 5, 5] = torch.nan, torch.inf
    for requires_grad in (False, True):  # The two have loops of their own.
        y = filtered_lrelu(x.clone().requires_grad_(requires_grad), clamp=1.0).detach()
        torch.testing.assert_close(y, reference.filtered_lrelu(x, clamp=1.0), equal_nan=True)


@needs_kernel
def test_the_mask_is_made_only_for_gradients() -> None:
    x = torch.randn(1, 2, 6, 6)
    numbers = (1, 1, 0, 0, 0, 0, False, 1.0, 0.2, -1.0)
    assert library.filtered_lrelu(x, None, None, None, *numbers, False)[1].numel() == 0
    assert library.filtered_lrelu(x, None, None, None, *numbers, True)[1].shape == (1, 2, 6, 2)
    y, _ = library.filtered_lrelu(x.requires_grad_(), None, None, None, *numbers, False)
    with pytest.raises(RuntimeError, match="save_mask=False"):
        y.sum().backward()


CASES: list[dict[str, Any]] = [
    {"fu": (12,), "fd": (12,), "up": 2, "down": 2, "padding": [9, 8, 9, 8]},
    {"fu": (24,), "fd": (12,), "up": 4, "down": 2, "padding": [12, 9, 14, -2], "clamp": 0.7},
    {"fu": (6,), "fd": (4, 5), "up": 2, "down": 2, "padding": [7, 6, 7, 6], "flip_filter": True, "clamp": 0.3},
    {"fu": (3, 2), "fd": None, "up": 3, "down": 1, "padding": 2},
]


@needs_kernel
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_any_order(case: dict[str, Any]) -> None:
    torch.manual_seed(0)
    filters = [None if case[name] is None else taps(*case[name]) for name in ("fu", "fd")]
    numbers = {name: value for name, value in case.items() if name not in ("fu", "fd")}
    x = torch.randn(1, 2, 7, 6, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, b: Tensor) -> Tensor:
        return filtered_lrelu(x, filters[0], filters[1], b, **numbers)

    assert torch.autograd.gradcheck(run, (x, b), eps=1e-7, atol=1e-5)
    assert torch.autograd.gradgradcheck(run, (x, b), eps=1e-7, atol=1e-5)
    # A gradient penalty, such as R1 or path length, against that of the reference.
    penalties = []
    for function in (filtered_lrelu, reference.filtered_lrelu):
        (dx,) = torch.autograd.grad(function(x**3, filters[0], filters[1], b, **numbers).square().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(dx.square().sum(), (x, b)))
    for got, want in zip(*penalties, strict=True):
        torch.testing.assert_close(got, want)


@needs_kernel
def test_opcheck() -> None:
    fu, fd = taps(8), taps(3, 4)
    x = torch.randn(2, 3, 9, 10, requires_grad=True)
    b = torch.randn(3, requires_grad=True)
    arguments = (fu, fd, b, 2, 2, 3, 3, 4, 2, False, 1.5, 0.2, 0.9)
    torch.library.opcheck(torch.ops.lia_adapter.filtered_lrelu.default, (x, *arguments, True))
    torch.library.opcheck(torch.ops.lia_adapter.filtered_lrelu.default, (x.detach(), fu, None, None, *arguments[3:], False))
    mask = library.filtered_lrelu(x, *arguments, True)[1]
    numbers = (2, 2, 3, 3, 4, 2, 1, 1, 0, 2, False, 1.5, 0.2)
    torch.library.opcheck(torch.ops.lia_adapter.filtered_masked.default, (x, fu, fd, mask, *numbers))


@needs_kernel
def test_it_compiles_into_one_graph() -> None:
    x, b, f = torch.randn(1, 2, 8, 8, requires_grad=True), torch.randn(2), taps(12)

    def run(x: Tensor) -> Tensor:
        return filtered_lrelu(x, f, f, b, up=2, down=2, padding=9, clamp=1.0)

    def gradient(function: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.autograd.grad(function(x).square().sum(), x)[0]

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), run(x))
    torch.testing.assert_close(gradient(compiled), gradient(run))


@needs_kernel
def test_autocast_takes_the_low_precision_and_leaves_the_taps() -> None:
    x, f = torch.randn(1, 2, 8, 8, requires_grad=True), torch.rand(12) / 6
    with torch.autocast("cpu", torch.bfloat16):
        y = filtered_lrelu(x, f, f, torch.randn(2), up=2, down=2, padding=9)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


# -- the tiles of the CUDA kernels

HARNESS = r"""
#include "filtered_tile.h"
#include <limits>
#include <vector>
using namespace lia;
template <class Tile> void run_tiles(const FilteredPlan& plan) {
  std::vector<Four> shared(Tile::kShared / 4 + 1);
  for (int64_t block = 0; block < plan.blocks; block++) {
    for (Four& four : shared) for (float& v : four.v) v = std::numeric_limits<float>::quiet_NaN();
    for (int step = 0; step < Tile::kSteps; step++) {
      for (int thread = 0; thread < kTileThreads; thread++) Tile::step(step, plan, block, shared[0].v, thread);
    }
  }
}
static FilterStage stage(const float* f, const int64_t* n) {
  return {f, int(n[0]), int(n[1]), n[2] != 0, int(n[3]), int(n[4]), int(n[5])};
}
extern "C" int run(const void* x, void* y, const void* bias, const unsigned char* mask_in, unsigned char* mask_out,
                   const float* fu, const float* fd, const int64_t* n, const int64_t* up, const int64_t* down, double gain,
                   double slope, double clamp) {
  const FilteredArgs args{x, y, bias, mask_in, mask_out, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7],
                          stage(fu, up), stage(fd, down), n[8] != 0, int(n[9]), gain, slope, clamp};
  FilteredPlan plan{};
  TileKind kind;
  if (!plan_filtered(args, plan, kind)) return -1;
  if (kind == kTile22) run_tiles<FixedTile<2, 2>>(plan);
  if (kind == kTile42) run_tiles<FixedTile<4, 2>>(plan);
  if (kind == kTile24) run_tiles<FixedTile<2, 4>>(plan);
  if (kind == kTileAny) run_tiles<AnyTile>(plan);
  return kind;
}
"""
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("tiles")
    (folder / "harness.cpp").write_text(HARNESS)
    command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{SOURCES}", "harness.cpp", "-o", "tiles.so"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "tiles.so"))
    pointer, number = ctypes.c_void_p, ctypes.c_double
    library.run.argtypes = [*[pointer] * 10, number, number, number]
    return library


def run_tiles(
    tiles: ctypes.CDLL, x: Tensor, fu: Tensor | None, fd: Tensor | None, b: Tensor | None, mask: Tensor | None,
    up: int, down: int, up_pads: list[int], down_pads: list[int], flip: bool, gain: float, slope: float, clamp: float,
) -> tuple[Tensor, Tensor, int]:  # fmt: skip
    """What the binding and the launcher do; gives y, the mask, and which kernel it was."""
    sizes = [(1, 1) if f is None else (f.shape[0], f.shape[-1]) for f in (fu, fd)]
    high = [x.shape[2 + i] * up + up_pads[2 - 2 * i] + up_pads[3 - 2 * i] - sizes[0][i] + 1 for i in (0, 1)]
    out = [(high[i] + down_pads[2 - 2 * i] + down_pads[3 - 2 * i] - sizes[1][i]) // down + 1 for i in (0, 1)]
    planes = x.shape[0] * x.shape[1]
    y = torch.full((*x.shape[:2], *out), torch.nan, dtype=x.dtype)
    made = torch.full((*x.shape[:2], high[0], (high[1] + 3) // 4), 255, dtype=torch.uint8)

    def stage(f: Tensor | None, size: tuple[int, int], factor: int, pads: list[int]) -> Tensor:
        return torch.tensor([*size, f is None or f.ndim == 1, factor, pads[0], pads[2]])

    numbers = torch.tensor([planes, x.shape[1], *x.shape[2:], *high, *out, flip, DTYPES_OF_KERNELS[x.dtype]])
    stages = stage(fu, sizes[0], up, up_pads), stage(fd, sizes[1], down, down_pads)
    kind = tiles.run(
        x.data_ptr(), y.data_ptr(), None if b is None else b.data_ptr(), None if mask is None else mask.data_ptr(),
        made.data_ptr() if mask is None else None, None if fu is None else fu.data_ptr(), None if fd is None else fd.data_ptr(),
        numbers.data_ptr(), stages[0].data_ptr(), stages[1].data_ptr(), gain, slope, clamp,
    )  # fmt: skip
    assert kind >= 0
    return y, made, kind


DTYPES_OF_KERNELS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


@pytest.mark.parametrize("seed", range(60))
def test_tiles_equal_the_reference(tiles: ctypes.CDLL, seed: int) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    case = None
    while case is None:
        case = random_case(rng, stylegan=seed % 2 == 0)
    tensors, numbers = case
    dtype = rng.choice(DTYPES)
    x, b = tensors["x"].to(dtype), None if tensors["b"] is None else tensors["b"].to(dtype)
    fu, fd = tensors["fu"], tensors["fd"]
    up, down, padding, flip = numbers["up"], numbers["down"], numbers["padding"], numbers["flip_filter"]
    exact = x.double().requires_grad_()
    want = reference.filtered_lrelu(exact, fu, fd, None if b is None else b.double(), **numbers)
    clamp = -1.0 if numbers["clamp"] is None else numbers["clamp"]
    gain, slope = numbers["gain"] * up**2, numbers["slope"]
    y, mask, kind = run_tiles(tiles, x, fu, fd, b, None, up, down, padding, [0] * 4, flip, gain, slope, clamp)
    assert (kind < 3) == (seed % 2 == 0)
    assert error(y, want) < TOLERANCE[dtype]
    # The derivative: the same operator with the filters exchanged. Here in float32, and where no sample is near a kink.
    high = mask.shape[2], x.shape[3] * up + padding[0] + padding[1] - (1 if fu is None else fu.shape[-1]) + 1
    kh, kw = (1, 1) if fd is None else (fd.shape[0], fd.shape[-1])
    back = [kw - 1, high[1] - want.shape[3] * down, kh - 1, high[0] - want.shape[2] * down]
    kh, kw = (1, 1) if fu is None else (fu.shape[0], fu.shape[-1])
    forth = [
        kw - padding[0] - 1, x.shape[3] * up - high[1] + padding[0] - up + 1,
        kh - padding[2] - 1, x.shape[2] * up - high[0] + padding[2] - up + 1,
    ]  # fmt: skip
    dy = torch.randn(want.shape)
    dx, _, _ = run_tiles(tiles, dy, fd, fu, None, mask, down, up, back, forth, not flip, gain, slope, -1.0)
    (wanted,) = torch.autograd.grad(want, exact, dy.double())
    far_off = (dx.double() - wanted).abs() > 1e-4 * wanted.abs().max().clamp(min=1e-3)
    assert far_off.double().mean() < 0.02


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_no_register_is_spilled(tmp_path: Path) -> None:
    command = ["nvcc", "-std=c++17", "-O3", "-arch=sm_90", "-Xptxas=-v", "-cubin", "-o", str(tmp_path / "filtered.cubin")]
    output = subprocess.run([*command, str(SOURCES / "filtered_cuda.cu")], check=True, capture_output=True, text=True).stderr
    spills = re.findall(r"(\d+) bytes spill stores", output)
    assert len(spills) == 4
    assert set(spills) == {"0"}
