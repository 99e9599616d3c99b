"""The CUDA kernels: all threads of their launches run on the CPU, against the reference in float64; and their compilation."""

import ctypes
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lia_adapter.errors import LIAError
from lia_adapter.ops import build, native, nvrtc, nvrtc_driver, reference, toolchain
from lia_adapter.ops import nvrtc_plans as plans

SOURCES = Path(__file__).parents[2] / "ops"
ACTS = list(reference.ACTIVATIONS)
DTYPES = list(nvrtc.DTYPES)
TOLERANCE = {torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}

SANITIZE = "LIA_TEST_SANITIZE" in os.environ
"""Set by `test_no_kernel_reads_outside_its_tensors`: this process has AddressSanitizer loaded."""

HARNESS = r"""
// In place of what nvcc knows by itself: then kernels are functions, and a launch calls them for each thread.
struct Index { unsigned x; };
static Index blockIdx, threadIdx;
#define __global__
#define __launch_bounds__(...)
#include "cuda_entries.h"
#include "filtered_tile.h"
#include <cstddef>
#include <limits>
#include <vector>
using namespace lia;
template <class... Args> void play(void (*kernel)(Args...), unsigned blocks, const Args&... args) {
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
    for (threadIdx.x = 0; threadIdx.x < kThreads; threadIdx.x++) kernel(args...);
  }
}
// The kernels of filtered_lrelu: all threads up to a barrier, and on from there.
template <class Tile> void play_tiles(const FilteredPlan& plan) {
  std::vector<Four> shared(Tile::kShared / 4 + 1);
  for (int64_t block = 0; block < plan.blocks; block++) {
    for (Four& four : shared) for (float& v : four.v) v = std::numeric_limits<float>::quiet_NaN();
    for (int step = 0; step < Tile::kSteps; step++) {
      for (int thread = 0; thread < kTileThreads; thread++) Tile::step(step, plan, block, shared[0].v, thread);
    }
  }
}
extern "C" {
void play_EpilogueArgs(void (*kernel)(EpilogueArgs, EpiloguePlan), unsigned n, const EpilogueArgs* a, const EpiloguePlan* p) {
  play(kernel, n, *a, *p);
}
void play_ActBackwardArgs(void (*kernel)(ActBackwardArgs), unsigned n, const ActBackwardArgs* a) { play(kernel, n, *a); }
void play_UpfirdnArgs(void (*kernel)(UpfirdnArgs, UpfirdnPlan), unsigned n, const UpfirdnArgs* a, const UpfirdnPlan* p) {
  play(kernel, n, *a, *p);
}
void lia_filtered_22(const FilteredPlan* plan) { play_tiles<FixedTile<2, 2>>(*plan); }
void lia_filtered_42(const FilteredPlan* plan) { play_tiles<FixedTile<4, 2>>(*plan); }
void lia_filtered_24(const FilteredPlan* plan) { play_tiles<FixedTile<2, 4>>(*plan); }
void lia_filtered_any(const FilteredPlan* plan) { play_tiles<AnyTile>(*plan); }
void plan_epilogue(const EpilogueArgs* a, EpiloguePlan* p) { *p = lia::plan_epilogue(*a); }
void plan_act_backward(const ActBackwardArgs* a, ActBackwardPlan* p) { *p = lia::plan_act_backward(*a); }
void plan_upfirdn2d(const UpfirdnArgs* a, UpfirdnPlan* p) { *p = lia::plan_upfirdn2d(*a); }
int plan_filtered(const FilteredArgs* a, FilteredPlan* p) {
  TileKind kind;
  return lia::plan_filtered(*a, *p, kind) ? kind : -1;
}
bool is_fusible(const Activation* a) { return lia::is_fusible(*a); }
// Sizes, and where the members lie that come last.
void layout(int64_t* to) {
  const size_t found[] = {
      sizeof(Activation), sizeof(Tail), sizeof(EpilogueArgs), sizeof(ActBackwardArgs), sizeof(UpfirdnArgs),
      sizeof(EpiloguePlan), sizeof(ActBackwardPlan), sizeof(UpfirdnPlan), sizeof(FilterStage), sizeof(FilteredArgs),
      sizeof(FilteredPlan), offsetof(Tail, activation), offsetof(EpilogueArgs, tail), offsetof(ActBackwardArgs, activation),
      offsetof(UpfirdnArgs, tail), offsetof(EpiloguePlan, blocks), offsetof(UpfirdnPlan, blocks), offsetof(UpfirdnArgs, gain),
      offsetof(UpfirdnArgs, dtype), offsetof(FilterStage, pad_y0), offsetof(FilteredArgs, mask_out),
      offsetof(FilteredArgs, flip), offsetof(FilteredArgs, clamp), offsetof(FilteredPlan, blocks), offsetof(FilteredPlan, in_h),
  };
  for (size_t i = 0; i < sizeof found / sizeof *found; i++) to[i] = static_cast<int64_t>(found[i]);
}
}
"""


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels as functions of the CPU."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ here")
    folder = tmp_path_factory.mktemp("emulator")
    (folder / "harness.cpp").write_text(HARNESS)
    extra = ["-fsanitize=address"] if SANITIZE else []
    command = [compiler, "-std=c++17", "-O1", *extra, "-fPIC", "-shared", f"-I{SOURCES}", "harness.cpp", "-o", "harness.so"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "harness.so"))
    library.is_fusible.restype = ctypes.c_bool
    return library


def same(plan: ctypes.Structure, mirror: ctypes.Structure) -> None:
    for field, _ in plan._fields_:  # type: ignore[misc]
        if field != "args":
            assert getattr(plan, field) == getattr(mirror, field), field


def planned(emulator: ctypes.CDLL, name: str, args: ctypes.Structure) -> Any:
    """The plan of C++, after a look that Python makes the same."""
    mirror = getattr(plans, f"plan_{name}")(args)
    plan = type(mirror)()
    getattr(emulator, f"plan_{name}")(ctypes.byref(args), ctypes.byref(plan))
    same(plan, mirror)
    return plan


def launch(emulator: ctypes.CDLL, name: str, blocks: int, *structs: ctypes.Structure) -> None:
    """Runs all threads of a kernel."""
    kernel = getattr(emulator, name)
    if isinstance(structs[0], plans.FilteredPlan):
        assert blocks == structs[0].blocks
        kernel(ctypes.byref(structs[0]))
    else:
        play = getattr(emulator, f"play_{type(structs[0]).__name__}")
        play(ctypes.cast(kernel, ctypes.c_void_p), ctypes.c_uint(blocks), *map(ctypes.byref, structs))


def variant(args: Any) -> str:
    """The part of a kernel's name that tells dtype and layout."""
    return f"{nvrtc.DTYPES[DTYPES[args.dtype]]}_{'last' if args.channels_last else 'planes'}"


def width(plan: Any) -> str:
    return "chunked" if plan.chunked else "single"


class Buffer:
    """The numbers of a tensor as a kernel sees them, between guards: NaN, whose reading or overwriting shows."""

    GUARD = 0 if SANITIZE else 64

    def __init__(self, tensor: Tensor, *, channels_last: bool = False, offset: int = 0) -> None:
        self.channels_last, self.shape = channels_last, tensor.shape
        dense = tensor.permute(0, 2, 3, 1) if channels_last else tensor
        self._all = torch.full((tensor.numel() + 2 * self.GUARD + offset,), torch.nan, dtype=tensor.dtype)
        self._begin = self.GUARD + offset
        self._inner().copy_(dense.reshape(-1))

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: torch.dtype, *, channels_last: bool = False, offset: int = 0) -> "Buffer":
        return cls(torch.full(shape, torch.nan, dtype=dtype), channels_last=channels_last, offset=offset)

    def _inner(self) -> Tensor:
        return self._all[self._begin : self._begin + self.shape.numel()]

    @property
    def pointer(self) -> int:
        return self._inner().data_ptr()

    def tensor(self) -> Tensor:
        outside = torch.cat([self._all[: self._begin], self._all[self._begin + self.shape.numel() :]])
        assert outside.isnan().all(), "the kernel wrote outside of its buffer"
        if not self.channels_last:
            return self._inner().reshape(self.shape)
        n, c, h, w = self.shape
        return self._inner().reshape(n, h, w, c).permute(0, 3, 1, 2)


def close(found: Tensor, expected: Tensor, message: str, scale: float = 1e-3) -> None:
    """`scale`: of what was summed, where the result may be small by cancellation."""
    tolerance = TOLERANCE[found.dtype]
    worst = (found.double() - expected).abs().max() / max(float(expected.abs().max()), scale)
    assert worst <= tolerance, f"{message}: {worst}"


class Tail:
    """Random scale, noise, bias and activation."""

    def __init__(self, rng: random.Random, n: int, c: int, h: int, w: int, dtype: torch.dtype) -> None:
        offset = rng.choice([0, 0, 1])
        self.noise_shape = rng.choice([(h, w), (n, 1, h, w)])
        self.parts = [
            torch.randn(shape).to(dtype) if rng.random() < 0.7 else None for shape in ((n, c), self.noise_shape, (c,))
        ]
        self.act = rng.choice(["linear", "lrelu", "lrelu", *ACTS])
        self.alpha, self.gain = rng.choice([0.0, 0.2, 0.5, 1.5]), rng.choice([1.0, 2**0.5, 0.3, -0.7])
        self.clamp = rng.choice([None, None, 0.6])
        self._buffers = [None if part is None else Buffer(part, offset=offset) for part in self.parts]
        stride = h * w if len(self.noise_shape) == 4 and n > 1 else 0
        self.struct = plans.Tail(*[b and b.pointer for b in self._buffers], stride, self.activation)

    @property
    def activation(self) -> plans.Activation:
        return plans.Activation(ACTS.index(self.act), self.alpha, self.gain, -1 if self.clamp is None else self.clamp)

    def expected(self, x: Tensor) -> Tensor:
        parts = [None if part is None else part.double() for part in self.parts]
        return reference.modconv_epilogue(
            x, *parts, act=self.act, alpha=self.alpha, gain=self.gain, clamp=self.clamp
        )  # fmt: skip

    def __repr__(self) -> str:
        absent = [part is None for part in self.parts]
        return f"{self.act} alpha {self.alpha} gain {self.gain} clamp {self.clamp} absent {absent} noise {self.noise_shape}"


@pytest.mark.parametrize("seed", range(40))
def test_epilogue(emulator: ctypes.CDLL, seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    n, c = rng.choice([1, 2, 3]), rng.choice([1, 3, 8, 12, 16, 40])
    h, w = rng.choice([(1, 1), (4, 4), (5, 7), (8, 16), (24, 24), (9, 33)])
    dtype, channels_last, offset = rng.choice(DTYPES), rng.random() < 0.5, rng.choice([0, 0, 0, 1])
    x = torch.randn(n, c, h, w).to(dtype)
    tail = Tail(rng, n, c, h, w, dtype)
    source = Buffer(x, channels_last=channels_last, offset=offset)
    result = source if rng.random() < 0.3 else Buffer.empty(x.shape, dtype, channels_last=channels_last, offset=offset)
    args = plans.EpilogueArgs(
        source.pointer, result.pointer, n, c, h * w, channels_last, DTYPES.index(dtype), tail.struct
    )  # fmt: skip
    plan = planned(emulator, "epilogue", args)
    launch(emulator, f"lia_epilogue_{variant(args)}_{width(plan)}", plan.blocks, args, plan)
    close(result.tensor(), tail.expected(x.double()), f"{tuple(x.shape)} {dtype} {channels_last=} {offset=} {tail}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", ACTS)
def test_act_backward(emulator: ctypes.CDLL, act: str, dtype: torch.dtype) -> None:
    rng = random.Random(ACTS.index(act))
    torch.manual_seed(0)
    for size in (1, 7, 100, 4096, 9001):
        for clamp in (None, 0.8):
            offset, gain, alpha = rng.choice([0, 1]), rng.choice([1.0, 2**0.5, -0.5]), rng.choice([0.2, 1.5])
            v = torch.randn(size, dtype=torch.float64).to(dtype).double().requires_grad_()
            y = reference.bias_act(v, act=act, alpha=alpha, gain=gain, clamp=clamp, dim=0)
            ref = (v if act == "swish" else y).detach().to(dtype)
            dy = torch.randn(size).to(dtype)
            # Where rounding moves the output across a threshold, the derivative jumps: such elements are left out.
            sure = (
                torch.ones(size, dtype=torch.bool)
                if clamp is None
                else ((y.detach().abs() - clamp).abs() > 0.01) | (y.abs() == clamp)
            )
            (expected,) = torch.autograd.grad(y, v, dy.double())
            buffers = [Buffer(dy, offset=offset), Buffer(ref, offset=offset), Buffer.empty((size,), dtype, offset=offset)]
            activation = plans.Activation(ACTS.index(act), alpha, gain, -1 if clamp is None else clamp)
            args = plans.ActBackwardArgs(*[b.pointer for b in buffers], size, DTYPES.index(dtype), activation)
            plan = planned(emulator, "act_backward", args)
            launch(emulator, f"lia_act_backward_{nvrtc.DTYPES[dtype]}_{width(plan)}", plan.blocks, args)
            found = buffers[2].tensor()
            assert not found.isnan().any()
            close(found * sure, expected * sure, f"{act} {size} {clamp=} {gain=} {alpha=}", scale=4 * float(dy.abs().max()))


def random_filter(rng: random.Random, k: int | None) -> Tensor:
    kind = rng.choice(["outer", "outer", "any", "vector"])
    kh, kw = (k, k) if k else (rng.choice([1, 2, 3, 5, 8, 12]), rng.choice([1, 2, 4, 7]))
    if kind == "vector":
        return torch.randn(kw)
    if kind == "any":
        return torch.randn(kh, kw)
    x, y = torch.randn(kw), torch.randn(kh)
    x[rng.randrange(kw)] = 0  # so that some rows and columns are no use as pivot
    return torch.outer(y, x) if kw > 1 else torch.outer(y, torch.ones(1))


def upfirdn2d_case(
    emulator: ctypes.CDLL, rng: random.Random, k: int | None, up: tuple[int, int], down: tuple[int, int]
) -> None:
    n, c = rng.choice([1, 2]), rng.choice([1, 3, 4, 8, 16, 24, 72])
    h, w = rng.choice([1, 4, 7, 16, 33]), rng.choice([1, 5, 8, 17, 32, 40])
    dtype, channels_last, offset = rng.choice(DTYPES), rng.random() < 0.5, rng.choice([0, 0, 0, 1])
    f = random_filter(rng, k)
    (kh, kw), flip = (f.shape[0], f.shape[-1]), rng.random() < 0.5
    gain = rng.choice([1.0, 4.0, -2.0]) if f.ndim == 2 else rng.choice([1.0, 4.0])
    px0, px1, py0, py1 = (rng.randint(-2, 5) for _ in range(4))
    px1 = max(px1, kw - w * up[0] - px0)  # at least one result
    py1 = max(py1, kh - h * up[1] - py0)
    crop = min(px0, px1, 0) * -1 - w * up[0]
    if crop >= 0 or min(py0, py1, 0) * -1 >= h * up[1]:  # the reference cannot crop more than there is
        px0, py0 = max(px0, 0), max(py0, 0)
        px1, py1 = max(px1, 0), max(py1, 0)
    x = torch.randn(n, c, h, w).to(dtype)
    options = {"up": up, "down": down, "padding": (px0, px1, py0, py1), "flip_filter": flip, "gain": gain}
    expected = reference.upfirdn2d(x.double(), f.double(), **options)  # type: ignore[arg-type]
    out_h, out_w = expected.shape[2:]
    tail = Tail(rng, n, c, out_h, out_w, dtype)
    has_tail = plans.is_fusible(tail.activation) and rng.random() < 0.7
    assert emulator.is_fusible(ctypes.byref(tail.activation)) == plans.is_fusible(tail.activation)
    if has_tail:
        expected = tail.expected(expected)
    source = Buffer(x, channels_last=channels_last, offset=offset)
    result = Buffer.empty(tuple(expected.shape), dtype, channels_last=channels_last)
    taps = Buffer(f)
    args = plans.UpfirdnArgs(
        source.pointer, result.pointer, taps.pointer, n, c, h, w, out_h, out_w, kh, kw, *up, *down, px0, py0,
        f.ndim == 1, flip, channels_last, DTYPES.index(dtype), gain, has_tail, tail.struct,
    )  # fmt: skip
    plan = planned(emulator, "upfirdn2d", args)
    if plan.strips > 1 and rng.random() < 0.5:  # long strips, which only large tensors have
        rows, strips = rng.choice([plan.steps, 9]), plan.strips
        plan.rows, plan.strips = rows, -(-plan.steps // rows)
        plan.units = plan.units // strips * plan.strips
        plan.blocks = plan.blocks // strips * plan.strips if channels_last else -(-plan.units // plans.THREADS)
    launch(emulator, f"lia_upfirdn2d_{variant(args)}_{plans.PATHS[plan.path]}", plan.blocks, args, plan)
    about = f"{tuple(x.shape)} {tuple(f.shape)} {dtype} {channels_last=} {offset=} {options} {has_tail=} {tail}"
    close(result.tensor(), expected, about)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_upfirdn2d_of_stylegan2(emulator: ctypes.CDLL, up: int, down: int, seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    upfirdn2d_case(emulator, rng, 4, (up, up), (down, down))


@pytest.mark.parametrize("seed", range(40))
def test_upfirdn2d_of_any_kind(emulator: ctypes.CDLL, seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    factors = [(rng.randint(1, 4), rng.randint(1, 4)) for _ in range(2)]
    upfirdn2d_case(emulator, rng, None, *factors)


@pytest.mark.slow
def test_no_kernel_reads_outside_its_tensors() -> None:
    """The tests of all kernels again, with buffers without guards, under AddressSanitizer."""
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(runtime):
        pytest.skip("no AddressSanitizer here")
    environment = os.environ | {
        "LIA_TEST_SANITIZE": "1", "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0:alloc_dealloc_mismatch=0",
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-s",
        "-x",
        "-p",
        "no:cacheprovider",
        "-k",
        "upfirdn2d_of or epilogue or backward or without_a_binding",
    ]
    done = subprocess.run([*command, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000] + done.stdout[-2000:]


def test_not_a_number_stays_one(emulator: ctypes.CDLL) -> None:
    x = Buffer(torch.full((1, 4, 1, 1), torch.nan))
    for act in ACTS:
        tail = plans.Tail(None, None, None, 0, plans.Activation(ACTS.index(act), 0.2, 1, 256))
        y = Buffer(torch.zeros(1, 4, 1, 1))
        args = plans.EpilogueArgs(x.pointer, y.pointer, 1, 4, 1, True, 0, tail)
        plan = planned(emulator, "epilogue", args)
        launch(emulator, f"lia_epilogue_{variant(args)}_{width(plan)}", plan.blocks, args, plan)
        assert y.tensor().isnan().all(), act


def test_python_and_c_agree_on_structs(emulator: ctypes.CDLL) -> None:
    p = plans
    expected = [
        ctypes.sizeof(struct) for struct in (p.Activation, p.Tail, p.EpilogueArgs, p.ActBackwardArgs, p.UpfirdnArgs,
                                             p.EpiloguePlan, p.ActBackwardPlan, p.UpfirdnPlan, p.FilterStage, p.FilteredArgs,
                                             p.FilteredPlan)
    ]  # fmt: skip
    members = [
        p.Tail.activation, p.EpilogueArgs.tail, p.ActBackwardArgs.activation, p.UpfirdnArgs.tail, p.EpiloguePlan.blocks,
        p.UpfirdnPlan.blocks, p.UpfirdnArgs.gain, p.UpfirdnArgs.dtype, p.FilterStage.pad_y0, p.FilteredArgs.mask_out,
        p.FilteredArgs.flip, p.FilteredArgs.clamp, p.FilteredPlan.blocks, p.FilteredPlan.in_h,
    ]  # fmt: skip
    expected += [member.offset for member in members]
    found = (ctypes.c_int64 * len(expected))()
    emulator.layout(found)
    assert list(found) == expected


@pytest.mark.parametrize("dtype", [0, 1])
def test_plans_of_large_tensors(emulator: ctypes.CDLL, dtype: int) -> None:
    """More than 2^31 elements, and more than a grid can hold."""
    tail = plans.Tail(None, None, None, 0, plans.Activation(2, 0.2, 1, -1))
    for n, c, h, w, fits in ((33, 64, 1024, 1024, True), (8, 512, 1025, 1025, True), (2**20, 2**12, 2**10, 2**10, False)):
        for channels_last in (False, True):
            size = plans.EpilogueArgs(256, 512, n, c, h * w, channels_last, dtype, tail)
            assert (planned(emulator, "epilogue", size).blocks > 0) == fits
            for up, down in ((1, 1), (2, 1), (1, 2), (3, 2)):
                args = plans.UpfirdnArgs(
                    256, 512, 768, n, c, h, w, h, w, 4, 4, up, up, down, down, 1, 1, False, False, channels_last, dtype, 1.0,
                    False, tail,
                )  # fmt: skip
                assert (planned(emulator, "upfirdn2d", args).blocks > 0) == fits


def filtered_args(stages: list[tuple[int, int, bool, int]], size: tuple[int, int], mask: bool) -> plans.FilteredArgs:
    """stages: kh, kw, separable and factor of both filters; size: of y, at random in the middle."""
    up, down = (plans.FilterStage(1, *stage, 3, 2) for stage in stages)
    high = [n * down.factor + k + 5 for n, k in zip(size, (down.kh, down.kw), strict=True)]
    return plans.FilteredArgs(
        1, 1, None, None, 1 if mask else None, 6, 3, 50, 60, *high, *size, up, down, False, 0, 1.0, 0.2, -1.0
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_plans_of_filtered_lrelu(emulator: ctypes.CDLL, seed: int) -> None:
    rng = random.Random(seed)
    kinds = []
    for _ in range(200):
        stages = []
        for _ in range(2):
            kw, separable = rng.choice([1, 4, 6, 12, 13, 24, 48, 80]), rng.random() < 0.8
            stages.append((kw if separable else rng.choice([1, 5, 30]), kw, separable, rng.choice([1, 2, 2, 4, 7])))
        args = filtered_args(stages, (rng.randint(1, 300), rng.randint(1, 300)), rng.random() < 0.5)
        plan, planned = plans.FilteredPlan(), plans.plan_filtered(args)
        kinds.append(emulator.plan_filtered(ctypes.byref(args), ctypes.byref(plan)))
        assert kinds[-1] == (-1 if planned is None else planned[1])
        if planned:
            same(plan, planned[0])
            assert bytes(plan.args) == bytes(planned[0].args)
    assert set(kinds) == {-1, 0, 1, 2, 3}


def test_shared_memory_holds_filters_of_32_taps_and_factors_of_8() -> None:
    """In both directions, and so every filter of StyleGAN3: functions.py sends longer ones to the reference."""
    for up, down in itertools.product(range(1, 9), repeat=2):
        for taps in itertools.product((1, 8, 31, 32), repeat=2):
            for separable in itertools.product((False, True), repeat=2):
                stages = [(k, k, s, factor) for k, s, factor in zip(taps, separable, (up, down), strict=True)]
                assert plans.plan_filtered(filtered_args(stages, (64, 64), True)), stages


# -- the ops of nvrtc.py, on the CPU


@pytest.fixture
def launched(emulator: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has launches run here, and gives the names of the kernels."""
    names = []

    def launch_here(x: Tensor, group: str, name: str, blocks: int, *structs: ctypes.Structure) -> None:
        assert name in KERNELS[group]
        names.append(name)
        launch(emulator, name, blocks, *structs)

    monkeypatch.setattr(nvrtc, "launch", launch_here)
    torch.manual_seed(0)
    return names


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "planes": lambda x: x,
    "last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
}
LONG = torch.ones(60)
LRELU, TANH = (ACTS.index("lrelu"), 0.2, 1.5, 0.8), (ACTS.index("tanh"), 0.0, 1.5, -1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ops_without_a_binding(launched: list[str], layout: str, dtype: torch.dtype) -> None:
    x = LAYOUTS[layout](torch.randn(2, 8, 9, 16).to(dtype))
    scale, noise, b = torch.randn(2, 8).to(dtype), torch.randn(2, 1, 9, 16).to(dtype), torch.randn(8).to(dtype)
    dense = x.contiguous() if layout == "transposed" else x
    y = nvrtc._epilogue(x, scale, noise, b, *LRELU)
    parts = scale.double(), noise.double(), b.double()
    close(y, reference.modconv_epilogue(x.double(), *parts, act="lrelu", gain=1.5, clamp=0.8), "epilogue")
    assert y.stride() == dense.stride()
    overwritten = x.clone()
    nvrtc._epilogue_(overwritten, scale, noise, b, *LRELU)
    assert torch.equal(overwritten, y) and overwritten.stride() == x.stride()
    dy = torch.randn(2, 8, 9, 16).to(dtype)
    close(nvrtc._act_backward(dy, x, *TANH), dy.double() * 1.5 * (1 - (x.double() / 1.5) ** 2), "act_backward")
    f, geometry = torch.tensor([1.0, 3, 3, 1]) / 8, (2, 2, 1, 1, 2, 1, 2, 1, False)
    up = nvrtc._upfirdn2d(x, f, *geometry, 4.0)
    expected = reference.upfirdn2d(x.double(), f.double(), up=2, padding=(2, 1, 2, 1), gain=4)
    close(up, expected, "upfirdn2d")
    noise = torch.randn(18, 32).to(dtype)
    for act, numbers in (("lrelu", LRELU), ("tanh", TANH)):
        y = nvrtc._upfirdn2d_act(x, f, scale, noise, b, *geometry, 4.0, *numbers)
        clamp = None if numbers[3] < 0 else numbers[3]
        tail = reference.modconv_epilogue(expected, parts[0], noise.double(), parts[2], act=act, gain=1.5, clamp=clamp)
        close(y, tail, act, scale=4.0)  # tanh comes in a pass of its own, after a rounding
        assert y.is_contiguous(memory_format=torch.channels_last if layout == "last" else torch.contiguous_format)
    name = f"{nvrtc.DTYPES[dtype]}_{'last' if layout == 'last' else 'planes'}"
    filtered_up = f"lia_upfirdn2d_{name}_up2"
    assert [n for n in launched if "act_backward" not in n] == [
        *[f"lia_epilogue_{name}_chunked"] * 2, *[filtered_up] * 3, f"lia_epilogue_{name}_chunked"
    ]  # fmt: skip


def test_rows_of_features_have_no_positions(launched: list[str]) -> None:
    x, b = torch.randn(3, 8), torch.randn(8)
    close(nvrtc._epilogue(x, None, None, b, *LRELU), reference.bias_act(x, b, act="lrelu", gain=1.5, clamp=0.8).double(), "fc")
    assert nvrtc._epilogue(x[:0], None, None, b, *LRELU).shape == (0, 8)
    assert launched == ["lia_epilogue_float_last_chunked"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("up", "down", "fu", "fd", "kernel"),
    [(2, 2, (12,), (12,), "22"), (4, 2, (24,), (12,), "42"), (2, 4, (8,), (24,), "24"), (2, 3, (4, 3), None, "any")],
)
def test_filtered_lrelu_without_a_binding(
    launched: list[str], up: int, down: int, fu: tuple[int, ...], fd: tuple[int, ...] | None, kernel: str, dtype: torch.dtype
) -> None:
    fu_taps = torch.randint(-16, 17, fu) / 32  # of few bits, so that the reference can round them
    fd_taps = None if fd is None else torch.randint(-16, 17, fd) / 32
    x, b = torch.randn(2, 3, 20, 17).to(dtype).transpose(2, 3), torch.randn(3).to(dtype)
    pads, numbers = [9, 8, 11, 7], (1.5 * up**2, 0.2)
    y, mask = nvrtc._filtered_lrelu(x, fu_taps, fd_taps, b, up, down, *pads, False, *numbers, 0.7, True)
    options: dict[str, Any] = {"up": up, "down": down, "padding": pads, "gain": 1.5, "slope": 0.2}
    want = reference.filtered_lrelu(x.double(), fu_taps, fd_taps, b.double(), clamp=0.7, **options)
    close(y, want, "filtered_lrelu")
    assert nvrtc._filtered_lrelu(x, fu_taps, fd_taps, b, up, down, *pads, False, *numbers, 0.7, False)[1].numel() == 0
    # Where nothing was clamped, the recorded operator makes of x what the activation made of it, here with more paddings.
    _, mask = nvrtc._filtered_lrelu(x, fu_taps, fd_taps, None, up, down, *pads, False, *numbers, -1.0, True)
    masked = nvrtc._filtered_masked(x, fu_taps, fd_taps, mask, up, down, *pads, 2, 1, 0, 3, False, *numbers)
    high = reference.upfirdn2d(x.double(), fu_taps.double(), up=up, padding=pads, gain=up**2)
    assert mask.shape == (2, 3, high.shape[2], (high.shape[3] + 3) // 4)
    high = torch.nn.functional.leaky_relu(high, 0.2) * 1.5
    close(masked, reference.upfirdn2d(high, fd_taps, down=down, padding=(2, 1, 0, 3)), "filtered_masked")
    assert set(launched) == {f"lia_filtered_{kernel}"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, f: nvrtc._epilogue(x, None, None, x[0, :2, 0, 0], *LRELU), "b has 2 elements; expected 3"),
        (lambda x, f: nvrtc._epilogue(x, None, None, f[:3].half(), *LRELU), "b must have the dtype and the device of x"),
        (lambda x, f: nvrtc._epilogue(x.double(), None, None, None, *LRELU), "take float32, float16 and bfloat16, not"),
        (lambda x, f: nvrtc._act_backward(x, x[:1], *LRELU), "dy must have the shape"),
        (lambda x, f: nvrtc._upfirdn2d(x, f.half(), 1, 1, 1, 1, 0, 0, 0, 0, False, 1.0), "f must be float32"),
        (lambda x, f: nvrtc._upfirdn2d(x, f, 1, 1, 0, 1, 0, 0, 0, 0, False, 1.0), "up and down must be 1 or more"),
        (lambda x, f: nvrtc._upfirdn2d(x, f, 1, 1, 1, 1, -2, -2, 0, 0, False, 1.0), "smaller than the filter"),
        (lambda x, f: nvrtc._filtered_lrelu(x[0], f, f, None, 1, 1, 0, 0, 0, 0, False, 1, 0, -1, True), r"\[N, C, H, W\]"),
        (lambda x, f: nvrtc._filtered_lrelu(x, f, f, None, 0, 1, 0, 0, 0, 0, False, 1, 0, -1, True), "up and down"),
        (lambda x, f: nvrtc._filtered_lrelu(x, f, f[:0], None, 1, 1, 0, 0, 0, 0, False, 1, 0, -1, True), "fd must be"),
        (lambda x, f: nvrtc._filtered_lrelu(x, f, f, None, 1, 1, 0, 0, 0, 0, False, 1, 0, -1, True), "smaller than the f"),
        (lambda x, f: nvrtc._filtered_masked(x, None, None, f.byte(), 1, 1, *[0] * 8, False, 1, 0), r"uint8 \[2, 3, 5, 2\]"),
        (
            lambda x, f: nvrtc._filtered_lrelu(x, LONG, LONG, None, 1, 1, *[99] * 4, False, 1, 0, -1, True),
            "filters are too long for the CUDA kernels",
        ),
    ],
)  # fmt: skip
def test_what_the_kernels_cannot_take(launched: list[str], call: Callable[[Tensor, Tensor], Any], message: str) -> None:
    with pytest.raises(LIAError, match=message):
        call(torch.randn(2, 3, 5, 5), torch.ones(4))
    assert launched == []


def test_what_runs_is_told_by_op(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where NVRTC fails in filtered_lrelu alone, which is compiled by itself."""

    def load(group: str) -> None:
        raise LIAError(f"no memory for {group}")

    monkeypatch.delenv("LIA_OPS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(native, "_outcomes", {d: native._Outcome("nvrtc", "") for d in ("cpu", "cuda")})
    monkeypatch.setattr(nvrtc_driver, "load", load)
    assert [native.implementation("cuda", op) for op in ("upfirdn2d", "filtered_lrelu", "filtered_lrelu")] == ["nvrtc"] + [
        "reference"
    ] * 2
    assert {op: devices["cuda"] for op, devices in native.status().items() if devices["cuda"] != "nvrtc"} == {
        "filtered_lrelu": "reference"
    }
    assert [record.getMessage() for record in caplog.records] == [
        "filtered_lrelu on CUDA: plain torch, slower, because NVRTC cannot be used: no memory for filtered."
    ]


# -- compilation


def kernel_names() -> dict[str, set[str]]:
    names = set()
    for dtype in nvrtc.DTYPES.values():
        for layout in ("planes", "last"):
            names |= {f"lia_epilogue_{dtype}_{layout}_{width}" for width in ("single", "chunked")}
            names |= {f"lia_upfirdn2d_{dtype}_{layout}_{path}" for path in plans.PATHS}
        names |= {f"lia_act_backward_{dtype}_{width}" for width in ("single", "chunked")}
    return {"cuda": names, "filtered": {f"lia_filtered_{tile}" for tile in plans.TILES}}


KERNELS = kernel_names()


def spills(log: str) -> dict[str, int]:
    """Kernel -> bytes spilled by it and by what it calls; from what ptxas says with -v."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        numbers = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        assert numbers
        found[part.split("'")[0]] = sum(int(number) for pair in numbers for number in pair)
    return found


# That of filtered_lrelu for one architecture is a fast test in test_ops_filtered.py.
@pytest.mark.parametrize(
    ("source", "architecture"),
    [
        pytest.param(source, arch, marks=() if (source, arch) == ("cuda", 90) else pytest.mark.slow)
        for source in ("cuda", "filtered_cuda")
        for arch in toolchain.SUPPORTED
    ],
)
def test_nvcc_spills_nothing(source: str, architecture: int, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc here")
    command = [nvcc, "-std=c++17", "-O3", "-cubin", f"-arch=sm_{architecture}", "-Xptxas=-v", "-o", str(tmp_path / "cubin")]
    done = subprocess.run([*command, str(SOURCES / f"{source}.cu")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert spills(done.stdout + done.stderr) == dict.fromkeys(KERNELS[source.removesuffix("_cuda")], 0)


def test_all_sources_are_compiled_above() -> None:
    assert {file.name for file in SOURCES.glob("*.cu")} == {"cuda.cu", "filtered_cuda.cu"}


@pytest.mark.slow
def test_the_library_links_and_registers_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs nvcc and a torch with CUDA, but no GPU."""
    monkeypatch.setenv("LIA_CUDA_ARCH", "9.0")
    try:
        plan = native._cuda_plan()
    except LIAError as error:
        pytest.skip(str(error))
    library = build.build(plan, [lambda: tmp_path])
    code = (
        "import sys, torch; from lia_adapter.ops import library; torch.ops.load_library(sys.argv[1]);"
        "names = 'epilogue act_backward upfirdn2d upfirdn2d_act filtered_lrelu filtered_masked'.split();"
        "has = torch._C._dispatch_has_kernel_for_dispatch_key;"
        "assert all(has('lia_adapter::' + n, 'CUDA') and not has('lia_adapter::' + n, 'CPU') for n in names)"
    )
    subprocess.run([sys.executable, "-c", code, str(library.path)], cwd=SOURCES.parent, check=True)


def needs_nvrtc(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except LIAError as error:
        if "was not found" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("group", ["filtered", pytest.param("cuda", marks=pytest.mark.slow)])
def test_nvrtc_spills_nothing(group: str) -> None:
    image, log = needs_nvrtc(nvrtc_driver.compile_kernels, 90, group)
    assert image.startswith(b"\x7fELF")
    assert spills(log) == dict.fromkeys(KERNELS[group], 0)


def test_nvrtc_makes_ptx_for_a_gpu_that_is_newer() -> None:
    image, _ = needs_nvrtc(nvrtc_driver.compile_kernels, 990, "cuda")
    assert set(re.findall(r"\.visible \.entry (\w+)", image.decode())) == KERNELS["cuda"]


def test_nvrtc_refuses_a_gpu_that_is_older() -> None:
    with pytest.raises(LIAError, match=r"compute capability 1\.0"):
        needs_nvrtc(nvrtc_driver.compile_kernels, 10, "filtered")


def test_nvrtc_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call reads the file; a damaged one is made anew; a folder that cannot be written or found does no harm."""
    compiled = []

    def compile_kernels(architecture: int, group: str) -> tuple[bytes, str]:
        compiled.append(group)
        return b"image", ""

    def nowhere() -> Path:
        raise OSError("there is no home folder for the cache")

    needs_nvrtc(nvrtc_driver._Nvrtc)
    monkeypatch.setenv("LIA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(nvrtc_driver, "compile_kernels", compile_kernels)
    assert [nvrtc_driver._cached_kernels(90, "cuda") for _ in range(2)] == [b"image", b"image"]
    assert compiled == ["cuda"]
    (file,) = tmp_path.rglob("nvrtc-cuda-*")
    file.write_bytes(file.read_bytes()[:-1])
    assert nvrtc_driver._cached_kernels(90, "cuda") == b"image"
    monkeypatch.setenv("LIA_CACHE_DIR", "/proc/nowhere")
    assert nvrtc_driver._cached_kernels(90, "cuda") == b"image"
    monkeypatch.setattr(build, "cache_folders", lambda: (nowhere,))
    assert nvrtc_driver._cached_kernels(90, "cuda") == b"image"
    assert len(compiled) == 4
