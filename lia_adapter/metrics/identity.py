"""Whether two pictures show the same one: cosine similarity of what a network of the user's makes of them."""

import importlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lia_adapter.errors import LIAError, argument
from lia_adapter.metrics.features import Features, NetworkFeatures
from lia_adapter.metrics.networks import load_network

__all__ = ["OnnxEmbedding", "identity_similarity", "load_identity"]


class OnnxEmbedding(Features):
    """A graph in a file .onnx, such as ArcFace's: images [N, 3, H, W] in [-1, 1], RGB -> vectors [N, D]. It runs on the CPU.

    Args:
        path: The file, whole: weights that it keeps in other files are not read.

    Raises:
        LIAError: The package onnxruntime is not installed, the file cannot be read, or its graph takes or gives something else.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            runtime: Any = importlib.import_module("onnxruntime")  # by name: it is an extra and no dependency
        except ImportError as error:
            raise LIAError(f"{path.name} needs the package onnxruntime. Run pip install lia-adapter[identity].") from error
        try:
            self._session: Any = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        except OSError as error:
            raise LIAError(f"cannot read {path}: {(error.strerror or str(error)).lower()}. Check the path.") from error
        except Exception as error:  # its exceptions have no base of their own
            raise LIAError(f"{path.name} is no ONNX graph that runs here: {' '.join(str(error).split())[:200]}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shapes = [list(inputs[0].shape), list(outputs[0].shape)] if len(inputs) == len(outputs) == 1 else []
        if [len(shape) for shape in shapes] != [4, 2] or shapes[0][1] != 3 or not all(type(n) is int for n in shapes[0][2:]):
            found = "; ".join(f"{tensor.name} {tensor.shape}" for tensor in (*inputs, *outputs))
            raise LIAError(f"{path.name} takes and gives {found[:200]}; expected images [N, 3, H, W] and vectors [N, D].")
        self._input, self._size, self._alone = inputs[0].name, tuple(shapes[0][2:]), shapes[0][0] == 1
        self.name = f"{path.name} (ONNX), input {self._size[1]}x{self._size[0]}"

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, D]."""
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3]
        x = F.interpolate(x.float().cpu(), size=self._size, mode="bilinear", antialias=True).clamp(-1, 1)
        parts = x.split(1 if self._alone else len(x))
        return torch.cat([torch.from_numpy(self._session.run(None, {self._input: part.numpy()})[0]) for part in parts])


def load_identity(path: str | Path) -> Features:
    """The network that tells who, or what, a picture shows.

    Args:
        path: An .onnx, or what `load_network` takes, whose last map is averaged over positions.

    Raises:
        LIAError: It cannot be read or is no such network.
    """
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        return OnnxEmbedding(path)
    try:
        return NetworkFeatures(load_network(path))
    except LIAError as error:
        raise LIAError(f"{argument('identity')}: {error}") from error


def identity_similarity(features: Features, a: Tensor, b: Tensor) -> Tensor:
    """Cosine [N] in [-1, 1] of the angle between the vectors of images a and b, each [N, C, H, W]; 1 of equal images."""
    return F.cosine_similarity(features(a).double(), features(b).double(), dim=1)
