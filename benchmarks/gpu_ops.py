"""All that a GPU can tell about the ops, in ten minutes: correctness first, then speed.

    python benchmarks/gpu_ops.py [--peer DIR] [--json FILE]        (--device cpu --small: a dry run of this script)

1. Every op against the reference path in float64: three dtypes, two memory formats, odd sizes, gradients, a side stream,
   two streams at once, and tensors of more than 2^31 elements. A difference ends the script.
2. benchmarks/ops.py for StyleGAN2 at 1024² and StyleGAN3-T at 256², in float16.
3. StyleGAN2 at 1024²: forward in float16 with a batch of 8, and a training step of generator and discriminator in float32
   with a batch of 4, on the native ops and on the reference path.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import interleaved  # noqa: E402
from lia_adapter import ops  # noqa: E402
from lia_adapter.generators import build_random, stylegan2_config  # noqa: E402
from lia_adapter.ops import reference  # noqa: E402

_TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def compare(what: str, found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Ends the script where two results differ by more than the dtype's precision."""
    difference = (found.double() - expected.double()).abs().max().item()
    limit = _TOLERANCE[dtype] * (1 + expected.abs().max().item())
    if not difference <= limit:
        sys.exit(f"WRONG: {what}: largest difference {difference:.3g}, allowed {limit:.3g}")


def check_values(device: str) -> int:
    """Values and gradients of all ops against the reference path in float64; returns how many cases there were."""
    f = ops.setup_filter([1.0, 3.0, 3.0, 1.0], device=device)
    skew = torch.tensor([[1.0, 2.0, 0.0], [0.0, 3.0, 1.0]], device=device) / 7
    taps = torch.hann_window(14, device=device)[1:-1] / 6
    done = 0
    for dtype in _TOLERANCE:
        for memory_format in (torch.contiguous_format, torch.channels_last):
            for n, c, h, w in ((2, 16, 33, 17), (1, 3, 9, 65), (3, 40, 8, 8), (1, 64, 1, 130)):
                x = torch.randn(n, c, h, w, device=device, dtype=dtype).contiguous(memory_format=memory_format)
                scale, b = torch.rand(n, c, device=device, dtype=dtype), torch.randn(c, device=device, dtype=dtype)
                noise = torch.randn(h, w, device=device, dtype=dtype)
                filters: list[tuple[Tensor, dict[str, Any]]] = [
                    (f, {"padding": 2}), (f, {"up": 2, "padding": [2, 1, 2, 1]}), (f, {"down": 2, "padding": 2}),
                    (skew, {"up": (3, 1), "down": 2, "padding": [4, 3, 2, 1], "flip_filter": True}), (taps, {"padding": 7}),
                ]  # fmt: skip
                runs: list[tuple[str, Any, Any, tuple[Tensor, ...]]] = [
                    (
                        f"modconv_epilogue {act}",
                        lambda x, s, z, b, a=act: ops.modconv_epilogue(x, s, z, b, act=a, clamp=0.9),
                        lambda x, s, z, b, a=act: reference.modconv_epilogue(x, s, z, b, act=a, clamp=0.9),
                        (x, scale, noise, b),
                    )
                    for act in ops.ACTIVATIONS
                ]
                for taps_, geometry in filters:
                    runs.append((
                        f"upfirdn2d_act {geometry}",
                        lambda x, s, b, k=taps_, g=geometry: ops.upfirdn2d_act(x, k, s, None, b, **g),
                        lambda x, s, b, k=taps_, g=geometry: reference.upfirdn2d_act(x, k.to(x.dtype), s, None, b, **g),
                        (x, scale, b),
                    ))  # fmt: skip
                if min(h, w) > 7:
                    numbers: dict[str, Any] = {"up": 2, "down": 2, "padding": 11, "clamp": 2.0}
                    runs.append((
                        "filtered_lrelu",
                        lambda x, b, g=numbers: ops.filtered_lrelu(x, taps, taps, b, **g),
                        lambda x, b, g=numbers: reference.filtered_lrelu(x, taps.double(), taps.double(), b, **g),
                        (x, b),
                    ))  # fmt: skip
                for what, ours, plain, inputs in runs:
                    leaves = [t.clone().requires_grad_() for t in inputs]
                    wide = [t.double().requires_grad_() for t in inputs]
                    y, expected = ours(*leaves), plain(*wide)
                    where = f"{what}, {dtype}, {memory_format}, {list(x.shape)}"
                    compare(where, y, expected, dtype)
                    dy = torch.randn_like(y)
                    grads = torch.autograd.grad(y, leaves, dy), torch.autograd.grad(expected, wide, dy.double())
                    if dtype == torch.float32:  # In half precision a kink or a clamp may fall on the other side.
                        for i, (mine, theirs) in enumerate(zip(*grads, strict=True)):
                            compare(f"{where}, gradient {i}", mine, theirs, dtype)
                    done += 1
    return done


def check_streams() -> None:
    """Results are the same on a side stream, and when two streams work at once."""
    f = ops.setup_filter([1.0, 3.0, 3.0, 1.0], device="cuda")
    taps = torch.hann_window(14, device="cuda")[1:-1] / 6
    xs = [torch.randn(8, 64, 128, 128, device="cuda") for _ in range(2)]

    def run(x: Tensor, scale: float) -> Tensor:
        y = ops.upfirdn2d_act(x, f * scale, padding=2)
        return ops.filtered_lrelu(y, taps * scale, taps, up=2, down=2, padding=11)

    expected = [run(x, 1.0 + i) for i, x in enumerate(xs)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in xs]
    for _ in range(20):
        found = []
        for i, (x, stream) in enumerate(zip(xs, streams, strict=True)):
            with torch.cuda.stream(stream):
                found.append(run(x, 1.0 + i))
        torch.cuda.synchronize()
        for i in range(2):
            compare(f"stream {i}", found[i], expected[i], torch.float32)


def check_large() -> None:
    """More than 2^31 elements: the last plane is the one that an overflow would miss."""
    f = ops.setup_filter([1.0, 3.0, 3.0, 1.0], device="cuda")
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.empty(9, 64, 2048, 2048, device="cuda", dtype=torch.float16, memory_format=memory_format).zero_()
        x[-1] = torch.randn(64, 2048, 2048, device="cuda", dtype=torch.float16)
        last = x[-1:].contiguous(memory_format=memory_format)
        runs: dict[str, Callable[[Tensor], Tensor]] = {
            "bias_act": lambda x: ops.bias_act(x, act="lrelu"),
            "upfirdn2d": lambda x: ops.upfirdn2d(x, f, padding=[2, 1, 2, 1]),
        }
        for what, run in runs.items():
            y = run(x)
            compare(f"{what} of 2.4e9 elements, {memory_format}", y[-1:], run(last), torch.float16)
            if y[:-1].abs().max() != 0:
                sys.exit(f"WRONG: {what} of 2.4e9 elements wrote into another image")
            del y
        del x, last
        torch.cuda.empty_cache()


def networks(device: str, small: bool) -> dict[str, float]:
    """Seconds of StyleGAN2: forward, and a step of both players; native and on the reference path."""
    side, batches = (64, (2, 2)) if small else (1024, (8, 4))
    generator: Any
    discriminator: Any
    generator, discriminator = (part.to(device) for part in build_random("stylegan2", stylegan2_config(side)))
    half = torch.bfloat16 if device == "cpu" else torch.float16
    y = torch.randn(batches[0], 512, device=device)
    z = torch.randn(batches[1], 512, device=device)

    def forward() -> None:
        with torch.no_grad(), torch.autocast(device, half):
            generator.synthesis(y)

    def step() -> None:
        for part in (generator, discriminator):
            part.requires_grad_(True)
            part.zero_grad()
        images = generator(z)
        torch.nn.functional.softplus(-discriminator(images, None)).mean().backward()
        real = images.detach().requires_grad_()
        logits = discriminator(real, None)
        (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        (logits.mean() + 5 * slope.square().sum([1, 2, 3]).mean()).backward()
        for part in (generator, discriminator):
            part.requires_grad_(False)

    def plain(function: Any) -> Any:
        def run() -> None:
            with ops.using("reference"):
                function()

        return run

    runs = {"forward": forward, "forward, plain": plain(forward), "step": step, "step, plain": plain(step)}
    return interleaved(runs, device, repeats=3 if small else 7)


def main() -> None:
    """Runs the three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--peer")
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.manual_seed(0)
    path = ops.status()["bias_act"][args.device]
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, ops: {path}", flush=True)
    if path == "reference":
        sys.exit("There is nothing to measure: the ops run in plain torch. See lia-adapt doctor.")
    print(f"values and gradients: {check_values(args.device)} cases agree", flush=True)
    if args.device == "cuda":
        check_streams()
        print("streams agree", flush=True)
        check_large()
        print("2.4e9 elements agree", flush=True)
    script = [sys.executable, str(Path(__file__).with_name("ops.py")), "--device", args.device]
    script += ["--peer", args.peer] if args.peer else []
    dtype = "float32" if args.device == "cpu" else "float16"
    side, repeats = ("16", "1") if args.small else ("1024", "7")
    for more in ([], ["--channels-last"], *([] if args.small else [["--model", "stylegan3", "--resolution", "256"]])):
        batch = ["--resolution", side, "--batch", "2" if args.small else "8", "--dtype", dtype, "--repeats", repeats]
        subprocess.run([*script, *batch, *more], check=True)
    seconds = networks(args.device, args.small)
    for run in ("forward", "step"):
        print(f"StyleGAN2 {run}: {seconds[run] * 1e3:.1f} ms, {seconds[run + ', plain'] / seconds[run]:.2f} x plain torch")
    if args.json:
        Path(args.json).write_text(json.dumps({"device": name, "torch": torch.__version__, "seconds": seconds}))


if __name__ == "__main__":
    main()
