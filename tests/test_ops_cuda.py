"""The CUDA kernels: all threads of their launches run on the CPU, against the reference in float64; and their compilation."""

import ctypes
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
from lia_adapter.ops import nvrtc, reference

SOURCES = Path(__file__).parents[1] / "ops"
ACTS = list(reference.ACTIVATIONS)
DTYPES = list(nvrtc.DTYPES)
TOLERANCE = {torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}

SANITIZE = "LIA_TEST_SANITIZE" in os.environ
"""Set by `test_no_kernel_reads_outside_its_tensors`: this process has AddressSanitizer loaded."""

HARNESS = r"""
#include "cuda_kernels.h"
#include <cstddef>
using namespace lia;
template <class F> void with_type(int dtype, const F& f) {
  if (dtype == kFloat32) f(float{});
  else if (dtype == kFloat16) f(Half{});
  else f(BFloat16{});
}
template <class F> void every_thread(unsigned blocks, const F& f) {
  for (unsigned b = 0; b < blocks; b++) for (unsigned t = 0; t < kThreads; t++) f(b, t);
}
template <class T, bool LAST> void run_path(const UpfirdnArgs& a, const UpfirdnPlan& p, unsigned b, unsigned t) {
  if (p.path == kPlain4) upfirdn2d_taps4<T, LAST, 1, 1>(a, p, b, t);
  else if (p.path == kUp2) upfirdn2d_taps4<T, LAST, 2, 1>(a, p, b, t);
  else if (p.path == kDown2) upfirdn2d_taps4<T, LAST, 1, 2>(a, p, b, t);
  else upfirdn2d_generic<T, LAST>(a, p, b, t);
}
extern "C" {
void run_epilogue(const EpilogueArgs* a, const EpiloguePlan* plan) {
  with_type(a->dtype, [&](auto zero) {
    using T = decltype(zero);
    every_thread(plan->blocks, [&](unsigned b, unsigned t) {
      if (a->channels_last && plan->chunked) epilogue<T, true, true>(*a, *plan, b, t);
      else if (a->channels_last) epilogue<T, true, false>(*a, *plan, b, t);
      else if (plan->chunked) epilogue<T, false, true>(*a, *plan, b, t);
      else epilogue<T, false, false>(*a, *plan, b, t);
    });
  });
}
void run_act_backward(const ActBackwardArgs* a, const ActBackwardPlan* plan) {
  with_type(a->dtype, [&](auto zero) {
    using T = decltype(zero);
    every_thread(plan->blocks, [&](unsigned b, unsigned t) {
      plan->chunked ? act_backward<T, true>(*a, b, t) : act_backward<T, false>(*a, b, t);
    });
  });
}
void run_upfirdn2d(const UpfirdnArgs* a, const UpfirdnPlan* plan) {
  with_type(a->dtype, [&](auto zero) {
    using T = decltype(zero);
    every_thread(plan->blocks, [&](unsigned b, unsigned t) {
      a->channels_last ? run_path<T, true>(*a, *plan, b, t) : run_path<T, false>(*a, *plan, b, t);
    });
  });
}
void plan_epilogue(const EpilogueArgs* a, EpiloguePlan* p) { *p = lia::plan_epilogue(*a); }
void plan_act_backward(const ActBackwardArgs* a, ActBackwardPlan* p) { *p = lia::plan_act_backward(*a); }
void plan_upfirdn2d(const UpfirdnArgs* a, UpfirdnPlan* p) { *p = lia::plan_upfirdn2d(*a); }
bool is_fusible(const Activation* a) { return lia::is_fusible(*a); }
// Sizes, and where the members lie that come last.
void layout(int64_t* to) {
  const size_t found[] = {
      sizeof(Activation), sizeof(Tail), sizeof(EpilogueArgs), sizeof(ActBackwardArgs), sizeof(UpfirdnArgs),
      sizeof(EpiloguePlan), sizeof(ActBackwardPlan), sizeof(UpfirdnPlan), offsetof(Tail, activation),
      offsetof(EpilogueArgs, tail), offsetof(ActBackwardArgs, activation), offsetof(UpfirdnArgs, tail),
      offsetof(EpiloguePlan, blocks), offsetof(UpfirdnPlan, blocks), offsetof(UpfirdnArgs, gain), offsetof(UpfirdnArgs, dtype),
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


def planned(emulator: ctypes.CDLL, name: str, args: ctypes.Structure) -> Any:
    """The plan of C++, after a look that Python makes the same."""
    mirror = getattr(nvrtc, f"plan_{name}")(args)
    plan = type(mirror)()
    getattr(emulator, f"plan_{name}")(ctypes.byref(args), ctypes.byref(plan))
    for field, _ in plan._fields_:
        assert getattr(plan, field) == getattr(mirror, field), field
    return plan


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
        self.struct = nvrtc.Tail(*[b and b.pointer for b in self._buffers], stride, self.activation)

    @property
    def activation(self) -> nvrtc.Activation:
        return nvrtc.Activation(ACTS.index(self.act), self.alpha, self.gain, -1 if self.clamp is None else self.clamp)

    def expected(self, x: Tensor) -> Tensor:
        parts = [None if part is None else part.double() for part in self.parts]
        return reference.modconv_epilogue(
            x, *parts, act=self.act, alpha=self.alpha, gain=self.gain, clamp=self.clamp
        )  # fmt: skip

    def __repr__(self) -> str:
        absent = [part is None for part in self.parts]
        return f"{self.act} alpha {self.alpha} gain {self.gain} clamp {self.clamp} absent {absent} noise {self.noise_shape}"


@pytest.mark.parametrize("seed", range(60))
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
    args = nvrtc.EpilogueArgs(
        source.pointer, result.pointer, n, c, h * w, channels_last, DTYPES.index(dtype), tail.struct
    )  # fmt: skip
    plan = planned(emulator, "epilogue", args)
    emulator.run_epilogue(ctypes.byref(args), ctypes.byref(plan))
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
            activation = nvrtc.Activation(ACTS.index(act), alpha, gain, -1 if clamp is None else clamp)
            args = nvrtc.ActBackwardArgs(*[b.pointer for b in buffers], size, DTYPES.index(dtype), activation)
            plan = planned(emulator, "act_backward", args)
            emulator.run_act_backward(ctypes.byref(args), ctypes.byref(plan))
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
    has_tail = nvrtc.is_fusible(tail.activation) and rng.random() < 0.7
    assert emulator.is_fusible(ctypes.byref(tail.activation)) == nvrtc.is_fusible(tail.activation)
    if has_tail:
        expected = tail.expected(expected)
    source = Buffer(x, channels_last=channels_last, offset=offset)
    result = Buffer.empty(tuple(expected.shape), dtype, channels_last=channels_last)
    taps = Buffer(f)
    args = nvrtc.UpfirdnArgs(
        source.pointer, result.pointer, taps.pointer, n, c, h, w, out_h, out_w, kh, kw, *up, *down, px0, py0,
        f.ndim == 1, flip, channels_last, DTYPES.index(dtype), gain, has_tail, tail.struct,
    )  # fmt: skip
    plan = planned(emulator, "upfirdn2d", args)
    if plan.strips > 1 and rng.random() < 0.5:  # long strips, which only large tensors have
        rows, strips = rng.choice([plan.steps, 9]), plan.strips
        plan.rows, plan.strips = rows, -(-plan.steps // rows)
        plan.units = plan.units // strips * plan.strips
        plan.blocks = plan.blocks // strips * plan.strips if channels_last else -(-plan.units // nvrtc.THREADS)
    emulator.run_upfirdn2d(ctypes.byref(args), ctypes.byref(plan))
    about = f"{tuple(x.shape)} {tuple(f.shape)} {dtype} {channels_last=} {offset=} {options} {has_tail=} {tail}"
    close(result.tensor(), expected, about)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_upfirdn2d_of_stylegan2(emulator: ctypes.CDLL, up: int, down: int, seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    upfirdn2d_case(emulator, rng, 4, (up, up), (down, down))


@pytest.mark.parametrize("seed", range(60))
def test_upfirdn2d_of_any_kind(emulator: ctypes.CDLL, seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    factors = [(rng.randint(1, 4), rng.randint(1, 4)) for _ in range(2)]
    upfirdn2d_case(emulator, rng, None, *factors)


@pytest.mark.slow
def test_no_kernel_reads_outside_its_tensors() -> None:
    """The tests above again, with buffers without guards, under AddressSanitizer."""
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
        "upfirdn2d_of or epilogue or backward",
    ]
    done = subprocess.run([*command, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000] + done.stdout[-2000:]


def test_not_a_number_stays_one(emulator: ctypes.CDLL) -> None:
    x = Buffer(torch.full((1, 4, 1, 1), torch.nan))
    for act in ACTS:
        tail = nvrtc.Tail(None, None, None, 0, nvrtc.Activation(ACTS.index(act), 0.2, 1, 256))
        y = Buffer(torch.zeros(1, 4, 1, 1))
        args = nvrtc.EpilogueArgs(x.pointer, y.pointer, 1, 4, 1, True, 0, tail)
        plan = planned(emulator, "epilogue", args)
        emulator.run_epilogue(ctypes.byref(args), ctypes.byref(plan))
        assert y.tensor().isnan().all(), act


def test_python_and_c_agree_on_structs(emulator: ctypes.CDLL) -> None:
    n = nvrtc
    expected = [
        ctypes.sizeof(struct) for struct in (n.Activation, n.Tail, n.EpilogueArgs, n.ActBackwardArgs, n.UpfirdnArgs,
                                             n.EpiloguePlan, n.ActBackwardPlan, n.UpfirdnPlan)
    ]  # fmt: skip
    members = [
        n.Tail.activation, n.EpilogueArgs.tail, n.ActBackwardArgs.activation, n.UpfirdnArgs.tail, n.EpiloguePlan.blocks,
        n.UpfirdnPlan.blocks, n.UpfirdnArgs.gain, n.UpfirdnArgs.dtype,
    ]  # fmt: skip
    expected += [member.offset for member in members]
    found = (ctypes.c_int64 * len(expected))()
    emulator.layout(found)
    assert list(found) == expected


@pytest.mark.parametrize("dtype", [0, 1])
def test_plans_of_large_tensors(emulator: ctypes.CDLL, dtype: int) -> None:
    """More than 2^31 elements, and more than a grid can hold."""
    tail = nvrtc.Tail(None, None, None, 0, nvrtc.Activation(2, 0.2, 1, -1))
    for n, c, h, w, fits in ((33, 64, 1024, 1024, True), (8, 512, 1025, 1025, True), (2**20, 2**12, 2**10, 2**10, False)):
        for channels_last in (False, True):
            size = nvrtc.EpilogueArgs(256, 512, n, c, h * w, channels_last, dtype, tail)
            assert (planned(emulator, "epilogue", size).blocks > 0) == fits
            for up, down in ((1, 1), (2, 1), (1, 2), (3, 2)):
                args = nvrtc.UpfirdnArgs(
                    256, 512, 768, n, c, h, w, h, w, 4, 4, up, up, down, down, 1, 1, False, False, channels_last, dtype, 1.0,
                    False, tail,
                )  # fmt: skip
                assert (planned(emulator, "upfirdn2d", args).blocks > 0) == fits


# -- compilation


def ptxas(log: str) -> dict[str, tuple[int, int]]:
    """Kernel -> bytes spilled, registers; from what ptxas says with -v."""
    kernels = {}
    for part in log.split("Compiling entry function '")[1:]:
        stores = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        assert stores and registers
        kernels[part.split("'")[0]] = (int(stores[1]) + int(stores[2]), int(registers[1]))
    return kernels


def kernel_names() -> set[str]:
    names = set()
    for dtype in nvrtc.DTYPES.values():
        for layout in ("planes", "last"):
            names |= {f"lia_epilogue_{dtype}_{layout}_{width}" for width in ("single", "chunked")}
            names |= {f"lia_upfirdn2d_{dtype}_{layout}_{path}" for path in nvrtc.PATHS}
        names |= {f"lia_act_backward_{dtype}_{width}" for width in ("single", "chunked")}
    return names


def test_nvcc_spills_nothing(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc here")
    command = [
        nvcc,
        "-std=c++17",
        "-O3",
        "-c",
        "-arch=sm_90",
        "-Xptxas=-v",
        str(SOURCES / "cuda.cu"),
        "-o",
        str(tmp_path / "o"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = ptxas(done.stdout + done.stderr)
    assert set(kernels) == kernel_names()
    assert {name for name, (spilled, _) in kernels.items() if spilled} == set()


def needs_nvrtc(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except LIAError as error:
        if "was not found" not in str(error):
            raise
        pytest.skip(str(error))


def test_nvrtc_compiles_all_kernels_and_spills_nothing() -> None:
    kernels: dict[str, tuple[int, int]] = {}
    for group in nvrtc.GROUPS:
        image, log = needs_nvrtc(nvrtc.compile_kernels, 90, group)
        assert image.startswith(b"\x7fELF")
        kernels |= ptxas(log)
    assert set(kernels) == kernel_names()
    assert {name for name, (spilled, _) in kernels.items() if spilled} == set()


def test_nvrtc_makes_ptx_for_a_gpu_that_is_newer() -> None:
    image, _ = needs_nvrtc(nvrtc.compile_kernels, 990, "POINTWISE")
    assert b".visible .entry lia_epilogue_half_last_chunked" in image


def test_nvrtc_refuses_a_gpu_that_is_older() -> None:
    with pytest.raises(LIAError, match=r"compute capability 1\.0"):
        needs_nvrtc(nvrtc.compile_kernels, 10, "POINTWISE")


def test_nvrtc_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call reads the file; a damaged one is made anew; a folder that cannot be written does no harm."""
    compiled = []

    def compile_kernels(architecture: int, group: str) -> tuple[bytes, str]:
        compiled.append(group)
        return b"image", ""

    needs_nvrtc(nvrtc._Nvrtc)
    monkeypatch.setenv("LIA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(nvrtc, "compile_kernels", compile_kernels)
    assert [nvrtc._cached_kernels(90, "POINTWISE") for _ in range(2)] == [b"image", b"image"]
    assert compiled == ["POINTWISE"]
    (file,) = tmp_path.rglob("nvrtc-pointwise-*")
    file.write_bytes(file.read_bytes()[:-1])
    assert nvrtc._cached_kernels(90, "POINTWISE") == b"image"
    monkeypatch.setenv("LIA_CACHE_DIR", "/proc/nowhere")
    assert nvrtc._cached_kernels(90, "POINTWISE") == b"image"
    assert len(compiled) == 3
