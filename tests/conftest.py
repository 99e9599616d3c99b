import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lia_adapter import loading

_BESIDE_OTHERS = "PYTEST_XDIST_WORKER" in os.environ


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1" if _BESIDE_OTHERS else "2")))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # pytest-xdist's processes share one cache, so that the ops are built once.
    root = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIA_CACHE_DIR", str((root.parent if _BESIDE_OTHERS else root) / "cache"))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared (real checkpoints), which is not part of the project")
    return folder


@pytest.fixture(params=["native", "reference"])
def each_implementation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs a test twice: with the native ops and without."""
    from lia_adapter import ops
    from lia_adapter.ops import native

    if request.param == "native" and native.implementation("cpu") != "native":
        pytest.skip("needs a C++ compiler")
    with ops.using(request.param):
        yield


@pytest.fixture
def reference_ops() -> Iterator[None]:
    """Runs a test in plain torch: no compiler for a few small images."""
    from lia_adapter import ops

    with ops.using("reference"):
        yield


@pytest.fixture(autouse=True)
def cpu_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `load` opens in a test is on the CPU, on every machine."""
    monkeypatch.setattr(loading, "default_device", lambda: "cpu")
