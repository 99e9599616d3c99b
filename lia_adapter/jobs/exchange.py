"""Directions to and from other programs: InterFaceGAN's .npy, pSp's .pt, GANSpace's .npz. What is read is not executed."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lia_adapter.editing import CodeSpace, Direction, Directions
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.files import atomic_write, make_folder
from lia_adapter.generators import fingerprint
from lia_adapter.lia import LIA
from lia_adapter.projected import read_npz, read_projected

__all__ = ["FORMS", "export_directions", "import_directions"]

FORMS = ("interfacegan", "ganspace", "psp")
"""Programs whose files of directions are read and written."""


def export_directions(directions: Directions, form: str, out: str | Path) -> list[Path]:
    """Writes directions for another program.

    Args:
        directions: Of y, or of z for interfacegan; those of ys have no form there.
        form: interfacegan: NAME.npy, a unit normal [1, D]; psp: NAME.pt, a tensor [1, D] of one standard deviation, in the
            format of `torch.save`, the only one that its notebooks read; ganspace: one components.npz with lat_comp
            [K, 1, D], of unit length, and lat_stdev [K] (not the mean of y and the rest, which its viewer wants besides).
        out: Folder, made where there is none.

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
    folder = Path(out)
    make_folder(folder)
    steps = [one.step.double()[None] for one in directions]  # [1, D] each
    if form == "ganspace":
        arrays = {
            "lat_comp": torch.stack([step / step.norm() for step in steps]).float().numpy(),
            "lat_stdev": torch.stack([step.norm() for step in steps]).float().numpy(),
        }
        data = io.BytesIO()
        np.savez(data, **arrays)  # type: ignore[arg-type]  # its stub takes a flag for one of the arrays
        return [_written(folder / "components.npz", data)]
    paths = []
    for name, step in zip(directions.names, steps, strict=True):
        data = io.BytesIO()
        if form == "psp":
            torch.save(step.float(), data)
        else:
            np.save(data, (step / step.norm()).float().numpy(), allow_pickle=False)
        paths.append(_written(folder / f"{name}.{'pt' if form == 'psp' else 'npy'}", data))
    return paths


def import_directions(lia: LIA, files: Sequence[str | Path]) -> Directions:
    """Reads directions of other programs as those of y; their length becomes one standard deviation.

    Args:
        lia: Of whose generator they are, by the user's word: such files do not say.
        files: InterFaceGAN's or anybody's .npy, pSp's .pt, GANSpace's .npz: arrays [D], [K, D] or [K, num_ws, D].

    Returns:
        Directions, named by their files, and numbers where one has several.

    Raises:
        LIAError: A file cannot be read, or holds something else.
    """
    g, found = lia.generator, list[Direction]()
    mean, root = lia.whitening()
    space = CodeSpace(mean, root.double() @ root.double())
    for file in map(Path, files):
        names, steps = _read(file, g.num_ws, g.y_dim)
        for name, step in zip(names, steps.to(root.device), strict=True):
            if not float(step.norm()):
                raise LIAError(f"{file.name}: direction {name} is zero.")
            found.append(
                Direction(name, "y" if step.ndim == 1 else "ys", _long(step, space), "import", about={"file": file.name})
            )
    about = {"source": lia.provenance.get("source"), "how": "import"}
    return Directions(fingerprint(g), tuple(found), about)


def _read(file: Path, num_ws: int, y_dim: int) -> tuple[Sequence[str], Tensor]:
    if file.suffix.lower() == ".npz":
        components = read_npz(file).get("lat_comp")
        if components is not None:  # [K, 1, D]
            if components.dtype.kind != "f" or components.ndim < 2 or components.shape[-1] != y_dim or not components.size:
                raise LIAError(
                    f"{file.name} has lat_comp {list(components.shape)} of {components.dtype}; expected components of "
                    f"{y_dim} entries, as y of this generator has."
                )
            steps = torch.from_numpy(components.astype(np.float32)).reshape(-1, y_dim)
            if not bool(steps.isfinite().all()):
                raise LIAError(f"{file.name} has components that are not finite numbers. Get the file again.")
            return [f"{file.stem}-{i}" for i in range(1, len(steps) + 1)], steps
    return read_projected(file, num_ws, y_dim)


def _long(step: Tensor, space: CodeSpace) -> Tensor:
    """As long as one standard deviation; of ys as a whole, by its longest layer."""
    if step.ndim == 1:
        return space.step(step)
    longest = step[step.norm(dim=1).argmax()].double()
    scaled: Tensor = step.double() * (space.step(longest).norm() / longest.norm())
    return scaled


def _written(path: Path, data: io.BytesIO) -> Path:
    with atomic_write(path) as temporary:
        temporary.write_bytes(data.getvalue())
    return path
