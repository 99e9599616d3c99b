"""What a run leaves behind while it trains: stats.jsonl, recipe.toml, pictures and, if it is installed, TensorBoard files."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lia_adapter.errors import LIAError
from lia_adapter.files import atomic_write, make_folder

__all__ = ["RunLog"]


class RunLog:
    """The folder of a run, written by the first process alone.

    Args:
        folder: Made if it is missing.
        recipe: The resolved recipe, as TOML.

    Raises:
        LIAError: The folder cannot be made or written.
    """

    def __init__(self, folder: Path, recipe: str) -> None:
        self.folder, self.stats = folder, folder / "stats.jsonl"
        make_folder(folder)
        with atomic_write(folder / "recipe.toml") as temporary:
            temporary.write_text(recipe)
        self.board = _tensorboard(folder)
        self.start = time.monotonic()

    def resume(self, step: int) -> None:
        """Drops what was written after the step from which the run goes on: it will be written again."""
        kept = []
        if self.stats.exists() and step:
            for line in self.stats.read_text(errors="replace").splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line + "\n")
                except (ValueError, KeyError, TypeError):  # half a line: the process was killed while it wrote
                    break
        with atomic_write(self.stats) as temporary:
            temporary.write_text("".join(kept))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line of figures."""
        seconds = round(time.monotonic() - self.start, 2)
        try:
            with self.stats.open("a") as file:
                file.write(json.dumps({"step": step, "seconds": seconds, **values}) + "\n")
        except OSError as error:
            raise LIAError(
                f"cannot write {self.stats}: {error.strerror}. Free some space; the same command goes on."
            ) from error
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
            self.board.flush()

    def close(self) -> None:
        """Ends TensorBoard's writing thread, which would abort the process at its end."""
        if self.board is not None:
            self.board.close()


def _tensorboard(folder: Path) -> Any:
    """TensorBoard's writer, or None where it is not installed (pip install lia-adapter[tensorboard])."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
