"""Networks as graphs of plain operations: torch.export's programs (.pt2) and ONNX. Neither needs code of ours, or a kernel.

A file for each direction that the LIA has: `synthesis` (ys -> x, with the constant noise), `mapping` (z -> y), and where they
are there `inverse` (y -> z) and `encoder` (x -> y or ys). N, the first size of all inputs and outputs, is free. Of a converted
LIA `mapping` is the invertible one, the other direction of `inverse`: it takes the z of codes, not that of seeds.
"""

import importlib.util
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from lia_adapter.encoder import encoded
from lia_adapter.errors import LIAError
from lia_adapter.files import atomic_write, make_folder
from lia_adapter.generators import WrappedGenerator, at_rest, broadcast
from lia_adapter.lia import LIA
from lia_adapter.mapping import DenseCore, InvertibleMapping
from lia_adapter.ops import using

__all__ = ["GRAPHS", "export_graphs"]

_PACKAGES: Final = ("onnx", "onnxscript")
_PROVENANCE: Final = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node")  # paths and names of our code
_BATCH: Final = 2  # of the example; 1 would be taken for a constant


class _Passes(nn.Module):
    """x -> y or ys by an encoder that looks at what its answers draw."""

    def __init__(self, lia: LIA) -> None:
        super().__init__()
        self.encoder, self.synthesis = lia.encoder, _Synthesis(lia)
        self.num_ws = lia.generator.num_ws

    def forward(self, x: Tensor) -> Tensor:
        assert self.encoder is not None  # noqa: S101  (`_directions` saw one)
        return encoded(self.encoder, x, lambda codes: self.synthesis(broadcast(codes, self.num_ws)))


class _Synthesis(nn.Module):
    def __init__(self, lia: LIA) -> None:
        super().__init__()
        self.synthesis = lia.generator.synthesis
        self.guests = _guests(lia)

    def forward(self, ys: Tensor) -> Tensor:
        x: Tensor = self.synthesis(ys, noise_mode="const")
        return x


class _Mapping(nn.Module):
    """A mapping that is a function and no module, as a wrapped generator's is."""

    def __init__(self, lia: LIA) -> None:
        super().__init__()
        self.mapping, self.guests = lia.generator.mapping, _guests(lia)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self.mapping(z, c)


def _guests(lia: LIA) -> nn.ModuleList:
    """The modules of a wrapped generator, so that their weights are known as such."""
    return nn.ModuleList(lia.generator.guests if isinstance(lia.generator, WrappedGenerator) else [])


class _Inverse(nn.Module):
    def __init__(self, mapping: InvertibleMapping) -> None:
        super().__init__()
        self.mapping = mapping

    def forward(self, y: Tensor, c: Tensor | None = None) -> Tensor:
        return self.mapping.to_z(y, c)


@dataclass(frozen=True)
class _Direction:
    """One way through a LIA, with an example of its inputs by name, and the name of its output."""

    module: nn.Module
    inputs: Mapping[str, Tensor]
    output: str
    strict: bool = True  # whether its code is ours, so that all of it can be read


def export_graphs(
    lia: LIA, target: str, out: str | Path, *, progress: Callable[[str, int, int | None], None] | None = None
) -> tuple[Path, ...]:
    """Writes a graph for each direction of a LIA.

    Args:
        lia: What `lia_adapter.load` gives; it must be on the CPU.
        target: A key of `GRAPHS`.
        out: A folder, which is made where it is missing.
        progress: Is told the graphs done and to do.

    Returns:
        The files, `<direction>.pt2` or `<direction>.onnx`, and README.md, which tells their inputs and outputs.

    Raises:
        LIAError: A file cannot be written, or a package is missing (ONNX needs onnx and onnxscript).
    """
    if target not in GRAPHS:
        raise LIAError(f"there is no export to {target!r}; expected one of {', '.join(GRAPHS)}.")
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None] if target == "onnx" else []
    if missing:
        raise LIAError(f"an export to ONNX needs {' and '.join(missing)}. Run pip install 'lia-adapter[onnx]'.")
    folder, directions, files, rows = Path(out), _directions(lia), [], []
    make_folder(folder)
    suffix, write, code = GRAPHS[target]
    for i, (name, direction) in enumerate(directions.items()):
        if progress is not None:
            progress("graphs", i, len(directions))
        program = _trace(direction)
        path = folder / f"{name}{suffix}"
        with atomic_write(path, needs=_size(direction.module)) as temporary:
            write(program, direction, temporary)
        files.append(path)
        answer = program.module()(*direction.inputs.values())
        inputs = ", ".join(f"{key} {_shape(tensor)}" for key, tensor in direction.inputs.items())
        rows.append(f"| {path.name} | {inputs} | {direction.output} {_shape(answer)} |")
    if progress is not None:
        progress("graphs", len(directions), len(directions))
    note = folder / "README.md"
    with atomic_write(note) as temporary:
        source, seeds = lia.provenance.get("source", "a generator"), _SEEDS if lia.mapping and not lia.mapping_is_own else ""
        temporary.write_text(_NOTE.format(source=source, rows="\n".join(rows), seeds=seeds, code=code))
    return (*files, note)


def _directions(lia: LIA) -> dict[str, _Direction]:
    g = lia.generator
    ours = not isinstance(g, WrappedGenerator)
    found = {"synthesis": _Direction(_Synthesis(lia), {"ys": torch.zeros(_BATCH, g.num_ws, g.y_dim)}, "x", ours)}
    labels = {"c": torch.eye(g.c_dim)[:1].repeat(_BATCH, 1)} if g.c_dim else {}
    codes = {"z": torch.zeros(_BATCH, lia.z_dim), **labels}
    if lia.mapping is None:
        found["mapping"] = _Direction(g.mapping if isinstance(g.mapping, nn.Module) else _Mapping(lia), codes, "y", ours)
    else:
        found["mapping"] = _Direction(_solved(lia.mapping, to_z=False), codes, "y")
        inverse = _Inverse(_solved(lia.mapping, to_z=True))
        found["inverse"] = _Direction(inverse, {"y": torch.zeros(_BATCH, g.y_dim), **labels}, "z")
    if lia.encoder is not None:
        output = "ys" if getattr(lia.encoder, "space", "y") == "ys" else "y"
        network = lia.encoder if getattr(lia.encoder, "passes", 1) == 1 else _Passes(lia)
        found["encoder"] = _Direction(network, {"x": torch.zeros(_BATCH, g.channels, *g.resolution)}, output)
    return found


def _size(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} [{', '.join(['N', *map(str, tensor.shape[1:])])}]"


def _solved(mapping: InvertibleMapping, *, to_z: bool) -> InvertibleMapping:
    """A copy whose matrices that one direction solves equations with are inverted, so that a product does it.

    ONNX has no solver, and the matrices are constants.
    """
    copy = deepcopy(mapping).eval().requires_grad_(False)
    core = copy.core
    copy.solve = core.solve = _product
    if to_z:
        copy.colour, copy.white = _inverse(copy.colour), _inverse(copy.white)
        if isinstance(core, DenseCore):
            core.weights = nn.ParameterList([nn.Parameter(_inverse(w), requires_grad=False) for w in core.weights])
    elif not isinstance(core, DenseCore):
        core.rotation = _inverse(core.rotation)
    return copy


def _inverse(matrix: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.inv(matrix.detach().double()).contiguous()
    return inverse


def _product(inverse: Tensor, x: Tensor) -> Tensor:
    """What `solve_rows` gives for a matrix, by its inverse."""
    return x @ inverse.t()


def _trace(direction: _Direction) -> ExportedProgram:
    batch = Dim("N")
    inputs = tuple(direction.inputs.values())
    with using("reference"), at_rest([] if direction.strict else [direction.module]):
        direction.module(*inputs)  # noise that is held still is drawn before it is recorded
        try:
            program = torch.export.export(
                direction.module.eval(),
                inputs,
                dynamic_shapes=tuple({0: batch} for _ in direction.inputs),
                strict=direction.strict,
            )
        except Exception as error:
            if direction.strict:
                raise
            first = str(error).strip().splitlines()[0][:200]
            raise LIAError(f"torch.export can't record this generator's own code: {type(error).__name__}: {first}") from error
    for part in program.graph_module.modules():
        if isinstance(part, GraphModule):  # the whole, and what ran without autocast
            part.graph.eliminate_dead_code()  # log-determinants, which nobody reads
            part.recompile()
            for node in part.graph.nodes:
                for key in _PROVENANCE:
                    node.meta.pop(key, None)
    program.example_inputs = None  # torch would pickle them
    return program


def _write_torch(program: ExportedProgram, direction: _Direction, path: Path) -> None:
    with open(path, "wb") as file:
        torch.export.save(program, file)


def _write_onnx(program: ExportedProgram, direction: _Direction, path: Path) -> None:
    values = [node.meta.get("val") for node in program.graph.nodes]
    if any(isinstance(value, Tensor) and value.dtype == torch.float64 for value in values):
        # onnxruntime has leaky ReLU in single precision alone; mappings are in double.
        program = program.run_decompositions({torch.ops.aten.leaky_relu.default: _leaky_relu})
    names = list(direction.inputs)
    found: Any = torch.onnx.export(program, dynamo=True, verbose=False, input_names=names, output_names=[direction.output])
    path.write_bytes(found.model_proto.SerializeToString())


def _leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    return torch.where(x > 0, x, x * slope)


_NOTE: Final = """# Graphs of {source}

Written by lia-adapt export. N is any number of samples.

| file | inputs | output |
|---|---|---|
{rows}

ys is one y for each layer, mostly the same; where the mapping's y is longer, it is all of ys, to be reshaped. Images x are
about in [-1, 1]. Noise is the constant one, and psi is 1.{seeds}

```python
{code}
```
"""
_SEEDS: Final = """

mapping is the invertible one: its z is that of a code. The z of a StyleGAN seed is for the original mapping, which goes out
with the weights alone (lia-adapt export --to nvlabs or rosinality)."""
_TORCH: Final = """import torch

synthesis = torch.export.load("synthesis.pt2").module()
x = synthesis(ys)"""
_ONNX: Final = """import onnxruntime

synthesis = onnxruntime.InferenceSession("synthesis.onnx")
x = synthesis.run(None, {"ys": ys})[0]  # numpy"""

GRAPHS: Final[Mapping[str, tuple[str, Callable[[ExportedProgram, _Direction, Path], None], str]]] = {
    "torch": (".pt2", _write_torch, _TORCH), "onnx": (".onnx", _write_onnx, _ONNX),
}  # fmt: skip
"""Kinds of graphs: the files' suffix, what writes one, and lines that run one."""
