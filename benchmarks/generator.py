"""The whole StyleGAN2 generator on a CPU: ours against NVlabs' program, same weights, same images.

    python benchmarks/generator.py --peer DIR [--resolution 256] [--batch 1 4] [--threads 2] [--json FILE]

DIR is a checkout of NVlabs' stylegan2-ada-pytorch. Config-f's widths, random weights with noise and biases that count. The two
programs take turns in one process; ratios are of medians. bfloat16 is `torch.autocast("cpu", torch.bfloat16)`.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import interleaved  # noqa: E402
from lia_adapter import ops  # noqa: E402
from lia_adapter.generators import build_random, stylegan2_config  # noqa: E402


def peer_generator(folder: str, resolution: int) -> Any:
    """NVlabs' generator with random weights, all in float32."""
    sys.path.insert(0, folder)
    from training.networks import Generator  # type: ignore[import-not-found]

    widths = {"channel_base": 32768, "channel_max": 512, "num_fp16_res": 0}
    generator = Generator(512, 0, 512, resolution, 3, synthesis_kwargs=widths).eval().requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.1)
        elif name.endswith("bias") and "affine" not in name:
            parameter.normal_(0, 0.1)
    return generator


def psnr(found: Tensor, expected: Tensor) -> float:
    """In dB, of the expected images' own range: those of random weights are not in [-1, 1]."""
    error = (found.double() - expected.double()).square().mean().clamp(min=1e-30)
    return float(10 * torch.log10((expected.max() - expected.min()).double().square() / error))


def main() -> None:
    """Prints a line for each batch size and dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    theirs = peer_generator(args.peer, args.resolution)
    ours: Any = build_random("stylegan2", stylegan2_config(args.resolution))[0]
    ours.load_state_dict(theirs.state_dict())
    print(f"{args.resolution}², {args.threads} threads, ops: {ops.status()['bias_act']['cpu']}")
    rows = []
    for batch in args.batch:
        z = torch.randn(batch, 512)

        def run(generator: Any, dtype: torch.dtype, z: Tensor = z, **more: Any) -> Tensor:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                image: Tensor = generator(z, None, noise_mode="const", **more)
                return image

        runs: dict[str, Callable[[], Tensor]] = {
            "peer": partial(run, theirs, torch.float32, force_fp32=True),
            "float32": partial(run, ours, torch.float32),
            "bfloat16": partial(run, ours, torch.bfloat16),
        }
        with torch.no_grad():
            expected = runs["peer"]()
            quality = {name: psnr(run(), expected) for name, run in runs.items() if name != "peer"}
            seconds = interleaved(runs, "cpu", repeats=args.repeats)
        for name, decibels in quality.items():
            ratio = seconds["peer"] / seconds[name]
            print(
                f"batch {batch} {name:9} {seconds[name] * 1e3:8.0f} ms, {ratio:5.2f} x the peer's speed, {decibels:6.1f} dB",
                flush=True,
            )
        rows.append({"batch": batch, "seconds": seconds, "psnr": quality})
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
