"""What gives pictures attributes: a classifier of torchvision's, a graph in ONNX, or a Python function of the user's."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lia_adapter.errors import LIAError, argument
from lia_adapter.generators import function_of_script, is_script, told_of_script
from lia_adapter.metrics.architectures import HEADS, identify, read_network_file, without_weights
from lia_adapter.metrics.identity import OnnxEmbedding
from lia_adapter.resize import resize

__all__ = ["Scorer", "load_scorer"]


class Scorer:
    """Pictures x [N, C, H, W] in [-1, 1] -> values [N, F], float64.

    Attributes:
        path: The file that it comes from.
        names: Of the attributes; those of a graph or a classifier are "score-1" and so on, by its outputs.
    """

    def __init__(self, name: str, score: Callable[[Tensor], Any], path: Path) -> None:
        self.name, self._score, self.path = name, score, path
        self.names: tuple[str, ...] = ()

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Scores of pictures.

        Raises:
            LIAError: It fails, or answers with something else than a number, or a row of numbers, for each picture.
        """
        with told_of_script(self.path):
            answer = self._score(x.clamp(-1, 1))
        if isinstance(answer, Mapping):
            names = tuple(map(str, answer))
            parts = [self._numbers(value, len(x)) for value in answer.values()]
            parts = [part[:, 0] if part.ndim == 2 and part.shape[1] == 1 else part for part in parts]
            if wrong := [f"{name} {list(part.shape)}" for name, part in zip(names, parts, strict=True) if part.ndim != 1]:
                raise LIAError(f"{self.name} answers with {wrong[0]:.60}; expected one number for each picture, by name.")
            found = torch.stack(parts, dim=1) if parts else torch.empty(len(x), 0)
        else:
            found = self._numbers(answer, len(x))
            found = found[:, None] if found.ndim == 1 else found
            names = tuple(f"score-{i + 1}" for i in range(found.shape[1]))
        if not names or (self.names and names != self.names):
            raise LIAError(
                f"{self.name} answers with the attributes {', '.join(names[:5]) or '(none)'}; expected at least one, and the "
                "same at each call."
            )
        self.names = names
        return found.to(x.device)

    def _numbers(self, answer: object, n: int) -> Tensor:
        """What was answered for n pictures, [n] or [n, F], float64."""
        try:
            found = torch.as_tensor(answer)
        except (TypeError, ValueError, RuntimeError):
            raise LIAError(f"{self.name} answers with a {type(answer).__name__}; expected numbers for each picture.") from None
        if found.is_complex() or found.ndim not in (1, 2) or len(found) != n:
            kind = "complex numbers " if found.is_complex() else ""
            raise LIAError(
                f"{self.name} answers {n} pictures with {kind}{list(found.shape)}; expected one number or row for each."
            )
        return found.double()


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
    try:
        return Scorer(path.name, _Classifier(path), path)
    except LIAError as error:  # as it may speak of a checkpoint
        raise LIAError(f"{argument('scorer')}: {error}") from error


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
        if not head or not all(t.ndim and len(t) for t in head):
            raise LIAError(
                f"{path.name} holds {architecture.title} without its classifier, which gives the scores. Give it whole."
            )
        network = without_weights(architecture.name, num_classes=len(head[-1])).to_empty(device="cpu").eval()
        for name, expected in network.state_dict().items():
            if "num_batches" in name or name.startswith(("aux", "Aux")):  # which scores do without
                continue
            if (there := file.tensors.get(name)) is None:
                raise LIAError(f"{path.name} lacks {name} of {architecture.title}'s classifier. Give it whole.")
            if there.shape != expected.shape:
                raise LIAError(
                    f"{path.name} has {name} {list(there.shape)}; {architecture.title} of {len(head[-1])} classes has "
                    f"{list(expected.shape)}."
                )
        loaded = {name: file.tensors[name] for name in network.state_dict() if name in file.tensors}
        network.load_state_dict({n: t for n, t in loaded.items() if not n.startswith(("aux", "Aux"))}, strict=False)
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
