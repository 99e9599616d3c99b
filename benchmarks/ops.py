"""The fused ops against plain torch and against a peer's, layer by layer, in one table.

    python benchmarks/ops.py [--model stylegan2|stylegan3] [--resolution 256] [--batch 1] [--threads 1] [--device cpu]
                             [--dtype float32] [--channels-last] [--peer DIR] [--json FILE]

Plain torch is `lia_adapter.ops.reference`; DIR is a checkout of NVlabs' stylegan2-ada-pytorch or stylegan3 (StyleGAN3's
layers need the latter), whose ops run as on that device by default: plain torch on a CPU, its CUDA kernels on a GPU. All take
turns in one process; ratios are of medians, the time of the others over ours. The copy is `x.clone()` of the op's output
size, and "x copy" our time over the copy's. Layers have config-f's widths. Groups:

    bias_act   bias, leaky ReLU, gain, clamp: after every convolution
    blur       the 4x4 filter behind a transposed convolution
    chain      blur, demodulation, noise, bias, leaky ReLU, clamp: all that follows it in an up-layer
    up2, down2 resampling by two: the image in G, the features in D
    filtered   StyleGAN3's filtered leaky ReLU
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import interleaved  # noqa: E402
from lia_adapter import ops  # noqa: E402
from lia_adapter.cli.terminal import ProgressLine  # noqa: E402
from lia_adapter.ops import reference  # noqa: E402

_CLAMP = 256.0
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One op on one layer: the inputs that get gradients, and the op by all that have it."""

    group: str
    layer: str
    inputs: list[Tensor]
    functions: dict[str, Function]


class Peer:
    """The ops of NVlabs' programs from a checkout; nothing of it is part of this project."""

    def __init__(self, folder: str, device: str) -> None:
        sys.path.insert(0, folder)
        from torch_utils.ops import bias_act, fma, upfirdn2d  # type: ignore[import-not-found]

        self.bias_act, self.upfirdn2d, self.fma, self.impl = bias_act, upfirdn2d, fma, "cuda" if device == "cuda" else "ref"
        try:
            from torch_utils.ops import filtered_lrelu

            self.filtered_lrelu: Any = filtered_lrelu
        except ImportError:
            self.filtered_lrelu = None

    def tail(self, x: Tensor, b: Tensor) -> Tensor:
        """Bias, leaky ReLU, gain, clamp."""
        result: Tensor = self.bias_act.bias_act(x, b, act="lrelu", clamp=_CLAMP, impl=self.impl)
        return result

    def filter(self, x: Tensor, f: Tensor, **geometry: Any) -> Tensor:
        """The FIR filter."""
        result: Tensor = self.upfirdn2d.upfirdn2d(x, f, impl=self.impl, **geometry)
        return result

    def chain(self, x: Tensor, f: Tensor, scale: Tensor, noise: Tensor, b: Tensor) -> Tensor:
        """As its up-layers run it."""
        x = self.filter(x, f, padding=[1, 1, 1, 1], gain=4)
        return self.tail(self.fma.fma(x, scale[:, :, None, None], noise), b)


def stylegan2_cases(args: argparse.Namespace, peer: Peer | None) -> Iterator[Case]:
    """The layers from 8² on, at the widths of config f."""
    f = ops.setup_filter([1.0, 3.0, 3.0, 1.0], device=args.device)
    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format

    def image(channels: int, side: int) -> Tensor:
        x = torch.randn(args.batch, channels, side, side, device=args.device, dtype=args.dtype)
        return x.contiguous(memory_format=memory_format)

    def vector(*shape: int) -> Tensor:
        return torch.rand(shape, device=args.device, dtype=args.dtype)

    def case(group: str, layer: str, inputs: list[Tensor], ours: Function, plain: Function, theirs: str) -> Case:
        functions = {"ours": ours, "plain": plain}
        if peer:
            functions["peer"] = getattr(peer, theirs) if theirs != "filter" else partial_filter(peer.filter, f, group)
        return Case(group, layer, inputs, functions)

    for side in (2**i for i in range(3, int(math.log2(args.resolution)) + 1)):
        c = min(32768 // side, 512)
        layer, b = f"{c} x {side}²", vector(c)
        tail = {"act": "lrelu", "clamp": _CLAMP}
        yield case(
            "bias_act", layer, [image(c, side), b],
            lambda x, b, t=tail: ops.bias_act(x, b, **t), lambda x, b, t=tail: reference.bias_act(x, b, **t), "tail",
        )  # fmt: skip
        for group, channels, size in (("blur", c, side + 1), ("up2", 3, side // 2), ("down2", c, side)):
            yield case(
                group, f"{channels} x {size}²", [image(channels, size)],
                partial_filter(ops.upfirdn2d, f, group), partial_filter(reference.upfirdn2d, f, group), "filter",
            )  # fmt: skip
        inputs = [image(c, side + 1), vector(args.batch, c), vector(side, side), b]

        def chain(op: Function, x: Tensor, scale: Tensor, noise: Tensor, b: Tensor) -> Tensor:
            return op(x, f, scale, noise, b, padding=1, filter_gain=4, clamp=_CLAMP)

        functions: dict[str, Function] = {
            "ours": lambda *t: chain(ops.upfirdn2d_act, *t),
            "plain": lambda *t: chain(reference.upfirdn2d_act, *t),
        }
        if peer:
            functions["peer"] = lambda x, *t, p=peer: p.chain(x, f, *t)
        yield Case("chain", layer, inputs, functions)


def partial_filter(op: Function, f: Tensor, group: str) -> Function:
    """A filter with the factors and paddings of StyleGAN2."""
    geometry: dict[str, Any] = {
        "blur": {"padding": [1, 1, 1, 1], "gain": 4},
        "up2": {"up": 2, "padding": [2, 1, 2, 1], "gain": 4},
        "down2": {"down": 2, "padding": [1, 1, 1, 1]},
    }[group]
    return lambda x: op(x, f, **geometry)


def stylegan3_cases(args: argparse.Namespace, peer: Peer | None) -> Iterator[Case]:
    """The layers of StyleGAN3-T (Karras 2021, sec. 4 and app. D): rates, sizes and filters follow from the cut-offs."""
    layers, critical, margin, taps = 14, 2, 10, 6
    last = args.resolution / 2
    exponents = [min(i / (layers - critical), 1) for i in range(layers + 1)]
    cutoffs = [2 * (last / 2) ** e for e in exponents]
    stopbands = [2**2.1 * (last * 2**0.3 / 2**2.1) ** e for e in exponents]
    rates = [int(2 ** math.ceil(math.log2(min(2 * stop, args.resolution)))) for stop in stopbands]
    sizes = [rate + 2 * margin for rate in rates]
    sizes[-2:] = [args.resolution, args.resolution]
    for i in range(layers):
        before, after = max(i - 1, 0), i
        high = 2 * max(rates[before], rates[after])
        up, down = high // rates[before], high // rates[after]
        side, out = sizes[before] + 2, sizes[after]  # The convolution in front adds k - 1.
        pad = (out - 1) * down + 1 - side * up + taps * (up + down) - 2
        low = (pad + up) // 2
        c = min(round(16384 / cutoffs[after]), 512)
        fu, fd = (torch.hann_window(taps * k + 2, device=args.device)[1:-1] for k in (up, down))
        numbers: dict[str, Any] = {"up": up, "down": down, "padding": [low, pad - low, low, pad - low], "clamp": _CLAMP}
        x = torch.randn(args.batch, c, side, side, device=args.device, dtype=args.dtype)
        b = torch.rand(c, device=args.device, dtype=args.dtype)

        def run(op: Function, x: Tensor, b: Tensor, taps: tuple[Tensor, Tensor], numbers: dict[str, Any]) -> Tensor:
            fu, fd = taps
            return op(x, fu / fu.sum(), fd / fd.sum(), b, **numbers)

        functions: dict[str, Function] = {
            "ours": lambda x, b, t=(fu, fd), n=numbers: run(ops.filtered_lrelu, x, b, t, n),
            "plain": lambda x, b, t=(fu, fd), n=numbers: run(reference.filtered_lrelu, x, b, t, n),
        }
        if peer and peer.filtered_lrelu:
            functions["peer"] = lambda x, b, t=(fu, fd), n=numbers | {"impl": peer.impl}: run(
                peer.filtered_lrelu.filtered_lrelu, x, b, t, n
            )
        yield Case("filtered", f"{c} x {side}² up {up} down {down}", [x, b], functions)


def with_backward(function: Function, inputs: Sequence[Tensor], dy: Tensor) -> Callable[[], Any]:
    """Forward, and the gradients of all inputs."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    return lambda: torch.autograd.grad(function(*leaves), leaves, dy)


def measure(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """The row of one case: seconds of all, forward and forward with backward."""
    with torch.no_grad():
        y = case.functions["ours"](*case.inputs)
        runs = {name: partial(function, *case.inputs) for name, function in case.functions.items()}
        forward = interleaved({**runs, "copy": y.clone}, args.device, repeats=args.repeats)
    both = interleaved(
        {name: with_backward(f, case.inputs, torch.randn_like(y)) for name, f in case.functions.items()},
        args.device,
        repeats=args.repeats,
    )
    moved = (case.inputs[0].numel() + y.numel()) * y.element_size()
    return {"group": case.group, "layer": case.layer, "bytes": moved, "forward": forward, "both": both}


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    forward, both = row["forward"], row["both"]
    ours, names = forward["ours"], [name for name in ("plain", "peer") if name in forward]
    ratios = [f"{forward[name] / ours:6.2f} {both[name] / both['ours']:6.2f}" for name in names]
    return (
        f"{row['group']:9} {row['layer']:26} {ours * 1e6:10.0f} {both['ours'] * 1e6:10.0f} "
        f"{row['bytes'] / ours / 1e9:6.1f} {ours / forward['copy']:6.2f}  " + "  ".join(ratios)
    )


def total(rows: list[dict[str, Any]], group: str) -> dict[str, Any]:
    """The sum over a group's layers."""
    mine = [row for row in rows if row["group"] == group]
    sums = {part: {name: sum(row[part][name] for row in mine) for name in mine[0][part]} for part in ("forward", "both")}
    return {"group": group, "layer": "all layers", "bytes": sum(row["bytes"] for row in mine), **sums}


def main() -> None:
    """Prints the table, and writes it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["stylegan2", "stylegan3"], default="stylegan2")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", type=lambda name: getattr(torch, name), default=torch.float32)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peer")
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peer = Peer(args.peer, args.device) if args.peer else None
    cases = list((stylegan2_cases if args.model == "stylegan2" else stylegan3_cases)(args, peer))
    progress, rows = ProgressLine(), []
    for i, case in enumerate(cases):
        rows.append(measure(case, args))
        progress("layers", i + 1, len(cases))
    names = ["plain", "peer"] if peer else ["plain"]
    print(
        f"{args.device}, {args.threads} threads, {args.dtype}, batch {args.batch}; ops: {ops.status()['bias_act'][args.device]}"
    )
    print(
        f"{'':36} {'forward µs':>10} {'+ bwd µs':>10} {'GB/s':>6} {'x copy':>6}  "
        + "  ".join(f"{n + ' fwd, f+b':>13}" for n in names)
    )
    groups = dict.fromkeys(row["group"] for row in rows)
    for row in [*rows, *(total(rows, group) for group in groups)]:
        print(line(row))
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
