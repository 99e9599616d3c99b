"""Directions to and from other programs: InterFaceGAN's .npy, pSp's .pt, GANSpace's .npz. What is read is not executed."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lia_adapter.editing import Direction, Directions, Metric
from lia_adapter.editing.directions import check_owner
from lia_adapter.errors import ConfigError, LIAError, argument, check_choice
from lia_adapter.files import atomic_write, make_folder
from lia_adapter.generators import MappingSampler, fingerprint, in_chunks
from lia_adapter.lia import LIA
from lia_adapter.projected import read_npz, read_projected

__all__ = ["FORMS", "IMPORTED", "export_directions", "import_directions"]

FORMS = ("interfacegan", "ganspace", "psp")
"""Programs whose files of directions are read and written."""
IMPORTED = ("y", "z")
"""Spaces that directions of other programs are of: w, or z of seeds."""

_Z_CODES = 2048  # over which the step in y is averaged that one in z makes


def export_directions(directions: Directions, form: str, out: str | Path, lia: LIA | None = None) -> list[Path]:
    """Writes directions for another program.

    Args:
        directions: Of y, or of z for interfacegan; those of ys have no form there.
        form: interfacegan: NAME.npy, a unit normal [1, D]; psp: NAME.pt, a tensor [1, D] of one standard deviation, in the
            format of `torch.save`, the only one that its notebooks read; ganspace: one components.npz as its components
            of w are kept (see `_components`).
        out: Folder, made where there is none. Files in it are not replaced.
        lia: Of ganspace, whose generator they are of: of its y the files hold mean and spread.

    Returns:
        The files.

    Raises:
        LIAError: A direction has no form there, or a file cannot be written.
    """
    if form not in FORMS:
        raise ConfigError(f"there is no form {form!r}; expected {', '.join(FORMS)}.")
    if not len(directions):
        raise LIAError("the file holds no directions, so that there is nothing to export.")
    if wide := [one.name for one in directions if one.step.ndim != 1]:
        raise LIAError(f"{wide[0]!r} is of ys, a step for each layer, which {form} cannot read. Export those of y or z.")
    if styles := next((one.name for one in directions if one.space == "s"), None):
        raise LIAError(f"{styles!r} is of s, styles, which {form} would take for w. Export those of y or z.")
    if form != "interfacegan" and (other := next((one.name for one in directions if one.space == "z"), None)):
        raise LIAError(f"{other!r} is of z, which {form} would take for w. Export it to interfacegan, or find it in y.")
    if form != "ganspace":
        if wrong := next((name for name in directions.names if Path(name).name != name), None):
            raise LIAError(f"{wrong!r} is no name of a file. Rename it: lia-adapt directions rename.")
        if twice := next((name for name in directions.names if directions.names.count(name) > 1), None):
            raise LIAError(f"{twice!r} is of y and of z, which would be one file. Export files of directions one by one.")
    if (lia is None) == (form == "ganspace"):
        how = "holds the mean and the spread of y, too: give" if lia is None else "needs no"
        raise ConfigError(f"a file for {form} {how} {argument('lia')}.")
    folder = Path(out)
    steps = [one.step.double()[None] for one in directions]  # [1, D] each
    if lia is not None:
        check_owner(directions, fingerprint(lia.generator), "the file", lia.provenance.get("source"))
        data = io.BytesIO()
        np.savez(data, **_components(torch.stack(steps), lia))  # type: ignore[arg-type]  # its stub takes a flag for one
        return _written({folder / "components.npz": data.getvalue()})
    files = {}
    for name, step in zip(directions.names, steps, strict=True):
        data = io.BytesIO()
        if form == "psp":
            torch.save(step.float(), data)
        else:
            np.save(data, (step / step.norm()).float().numpy(), allow_pickle=False)
        files[folder / f"{name}.{'pt' if form == 'psp' else 'npy'}"] = data.getvalue()
    return _written(files)


def _components(steps: Tensor, lia: LIA) -> dict[str, NDArray[Any]]:
    """Directions [K, 1, D] as GANSpace keeps components of w, where what is decomposed (act) and what is moved (lat) are one.

    Its viewer also shows how much of the variance each has, beside random directions of the same number.
    """
    mean, root = lia.whitening()
    mean, root = mean.double().cpu(), root.double().cpu()
    comp, stdev = steps / steps.norm(dim=-1, keepdim=True), steps.norm(dim=-1)[:, 0]
    random = torch.randn(len(steps), len(mean), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = {
        "act_comp": comp, "act_mean": mean[None], "act_stdev": stdev,
        "lat_comp": comp, "lat_mean": mean[None], "lat_stdev": stdev,
    }  # fmt: skip
    found["var_ratio"] = stdev.square() / root.square().sum()  # the trace of the covariance, whose root is symmetric
    found["random_stdevs"] = (random @ root).norm(dim=1) / random.norm(dim=1)
    return {key: value.float().numpy() for key, value in found.items()}


@torch.no_grad()
def import_directions(lia: LIA, files: Sequence[str | Path], space: str | None = None) -> Directions:
    """Reads directions of other programs; their length becomes one standard deviation.

    The z of other programs is that of seeds, which go through the generator's own mapping. Where that is no `LIA.mapping`, so
    that a code's z is another, such directions become those of y: the mean step in y of a step in z either way.

    Args:
        lia: Of whose generator they are, by the user's word: such files do not say.
        files: InterFaceGAN's or anybody's .npy, pSp's .pt, GANSpace's .npz: arrays [D], [K, D] or, of y, [K, num_ws, D].
        space: y or z; None: y, but z of a .npz of GANSpace's that says so.

    Returns:
        Directions, named by their files, and numbers where one has several.

    Raises:
        LIAError: A file cannot be read, or holds something else.
    """
    if space is not None:
        check_choice("space", space, IMPORTED)
    found, spaces = list[Direction](), {name: lia.code_space(name) for name in IMPORTED}
    if len(spaces["y"].mean) != lia.generator.y_dim:
        raise LIAError(
            f"the mapping of this generator gives each of its {lia.generator.num_ws} layers a y of its own; directions are of "
            "the one y of all layers that other generators have."
        )
    for file in map(Path, files):
        names, steps, of = _read(file, lia, space)
        for name, step in zip(names, steps.to(lia.device), strict=True):
            if not float(step.norm()):
                raise LIAError(f"{file.name}: direction {name} is zero.")
            moved, to = step, "y" if step.ndim == 1 else "ys"
            if of == "z" and lia.mapping_is_own:
                to = "z"
            elif of == "z":
                moved = _step_in_y(lia, step)
            size = _long(moved, spaces["z" if to == "z" else "y"])
            found.append(Direction(name, to, size, "import", about={"file": file.name, "space_of_file": of}))
    about = {"source": lia.provenance.get("source"), "how": "import"}
    return Directions(fingerprint(lia.generator), tuple(found), about)


def _read(file: Path, lia: LIA, space: str | None) -> tuple[Sequence[str], Tensor, str]:
    """Names, directions [K, D] or of y [K, num_ws, D], and the space that they are of."""
    g, arrays = lia.generator, read_npz(file) if file.suffix.lower() == ".npz" else {}
    components, stdev = arrays.get("lat_comp"), arrays.get("lat_stdev")
    if components is None:
        space = space or "y"
        sizes = (g.num_ws, g.y_dim) if space == "y" else (1, g.z_dim)
        names, steps = read_projected(file, *sizes)
        return names, steps if space == "y" else steps.reshape(-1, g.z_dim), space
    # GANSpace's of z, which has the same spread all ways, say that of each is 1.
    space = space or ("z" if stdev is not None and stdev.size and bool((stdev == 1).all()) else "y")
    dim = g.y_dim if space == "y" else g.z_dim
    if components.dtype.kind != "f" or components.ndim < 2 or components.shape[-1] != dim or not components.size:
        raise LIAError(  # [K, 1, D]
            f"{file.name} has lat_comp {list(components.shape)} of {components.dtype}; expected components of {dim} entries, "
            f"as {space} of this generator has."
        )
    steps = torch.from_numpy(components.astype(np.float32)).reshape(-1, dim)
    if not bool(steps.isfinite().all()):
        raise LIAError(f"{file.name} has components that are not finite numbers. Get the file again.")
    return [f"{file.stem}-{i}" for i in range(1, len(steps) + 1)], steps, space


def _step_in_y(lia: LIA, step: Tensor) -> Tensor:
    """Of the generator's own mapping: the mean change of y for one standard deviation of z along a direction [z_dim]."""
    g, random = lia.generator, torch.Generator(lia.device).manual_seed(0)
    _, _, c = MappingSampler(g).pairs(_Z_CODES, random)
    z = torch.randn(_Z_CODES, g.z_dim, generator=random, device=lia.device)
    ends = [in_chunks(g.mapping, z + way * step / step.norm(), c).double() for way in (-1, 1)]
    return (ends[1] - ends[0]).mean(dim=0) / 2


def _long(step: Tensor, space: Metric) -> Tensor:
    """As long as one standard deviation; of ys as a whole, by its longest layer."""
    if step.ndim == 1:
        return space.step(step)
    longest = step[step.norm(dim=1).argmax()].double()
    scaled: Tensor = step.double() * (space.step(longest).norm() / longest.norm())
    return scaled


def _written(files: Mapping[Path, bytes]) -> list[Path]:
    """Writes files; those that are there already stay, and nothing is written where one is another."""
    there = {path for path in files if path.exists()}
    if other := next((path for path in files if path in there and not _holds(path, files[path])), None):
        raise ConfigError(
            f"{argument('out')} {other.parent} holds {other.name}, which something else made, or other directions. "
            "Choose another folder, or remove that one."
        )
    for path, data in files.items():
        if path not in there:
            make_folder(path.parent)
            with atomic_write(path) as temporary:
                temporary.write_bytes(data)
    return list(files)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False
