"""Which of torchvision's classification networks a file holds: by its names and shapes, and by nothing that it executes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.denied import refuse_denied
from lia_adapter.checkpoints.files import read_document, read_file
from lia_adapter.checkpoints.values import as_mapping, as_tensor
from lia_adapter.errors import LIAError

__all__ = ["HEADS", "Architecture", "NetworkFile", "identify", "read_network_file", "without_weights"]

HEADS = ("classifier", "fc", "head", "heads", "aux1", "aux2", "AuxLogits")
"""First parts of the names of classifiers."""
_TRANSFORMERS = ("vit_", "swin_", "maxvit_")
_GIVE = "Give the state dict of a convolutional one, as torchvision publishes it (.pth) or as .safetensors."


@dataclass(frozen=True)
class NetworkFile:
    """A state dict.

    Attributes:
        name: The file's name.
        tensors: Floating-point tensors by their names of today's torchvision.
        sha256: Of the file, empty for a .safetensors (the hashes that torchvision publishes are of .pth files).
    """

    name: str
    tensors: Mapping[str, Tensor]
    sha256: str


@dataclass(frozen=True)
class Architecture:
    """What a file turned out to hold.

    Attributes:
        name: torchvision's, such as "vgg16".
        title: The same for people, such as "VGG16".
        network: Without weights: on the meta device, in eval mode.
        mean: Of R, G and B in 0..1, to be subtracted.
        std: Of R, G and B in 0..1, to divide by.
        is_paper: Whether it is VGG16 with the weights of its authors (Simonyan & Zisserman 2015), which come from Caffe
            and take 0..255.
    """

    name: str
    title: str
    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_paper: bool


def read_network_file(path: str | Path) -> NetworkFile:
    """Reads a state dict from a .safetensors file, or from any other as torch writes it, which is decoded and not executed.

    Raises:
        LIAError: The file is missing, damaged, hostile, or no state dict.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        try:
            tensors, sha256 = load_file(path), ""
        except (OSError, SafetensorError) as error:
            raise LIAError(f"cannot read the feature network {path.name}: {error}. {_GIVE}") from error
    else:
        file = read_file(path)
        document = read_document(file)
        refuse_denied(document)
        nodes = as_mapping(document.tree)
        if not nodes or not all(isinstance(name, str) for name in nodes):
            raise LIAError(f"{path.name} holds no state dict, that is, tensors by their names. {_GIVE}")
        # The counters of batches are whole numbers, which the decoder does not take for weights, and have no use here.
        counted = (name for name in nodes if not name.endswith("num_batches_tracked"))
        tensors, sha256 = {name: as_tensor(nodes[name], document, clean(name)) for name in counted}, file.sha256
    return NetworkFile(path.name, {_today(name): t for name, t in tensors.items() if t.is_floating_point()}, sha256)


def identify(file: NetworkFile) -> Architecture:
    """Finds the network whose names and shapes are those of the file; the classifier may be absent or anything.

    The file's name says which one is tried first. How the images are normalised is what torchvision says of its file of
    that name or SHA-256, or else of its standard weights. Nothing in the weights themselves tells whether VGG16 wants
    0..255: the first layer of the Caffe weights has values such as 0.43 and 0.55, no smaller than those that were trained on
    inputs of unit variance. So they are known by the file's name, by its SHA-256, or by the NaN with which torchvision
    filled their classifier.

    Raises:
        LIAError: No network fits, or it has no feature maps because it is a transformer.
    """
    from torchvision import models  # two seconds that only those who ask for features shall pay

    found = _trunk(file.tensors)
    nearest: tuple[int, str, str] | None = None
    names = models.list_models(module=models)
    for name in sorted(names, key=lambda name: (name not in file.name, len(name))):
        network = without_weights(name)
        expected = _trunk(network.state_dict())
        problems = _differences(expected, found)
        if not problems:
            if name.startswith(_TRANSFORMERS):
                raise LIAError(f"{file.name} holds {name}, a transformer, which has no feature maps to compare. {_GIVE}")
            return _architecture(name, network, file)
        if len(problems) < len(expected) / 2 and (nearest is None or len(problems) < nearest[0]):
            nearest = (len(problems), name, problems[0])
    hint = f" The nearest is {nearest[1]}, but {nearest[2]}." if nearest else ""
    some = ", ".join(f"{clean(name, 40)} {list(t.shape)}" for name, t in list(file.tensors.items())[:3])
    raise LIAError(
        f"{file.name} holds {len(file.tensors)} tensors ({some or 'none'}), which make none of torchvision's "
        f"classification networks.{hint} {_GIVE}"
    )


def _architecture(name: str, network: nn.Module, file: NetworkFile) -> Architecture:
    from torchvision import models

    entries = models.get_model_weights(name)
    weights = next((entry for entry in entries if _published(entry.url, file)), entries.DEFAULT)
    caffe = models.VGG16_Weights.IMAGENET1K_FEATURES
    if name == "vgg16" and any(t.isnan().any() for key, t in file.tensors.items() if key.startswith(HEADS)):
        weights = caffe
    preset = weights.transforms()
    words = entries.__name__.removesuffix("_Weights")  # SqueezeNet1_0 is SqueezeNet 1.0
    title = re.sub(r"(?<=[a-z])(?=\d)", " ", re.sub(r"(\d)_(\d)", r"\1.\2", words)).replace("_", " ")
    return Architecture(name, title, network.to("meta").eval(), tuple(preset.mean), tuple(preset.std), weights is caffe)


def _published(url: str, file: NetworkFile) -> bool:
    """Whether the file is the one at the address, whose name ends with the first digits of its SHA-256."""
    stem = url.rpartition("/")[2].removesuffix(".pth")
    return stem in file.name or file.sha256.startswith(stem.rpartition("-")[2])


def _today(name: str) -> str:
    # torchvision's DenseNet files are older than its DenseNet: norm.1 is norm1 now.
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", name)


def _trunk(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Names and shapes of what stands before the classifier."""
    return {
        name: list(tensor.shape)
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and name.partition(".")[0] not in HEADS
    }


def _differences(expected: Mapping[str, list[int]], found: Mapping[str, list[int]]) -> list[str]:
    wrong = [
        f"its {clean(name)} is {found.get(name, 'missing')} and not {shape}"
        for name, shape in expected.items()
        if found.get(name) != shape
    ]
    return wrong + [f"has no {clean(name)}" for name in found if name not in expected]


class _NoWeights(TorchFunctionMode):
    """Weights are made on the meta device, which takes no time; RegNet also computes its widths, which have to be real."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})})


def without_weights(name: str, **options: Any) -> nn.Module:
    """torchvision's network of a name, on the meta device; options are those of its builder, such as num_classes."""
    from torchvision import models

    # As torchvision itself builds them for its weights, which were TensorFlow's and want inputs of another scale.
    ported = {"transform_input": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with _NoWeights(), torch.random.fork_rng(devices=[]):
        network: nn.Module = models.get_model(name, **ported, **options)
    return network
