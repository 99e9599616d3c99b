"""Kernels without nvcc: the sources compiled by the NVRTC that comes with torch, loaded and launched by the driver."""

import ctypes
import glob
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter.errors import LIAError
from lia_adapter.files import atomic_write
from lia_adapter.ops import build

__all__ = ["GROUPS", "compile_kernels", "launch", "load"]

GROUPS = {"cuda": 128, "filtered": 256}
"""Kernels that are compiled together, from `<group>_entries.h` → threads of their blocks."""

_LOG = logging.getLogger("lia_adapter.ops")


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
    # The third: constexpr functions without a mark are for the GPU as well, as nvcc has it.
    options = (f"--gpu-architecture={target}", "--std=c++17", "--device-as-default-execution-space", "--ptxas-options=-v")
    return nvrtc.compile(_headers(), f"{group}_entries.h", options, is_known)


def _headers() -> dict[str, bytes]:
    return {name: content for name, content in build.read_sources().items() if name.endswith(".h")}


def _cached_kernels(architecture: int, group: str) -> bytes:
    """`compile_kernels`, from the cache where it is there: a file of a hash and the image."""
    content = (architecture, group, _Nvrtc().version(), sorted(_headers().items()))
    key = hashlib.sha256(repr(content).encode()).hexdigest()[:20]
    try:
        file = build.cache_folders()[0]() / f"nvrtc-{group}-sm{architecture}-{key}"
    except OSError:
        file = None
    image = file and _read_whole(file)
    if not image:
        _LOG.warning("Compiling the CUDA ops through NVRTC (once, some seconds) ...")
        image, _ = compile_kernels(architecture, group)
        if file:
            _write_whole(file, image)
    return image


def _read_whole(file: Path) -> bytes | None:
    try:
        content = file.read_bytes()
    except OSError:
        return None
    return content[32:] if hashlib.sha256(content[32:]).digest() == content[:32] else None


def _write_whole(file: Path, image: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_bytes(hashlib.sha256(image).digest() + image)
    except (OSError, LIAError):  # the next process compiles again
        pass


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
        self._architecture = 10 * major + minor
        self._call("cuInit", c_uint(0))
        device, self._context = c_int(), c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), c_int(index))
        # Torch's context, kept for as long as the process lives.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._lock = threading.Lock()
        self._modules: dict[str, c_void_p] = {}
        self._functions: dict[str, c_void_p] = {}

    def load(self, group: str) -> None:
        with self._lock:
            if group in self._modules:
                return
            image, module = _cached_kernels(self._architecture, group), c_void_p()
            self._in_context("cuModuleLoadData", ctypes.byref(module), c_char_p(image))
            self._modules[group] = module

    def launch(self, group: str, name: str, blocks: int, stream: int, structs: Sequence[ctypes.Structure]) -> None:
        function = self._functions.get(name)
        if function is None:
            self.load(group)
            function = c_void_p()
            self._in_context("cuModuleGetFunction", ctypes.byref(function), self._modules[group], c_char_p(name.encode()))
            self._functions[name] = function
        parameters = (c_void_p * len(structs))(*(ctypes.addressof(struct) for struct in structs))
        self._in_context(
            "cuLaunchKernel", function, c_uint(blocks), c_uint(1), c_uint(1), c_uint(GROUPS[group]), c_uint(1), c_uint(1),
            c_uint(0), c_void_p(stream), parameters, None,
        )  # fmt: skip

    def _in_context(self, name: str, *args: Any) -> None:
        # A thread of autograd may have another GPU as its current one, or none.
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            self._call(name, *args)
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(c_void_p()))

    def _call(self, name: str, *args: Any) -> None:
        result = getattr(self._driver, name)(*args)
        if result != 0:
            text = c_char_p()
            self._driver.cuGetErrorName(c_int(result), ctypes.byref(text))
            raise LIAError(f"{name} failed: {(text.value or b'').decode() or result}")


_devices: dict[int, _Device] = {}
_lock = threading.Lock()


def _device(index: int) -> _Device:
    device = _devices.get(index)
    if device is None:
        with _lock:
            device = _devices.get(index) or _Device(index)
            _devices[index] = device
    return device


def load(group: str) -> None:
    """Loads, and if need be compiles, a group of kernels for the current GPU.

    Raises:
        LIAError: There is no GPU, driver or NVRTC, or the kernels cannot be compiled or loaded.
    """
    if not torch.cuda.is_available():
        raise LIAError("torch sees no GPU")
    _device(torch.cuda.current_device()).load(group)


def launch(x: Tensor, group: str, name: str, blocks: int, *structs: ctypes.Structure) -> None:
    """Runs a kernel on the current stream of x's device.

    Args:
        x: A tensor on that device.
        group: One of `GROUPS`.
        name: Of the kernel, in that group.
        blocks: Of the group's number of threads; 0 where a plan found the tensor too large.
        structs: The kernel's parameters.

    Raises:
        LIAError: The tensor is too large, or the kernel could not be launched.
    """
    if blocks == 0:
        raise LIAError("the tensor is too large for the CUDA ops. Set LIA_OPS=reference to use plain torch.")
    _device(x.get_device()).launch(group, name, blocks, torch.cuda.current_stream(x.device).cuda_stream, structs)
