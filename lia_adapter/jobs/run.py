"""What all jobs share: the names of what they write."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lia_adapter.errors import ConfigError, argument
from lia_adapter.files import atomic_write, check_writable
from lia_adapter.tensorfile import check_replaced, finite

__all__ = ["check_inputs_kept", "checked_out", "made_before", "report_paths", "run_folder", "write_json", "write_results"]


def checked_out(
    out: str | Path | None, default: str, ending: str = ".safetensors", *, kind: str | None = None, report: bool = True
) -> Path:
    """Where a job writes its result, found out to be writable before the work begins.

    Args:
        out: What the user said; None: `default`, in the current folder.
        default: A name that ends in `ending`.
        ending: What the name must end in.
        kind: What it is to hold (`lia_adapter.tensorfile`): no file of another kind is replaced. None: what is no such file.
        report: Whether a picture, a page and figures are written beside it.

    Raises:
        LIAError: The name ends in another way, or a file cannot be written there.
    """
    path = Path(default) if out is None else Path(out)
    if not path.name.endswith(ending):
        raise ConfigError(f"{argument('out')} {path} must end in {ending}; expected for example {path.name}{ending}.")
    if kind is not None:
        check_replaced(path, kind)
    for target in (path, *(report_paths(path).values() if report else ())):
        check_writable(target)
    return path


def report_paths(out: Path) -> dict[str, Path]:
    """The files of a report, by ending: f.safetensors and f.json have f.png, f.html and f.json."""
    stem = out.name.removesuffix(".safetensors").removesuffix(".json")
    return {ending: out.with_name(f"{stem}.{ending}") for ending in ("png", "html", "json")}


def check_inputs_kept(outputs: Iterable[Path], data: str | Path, names: Iterable[str]) -> None:
    """Sees to it that no picture that is read is written over, by whatever name: links, or letters of another case, too.

    Args:
        outputs: What a job writes.
        data: The data set that it reads, a folder or a file.
        names: Of the images in it.

    Raises:
        ConfigError: One of the outputs is one of the images, or the file that holds them.
    """
    there = {found: path for path in outputs if (found := _file_of(path)) is not None}
    if not there:
        return
    root = Path(data)
    for path in (root,) if root.is_file() else (root / name for name in names):
        if (found := _file_of(path)) in there:
            wrong = there[found]
            same = "" if wrong == path else f", which is the same file as {path}"
            raise ConfigError(f"{argument('out')} would write over the picture {wrong}{same}. Choose another place.")


def _file_of(path: Path) -> tuple[int, int] | None:
    """What a file system knows a file by (`os.path.samefile`); None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def run_folder(out: Path) -> Path:
    """The folder of a run beside its result, with log, pictures and state: f of f.safetensors."""
    return out.with_name(out.name.removesuffix(".safetensors"))


def write_results(out: Path, picture: bytes, figures: Mapping[str, Any]) -> None:
    """Writes a picture (PNG) and figures (JSON) beside `out`; numbers that are not finite, unknown to JSON, become null.

    Raises:
        LIAError: A file cannot be written.
    """
    paths = report_paths(out)
    with atomic_write(paths["png"], needs=len(picture)) as temporary:
        temporary.write_bytes(picture)
    write_json(paths["json"], figures)


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """Writes figures; numbers that are not finite, unknown to JSON, become null.

    Raises:
        LIAError: The file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(finite(figures), indent=1))


def made_before(report: Path, targets: Sequence[Path]) -> list[str]:
    """What an earlier run of the same job made in a folder, and sees to it that no picture is lost that it did not make.

    Args:
        report: The .json of that run, whose "files" are lists of names by kind; there may be none.
        targets: Pictures beside it that are to be written.

    Returns:
        Names of pictures of earlier runs, beside the targets, that stay there: the new report's "earlier".

    Raises:
        ConfigError: A target is there, and something else made it.
    """
    try:
        before = json.loads(report.read_text())
        ours = {str(name) for names in (*before["files"].values(), before.get("earlier", [])) for name in names}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        ours = set()
    if there := next((path for path in targets if path.name not in ours and path.exists()), None):
        raise ConfigError(
            f"{argument('out')} {report.parent} holds {there.name}, which something else made. "
            "Choose another folder, or remove that one."
        )
    return sorted(ours - {path.name for path in targets})
