"""What the native ops are built with: a C++ compiler, ninja, nvcc, torch's headers; and for which GPUs.

Nothing here is remembered or raised at import: each function looks, and says in words what is missing.
"""

import ctypes
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lia_adapter.errors import BuildError

__all__ = [
    "SUPPORTED",
    "Compiler",
    "Nvcc",
    "check_driver",
    "driver_version",
    "find_compiler",
    "find_ninja",
    "find_nvcc",
    "gencode",
    "gpus",
]

SUPPORTED = (75, 80, 86, 89, 90, 100, 120)
"""The GPU architectures that the kernels are written for: 90 is compute capability 9.0."""

_ASK_S = 60  # for a compiler to say its version; much, because the first start from a cold network disk is slow


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler.

    Attributes:
        command: The words that start it.
        version: Its name and version, for people.
        flags: Those that make it use all of this CPU; empty where it has none.
        identity: The macros it predefines under `flags`: its version, the instructions of this CPU, the ABI.
    """

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...]
    identity: str


@dataclass(frozen=True)
class Nvcc:
    """NVIDIA's compiler and the toolkit that it belongs to.

    Attributes:
        path: The program.
        root: The toolkit, as nvcc itself names it: the program may be a wrapper that lies elsewhere.
        version: Major and minor, such as (13, 0).
        release: What `nvcc --version` prints.
        includes: The toolkit's folders of headers.
        libraries: The toolkit's folders of libraries.
        architectures: Those that it compiles for, ascending: 75, 80, ...
    """

    path: str
    root: Path
    version: tuple[int, int]
    release: str
    includes: tuple[str, ...]
    libraries: tuple[str, ...]
    architectures: tuple[int, ...]


def find_compiler() -> Compiler:
    """The first that works of CXX, c++, g++ and clang++.

    Raises:
        BuildError: None does.
    """
    for command in _compilers():
        for flags in (("-march=native",), ()):
            macros = _ask([*command, *flags, "-dM", "-E", "-x", "c++", os.devnull])
            if macros:
                version = (_ask([*command, "--version"]) or command[0]).splitlines()[0]
                return Compiler(command, version, flags, macros)
    raise BuildError("no C++ compiler was found (CXX, c++, g++, clang++). Install one: apt install g++, or dnf install gcc-c++")


def find_ninja() -> str:
    """The program of the ninja package, else the one on PATH.

    Raises:
        BuildError: There is neither.
    """
    try:
        import ninja

        packaged = [os.path.join(ninja.BIN_DIR, "ninja")]
    except ImportError:
        packaged = []
    for path in (*packaged, shutil.which("ninja")):
        if path and _ask([path, "--version"]):
            return path
    raise BuildError("ninja was not found. Install it: pip install ninja")


def find_nvcc() -> Nvcc:
    """The first that works of CUDA_HOME, CUDA_PATH, PATH and /usr/local/cuda*.

    Raises:
        BuildError: None does, or it is too old.
    """
    for path in _nvccs():
        release = _ask([path, "--version"])
        number = re.search(r"release (\d+)\.(\d+)", release or "")
        variables = _dryrun(path)
        if not release or not number or "TOP" not in variables:
            continue
        version = int(number[1]), int(number[2])
        known = re.findall(r"compute_(\d+)\b", _ask([path, "--list-gpu-arch"]) or "")
        if not known:
            raise BuildError(
                f"nvcc {version[0]}.{version[1]} ({path}) is too old. Install CUDA 11.8 or newer, or name one in CUDA_HOME"
            )
        words = [word for name in ("INCLUDES", "SYSTEM_INCLUDES") for word in shlex.split(variables.get(name, ""))]
        return Nvcc(
            path=path,
            root=Path(os.path.normpath(variables["TOP"])),
            version=version,
            release=release,
            includes=tuple(word.removeprefix("-I") for word in words if word != "-isystem"),
            libraries=tuple(word.removeprefix("-L") for word in shlex.split(variables.get("LIBRARIES", ""))),
            architectures=tuple(sorted(map(int, known))),
        )
    raise BuildError(
        "nvcc was not found (CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda*). Install the CUDA toolkit, or set CUDA_HOME"
    )


def gpus() -> tuple[int, ...]:
    """The architectures to compile for, such as (90,).

    They are those in LIA_CUDA_ARCH ("9.0", or "8.0 9.0"), else those of the visible GPUs, else those in TORCH_CUDA_ARCH_LIST
    that the kernels support (container images tend to list all there are), else all that the kernels support.

    Raises:
        BuildError: LIA_CUDA_ARCH is malformed.
    """
    if wanted := os.environ.get("LIA_CUDA_ARCH"):
        found = _architectures(wanted)
        if len(found) != len(re.split(r"[\s,;]+", wanted.strip())):
            raise BuildError(f"LIA_CUDA_ARCH is {wanted!r}; expected compute capabilities such as 9.0, or 8.0,9.0")
        return found
    if torch.cuda.is_available():
        capabilities = map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
        return tuple(sorted({10 * major + minor for major, minor in capabilities}))
    listed = _architectures(os.environ.get("TORCH_CUDA_ARCH_LIST", ""))
    return tuple(arch for arch in listed if arch in SUPPORTED) or SUPPORTED


def gencode(nvcc: Nvcc, wanted: Sequence[int]) -> tuple[str, ...]:
    """The flags of nvcc for some architectures, each once.

    For a GPU that nvcc does not know it is the PTX of the newest one before it that nvcc does know, which the driver compiles
    when the library is loaded.

    Raises:
        BuildError: A GPU is older than all that the kernels or nvcc support.
    """
    flags = []
    for arch in wanted:
        older = [known for known in nvcc.architectures if known <= arch]
        if arch < SUPPORTED[0] or not older:
            oldest = max(SUPPORTED[0], nvcc.architectures[0])
            raise BuildError(f"the GPU has compute capability {arch / 10}; the kernels and nvcc need {oldest / 10} or newer")
        kind = "sm" if older[-1] == arch else "compute"
        flags.append(f"-gencode=arch=compute_{older[-1]},code={kind}_{older[-1]}")
    return tuple(dict.fromkeys(flags))


def check_driver(nvcc: Nvcc, flags: Sequence[str]) -> None:
    """Finds out whether the driver runs what nvcc compiles: any of its own major version, but no PTX newer than itself.

    Args:
        nvcc: The compiler.
        flags: What `gencode` gave.

    Raises:
        BuildError: It does not.
    """
    driver = driver_version()
    if driver is None:
        return
    has_ptx = any("code=compute" in flag for flag in flags)
    if nvcc.version[0] > driver[0] or (has_ptx and nvcc.version > driver):
        has, needs = (".".join(map(str, version)) for version in (driver, nvcc.version))
        raise BuildError(
            f"nvcc is {needs}, and the driver is for CUDA {has}. Install a newer driver, or name an older CUDA_HOME"
        )


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver supports, such as (12, 8); None where there is no driver."""
    number = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except OSError:
        return None
    return None if failed else (number.value // 1000, number.value % 1000 // 10)


def _compilers() -> Iterator[tuple[str, ...]]:
    named = os.environ.get("CXX", "")
    if path := shutil.which(named):
        yield (path,)
    else:  # such as "ccache g++"; a path with spaces was taken above
        words = shlex.split(named)
        if words and (path := shutil.which(words[0])):
            yield (path, *words[1:])
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            yield (path,)


def _nvccs() -> Iterator[str]:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if root := os.environ.get(name):
            yield os.path.join(root, "bin", "nvcc")
    if path := shutil.which("nvcc"):
        yield path
    yield "/usr/local/cuda/bin/nvcc"
    installed = Path("/usr/local").glob("cuda-*/bin/nvcc")
    yield from sorted(map(str, installed), key=lambda path: [int(n) for n in re.findall(r"\d+", path)], reverse=True)


def _dryrun(nvcc: str) -> dict[str, str]:
    """The variables that nvcc prints instead of compiling, such as TOP."""
    lines = _ask([nvcc, "--dryrun", "-x", "cu", os.devnull], may_fail=True) or ""
    return dict(re.findall(r"^#\$ (\w+)=(.*)$", lines, re.MULTILINE))


def _architectures(text: str) -> tuple[int, ...]:
    """The numbers in "8.6 9.0a;12.0+PTX"; the kernels need none of the suffixes."""
    found = re.findall(r"(?:^|[\s,;])(\d+)\.(\d)[af]?(?:\+PTX)?(?=$|[\s,;])", text)
    return tuple(int(major + minor) for major, minor in found)


def _ask(command: Sequence[str], *, may_fail: bool = False) -> str | None:
    """What a program prints; None where it is missing or fails."""
    try:
        done = subprocess.run(  # noqa: S603 (the user's own compiler)
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_ASK_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace") if may_fail or done.returncode == 0 else None
