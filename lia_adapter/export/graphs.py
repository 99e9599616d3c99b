"""Networks as graphs of plain operations: torch.export's programs (.pt2) and ONNX. Neither needs code of ours, or a kernel.

A file for each direction that the LIA has: `synthesis` (ys -> x, with the constant noise), `mapping` (z -> y), and where they
are there `inverse` (y -> z) and `encoder` (x -> y or ys). N, the first size of all inputs and outputs, is free.
"""

import importlib.util
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import lia_adapter.mapping
from lia_adapter.errors import LIAError
from lia_adapter.files import atomic_write, make_folder
from lia_adapter.lia import LIA
from lia_adapter.mapping import DenseCore, InvertibleMapping
from lia_adapter.ops import functions

__all__ = ["GRAPHS", "export_graphs"]

_PACKAGES: Final = ("onnx", "onnxscript")
_PROVENANCE: Final = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node")  # paths and names of our code
_BATCH: Final = 2  # of the example; 1 would be taken for a constant


class _Synthesis(nn.Module):
    def __init__(self, lia: LIA) -> None:
        super().__init__()
        self.synthesis: nn.Module = lia.generator.synthesis  # type: ignore[assignment]

    def forward(self, ys: Tensor) -> Tensor:
        x: Tensor = self.synthesis(ys, noise_mode="const")
        return x


class _Inverse(nn.Module):
    def __init__(self, mapping: InvertibleMapping) -> None:
        super().__init__()
        self.mapping = mapping

    def forward(self, y: Tensor, c: Tensor | None = None) -> Tensor:
        return self.mapping.to_z(y, c)


def export_graphs(
    lia: LIA, target: str, out: str | Path, *, progress: Callable[[str, int, int | None], None] | None = None
) -> tuple[Path, ...]:
    """Writes a graph of each part of a LIA.

    Args:
        lia: What `lia_adapter.load` gives; it must be on the CPU.
        target: A key of `GRAPHS`.
        out: A folder, which is made where it is missing.
        progress: Is told the parts done and to do.

    Returns:
        The files, `<part>.pt2` or `<part>.onnx`.

    Raises:
        LIAError: A file cannot be written, or a package is missing (ONNX needs onnx and onnxscript).
    """
    if target not in GRAPHS:
        raise LIAError(f"there is no export to {target!r}; expected one of {', '.join(GRAPHS)}.")
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None] if target == "onnx" else []
    if missing:
        raise LIAError(f"an export to ONNX needs {' and '.join(missing)}. Run pip install 'lia-adapter[onnx]'.")
    suffix, write = GRAPHS[target]
    folder, files = Path(out), []
    make_folder(folder)
    parts = _parts(lia)
    for i, (name, (module, inputs)) in enumerate(parts.items()):
        if progress is not None:
            progress("parts", i, len(parts))
        path = folder / f"{name}{suffix}"
        program = _trace(module, inputs)
        with atomic_write(path, needs=sum(tensor.numel() * 4 for tensor in module.state_dict().values())) as temporary:
            write(program, list(inputs), "x" if name == "synthesis" else "z" if name == "inverse" else "y", temporary)
        files.append(path)
    if progress is not None:
        progress("parts", len(parts), len(parts))
    return tuple(files)


def _parts(lia: LIA) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
    """Each module with an example of its inputs, by name."""
    g = lia.generator
    parts: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {
        "synthesis": (_Synthesis(lia), {"ys": torch.randn(_BATCH, g.num_ws, g.y_dim)})
    }
    labels = {"c": torch.eye(g.c_dim)[:1].repeat(_BATCH, 1)} if g.c_dim else {}
    codes = {"z": torch.randn(_BATCH, lia.z_dim), **labels}
    if lia.mapping is None:
        parts["mapping"] = (g.mapping, codes)  # type: ignore[assignment]
    else:
        parts["mapping"] = (_solved(lia.mapping, to_z=False), codes)
        parts["inverse"] = (_Inverse(_solved(lia.mapping, to_z=True)), {"y": torch.randn(_BATCH, g.y_dim), **labels})
    if lia.encoder is not None:
        parts["encoder"] = (lia.encoder, {"x": torch.randn(_BATCH, g.channels, *g.resolution)})
    return parts


def _solved(mapping: InvertibleMapping, *, to_z: bool) -> InvertibleMapping:
    """A copy whose matrices that one direction solves equations with are inverted, so that a product does it: see `_plain`.

    ONNX has no solver, and the matrices are constants.
    """
    copy = deepcopy(mapping).eval().requires_grad_(False)
    core = copy.core
    if to_z:
        copy.colour, copy.white = _inverse(copy.colour), _inverse(copy.white)
        if isinstance(core, DenseCore):
            core.weights = nn.ParameterList([nn.Parameter(_inverse(w), requires_grad=False) for w in core.weights])
    elif not isinstance(core, DenseCore):
        core.rotation = _inverse(core.rotation)
    return copy


def _inverse(matrix: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.inv(matrix.detach().double())
    return inverse


@contextmanager
def _plain() -> Iterator[None]:
    """Ops take the path of plain torch, and equations are solved by the inverses that `_solved` has put in."""
    kept = functions._is_native, lia_adapter.mapping._solve
    setattr(functions, "_is_native", lambda *_: False)  # noqa: B010  (mypy takes a function for a constant)
    setattr(lia_adapter.mapping, "_solve", lambda inverse, x: x @ inverse.t())  # noqa: B010
    try:
        yield
    finally:
        setattr(functions, "_is_native", kept[0])  # noqa: B010
        setattr(lia_adapter.mapping, "_solve", kept[1])  # noqa: B010


def _trace(module: nn.Module, inputs: Mapping[str, Tensor]) -> ExportedProgram:
    batch = Dim("N")
    with _plain():
        program = torch.export.export(
            module.eval(), tuple(inputs.values()), dynamic_shapes=tuple({0: batch} for _ in inputs), strict=True
        )
    program.graph_module.graph.eliminate_dead_code()  # log-determinants, which nobody reads
    program.graph_module.recompile()
    for node in program.graph_module.graph.nodes:
        for key in _PROVENANCE:
            node.meta.pop(key, None)
    program.example_inputs = None  # torch would pickle them
    return program


def _write_torch(program: ExportedProgram, inputs: list[str], output: str, path: Path) -> None:
    with open(path, "wb") as file:
        torch.export.save(program, file)
    _refuse_pickles(path)


def _refuse_pickles(path: Path) -> None:
    """torch's archives may hold pickled tensors; what is written here has none."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                if entry.filename.endswith(".pt") and file.read(1):
                    raise AssertionError(f"{entry.filename} is a pickle")


def _write_onnx(program: ExportedProgram, inputs: list[str], output: str, path: Path) -> None:
    values = [node.meta.get("val") for node in program.graph.nodes]
    if any(isinstance(value, Tensor) and value.dtype == torch.float64 for value in values):
        # onnxruntime has leaky ReLU in single precision alone; mappings are in double.
        program = program.run_decompositions({torch.ops.aten.leaky_relu.default: _leaky_relu})
    found: Any = torch.onnx.export(program, dynamo=True, verbose=False, input_names=inputs, output_names=[output])
    path.write_bytes(found.model_proto.SerializeToString())


def _leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    return torch.where(x > 0, x, x * slope)


GRAPHS: Final[Mapping[str, tuple[str, Callable[[ExportedProgram, list[str], str, Path], None]]]] = {
    "torch": (".pt2", _write_torch), "onnx": (".onnx", _write_onnx),
}  # fmt: skip
"""Kinds of graphs: the files' suffix, and what writes one."""
