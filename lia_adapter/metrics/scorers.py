"""What gives pictures attributes: a classifier of torchvision's, a graph in ONNX, or a Python function of the user's."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lia_adapter.errors import LIAError
from lia_adapter.generators import function_of_script, is_script, told_of_script
from lia_adapter.metrics.architectures import HEADS, identify, read_network_file, without_weights
from lia_adapter.metrics.identity import OnnxEmbedding
from lia_adapter.resize import resize

__all__ = ["Scorer", "load_scorer"]


class Scorer:
    """Pictures x [N, C, H, W] in [-1, 1] -> values [N, F], float64.

    Attributes:
        names: Of the attributes; those of a graph or a classifier are "score-1" and so on, by its outputs.
    """

    def __init__(self, name: str, score: Callable[[Tensor], Any], path: Path) -> None:
        self.name, self._score, self._path = name, score, path
        self.names: tuple[str, ...] = ()

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Scores of pictures.

        Raises:
            LIAError: It fails, or answers with something else than a number, or a row of numbers, for each picture.
        """
        with told_of_script(self._path):
            answer = self._score(x.clamp(-1, 1))
        if isinstance(answer, Mapping):
            names = tuple(map(str, answer))
            answer = torch.stack([torch.as_tensor(answer[name]).reshape(-1) for name in answer], dim=1)
        else:
            answer = torch.as_tensor(answer)
            answer = answer[:, None] if answer.ndim == 1 else answer
            names = tuple(f"score-{i + 1}" for i in range(answer.shape[-1]))
        if list(answer.shape) != [len(x), len(names)] or not names:
            raise LIAError(
                f"{self.name} answers {len(x)} pictures with {list(answer.shape)}; expected one number or row for each."
            )
        self.names = names
        return answer.to(x.device).double()


def load_scorer(source: str | Path) -> Scorer:
    """Opens what scores pictures.

    Args:
        source: An .onnx with one input [N, 3, H, W] in [-1, 1] and one output [N, F]; the whole state dict of a torchvision
            classifier (.pth, .safetensors) with any number of classes, whose logits are the scores; or `module.py:score`,
            which RUNS that file: score(x), x in [-1, 1], gives [N], [N, F], or these by name.

    Raises:
        LIAError: It cannot be read, or is none of these.
    """
    text, path = str(source), Path(source)
    if is_script(text):
        function, path = function_of_script(text)
        return Scorer(text, function, path)
    if path.suffix.lower() == ".onnx":
        return Scorer(path.name, OnnxEmbedding(path), path)
    return Scorer(path.name, _Classifier(path), path)


class _Classifier(nn.Module):
    """A classifier with its head, for pictures of any size."""

    mean: Tensor
    std: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        file = read_network_file(path)
        architecture = identify(file)
        head = [
            t for name, t in file.tensors.items() if name.partition(".")[0] in HEADS and not name.startswith(("aux", "Aux"))
        ]
        if not head:
            raise LIAError(
                f"{path.name} holds {architecture.title} without its classifier, which gives the scores. Give it whole."
            )
        network = without_weights(architecture.name, num_classes=len(head[-1])).to_empty(device="cpu").eval()
        missing = [name for name in network.state_dict() if name not in file.tensors and "num_batches" not in name]
        if missing and not missing[0].startswith(("aux", "Aux")):
            raise LIAError(f"{path.name} lacks {missing[0]} of {architecture.title}'s classifier. Give it whole.")
        network.load_state_dict({name: file.tensors.get(name, t) for name, t in network.state_dict().items()}, strict=False)
        self.network = network.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(architecture.mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(architecture.std).reshape(1, 3, 1, 1))
        self.least = 224 if architecture.name != "inception_v3" else 299

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] in [-1, 1] -> logits [N, K]."""
        self.to(x.device)
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3]
        x = resize(x.float(), self.least, self.least)
        logits: Tensor = self.network((x * 0.5 + 0.5 - self.mean) / self.std)
        return logits
