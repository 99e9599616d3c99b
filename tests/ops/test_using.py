"""`ops.using`: the ops of one thread run as chosen, and those of others as before."""

import contextvars
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from lia_adapter import ops
from lia_adapter.errors import BuildError, ConfigError
from lia_adapter.generators.base import checkpointed
from lia_adapter.ops import library, native, reference
from tests import toys

CALLS = {
    "bias_act": lambda x: ops.bias_act(x, act="lrelu"),
    "upfirdn2d": lambda x: ops.upfirdn2d(x, ops.setup_filter([1, 2, 1]), padding=1),
    "upfirdn2d_act": lambda x: ops.upfirdn2d_act(x, ops.setup_filter([1, 2, 1]), padding=1),
    "modconv_epilogue": lambda x: ops.modconv_epilogue(x),
    "filtered_lrelu": lambda x: ops.filtered_lrelu(x),
}  # fmt: skip
NATIVE = {"bias_act": "epilogue", "modconv_epilogue": "epilogue"}


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """As if there were kernels for the CPU: the names of those that were called, which do what plain torch does."""
    called: list[str] = []

    def kernel(name: str, answer: Callable[[Tensor], Any]) -> Callable[..., Any]:
        def run(x: Tensor, *_: object) -> Any:
            called.append(name)
            return answer(x)

        return run

    monkeypatch.delenv("LIA_OPS", raising=False)
    monkeypatch.setattr(native, "_outcomes", {"cpu": native._Outcome("native", "")})
    for name in ("epilogue", "upfirdn2d", "upfirdn2d_act"):
        monkeypatch.setattr(library, name, kernel(name, lambda x: x))
    monkeypatch.setattr(library, "filtered_lrelu", kernel("filtered_lrelu", lambda x: (x, x)))
    yield called


def in_thread(run: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(run()))
    thread.start()
    thread.join(60)
    return found[0]


@pytest.mark.parametrize("name", CALLS)
def test_each_op_is_chosen_alike(name: str, kernels: list[str]) -> None:
    x = torch.randn(1, 2, 5, 5)
    kernel = NATIVE.get(name, name)
    CALLS[name](x)
    assert kernels == [kernel]
    with ops.using("reference"):
        found = CALLS[name](x)
        assert ops.status()[name]["cpu"] == "reference"
    assert kernels == [kernel]
    wide = getattr(reference, name)(*([x, ops.setup_filter([1, 2, 1])] if "upfirdn" in name else [x]), **(
        {"padding": 1} if "upfirdn" in name else {"act": "lrelu"} if name == "bias_act" else {}
    ))  # fmt: skip
    assert torch.equal(found, wide)
    CALLS[name](x)
    assert kernels == [kernel, kernel]


def test_choices_nest_and_end_with_an_error(kernels: list[str]) -> None:
    def now() -> str:
        return native.implementation("cpu")

    with ops.using("reference"):
        with ops.using("auto"):
            assert now() == "native"
            with pytest.raises(ZeroDivisionError), ops.using("reference"):
                assert now() == "reference"
                1 / 0  # noqa: B018
            assert now() == "native"
        assert now() == "reference"
    assert now() == "native"


def test_other_threads_are_left_alone(kernels: list[str]) -> None:
    with ops.using("reference"):
        assert in_thread(lambda: native.implementation("cpu")) == "native"
        here = contextvars.copy_context()
        assert in_thread(lambda: here.run(native.implementation, "cpu")) == "reference"

    def choose() -> str:
        with ops.using("reference"):
            assert in_thread(lambda: native.implementation("cpu")) == "native"
            return native.implementation("cpu")

    assert in_thread(choose) == "reference"
    assert native.implementation("cpu") == "native"


def test_it_goes_before_the_variable(kernels: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIA_OPS", "reference")
    assert native.implementation("cpu") == "reference"
    for choice in ("auto", "native"):
        with ops.using(choice):
            assert native.implementation("cpu") == "native"
            assert native.report()["CPU ops"] == "native"
    with ops.using("auto"):
        monkeypatch.setenv("LIA_OPS", "nonsense")  # is not asked
        assert native.implementation("cpu") == "native"


def test_nothing_is_loaded_for_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(device_type: str) -> Any:
        raise AssertionError(device_type)

    monkeypatch.setattr(native, "_outcomes", {})
    monkeypatch.setattr(native, "_load", load)
    with ops.using("reference"):
        assert ops.status()["upfirdn2d"]["cpu"] == "reference"
        ops.bias_act(torch.randn(2, 3), act="lrelu")
    assert native._outcomes == {}


def test_native_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_outcomes", {"cpu": native._Outcome("reference", "there is no compiler")})
    with ops.using("native"), pytest.raises(BuildError, match=r"using chose native, but there is no compiler\. Choose auto"):
        ops.bias_act(torch.randn(2, 3), act="lrelu")
    with ops.using("auto"):
        ops.bias_act(torch.randn(2, 3), act="lrelu")


def test_a_misspelt_choice_is_told() -> None:
    with pytest.raises(ConfigError, match="using.'fast'.: expected one of auto, native, reference"), ops.using("fast"):  # type: ignore[arg-type]
        pass


def test_a_compiled_function_follows_the_choice(kernels: list[str]) -> None:
    def function(x: Tensor) -> Tensor:
        return x + 1 if native.implementation("cpu") == "native" else x - 1

    compiled, x = torch.compile(function, backend="eager", fullgraph=True), torch.zeros(2)

    def run() -> float:
        return float(compiled(x)[0])

    assert run() == 1
    with ops.using("reference"):
        assert run() == -1
        assert in_thread(run) == 1
    assert run() == 1


def test_what_autograd_runs_again_runs_as_chosen(kernels: list[str]) -> None:
    """In a thread of its own, as on a GPU, or here after the end of the choice."""
    generator = toys.stylegan().generator
    ys = torch.randn(1, generator.num_ws, generator.y_dim, requires_grad=True)
    (expected,) = torch.autograd.grad(reference_loss(generator, ys), ys)
    for in_another in (False, True):
        with checkpointed():
            again = partial(torch.autograd.grad, reference_loss(generator, ys), ys)
        (found,) = in_thread(again) if in_another else again()
        assert torch.equal(found, expected)
    assert kernels == []


def reference_loss(generator: Any, ys: Tensor) -> Tensor:
    with ops.using("reference"):
        loss: Tensor = generator.synthesis(ys).square().sum()
        return loss
