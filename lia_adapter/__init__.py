"""lia-adapter: make any StyleGAN checkpoint invertible.

>>> import lia_adapter
>>> lia = lia_adapter.convert("stylegan2-faces.pkl")        # doctest: +SKIP
>>> y = lia.to_y(z); z = lia.to_z(y); x = lia.synthesize(y)  # doctest: +SKIP
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lia_adapter.checkpoints import Checkpoint, read_checkpoint
    from lia_adapter.editing import Directions, read_directions
    from lia_adapter.errors import CheckpointError, ConfigError, DownloadError, LIAError, WrapError
    from lia_adapter.generators import Generator, wrap
    from lia_adapter.jobs.compare import compare
    from lia_adapter.jobs.convert import convert
    from lia_adapter.jobs.dataset import make_dataset
    from lia_adapter.jobs.edit import edit_images
    from lia_adapter.jobs.encode import encode_images
    from lia_adapter.jobs.evaluate import evaluate
    from lia_adapter.jobs.find_directions import find_directions
    from lia_adapter.jobs.inspect import inspect
    from lia_adapter.jobs.invert import invert_images
    from lia_adapter.jobs.reconstruct import reconstruct_images
    from lia_adapter.jobs.sample import sample_seeds
    from lia_adapter.jobs.train import train
    from lia_adapter.jobs.train_encoder import train_encoder
    from lia_adapter.lia import LIA
    from lia_adapter.loading import load
    from lia_adapter.mapping import InvertibleMapping

__all__ = [
    "LIA",
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "Directions",
    "DownloadError",
    "Generator",
    "InvertibleMapping",
    "LIAError",
    "WrapError",
    "compare",
    "convert",
    "edit_images",
    "encode_images",
    "evaluate",
    "find_directions",
    "inspect",
    "invert_images",
    "load",
    "make_dataset",
    "read_checkpoint",
    "read_directions",
    "reconstruct_images",
    "sample_seeds",
    "train",
    "train_encoder",
    "wrap",
]

__version__ = version("lia-adapter")

# Where each name is found when it is first asked for: so that help and completion of the command line need not wait for torch.
_PLACES = {
    "checkpoints": ("Checkpoint", "read_checkpoint"),
    "errors": ("CheckpointError", "ConfigError", "DownloadError", "LIAError", "WrapError"),
    "generators": ("Generator", "wrap"),
    "jobs.compare": ("compare",),
    "jobs.convert": ("convert",),
    "jobs.dataset": ("make_dataset",),
    "editing": ("Directions", "read_directions"),
    "jobs.edit": ("edit_images",),
    "jobs.encode": ("encode_images",),
    "jobs.evaluate": ("evaluate",),
    "jobs.find_directions": ("find_directions",),
    "jobs.inspect": ("inspect",),
    "jobs.invert": ("invert_images",),
    "jobs.reconstruct": ("reconstruct_images",),
    "jobs.sample": ("sample_seeds",),
    "jobs.train": ("train",),
    "jobs.train_encoder": ("train_encoder",),
    "lia": ("LIA",),
    "loading": ("load",),
    "mapping": ("InvertibleMapping",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
