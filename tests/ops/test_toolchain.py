"""Finding compilers, and for which GPUs to compile."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from lia_adapter.errors import BuildError
from lia_adapter.ops import native, toolchain
from lia_adapter.ops.toolchain import Nvcc, gencode

NEWEST = (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121)  # what nvcc 13.0 knows
OLDER = (50, 52, 60, 61, 70, 72, 75, 80, 86, 87, 89, 90)  # what nvcc 11.8 knows


def nvcc(known: tuple[int, ...], version: tuple[int, int] = (13, 0)) -> Nvcc:
    return Nvcc("nvcc", Path("cuda"), version, "", (), (), known)


def fake_nvcc(folder: Path, toolkit: Path | str, *, release: str = "13.0", archs: str = "75 90") -> Path:
    """A wrapper of nvcc, which lies elsewhere than the toolkit that it prints."""
    folder.mkdir(parents=True)
    script = folder / "nvcc"
    listing = "".join(f"echo compute_{arch};" for arch in archs.split()) or "exit 1;"
    script.write_text(
        f"""#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {release}, V{release}.88";;
  --list-gpu-arch) {listing} :;;
  --dryrun) cat >&2 <<END
#$ _SPACE_=
#$ TOP={toolkit}/bin/..
#$ INCLUDES="-I{toolkit}/bin/../include"
#$ SYSTEM_INCLUDES="-isystem" "{toolkit}/include/cccl"
#$ LIBRARIES=  "-L{toolkit}/lib/stubs" "-L{toolkit}/lib"
END
  ;;
esac
"""
    )
    script.chmod(0o755)
    return script


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CXX", "CUDA_HOME", "CUDA_PATH", "LIA_CUDA_ARCH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)


# GPUs


@pytest.mark.parametrize(
    ("known", "gpus", "flags"),
    [
        (NEWEST, (90,), ["arch=compute_90,code=sm_90"]),
        (NEWEST, (80, 120), ["arch=compute_80,code=sm_80", "arch=compute_120,code=sm_120"]),
        (NEWEST, (87,), ["arch=compute_87,code=sm_87"]),  # no target of ours, but nvcc knows it
        (NEWEST, (140,), ["arch=compute_121,code=compute_121"]),  # a GPU that is newer than nvcc: PTX
        (OLDER, (100, 120), ["arch=compute_90,code=compute_90"]),  # both at once, from one PTX
        (OLDER, (88,), ["arch=compute_87,code=compute_87"]),
    ],
)
def test_flags_for_gpus(known: tuple[int, ...], gpus: tuple[int, ...], flags: list[str]) -> None:
    assert list(gencode(nvcc(known), gpus)) == [f"-gencode={flag}" for flag in flags]


@pytest.mark.parametrize(
    ("known", "gpu", "message"),
    [
        (OLDER, 61, "the GPU has compute capability 6.1; the kernels and nvcc need 7.5 or newer"),
        (tuple(arch for arch in NEWEST if arch >= 80), 75, "capability 7.5; the kernels and nvcc need 8.0 or newer"),
    ],
)
def test_a_gpu_that_is_too_old(known: tuple[int, ...], gpu: int, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        gencode(nvcc(known), (gpu,))


def test_gpus_come_from_variables_or_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert toolchain.gpus() == (75, 80, 86, 89, 90, 100, 120)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "5.2 6.0;7.5, 9.0a 12.0+PTX")
    assert toolchain.gpus() == (75, 90, 120)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
    assert toolchain.gpus() == toolchain.SUPPORTED
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", [(9, 0), (8, 6), (9, 0)].__getitem__)
    assert toolchain.gpus() == (86, 90)
    monkeypatch.setenv("LIA_CUDA_ARCH", "8.0,12.0")
    assert toolchain.gpus() == (80, 120)
    monkeypatch.setenv("LIA_CUDA_ARCH", "sm_90")
    with pytest.raises(BuildError, match=r"LIA_CUDA_ARCH is 'sm_90'; expected compute capabilities such as 9\.0"):
        toolchain.gpus()


@pytest.mark.parametrize(
    ("driver", "known", "runs"),
    [
        ((13, 2), NEWEST, True),
        ((13, 0), NEWEST, True),
        ((12, 9), NEWEST, False),  # of an older major version
        (None, NEWEST, True),  # built where no driver is
    ],
)
def test_the_driver_must_run_it(
    driver: tuple[int, int] | None, known: tuple[int, ...], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "driver_version", lambda: driver)
    compiler = nvcc(known)
    if runs:
        toolchain.check_driver(compiler, gencode(compiler, (90,)))
    else:
        with pytest.raises(BuildError, match=r"nvcc is 13\.0, and the driver is for CUDA 12\.9"):
            toolchain.check_driver(compiler, gencode(compiler, (90,)))


def test_ptx_must_not_be_newer_than_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "driver_version", lambda: (13, 0))
    compiler = nvcc(NEWEST, (13, 1))
    toolchain.check_driver(compiler, gencode(compiler, (90,)))
    with pytest.raises(BuildError, match=r"nvcc is 13\.1"):
        toolchain.check_driver(compiler, gencode(compiler, (140,)))


# Programs


def test_nvcc_is_asked_for_its_toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = fake_nvcc(tmp_path / "wrappers", "/opt/toolkit of mine", archs="90 75 100")
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    found = toolchain.find_nvcc()
    assert (found.path, found.root, found.version) == (str(script), Path("/opt/toolkit of mine"), (13, 0))
    assert found.includes == ("/opt/toolkit of mine/bin/../include", "/opt/toolkit of mine/include/cccl")
    assert found.libraries == ("/opt/toolkit of mine/lib/stubs", "/opt/toolkit of mine/lib")
    assert found.architectures == (75, 90, 100)


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_a_toolkit_that_a_variable_names_comes_first(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_outcomes", {})
    monkeypatch.setenv("LIA_OPS", "reference")  # so that the report builds nothing
    on_path = fake_nvcc(tmp_path / "path", "/opt/a")
    named = fake_nvcc(tmp_path / "named" / "bin", tmp_path / "named")
    monkeypatch.setenv("PATH", f"{on_path.parent}:{os.environ['PATH']}")
    monkeypatch.setenv(variable, str(tmp_path / "named"))
    assert toolchain.find_nvcc().path == str(named)
    monkeypatch.setenv(variable, str(tmp_path / "nowhere"))  # a wrong one is passed over
    assert toolchain.find_nvcc().path == str(on_path)
    assert f"({variable} ignored: no bin/nvcc there)" in native.report()["nvcc"]


def test_an_nvcc_that_is_broken_or_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken" / "bin" / "nvcc"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    old = fake_nvcc(tmp_path / "old", "/opt/old", release="10.2", archs="")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "broken"))
    monkeypatch.setenv("PATH", f"{old.parent}:{os.environ['PATH']}")
    with pytest.raises(BuildError, match=r"nvcc 10\.2 \(.*\) is too old"):
        toolchain.find_nvcc()


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = toolchain.find_compiler()
    assert "__VERSION__" in ordinary.identity
    monkeypatch.setenv("CXX", str(tmp_path / "nowhere"))  # a wrong one is passed over
    assert toolchain.find_compiler() == ordinary
    picky = tmp_path / "picky c++"
    picky.write_text('#!/bin/sh\ncase "$*" in *-march=native*) exit 1;; esac\nexec c++ "$@"\n')
    picky.chmod(0o755)
    monkeypatch.setenv("CXX", str(picky))
    found = toolchain.find_compiler()
    assert (found.command, found.flags) == ((str(picky),), ())
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\nexec "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("CXX", f"{launcher} c++")
    assert toolchain.find_compiler().command == (str(launcher), "c++")


def test_ninja_of_the_package_comes_before_that_on_path() -> None:
    ninja = pytest.importorskip("ninja")
    assert toolchain.find_ninja() == os.path.join(ninja.BIN_DIR, "ninja")
