"""The build of the native ops under all that can go wrong: a working result and one honest line each time."""

import ctypes
import fcntl
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lia_adapter.errors import BuildError, ConfigError
from lia_adapter.files import sha256_file
from lia_adapter.ops import build as building
from lia_adapter.ops import native, toolchain
from lia_adapter.ops.build import Library, Plan, build, cpu_plan

SOURCE = '#include "number.h"\nextern "C" __attribute__((visibility("default"))) int answer() { return NUMBER; }\n'
FILES = {"number.h": b"#define NUMBER 42\n", "tiny.cpp": SOURCE.encode(), "unused.cu": b""}
ODD = "a folder, älter: 30 $HOME 'q' #1"
FORK = multiprocessing.get_context("fork")

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the ops are built on Linux only"),
    pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"),
    # Python 3.12 warns of a fork beside torch's threads; the children here use none of them.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def answer(library: Library) -> int:
    return int(ctypes.CDLL(str(library.path)).answer())


def at(folder: Path) -> list[Callable[[], Path]]:
    return [lambda: folder]


@pytest.fixture
def compiler(tmp_path: Path) -> Path:
    """A compiler that counts its calls; it fails if `fail` lies beside it, and hangs if `hang` does."""
    script = tmp_path / "tools" / "counting c++"
    script.parent.mkdir()
    script.write_text(
        '#!/bin/sh\nhere="${0%/*}"\ncase " $* " in *" -c "*)\n'
        '  echo $$ >> "$here/calls"\n'
        '  [ -e "$here/hang" ] && exec sleep 60\n'
        '  [ -e "$here/fail" ] && { sleep 0.5; echo "tiny.cpp:1: error: told to fail"; echo "more"; exit 1; }\n'
        f'esac\nexec {shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")} "$@"\n'
    )
    script.chmod(0o755)
    return script


def calls(compiler: Path) -> int:
    file = compiler.with_name("calls")
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.fixture
def plan(compiler: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("CXX", str(compiler))
    return cpu_plan(FILES, toolchain.find_compiler(), toolchain.find_ninja())


@pytest.fixture
def fresh(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`native` as in a new process, with the tiny sources and an empty cache, which is returned."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(native, "_outcomes", {})
    monkeypatch.setattr(building, "read_sources", lambda: FILES)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("LIA_CACHE_DIR", str(cache))
    monkeypatch.delenv("LIA_OPS", raising=False)
    return cache


def without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *programs: str) -> None:
    """Takes all programs from PATH but the named ones, and the ninja package."""
    folder = tmp_path / "path"
    folder.mkdir()
    for program in programs:
        (folder / program).symlink_to(shutil.which(program) or program)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setitem(sys.modules, "ninja", None)


def one_line(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = caplog.records
    assert record.levelno == logging.WARNING  # what Python shows on stderr where no logging is set up
    assert "\n" not in record.getMessage()
    return record.getMessage()


# What is built


def test_a_library_is_compiled_once(plan: Plan, compiler: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = build(plan, at(tmp_path / "cache"))
    assert answer(first) == 42
    assert build(plan, at(tmp_path / "cache")) == first
    assert calls(compiler) == 1
    assert one_line(caplog) == "Compiling the CPU ops (once, about 10 s) ..."
    assert sorted(path.name for path in first.path.parent.iterdir()) == [
        "build.log",
        first.path.name,
        f"{first.path.name}.sha256",
    ]
    assert sys.float_info.min / 2 > 0  # it did not switch denormals off


def test_whatever_changes_the_library_gives_it_a_place_of_its_own(plan: Plan, tmp_path: Path) -> None:
    other = replace(plan, files=FILES | {"number.h": b"#define NUMBER 43\n"})
    plans = [
        plan,
        other,
        replace(plan, units={name: (*command, "-O1") for name, command in plan.units.items()}),
        replace(plan, libraries=("-lm",)),
        replace(plan, identity=("torch 2.99",)),
    ]
    assert len({each.stem for each in plans}) == len(plans)
    assert replace(plan, ninja="/elsewhere/ninja").stem == plan.stem
    old, new = build(plan, at(tmp_path)), build(other, at(tmp_path))
    assert (answer(old), answer(new)) == (42, 43)


def test_the_cpu_and_the_cuda_library_share_only_the_binding() -> None:
    files = {"binding.cpp": b"", "a_cpu.cpp": b"", "a.cu": b"", "a.h": b""}
    compiler = toolchain.find_compiler()
    nvcc = toolchain.Nvcc("nvcc", Path("cuda"), (13, 0), "13.0", (), (), (90,))
    cpu, cuda = cpu_plan(files, compiler, "ninja"), building.cuda_plan(files, compiler, nvcc, ("-gencode=x",), "ninja")
    assert set(cpu.units) == {"binding.cpp", "a_cpu.cpp"}
    assert set(cuda.units) == {"binding.cpp", "a.cu"}
    assert ("-DLIA_CUDA" in cuda.units["binding.cpp"], "-DLIA_CUDA" in cpu.units["binding.cpp"]) == (True, False)
    assert "-gencode=x" in cuda.units["a.cu"]
    with pytest.raises(BuildError, match="no CUDA kernels"):
        building.cuda_plan({"binding.cpp": b""}, compiler, nvcc, (), "ninja")


def test_the_package_brings_its_sources() -> None:
    assert {"binding.cpp", "kernels.h"} <= set(building.read_sources())


def test_paths_may_have_any_letters(plan: Plan, tmp_path: Path) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    (folder / "odd.h").write_text("#define ODD\n")
    files = {
        "tiny.cpp": b"#include <odd.h>\n#ifndef ODD\n#error no\n#endif\n" + FILES["tiny.cpp"],
        "number.h": FILES["number.h"],
    }
    units = {name: (*command, "-isystem", str(folder)) for name, command in plan.units.items()}
    assert answer(build(replace(plan, files=files, units=units), at(folder / "cache"))) == 42


# Several processes


def together(work: Callable[[], object], count: int) -> list[object]:
    """The results of a function in several processes that begin at once."""
    barrier, results = FORK.Barrier(count), FORK.SimpleQueue()

    def run() -> None:
        barrier.wait()
        try:
            results.put(work())
        except BuildError as error:
            results.put(str(error))

    processes = [FORK.Process(target=run) for _ in range(count)]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def test_eight_processes_build_once(plan: Plan, compiler: Path, tmp_path: Path) -> None:
    def work() -> tuple[str, int]:
        library = build(plan, at(tmp_path / "cache"))
        return str(library.path), answer(library)

    found = together(work, 8)
    assert found == [(str(tmp_path / "cache" / plan.stem / "lia_ops_cpu.so"), 42)] * 8
    assert calls(compiler) == 1


def test_processes_that_waited_for_a_failure_share_it(plan: Plan, compiler: Path, tmp_path: Path) -> None:
    compiler.with_name("fail").touch()
    found = together(lambda: build(plan, at(tmp_path / "cache")), 4)
    assert len(set(found)) == 1
    assert "told to fail" in str(found[0])
    assert calls(compiler) == 1
    compiler.with_name("fail").unlink()  # the next program tries again
    assert answer(build(plan, at(tmp_path / "cache"))) == 42
    assert not list((tmp_path / "cache").glob("*.log"))


def test_a_build_that_was_killed_is_done_again(plan: Plan, compiler: Path, tmp_path: Path) -> None:
    compiler.with_name("hang").touch()
    process = FORK.Process(target=build, args=(plan, at(tmp_path / "cache")))
    process.start()
    while not calls(compiler):
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    compiler.with_name("hang").unlink()
    try:
        assert answer(build(plan, at(tmp_path / "cache"))) == 42
        assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == ["", ".lock"]  # nothing of the killed one
    finally:
        os.kill(int(compiler.with_name("calls").read_text().split()[0]), signal.SIGKILL)


def test_an_interrupted_build_ends_its_compilers(plan: Plan, compiler: Path, tmp_path: Path) -> None:
    compiler.with_name("hang").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "BUILD_S", 0.5)
        with pytest.raises(BuildError, match="ended after"):
            build(plan, at(tmp_path / "cache"))
    pid = int(compiler.with_name("calls").read_text())
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.02)
    pytest.fail("the compiler still runs")


def test_a_lock_file_that_was_left_stops_nobody(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / f"{plan.stem}.lock").write_text("12345")
    assert answer(build(plan, at(tmp_path), wait_s=0)) == 42


def test_a_process_that_keeps_the_lock_is_not_waited_for_forever(
    plan: Plan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open(tmp_path / f"{plan.stem}.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        library = build(plan, [lambda: tmp_path, lambda: tmp_path / "private"], wait_s=0.1)
    assert library.path.parent.parent == tmp_path / "private"
    assert "another process" in one_line(caplog)


# The cache


@pytest.mark.parametrize("damage", ["truncated", "other bytes", "empty", "no hash", "no library", "a folder"])
def test_a_damaged_library_is_built_again(damage: str, plan: Plan, compiler: Path, tmp_path: Path) -> None:
    path = build(plan, at(tmp_path / "cache")).path
    content = path.read_bytes()
    if damage == "no hash":
        path.with_name(f"{path.name}.sha256").unlink()
    else:
        path.unlink()
    if damage == "a folder":
        path.mkdir()
    if damage in ("truncated", "other bytes", "empty"):
        path.write_bytes({"truncated": content[:1000], "other bytes": b"x" * len(content), "empty": b""}[damage])
    assert answer(build(plan, at(tmp_path / "cache"))) == 42
    assert calls(compiler) == 2


def test_a_library_that_does_not_load_is_built_again_once(fresh: Path, plan: Plan, compiler: Path) -> None:
    library = build(plan)
    library.path.write_bytes(b"not a library")
    library.path.with_name(f"{library.path.name}.sha256").write_text(sha256_file(library.path))
    assert native.implementation("cpu") == "native"
    assert calls(compiler) == 2


def test_one_rebuild_serves_all_who_rejected_a_library(plan: Plan, compiler: Path, tmp_path: Path) -> None:
    rejected = build(plan, at(tmp_path / "cache"))
    again = build(plan, at(tmp_path / "cache"), rejected=rejected)
    assert again != rejected
    assert build(plan, at(tmp_path / "cache"), rejected=rejected) == again
    assert calls(compiler) == 2


def test_a_cache_that_cannot_be_written(fresh: Path, compiler: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fresh.write_text("a file")  # root may write into any folder, but not below a file
    assert native.implementation("cpu") == "native"
    line = one_line(caplog)
    assert str(tmp_path / f"lia-adapter-{os.getuid()}") in line
    assert f"{fresh}/ops cannot be used (not a directory)" in line
    assert "LIA_CACHE_DIR" in line


def test_a_user_without_a_home(fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LIA_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert native.implementation("cpu") == "native"
    assert "because there is no home folder for the cache; LIA_CACHE_DIR can name another folder" in one_line(caplog)
    assert native.report()["ops cache"] == "there is no home folder for the cache"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache(fresh: Path, plan: Plan, compiler: Path) -> None:
    fresh.mkdir()
    fresh.chmod(0o555)
    assert native.implementation("cpu") == "native"


def test_a_read_only_cache_that_has_the_library_is_used(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = build(plan, at(tmp_path / "cache"))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert build(plan, at(tmp_path / "cache")) == library


def test_somebody_elses_temporary_folder_is_not_trusted(fresh: Path, plan: Plan, tmp_path: Path) -> None:
    fresh.write_text("a file")
    folder = tmp_path / f"lia-adapter-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(BuildError, match=r"belongs to somebody else.*Set LIA_CACHE_DIR"):
        build(plan)
    folder.rmdir()
    (tmp_path / "theirs").mkdir()
    folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(BuildError, match="belongs to somebody else"):
        build(plan)


# What runs, and what is said


def test_what_runs_is_native_and_needs_no_words(fresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert native.implementation("cpu") == "native"
    assert native.implementation("cpu") == "native"
    assert "Compiling" in one_line(caplog)
    assert native.implementation("meta") == "reference"
    assert len(caplog.records) == 1
    status = native.status()
    assert set(status) == {"bias_act", "upfirdn2d", "upfirdn2d_act", "modconv_epilogue", "filtered_lrelu"}
    assert status["bias_act"]["cpu"] == "native"
    assert native.report()["CPU ops"] == "native"


def test_no_compiler(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    without(monkeypatch, tmp_path, "ninja")
    assert [native.implementation("cpu") for _ in range(3)] == ["reference"] * 3
    assert "CPU ops: plain torch, slower, because no C++ compiler was found" in one_line(caplog)
    assert native.status()["upfirdn2d"]["cpu"] == "reference"
    assert native.report()["compiler"].startswith("no C++ compiler was found")


def test_no_ninja(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    without(monkeypatch, tmp_path, "c++")
    assert native.implementation("cpu") == "reference"
    assert "ninja was not found. Install it: pip install ninja" in one_line(caplog)


def test_a_compile_error(fresh: Path, compiler: Path, caplog: pytest.LogCaptureFixture) -> None:
    compiler.with_name("fail").touch()
    assert native.implementation("cpu") == "reference"
    (log,) = (fresh / "ops").glob("cpu-*.log")
    line = caplog.records[-1].getMessage()
    assert "tiny.cpp:1: error: told to fail" in line
    assert line.endswith(f"The compiler's output is in {log}.")
    assert "more" in log.read_text()


def test_lia_ops_chooses(
    fresh: Path, compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LIA_OPS", "fast")
    with pytest.raises(ConfigError, match="LIA_OPS is 'fast'; expected one of auto, native, reference"):
        native.implementation("cpu")
    monkeypatch.setenv("LIA_OPS", "reference")
    assert native.implementation("cpu") == "reference"
    assert (calls(compiler), caplog.records) == (0, [])
    native._outcomes.clear()
    monkeypatch.setenv("LIA_OPS", "native")
    without(monkeypatch, tmp_path)
    for _ in range(2):
        with pytest.raises(BuildError, match="LIA_OPS is native, but no C.. compiler was found"):
            native.implementation("cpu")
    assert native.implementation("meta") == "reference"


def test_where_there_is_no_nvcc_nvrtc_comes_next(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> toolchain.Nvcc:
        raise BuildError("nvcc was not found")

    def broken() -> None:
        raise BuildError("libnvrtc is missing")

    monkeypatch.setattr(toolchain, "find_nvcc", missing)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    nvrtc = types.ModuleType("nvrtc")
    for register, path, line in (
        (lambda: None, "nvrtc", "CUDA ops: compiled through NVRTC, because nvcc was not found."),
        (broken, "reference", "because nvcc was not found; and NVRTC cannot be used: libnvrtc is missing."),
    ):
        nvrtc.register = register  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "lia_adapter.ops.nvrtc", nvrtc)
        monkeypatch.setattr("lia_adapter.ops.nvrtc", nvrtc, raising=False)
        native._outcomes.clear()
        caplog.clear()
        assert native.implementation("cuda") == path
        assert line in one_line(caplog)


def test_nothing_is_built_at_import(compiler: Path, tmp_path: Path) -> None:
    variables = os.environ | {"CXX": str(compiler), "LIA_CACHE_DIR": str(tmp_path / "cache")}
    code = "import lia_adapter, lia_adapter.ops, lia_adapter.ops.native"
    subprocess.run([sys.executable, "-c", code], env=variables, check=True, cwd=Path(__file__).parents[2])
    assert (calls(compiler), (tmp_path / "cache").exists()) == (0, False)


def test_a_process_forked_in_mid_load_can_load(fresh: Path) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with native._lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = FORK.Process(target=native.implementation, args=("meta",))
    child.start()
    child.join(20)
    done.set()
    thread.join()
    assert child.exitcode == 0
