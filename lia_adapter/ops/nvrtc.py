"""The CUDA kernels without nvcc: the same sources, compiled by the NVRTC that comes with torch, launched by the driver.

The structs and the plans are those of `kernels.h` and `cuda_plan.h`; tests hold the two together.
"""

import ctypes
import ctypes.util
import glob
import hashlib
import os
import sys
import threading
from collections.abc import Sequence
from ctypes import c_bool, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter.errors import LIAError
from lia_adapter.files import atomic_write
from lia_adapter.ops import build

__all__ = ["GROUPS", "compile_kernels", "register"]

DTYPES = {torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat16"}  # The order of `Dtype` in kernels.h.
GROUPS = ("POINTWISE", "UPFIRDN")
"""The parts of cuda_entries.h that are compiled by themselves."""

THREADS = 128
_HEADERS = ("kernels.h", "activation.h", "cuda_types.h", "cuda_plan.h", "cuda_kernels.h", "cuda_entries.h")


# -- structs of kernels.h and cuda_plan.h


class Activation(ctypes.Structure):
    """`Activation` of kernels.h."""

    _fields_ = [("act", c_int), ("alpha", c_double), ("gain", c_double), ("clamp", c_double)]


class Tail(ctypes.Structure):
    """`Tail` of kernels.h."""

    _fields_ = [
        ("scale", c_void_p), ("noise", c_void_p), ("bias", c_void_p), ("noise_stride", c_int64), ("activation", Activation),
    ]  # fmt: skip


class EpilogueArgs(ctypes.Structure):
    """`EpilogueArgs` of kernels.h."""

    _fields_ = [
        ("x", c_void_p), ("y", c_void_p), ("n", c_int64), ("c", c_int64), ("positions", c_int64), ("channels_last", c_bool),
        ("dtype", c_int), ("tail", Tail),
    ]  # fmt: skip


class ActBackwardArgs(ctypes.Structure):
    """`ActBackwardArgs` of kernels.h."""

    _fields_ = [
        ("dy", c_void_p), ("ref", c_void_p), ("dx", c_void_p), ("size", c_int64), ("dtype", c_int), ("activation", Activation),
    ]  # fmt: skip


class UpfirdnArgs(ctypes.Structure):
    """`UpfirdnArgs` of kernels.h."""

    _fields_ = [
        ("x", c_void_p), ("y", c_void_p), ("f", c_void_p), ("n", c_int64), ("c", c_int64),
        ("in_h", c_int64), ("in_w", c_int64), ("out_h", c_int64), ("out_w", c_int64), ("kh", c_int), ("kw", c_int),
        ("up_x", c_int), ("up_y", c_int), ("down_x", c_int), ("down_y", c_int), ("pad_x0", c_int), ("pad_y0", c_int),
        ("separable", c_bool), ("flip", c_bool), ("channels_last", c_bool), ("dtype", c_int), ("gain", c_double),
        ("has_tail", c_bool), ("tail", Tail),
    ]  # fmt: skip


class EpiloguePlan(ctypes.Structure):
    """`EpiloguePlan` of cuda_plan.h."""

    _fields_ = [
        ("n", c_int64), ("positions", c_int64), ("chunked", c_uint), ("across", c_uint), ("phases", c_uint), ("units", c_uint),
        ("image_blocks", c_uint), ("blocks", c_uint),
    ]  # fmt: skip


class ActBackwardPlan(ctypes.Structure):
    """`ActBackwardPlan` of cuda_plan.h."""

    _fields_ = [("chunked", c_uint), ("blocks", c_uint)]


class UpfirdnPlan(ctypes.Structure):
    """`UpfirdnPlan` of cuda_plan.h."""

    _fields_ = [
        ("path", c_uint), ("chunked", c_uint), ("log_channels", c_uint), ("channel_tiles", c_uint), ("columns", c_uint),
        ("steps", c_uint), ("rows", c_uint), ("strips", c_uint), ("units", c_uint), ("image_blocks", c_uint),
        ("blocks", c_uint),
    ]  # fmt: skip


# -- plans, as in cuda_plan.h

PATHS = ("plain4", "up2", "down2", "generic")
_FAST = {(1, 1): 0, (2, 1): 1, (1, 2): 2}  # (up, down) -> index in PATHS
_GENERIC = 3
_MAX_BLOCKS, _MAX_UNITS = 0x7FFFFFFF, 0xFFFFFFFF - THREADS


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _aligned(*addresses: int | None) -> bool:
    return all((address or 0) % 16 == 0 for address in addresses)


def _lanes(dtype: int) -> int:
    return 4 if dtype == 0 else 8


def _fits(blocks: int, units: int = 0) -> int:
    return blocks if blocks <= _MAX_BLOCKS and units <= _MAX_UNITS else 0


def is_fusible(a: Activation) -> bool:
    """Whether upfirdn2d takes the activation along: `is_fusible` of cuda_plan.h."""
    return bool(a.gain >= 0 and (a.act == 0 or (a.act == 2 and a.alpha <= 1)))


def plan_epilogue(a: EpilogueArgs) -> EpiloguePlan:
    """`plan_epilogue` of cuda_plan.h."""
    joined = a.channels_last and not a.tail.scale and not a.tail.noise
    n, positions = (1, a.n * a.positions) if joined else (a.n, a.positions)
    inner = a.c if a.channels_last else positions
    parts = (a.tail.scale, a.tail.bias) if a.channels_last else (a.tail.noise,)
    chunked = inner % _lanes(a.dtype) == 0 and _aligned(a.x, a.y, *parts)
    across, steps = (inner // _lanes(a.dtype), 4) if chunked else (inner, 8)
    phases = _ceil_div(positions if a.channels_last else across, steps)
    units = phases * (across if a.channels_last else a.c)
    image_blocks = _ceil_div(units, THREADS)
    blocks = _fits(n * image_blocks, max(units, across))
    return EpiloguePlan(n, positions, chunked, across, phases, units, image_blocks, blocks)


def plan_act_backward(a: ActBackwardArgs) -> ActBackwardPlan:
    """`plan_act_backward` of cuda_plan.h."""
    chunked = _aligned(a.dy, a.ref, a.dx)
    return ActBackwardPlan(chunked, _fits(_ceil_div(a.size, THREADS * (4 * _lanes(a.dtype) if chunked else 8))))


def plan_upfirdn2d(a: UpfirdnArgs) -> UpfirdnPlan:
    """`plan_upfirdn2d` of cuda_plan.h."""
    v = _lanes(a.dtype)
    square = a.kh == a.kw == 4 and a.up_x == a.up_y and a.down_x == a.down_y
    path = _FAST.get((a.up_x, a.down_x), _GENERIC) if square else _GENERIC
    chunked = _aligned(a.y) and ((a.c % v == 0 and _aligned(a.x)) if a.channels_last else a.out_w % v == 0)
    if a.channels_last and not chunked:
        path = _GENERIC
    if path == _GENERIC:
        units = a.c * a.out_h * a.out_w
        image_blocks = _ceil_div(units, THREADS)
        blocks = _fits(a.n * image_blocks, units)
        return UpfirdnPlan(path=path, chunked=chunked, units=units, image_blocks=image_blocks, blocks=blocks)
    up = 2 if PATHS[path] == "up2" else 1
    steps = (a.out_h + (a.pad_y0 % 2 == 0) + 1) // 2 if up == 2 else a.out_h
    log_channels = channel_tiles = 0
    if a.channels_last:
        while log_channels < 3 and (2 << log_channels) <= a.c // v:
            log_channels += 1
        channel_tiles = _ceil_div(a.c // v, 1 << log_channels)
        columns = _ceil_div(_ceil_div(a.out_w, up), THREADS >> log_channels)
        units = a.n * channel_tiles * columns * THREADS
    else:
        columns = _ceil_div(a.out_w, v)
        units = a.n * a.c * columns
    enough = min(max(_ceil_div(1 << 18, units), _ceil_div(steps, 32)), _ceil_div(steps, 4))
    rows = _ceil_div(steps, enough)
    strips = _ceil_div(steps, rows)
    blocks = _fits(_ceil_div(units * strips, THREADS), 0 if a.channels_last else units * strips)
    return UpfirdnPlan(path, chunked, log_channels, channel_tiles, columns, steps, rows, strips, units * strips, 0, blocks)


# -- compilation


def compile_kernels(architecture: int, group: str) -> tuple[bytes, str]:
    """Compiles one group of kernels; needs no GPU.

    Args:
        architecture: Of the GPU: 90 is compute capability 9.0.
        group: One of `GROUPS`.

    Returns:
        What the driver loads (a cubin, or PTX for a GPU newer than this NVRTC), and what ptxas said about it.

    Raises:
        LIAError: There is no NVRTC, or it cannot compile this.
    """
    nvrtc = _Nvrtc()
    known = nvrtc.architectures()
    is_known = architecture in known
    older = [a for a in known if a <= architecture]
    if not older:
        raise LIAError(f"the NVRTC in {nvrtc.path} has no kernels for compute capability {architecture / 10:.1f}")
    target = f"sm_{architecture}" if is_known else f"compute_{max(older)}"
    options = (f"--gpu-architecture={target}", "--std=c++17", "--ptxas-options=-v", f"--define-macro=LIA_ONLY_{group}")
    sources = build.read_sources()
    return nvrtc.compile({name: sources[name] for name in _HEADERS}, "cuda_entries.h", options, is_known)


def _cached_kernels(architecture: int, group: str) -> bytes:
    """`compile_kernels`, from the cache where it is there: a file of a hash and the image."""
    sources = build.read_sources()
    key = hashlib.sha256(repr((architecture, group, _Nvrtc().version(), *(sources[name] for name in _HEADERS))).encode())
    try:
        folder = build.cache_folders()[0]()
        file = folder / f"nvrtc-{group.lower()}-sm{architecture}-{key.hexdigest()[:20]}"
        content = file.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            return content[32:]
    except OSError:
        pass
    image, _ = compile_kernels(architecture, group)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_bytes(hashlib.sha256(image).digest() + image)
    except (OSError, LIAError):  # the next process compiles again
        pass
    return image


class _Nvrtc:
    """The library: torch's own, else the system's."""

    def __init__(self) -> None:
        for path in _nvrtc_paths():
            try:
                self._library, self.path = ctypes.CDLL(path), path
                return
            except OSError:
                continue
        raise LIAError("libnvrtc was not found beside torch or among the system's libraries")

    def version(self) -> tuple[int, int]:
        major, minor = c_int(), c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def architectures(self) -> list[int]:
        count = c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        found = (c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", found)
        return list(found)

    def compile(self, files: dict[str, bytes], main: str, options: Sequence[str], to_cubin: bool) -> tuple[bytes, str]:
        headers = {name: content for name, content in files.items() if name != main}
        program = c_void_p()
        self._call(
            "nvrtcCreateProgram", ctypes.byref(program), files[main], main.encode(), c_int(len(headers)),
            (c_char_p * len(headers))(*headers.values()), (c_char_p * len(headers))(*(name.encode() for name in headers)),
        )  # fmt: skip
        try:
            words = (c_char_p * len(options))(*(option.encode() for option in options))
            result = self._library.nvrtcCompileProgram(program, c_int(len(options)), words)
            log = self._output(program, "nvrtcGetProgramLog").rstrip(b"\0").decode(errors="replace")
            if result != 0:
                first = next((line for line in log.splitlines() if "error" in line), f"error {result}")
                raise LIAError(f"the NVRTC in {self.path} cannot compile the CUDA ops: {first}")
            return self._output(program, "nvrtcGetCUBIN" if to_cubin else "nvrtcGetPTX"), log
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _output(self, program: c_void_p, name: str) -> bytes:
        size = c_size_t()
        self._call(f"{name}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(name, program, buffer)
        return buffer.raw

    def _call(self, name: str, *args: Any) -> None:
        try:
            result = getattr(self._library, name)(*args)
        except AttributeError as error:
            raise LIAError(f"the NVRTC in {self.path} is too old: it has no {name}") from error
        if result != 0:
            raise LIAError(f"{name} failed with error {result}")


def _nvrtc_paths() -> list[str]:
    beside = [os.path.join(folder, "nvidia", "*", "lib") for folder in sys.path] + [str(Path(torch.__file__).parent / "lib")]
    found = [path for folder in beside for path in sorted(glob.glob(os.path.join(folder, "libnvrtc*.so*")))]
    major = (torch.version.cuda or "").split(".")[0]
    return [path for path in found if "builtins" not in path and ".alt." not in path] + [f"libnvrtc.so.{major}", "libnvrtc.so"]


# -- launches


class _Device:
    """The kernels of one GPU, loaded into the context that torch uses."""

    def __init__(self, index: int) -> None:
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise LIAError(f"the driver's library cannot be loaded: {error}") from error
        major, minor = torch.cuda.get_device_capability(index)
        self._call("cuInit", c_uint(0))
        device, self._context = c_int(), c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), c_int(index))
        # Torch's context, kept for as long as the process lives.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._functions: dict[str, c_void_p] = {}
        images = [_cached_kernels(10 * major + minor, group) for group in GROUPS]
        self._modules = []
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            for image in images:
                module = c_void_p()
                self._call("cuModuleLoadData", ctypes.byref(module), c_char_p(image))
                self._modules.append(module)
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(c_void_p()))

    def launch(self, name: str, blocks: int, stream: int, *structs: ctypes.Structure) -> None:
        if blocks == 0:
            raise LIAError("the tensor is too large for the CUDA ops. Set LIA_OPS=reference to use plain torch.")
        function = self._functions.get(name)
        parameters = (c_void_p * len(structs))(*(ctypes.addressof(struct) for struct in structs))
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            if function is None:
                function = self._functions[name] = self._find(name)
            self._call(
                "cuLaunchKernel", function, c_uint(blocks), c_uint(1), c_uint(1), c_uint(THREADS), c_uint(1), c_uint(1),
                c_uint(0), c_void_p(stream), parameters, None,
            )  # fmt: skip
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(c_void_p()))

    def _find(self, name: str) -> c_void_p:
        module = self._modules[GROUPS.index("UPFIRDN" if "upfirdn2d" in name else "POINTWISE")]
        function = c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), module, c_char_p(name.encode()))
        return function

    def _call(self, name: str, *args: Any) -> None:
        result = getattr(self._driver, name)(*args)
        if result != 0:
            text = c_char_p()
            self._driver.cuGetErrorName(c_int(result), ctypes.byref(text))
            raise LIAError(f"{name} failed: {(text.value or b'').decode() or result}")


_devices: dict[int, _Device] = {}
_lock = threading.Lock()
_libraries: list[torch.library.Library] = []  # A registration lives as long as its Library.


def _device(index: int) -> _Device:
    device = _devices.get(index)
    if device is None:
        with _lock:
            device = _devices.get(index) or _Device(index)
            _devices[index] = device
    return device


def _launch(x: Tensor, name: str, blocks: int, *structs: ctypes.Structure) -> None:
    _device(x.get_device()).launch(name, blocks, torch.cuda.current_stream(x.device).cuda_stream, *structs)


# -- the ops, as in binding.cpp


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _dense(x: Tensor) -> Tensor:
    return x if _is_channels_last(x) else x.contiguous()


def _empty(x: Tensor, shape: Sequence[int]) -> Tensor:
    layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _dtype(x: Tensor) -> int:
    if x.dtype not in DTYPES:
        raise LIAError(f"the CUDA ops take float32, float16 and bfloat16, not {x.dtype}")
    return list(DTYPES).index(x.dtype)


class _Parts:
    """Scale, noise and bias as the kernels read them, kept alive until these are launched."""

    def __init__(self, x: Tensor, positions: int, scale: Tensor | None, noise: Tensor | None, b: Tensor | None) -> None:
        n, c = x.shape[:2]
        per_image = noise is not None and noise.numel() != positions
        self._scale = self._part("scale", scale, x, n * c)
        self._noise = self._part("noise", noise, x, n * positions if per_image else positions)
        self._bias = self._part("b", b, x, c)
        self._noise_stride = positions if per_image else 0

    @staticmethod
    def _part(name: str, part: Tensor | None, x: Tensor, expected: int) -> Tensor | None:
        if part is None:
            return None
        if part.dtype != x.dtype or part.device != x.device:
            raise LIAError(f"{name} must have the dtype and the device of x")
        if part.numel() != expected:
            raise LIAError(f"{name} has {part.numel()} elements; expected {expected}")
        return part.contiguous()

    def tail(self, activation: Activation) -> Tail:
        scale, noise, bias = (None if p is None else p.data_ptr() for p in (self._scale, self._noise, self._bias))
        return Tail(scale, noise, bias, self._noise_stride, activation)


def _run_epilogue(x: Tensor, args: EpilogueArgs) -> None:
    plan = plan_epilogue(args)
    layout, width = "last" if args.channels_last else "planes", "chunked" if plan.chunked else "single"
    _launch(x, f"lia_epilogue_{DTYPES[x.dtype]}_{layout}_{width}", plan.blocks, args, plan)


def _epilogue(
    x: Tensor, scale: Tensor | None, noise: Tensor | None, b: Tensor | None, act: int, alpha: float, gain: float, clamp: float
) -> Tensor:
    x = _dense(x)
    y = _empty(x, x.shape)
    if x.numel() == 0:
        return y
    n, c = x.shape[:2]
    positions = x.numel() // (n * c)
    parts = _Parts(x, positions, scale, noise, b)
    tail = parts.tail(Activation(act, alpha, gain, clamp))
    channels_last = positions == 1 or _is_channels_last(x)
    _run_epilogue(x, EpilogueArgs(x.data_ptr(), y.data_ptr(), n, c, positions, channels_last, _dtype(x), tail))
    return y


def _act_backward(dy: Tensor, ref: Tensor, act: int, alpha: float, gain: float, clamp: float) -> Tensor:
    ref = _dense(ref)
    if dy.numel() != ref.numel() or dy.dtype != ref.dtype or dy.device != ref.device:
        raise LIAError("dy must have the shape, dtype and device of ref")
    dx = _empty(ref, ref.shape)
    if dx.numel() == 0:
        return dx
    if not dy.stride() == ref.stride():
        dy = _empty(ref, ref.shape).copy_(dy)
    activation = Activation(act, alpha, gain, clamp)
    args = ActBackwardArgs(dy.data_ptr(), ref.data_ptr(), dx.data_ptr(), dx.numel(), _dtype(ref), activation)
    plan = plan_act_backward(args)
    _launch(ref, f"lia_act_backward_{DTYPES[ref.dtype]}_{'chunked' if plan.chunked else 'single'}", plan.blocks, args)
    return dx


def _filter(
    x: Tensor,
    f: Tensor,
    parts: Sequence[Tensor | None],
    geometry: Sequence[int],
    flip: bool,
    filter_gain: float,
    activation: Activation | None,
) -> Tensor:
    up_x, up_y, down_x, down_y, px0, px1, py0, py1 = geometry
    if x.ndim != 4:
        raise LIAError("x must be [N, C, H, W]")
    if f.dtype != torch.float32 or f.device != x.device or f.ndim not in (1, 2):
        raise LIAError("f must be float32, [k] or [kh, kw], on the device of x")
    x, f = _dense(x), f.contiguous()
    (n, c, h, w), kh, kw = x.shape, f.shape[0], f.shape[-1]
    height, width = h * up_y + py0 + py1 - kh, w * up_x + px0 + px1 - kw
    if height < 0 or width < 0:
        raise LIAError("the padded image is smaller than the filter")
    y = _empty(x, (n, c, height // down_y + 1, width // down_x + 1))
    if y.numel() == 0:
        return y
    out_h, out_w = y.shape[2:]
    kept = _Parts(x, out_h * out_w, *parts)
    tail = kept.tail(activation or Activation(0, 0, 1, -1))
    is_fused = activation is not None and is_fusible(activation)
    args = UpfirdnArgs(
        x.data_ptr(), y.data_ptr(), f.data_ptr(), n, c, h, w, out_h, out_w, kh, kw, up_x, up_y, down_x, down_y, px0, py0,
        f.ndim == 1, flip, _is_channels_last(x), _dtype(x), filter_gain, is_fused, tail,
    )  # fmt: skip
    plan = plan_upfirdn2d(args)
    layout = "last" if args.channels_last else "planes"
    _launch(x, f"lia_upfirdn2d_{DTYPES[x.dtype]}_{layout}_{PATHS[plan.path]}", plan.blocks, args, plan)
    if activation is not None and not is_fused:
        # The rarer activations come in a pass of their own, in place.
        pointer, positions = y.data_ptr(), out_h * out_w
        _run_epilogue(x, EpilogueArgs(pointer, pointer, n, c, positions, args.channels_last, args.dtype, tail))
    return y


def _upfirdn2d(x: Tensor, f: Tensor, *rest: Any) -> Tensor:
    *geometry, flip, gain = rest
    return _filter(x, f, (None, None, None), geometry, flip, gain, None)


def _upfirdn2d_act(x: Tensor, f: Tensor, scale: Tensor | None, noise: Tensor | None, b: Tensor | None, *rest: Any) -> Tensor:
    *geometry, flip, filter_gain, act, alpha, gain, clamp = rest
    return _filter(x, f, (scale, noise, b), geometry, flip, filter_gain, Activation(act, alpha, gain, clamp))


def register() -> None:
    """Compiles the kernels for the current GPU and gives them to torch for CUDA tensors.

    Raises:
        LIAError: There is no NVRTC or no driver, or the kernels cannot be compiled or loaded.
    """
    if not torch.cuda.is_available():
        raise LIAError("torch sees no GPU")
    _device(torch.cuda.current_device())  # what fails must fail now, not in the middle of a network
    library = torch.library.Library("lia_adapter", "IMPL")
    library.impl("epilogue", _epilogue, "CUDA")
    library.impl("act_backward", _act_backward, "CUDA")
    library.impl("upfirdn2d", _upfirdn2d, "CUDA")
    library.impl("upfirdn2d_act", _upfirdn2d_act, "CUDA")
    _libraries.append(library)
