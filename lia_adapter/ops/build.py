"""Sources → a shared library in the cache: compiled once by ninja, whatever happens meanwhile.

A library lives in `<cache>/ops/<name>-<key>/` beside its SHA-256 and the build's log. The key is a hash of all that can
change its bytes, so that a changed source, compiler, torch or CPU has a folder of its own. A build happens in a temporary
folder, under a lock that dies with its process, and the folder is renamed when it is whole.
"""

import contextlib
import fcntl
import hashlib
import importlib.resources
import logging
import os
import platform
import re
import secrets
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lia_adapter.errors import BuildError, LIAError
from lia_adapter.files import sha256_file
from lia_adapter.ops.toolchain import Compiler, Nvcc

__all__ = ["Library", "Plan", "build", "cache_folders", "cpu_plan", "cuda_plan", "read_sources"]

BUILD_S = 600.0
"""A build that takes longer is ended."""

WAIT_S = 120.0
"""How long a process waits for another one's build before it builds elsewhere."""

_WAIT_TOLD_S = 30.0
_END_S = 5.0
_LOG = logging.getLogger("lia_adapter.ops")
_TORCH = Path(torch.__file__).parent

# -ffast-math is missed on purpose: a library linked with it switches denormals off for the whole process.
_CXX = ("-O3", "-fno-math-errno", "-Wall", "-Wextra")
# The oldest torch that is supported, 2.10: newer headers then offer nothing that it lacks.
_CXX_ALL = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020a000000000000")
# -Xptxas -v writes registers and spills into the log.
_NVCC = ("-O3", "-std=c++17", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall", "-Xptxas=-v", "--threads=0", "-DLIA_CUDA")
# A missing symbol fails the build, not the program.
_LINK = ("-shared", "-Wl,-z,defs")
# Its own CUDA runtime, as nvcc links by default: it fits the code that nvcc made, whatever version torch's is, and both share
# the driver's contexts and streams. Its symbols stay inside, because torch loads libraries into the global scope.
_CUDA_RUNTIME = ("-lcudart_static", "-lrt", "-lpthread", "-ldl", "-Wl,--exclude-libs,ALL")


@dataclass(frozen=True)
class Plan:
    """All that decides the bytes of a library.

    Attributes:
        name: What the library is called in files and messages: "cpu" or "cuda".
        about: How long the build takes, for people.
        files: Name → content of the sources and headers, which all lie in one folder.
        units: Source → the command that compiles it, without the names of source and object.
        linker: The command that links the objects, without their names.
        libraries: The words after the objects.
        ninja: The program.
        identity: Versions of what the commands call.
    """

    name: str
    about: str
    files: Mapping[str, bytes]
    units: Mapping[str, tuple[str, ...]]
    linker: tuple[str, ...]
    libraries: tuple[str, ...]
    ninja: str
    identity: tuple[str, ...]

    @property
    def stem(self) -> str:
        """The name of the library's folder."""
        content = (sorted(self.files.items()), sorted(self.units.items()), self.linker, self.libraries, self.identity)
        return f"{self.name}-{hashlib.sha256(repr(content).encode()).hexdigest()[:20]}"


@dataclass(frozen=True)
class Library:
    """A whole library: its file, and which build it is of (a stamp that no other build in the same place has)."""

    path: Path
    stamp: int


def read_sources() -> dict[str, bytes]:
    """Name → content of the native sources that came with the package."""
    folder = importlib.resources.files("lia_adapter._kernels")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.endswith((".cpp", ".cu", ".h"))}


def cpu_plan(files: Mapping[str, bytes], compiler: Compiler, ninja: str) -> Plan:
    """The library of the CPU kernels: all `*.cpp`."""
    command = (*compiler.command, *_CXX, *_CXX_ALL, *compiler.flags, *_torch_flags())
    return Plan(
        name="cpu",
        about="once, about 10 s",
        files={name: content for name, content in files.items() if not name.endswith(".cu")},
        units={name: command for name in _by_size(files) if name.endswith(".cpp")},
        linker=(*compiler.command, *_LINK),
        libraries=(f"-L{_TORCH / 'lib'}", "-ltorch_cpu", "-lc10"),
        ninja=ninja,
        identity=(*_identity(), compiler.identity),
    )


def cuda_plan(files: Mapping[str, bytes], compiler: Compiler, nvcc: Nvcc, targets: Sequence[str], ninja: str) -> Plan:
    """The library of the CUDA kernels: all `*.cu`, and `*binding.cpp` with LIA_CUDA defined.

    Args:
        files: What `read_sources` gives.
        compiler: For the binding, and to link.
        nvcc: For the kernels.
        targets: What `gencode` gives.
        ninja: The program.

    Raises:
        BuildError: There are no CUDA sources.
    """
    kernels = [name for name in _by_size(files) if name.endswith(".cu")]
    if not kernels:
        raise BuildError("this version of lia-adapter has no CUDA kernels")
    headers = [word for folder in nvcc.includes for word in ("-isystem", folder)]
    # No -march=native: nothing here runs on the CPU for long.
    binding = (
        *compiler.command,
        *_CXX,
        *_CXX_ALL,
        *_torch_flags(),
        *headers,
        "-DLIA_CUDA",
        "-DUSE_CUDA",
    )  # the second for torch's headers
    host = ("-ccbin", compiler.command[0]) if len(compiler.command) == 1 else ()
    return Plan(
        name="cuda",
        about=f"once, about {5 + 5 * len(targets)} s",
        files={name: content for name, content in files.items() if not name.endswith(".cpp") or name.endswith("binding.cpp")},
        units={name: (nvcc.path, *_NVCC, *host, *targets) for name in kernels}
        | {name: binding for name in files if name.endswith("binding.cpp")},
        linker=(*compiler.command, *_LINK),
        libraries=(
            f"-L{_TORCH / 'lib'}", "-ltorch_cuda", "-ltorch_cpu", "-lc10",
            *(f"-L{folder}" for folder in nvcc.libraries), *_CUDA_RUNTIME,
        ),
        ninja=ninja,
        identity=(*_identity(), compiler.identity, nvcc.release, str(torch.version.cuda)),
    )  # fmt: skip


def _by_size(files: Mapping[str, bytes]) -> list[str]:
    """The largest first: ninja starts them in order, and what takes longest should not begin last."""
    return sorted(files, key=lambda name: (-len(files[name]), name))


def cache_folders() -> tuple[Callable[[], Path], ...]:
    """Where libraries are built, by preference: the cache, and a private temporary folder."""
    return _cache, _private


def build(
    plan: Plan,
    folders: Sequence[Callable[[], Path]] | None = None,
    *,
    rejected: Library | None = None,
    wait_s: float = WAIT_S,
) -> Library:
    """The library of a plan, from the cache where it is there and whole, else compiled.

    Args:
        plan: What to build.
        folders: Where: the first that can be used. `cache_folders` gives the default.
        rejected: A library that this gave and that could not be loaded: it is built again, once among all processes.
        wait_s: How long to wait for another process that builds the same.

    Raises:
        BuildError: No folder can be used, or the compiler failed.
    """
    trouble: list[str] = []
    for folder in folders or cache_folders():
        where: Path | None = None
        try:
            where = folder()
            return _build_in(where, plan, rejected, wait_s, trouble)
        except (OSError, _LockedError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            trouble.append(f"{where} cannot be used ({reason.lower()})" if where else str(error))
    raise BuildError(f"{', and '.join(trouble)}. Set LIA_CACHE_DIR to a folder that can be written")


class _LockedError(Exception):
    """Another process kept its lock for too long."""


def _build_in(folder: Path, plan: Plan, rejected: Library | None, wait_s: float, trouble: Sequence[str]) -> Library:
    """The library of a plan in one folder.

    Raises:
        OSError: The folder cannot be used.
        _LockedError: Another process builds there and does not end.
        BuildError: The compiler failed.
    """
    target = folder / plan.stem
    if (library := _whole(target, plan)) and library != rejected:
        return library
    began = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / f"{plan.stem}.lock", plan, wait_s):
        if (library := _whole(target, plan)) and library != rejected:
            return library  # another process built it meanwhile
        log = folder / f"{plan.stem}.log"
        if log.exists() and log.stat().st_mtime > began:
            raise _failure(plan, log)  # another process failed meanwhile, and so would this one
        for rest in folder.glob(f"{plan.stem}.*.tmp"):  # of a process that was killed: who holds the lock is alone
            shutil.rmtree(rest, ignore_errors=True)
        place = f" in {folder}, because {trouble[-1]}; LIA_CACHE_DIR can name another folder" if trouble else ""
        _LOG.warning("Compiling the %s ops (%s)%s ...", plan.name.upper(), plan.about, place)
        temporary = folder / f"{plan.stem}.{secrets.token_hex(4)}.tmp"
        temporary.mkdir()
        try:
            _compile(plan, temporary, log)
            shutil.rmtree(target, ignore_errors=True)  # what is not whole
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        library = _whole(target, plan)
        if library is None:
            raise OSError(f"the library in {target} did not stay as it was written")
        log.unlink(missing_ok=True)
        return library


def _compile(plan: Plan, folder: Path, log: Path) -> None:
    """Builds the library in a folder, and leaves there only it, its hash and the log.

    The sources are copied there, so that what was hashed is what is compiled, and no path in them has odd letters.
    """
    for name, content in plan.files.items():
        (folder / name).write_bytes(content)
    (folder / "build.ninja").write_bytes(os.fsencode(_ninja_file(plan)))
    output = folder / "build.log"
    code = _run([plan.ninja, "-v"], folder, output)
    library = folder / _file_name(plan)
    if code != 0 or not library.exists():
        os.replace(output, log)
        raise _failure(plan, log)
    _hash_file(library).write_text(sha256_file(library))
    for file in folder.iterdir():
        if file not in (library, _hash_file(library), output):
            file.unlink()


def _run(command: Sequence[str], folder: Path, output: Path) -> int:
    """The exit status of a program that writes into a file; it and its children end with this function, however that ends."""
    with open(output, "wb") as file:
        process = subprocess.Popen(  # noqa: S603 (ninja, as found by us)
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(BUILD_S)
        except subprocess.TimeoutExpired:
            file.write(f"\nerror: ended after {BUILD_S:.0f} s\n".encode())
            return -1
        finally:
            if process.poll() is None:
                process.terminate()  # not kill(): only ninja can end its compilers, which have process groups of their own
                try:
                    process.wait(_END_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _ninja_file(plan: Plan) -> str:
    lines = ["rule run", "  command = $line", ""]
    for source, command in plan.units.items():
        lines += _edge(f"{source}.o", [source], (*command, "-c", source, "-o", f"{source}.o"))
    objects = [f"{source}.o" for source in plan.units]
    lines += _edge(_file_name(plan), objects, (*plan.linker, "-o", _file_name(plan), *objects, *plan.libraries))
    return "\n".join(lines) + "\n"


def _edge(output: str, inputs: Sequence[str], command: Sequence[str]) -> list[str]:
    # A shell runs the line, after ninja has replaced what begins with a dollar.
    line = shlex.join(command).replace("$", "$$")
    return [f"build {output}: run {' '.join(inputs)}", f"  line = {line}"]


def _failure(plan: Plan, log: Path) -> BuildError:
    text = log.read_bytes().decode(errors="replace")
    first = re.search(r"^.*\b(?:error|fatal|cannot|No space)\b.*$", text, re.MULTILINE | re.IGNORECASE)
    said = f": {first[0].strip()[:200]}" if first else ""
    return BuildError(f"the {plan.name.upper()} ops did not compile{said}. The compiler's output is in {log}")


def _whole(folder: Path, plan: Plan) -> Library | None:
    """The library in a folder; None where it is missing or damaged: to load a damaged one can end the process."""
    path = folder / _file_name(plan)
    try:
        if sha256_file(path) == _hash_file(path).read_text():
            return Library(path, path.stat().st_mtime_ns)
    except (OSError, LIAError, UnicodeDecodeError):
        pass
    return None


def _file_name(plan: Plan) -> str:
    return f"lia_ops_{plan.name}.so"


def _hash_file(library: Path) -> Path:
    return library.with_name(f"{library.name}.sha256")


@contextlib.contextmanager
def _lock(path: Path, plan: Plan, wait_s: float) -> Iterator[None]:
    # The file stays: to remove it would let a third process lock a new one while the second waits on the old.
    with open(path, "a") as file:
        began, told = time.monotonic(), False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = time.monotonic() - began
            if waited > wait_s:
                raise _LockedError(f"another process has held {path.name} for {wait_s:.0f} s")
            if waited > _WAIT_TOLD_S and not told:
                _LOG.warning("Waiting for another process that compiles the %s ops (it holds %s) ...", plan.name.upper(), path)
                told = True
            time.sleep(0.05)
        try:
            yield
        finally:  # not left to close(): a process forked meanwhile has the same lock open
            fcntl.flock(file, fcntl.LOCK_UN)


def _cache() -> Path:
    from lia_adapter.download import cache_dir  # not above: it imports requests

    try:
        return cache_dir().absolute() / "ops"
    except RuntimeError as error:  # a user without an entry in passwd, as in some containers
        raise OSError("there is no home folder for the cache") from error


def _private() -> Path:
    """A folder for temporary files that only this user can write; one for all processes, so that they build once.

    Raises:
        OSError: It cannot be made, or somebody else made it.
    """
    folder = Path(tempfile.gettempdir()).absolute() / f"lia-adapter-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise OSError(f"{folder} belongs to somebody else")
    return folder


def _torch_flags() -> tuple[str, ...]:
    abi = int(torch.compiled_with_cxx11_abi())
    return ("-isystem", str(_TORCH / "include"), f"-D_GLIBCXX_USE_CXX11_ABI={abi}")


def _identity() -> tuple[str, ...]:
    # A home folder may be shared by machines that differ in the last two.
    return torch.__version__, platform.machine(), " ".join(platform.libc_ver())
