"""lia-adapter: make any StyleGAN checkpoint invertible.

>>> import lia_adapter
>>> lia = lia_adapter.convert("stylegan2-faces.pkl")        # doctest: +SKIP
>>> y = lia.to_y(z); z = lia.to_z(y); x = lia.synthesize(y)  # doctest: +SKIP
"""

from importlib.metadata import version

from lia_adapter.checkpoints import Checkpoint, read_checkpoint
from lia_adapter.commands.encode import encode_images
from lia_adapter.commands.evaluate import evaluate
from lia_adapter.commands.invert import invert_images
from lia_adapter.commands.reconstruct import reconstruct_images
from lia_adapter.errors import CheckpointError, ConfigError, DownloadError, LIAError, WrapError
from lia_adapter.generators import Generator, wrap
from lia_adapter.lia import LIA, load
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.training.convert import convert
from lia_adapter.training.encoder import train_encoder
from lia_adapter.training.train import train

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
    "encode_images",
    "evaluate",
    "invert_images",
    "load",
    "read_checkpoint",
    "reconstruct_images",
    "train",
    "train_encoder",
    "wrap",
]

__version__ = version("lia-adapter")
