"""`interpolate`: from one picture to another, straight in y and along a great circle in z, and how long each way is."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.editing.prior import between
from lia_adapter.encoder import for_layers
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.files import check_writable, make_folder
from lia_adapter.generators import fingerprint
from lia_adapter.generators.labels import Label
from lia_adapter.jobs.mix import MOST
from lia_adapter.jobs.run import check_inputs_kept, made_before, report_paths, write_json, write_results
from lia_adapter.jobs.sources import Sources, join_sources, open_sources, why_no_z
from lia_adapter.lia import LIA
from lia_adapter.metrics.images import mse
from lia_adapter.metrics.networks import FeatureNetwork, load_network, perceptual_distance
from lia_adapter.pictures import Sheet, image_grid, png_bytes, save_png
from lia_adapter.progress import Progress

__all__ = ["PATH", "SPACES", "interpolate_sources", "step_codes"]

PATH = "path.json"
"""Figures in the folder, with .png and .html beside them."""
SPACES = {"y": "straight in y", "z": "along a great circle in z"}
"""The ways, in words."""


@torch.no_grad()
def interpolate_sources(
    lia: LIA,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    steps: int = 7,
    features: str | Path | None = None,
    resize_mode: str = "crop",
    split: str = "all",
    label: Label | None = None,
    trust_codes: bool = False,
    psi: float = 1.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draws the ways from each picture to the next.

    Args:
        lia: With an encoder, if a source are images. Before conversion there is no way through z, and the figures say so.
        sources: Two or more of one picture, code or seed each; or one of several. See `open_sources`. At most 16 pictures.
        out: Folder, made where there is none, for a PNG of each picture, and path.png and path.json. What an earlier call wrote
            there is replaced; other pictures are not.
        steps: Pictures a way, both ends among them; at least 2.
        features: File of a torchvision network, for perceptual distances; without one, distances are of pixels.
        resize_mode: See `open_sources`.
        split: See `open_sources`.
        label: See `open_sources`.
        trust_codes: See `open_sources`.
        psi: Truncation of the ends; 1 is none.
        progress: Is told the pictures drawn and to draw.

    Returns:
        What path.json says: of each pair the length of its ways, the sum of the distances of consecutive pictures. A perceptual
        distance is one of squares, so that its sum falls with more steps; only figures of as many steps compare.

    Raises:
        LIAError: See `open_sources`; fewer than two pictures or steps, or a file that cannot be written.
    """
    if steps < 2:
        raise ConfigError(f"{argument('steps')} is {steps}; expected at least 2, the two ends.")
    folder, network = Path(out), None if features is None else load_network(features).to(lia.device)
    parts = [
        open_sources(
            lia, source, resize_mode=resize_mode, split=split, label=label, trust_codes=trust_codes, psi=psi, most=MOST,
            progress=progress,
        )
        for source in sources
    ]  # fmt: skip
    for source, part in zip(sources, parts, strict=True):
        if len(parts) > 1 and len(part) > 1:
            raise ConfigError(
                f"{source} holds {len(part)} pictures; expected one in each source, or a single source that holds them all."
            )
    found = join_sources(parts)
    if not 2 <= len(found) <= MOST:
        raise ConfigError(f"the sources hold {len(found)} in all to go between; expected 2 to {MOST}.")
    left_out = why_no_z(lia, found)
    ways = list(SPACES)[: 1 if left_out else 2]
    files = {space: _files(space, len(found) - 1, steps) for space in ways}
    make_folder(folder)
    targets = [folder / name for names in files.values() for name in names]
    for source, part in zip(sources, parts, strict=True):
        check_inputs_kept([*targets, *report_paths(folder / PATH).values()], source, part.names)
    earlier = made_before(folder / PATH, targets)
    for target in report_paths(folder / PATH).values():
        check_writable(target)
    figures: dict[str, Any] = {
        "sources": [str(source) for source in sources], "lia": lia.provenance.get("source"),
        "generator_sha256": fingerprint(lia.generator), "psi": psi, "steps": steps,
        "measure": "root mean squared difference of pixels, on the scale of -1 to 1" if network is None
        else f"perceptual distance, by {network.name}",
        "pairs": [], "files": files, "earlier": earlier,
        "left_out": {"z": left_out} if left_out else {}, "unreadable": dict(found.unreadable),
    }  # fmt: skip
    write_json(folder / PATH, figures)  # before the pictures, so that the same call may go over what an interrupted one left
    z = None if left_out else found.z(lia)
    measure = _measure(lia, network)
    done, total = 0, (len(found) - 1) * len(ways) * steps
    sheet = Sheet((len(found) - 1) * steps, steps, sets=len(ways))
    for i in range(len(found) - 1):
        lengths: dict[str, float] = {}
        for of, space in enumerate(ways):
            ys, gaps, last = step_codes(lia, found, i, steps, z if space == "z" else None), [], None
            names = iter(files[space][i * steps : (i + 1) * steps])
            for x in in_parts(lambda part: lia.synthesize(part).float().cpu(), ys, lia.at_once("draw")):
                sheet.add(x, of)
                for one in x.split(1):
                    save_png(folder / next(names), image_grid(one))
                gaps.append(measure(x[:-1], x[1:]) if last is None else measure(torch.cat([last, x[:-1]]), x))
                last, done = x[-1:], done + len(x)
                if progress:
                    progress("pictures", done, total)
            lengths[space] = float(torch.cat(gaps).double().sum())
        if not all(map(math.isfinite, lengths.values())):
            raise LIAError(f"what is drawn from {found.names[i]} to {found.names[i + 1]} holds values that are no numbers.")
        figures["pairs"].append({"from": found.names[i], "to": found.names[i + 1], "length": lengths})
    write_results(folder / PATH, png_bytes(sheet.image), figures)
    return figures


def _files(space: str, pairs: int, steps: int) -> list[str]:
    """The file of each picture, pair by pair: y-02-001.png is the first on the second way."""
    return [f"{space}-{pair + 1:02}-{k + 1:03}.png" for pair in range(pairs) for k in range(steps)]


def step_codes(lia: LIA, found: Sources, i: int, steps: int, z: Tensor | None) -> Tensor:
    """ys [steps, num_ws, y_dim] from one source to the next.

    Args:
        lia: Whose codes they are.
        found: The sources.
        i: Number of the first.
        steps: Codes, both ends among them.
        z: Of all sources [N, y_dim], to go along a great circle; what layers differ by goes over straight. None: straight in y.
    """
    t = torch.linspace(0, 1, steps)[:, None, None]
    if z is None:
        return (1 - t) * found.ys[i] + t * found.ys[i + 1]
    c = None if found.c is None else found.c[i].expand(steps, -1)
    y = lia.to_y(between(z[i], z[i + 1], steps), c).cpu()
    return for_layers(y, found.ys) + (1 - t) * found.beside[i] + t * found.beside[i + 1]


def _measure(lia: LIA, network: FeatureNetwork | None) -> Callable[[Tensor, Tensor], Tensor]:
    """How far images [n, C, H, W] are from others, [n]."""
    if network is None:
        return lambda a, b: mse(a, b).sqrt()

    def distance(a: Tensor, b: Tensor) -> Tensor:
        if len(a) == 0:
            return torch.zeros(0)
        return perceptual_distance(network, a.to(lia.device), b.to(lia.device)).cpu()

    return distance
