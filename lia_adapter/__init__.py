"""lia-adapter: make any StyleGAN checkpoint invertible.

>>> import lia_adapter
>>> lia = lia_adapter.convert("stylegan2-faces.pkl")        # doctest: +SKIP
>>> y = lia.to_y(z); z = lia.to_z(y); x = lia.synthesize(y)  # doctest: +SKIP
"""

from importlib.metadata import version

from lia_adapter.checkpoints import Checkpoint, read_checkpoint
from lia_adapter.errors import CheckpointError, ConfigError, DownloadError, LIAError, WrapError
from lia_adapter.generators import Generator, wrap
from lia_adapter.lia import LIA, load
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.training.convert import convert

__all__ = [
    "LIA",
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "DownloadError",
    "Generator",
    "InvertibleMapping",
    "LIAError",
    "WrapError",
    "convert",
    "load",
    "read_checkpoint",
    "wrap",
]

__version__ = version("lia-adapter")
