"""TensorFlow checkpoints: pickles of `dnnlib.tflib` networks, as StyleGAN 1, 2, 2-ADA and the official LIA write them.

Such a file is a tuple `(G, D, Gs)`, a longer one (LIA), or a single network. A network's state has its settings
(`static_kwargs`, only those that were given: the others have the defaults of its build function), its own variables, its
components (networks again: "mapping", "synthesis"), and the source text of its build function, which the ordinary loader
executes and nobody here reads.

This module shows a network as a `Network`, with all variables in one table. The families are `tf_stylegan1`, `tf_stylegan2`
and `tf_lia`: the names of the variables tell them apart, version numbers do not. What none of them reads (ProGAN, which has no
mapping) is refused here: `matches` and `read` are for the last place among the families.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import torch
from torch import Tensor

from lia_adapter.canonical import MAX_SIDE
from lia_adapter.checkpoints.decoder import Call, Symbol, clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.tables import Table
from lia_adapter.checkpoints.values import as_array, as_mapping, as_number, check_finite, kind_of
from lia_adapter.errors import CheckpointError

__all__ = [
    "NAME",
    "Network",
    "Networks",
    "check_settings",
    "conv",
    "dense",
    "first",
    "flipped",
    "matches",
    "noise_image",
    "read",
    "read_networks",
    "side_of",
]

NAME: Final = "other networks of TensorFlow"

# Real files have five at most; a network in a network in a network does not occur.
_MAX_NETWORKS: Final = 16
_MAX_SHARED_BYTES: Final = 4096
_MAX_LOD: Final = 32
_MAX_ITEMS: Final = 64  # of a setting: the longest is a low-pass filter

# Settings that shapes and names tell as well, or that do not change what a trained network computes.
_HARMLESS: Final = frozenset(
    "num_channels resolution label_size latent_size dlatent_size dlatent_broadcast mapping_layers mapping_fmaps label_fmaps "
    "fmap_base fmap_decay fmap_min fmap_max fmap_const architecture mbstd_num_features randomize_noise use_noise "
    "fused_modconv structure dtype num_fp16_res mapping_func synthesis_func truncation_psi truncation_cutoff "
    "truncation_psi_val truncation_cutoff_val dlatent_avg_beta style_mixing_prob is_training is_validation "
    "is_template_graph force_clean_graph return_dlatents freeze_layers augment_strength adaptive_dropout pagan_num "
    "pagan_fade score_size".split()
)


class Variables(Table):
    """The variables of a network by name, a component's with its name in front: "synthesis/4x4/Conv/bias"."""

    def tensor(self, name: str) -> Tensor:
        """One variable, in its own type of float.

        Raises:
            CheckpointError: It holds no floats, or is damaged.
        """
        node = self.nodes[name]
        number = as_number(node)
        if number is not None:
            return torch.tensor(float(number))
        array = as_array(node, self.document.name)
        if array is None or array.dtype.kind != "f":
            found = kind_of(node) if array is None else f"an array of {array.dtype}"
            raise CheckpointError(f"{self.document.name}: the variable {clean(name, 80)} is {found}, and floats were expected.")
        return check_finite(torch.from_numpy(array), self.document, clean(name, 80))


@dataclass(frozen=True)
class Network:
    """A network of the file.

    Attributes:
        name: As its program called it: "G", "D", "Gs", ...
        function: What its program built it with: "G_main", "D_stylegan2", ...
        synthesis: The same of its component "synthesis"; "" where it has none.
        settings: Its static_kwargs and those of its components, as plain values.
        variables: Its own and its components' variables.
    """

    name: str
    function: str
    synthesis: str
    settings: Mapping[str, Any]
    variables: Variables

    def has(self, pattern: str) -> bool:
        """Whether a variable's whole name fits a regular expression."""
        return any(re.fullmatch(pattern, name) for name in self.variables.nodes)

    def lod(self) -> float:
        """How many doublings of the resolution were still to be grown in when it was saved; 0 for a finished network.

        Raises:
            CheckpointError: The variable is no such number.
        """
        if "lod" not in self.variables.nodes:
            return 0.0
        found = self.variables.tensor("lod")
        if found.numel() != 1 or not 0 <= found.item() < _MAX_LOD:
            raise CheckpointError(
                f"{self.variables.document.name}: lod of {clean(self.name, 20)} is no number from 0 to {_MAX_LOD}. Get "
                "the file again."
            )
        return float(found.item())

    def number(self, setting: str, default: float) -> float:
        """A setting that is a finite number.

        Raises:
            CheckpointError: It is something else.
        """
        value = self.settings.get(setting, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise CheckpointError(
                f"{self.variables.document.name}: the setting {setting} of {clean(self.name, 20)} is {clean(value, 40)}, and a "
                "number was expected. Get the file again."
            )
        return value

    def minibatch_group(self, default: int | None) -> int | None:
        """Group size of a discriminator's minibatch standard deviation; None: the whole batch."""
        if default is None and self.settings.get("mbstd_group_size") is None:
            return None
        return max(1, int(self.number("mbstd_group_size", default or 4)))


@dataclass(frozen=True)
class Networks:
    """The networks of a file by what they are for.

    Attributes:
        generator: The one to take: Gs, whose weights are averaged over the training.
        discriminator: Or None.
        encoder: LIA's, or None.
        ignored: The names of the others, but for G, which is Gs before averaging.
        notes: What was chosen and what was ignored.
    """

    generator: Network
    discriminator: Network | None
    encoder: Network | None
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


def matches(document: Document) -> bool:
    """Whether the tree holds networks of a TensorFlow program at all.

    Args:
        document: The decoded file.
    """
    return any(_is_network(node) for node in _nodes(document))


def read(document: Document, sha256: str) -> NoReturn:
    """Say why networks that no family reads are refused.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Raises:
        CheckpointError: Always.
    """
    nodes = [node for node in _nodes(document) if _is_network(node)]
    found = [network for node in nodes if (network := _network(document, node)) is not None]
    # ProGAN's class is in "tfutil"; in its first release, for Theano, in "network".
    if any(not node.function.module.endswith("tflib.network") for node in nodes):
        raise CheckpointError(
            f"{document.name} holds a progressive GAN, which cannot be converted: it draws from z itself and has no mapping "
            "that could be made invertible. Pass a StyleGAN."
        )
    names = ", ".join(f"{clean(network.name, 20)} ({clean(network.function, 40)})" for network in found) or "no whole one"
    raise CheckpointError(
        f"{document.name} holds TensorFlow networks, but no StyleGAN 1 or 2 with a mapping and a synthesis network: {names}. "
        "Pass the whole file that the training wrote, (G, D, Gs)."
    )


def read_networks(document: Document) -> Networks | None:
    """The networks of a TensorFlow file.

    Args:
        document: The decoded file.

    Returns:
        None where it is no such file, or has no generator with a mapping and a synthesis network in it.

    Raises:
        CheckpointError: Two arrays share their numbers, as no real file's do.
    """
    networks = [found for node in _nodes(document) if (found := _network(document, node)) is not None]
    generators = [network for network in networks if network.has(r"synthesis/4x4/.*") and network.has(r"mapping/.*")]
    if not generators:
        return None
    generator = next((network for network in generators if network.name == "Gs"), generators[-1])
    discriminator = next((network for network in networks if network.has(r"(.*/)?FromRGB(_lod0)?/weight")), None)
    encoder = next((network for network in networks if network.has(r"encoder/.*")), None)
    notes = []
    if generator.name != "Gs":
        notes.append(
            f"the generator is called {clean(generator.name, 20)}, not Gs: its weights may not be averaged over the training"
        )
    used = [network for network in (generator, discriminator, encoder) if network is not None]
    ignored = [clean(network.name, 20) for network in networks if network not in used and network not in generators]
    if ignored:
        notes.append("networks that were ignored: " + ", ".join(ignored))
    _refuse_shared(document, used)
    return Networks(generator, discriminator, encoder, tuple(ignored), tuple(notes))


def check_settings(network: Network, fixed: Mapping[str, Any], read: frozenset[str], notes: list[str]) -> None:
    """Refuses settings that change the function in a way that nobody here computes, and notes unknown ones.

    Args:
        network: Whose settings.
        fixed: Settings, with the one value that is computed.
        read: Settings that the caller reads itself.
        notes: Gains a sentence about the unknown ones.

    Raises:
        CheckpointError: One of the fixed settings has another value.
    """
    name = network.variables.document.name
    for setting, expected in fixed.items():
        found = network.settings.get(setting, expected)
        if found != expected:
            raise CheckpointError(
                f"{name}: {clean(network.name, 20)} was built with {setting} = {clean(found, 40)}, which this version cannot "
                f"compute; it knows {setting} = {expected}. Pass another checkpoint of the generator."
            )
    unknown = [setting for setting in network.settings if setting not in _HARMLESS | read | fixed.keys()]
    if unknown:
        shown = ", ".join(f"{clean(setting, 40)} = {clean(network.settings[setting], 40)}" for setting in unknown[:8])
        notes.append(f"settings of {clean(network.name, 20)} that are not known were ignored: {shown}")


def side_of(network: Network) -> int:
    """The largest R of the variables named "RxR/...": the side of a generator's images."""
    matches = (re.match(r"(?:synthesis/)?([0-9]{1,5})x\1/", name) for name in network.variables.nodes)
    return max((side for match in matches if match and (side := int(match[1])) <= MAX_SIDE), default=4)


# What makes a stored tensor a canonical one. A tensor with another number of axes passes unchanged: it would not fit its
# neighbours either way, and who finds that knows its name.
def dense(tensor: Tensor) -> Tensor:
    """[in, out] -> [out, in]."""
    return tensor.t() if tensor.ndim == 2 else tensor


def conv(tensor: Tensor) -> Tensor:
    """[h, w, in, out] -> [out, in, h, w]."""
    return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor


def flipped(tensor: Tensor) -> Tensor:
    """A kernel of a transposed convolution: [h, w, in, out] -> [out, in, h, w], both axes mirrored."""
    return conv(tensor).flip(2, 3) if tensor.ndim == 4 else tensor


def first(tensor: Tensor) -> Tensor:
    """[1, ...] -> [...]."""
    return tensor[0] if tensor.ndim == 4 and len(tensor) == 1 else tensor


def noise_image(tensor: Tensor) -> Tensor:
    """[1, 1, h, w] -> [h, w]."""
    return tensor[0, 0] if tensor.ndim == 4 and tensor.shape[:2] == (1, 1) else tensor


def _nodes(document: Document) -> tuple[Any, ...]:
    tree = document.tree
    return tuple(tree[:_MAX_NETWORKS]) if isinstance(tree, (tuple, list)) else (tree,)


def _is_network(node: Any) -> bool:
    return (
        isinstance(node, Call)
        and isinstance(node.function, Symbol)
        and node.function.name == "Network"
        and re.search(r"(^|\.)(network|tfutil)$", node.function.module) is not None
    )


def _network(document: Document, node: Any) -> Network | None:
    state = _state(node)
    if state is None:
        return None
    components = as_mapping(state.get("components")) or {}
    parts = {name: part for name, node in components.items() if isinstance(name, str) and (part := _state(node)) is not None}
    settings: dict[str, Any] = {}
    nodes: dict[str, Any] = {}
    for name, part in parts.items():
        settings |= _settings(part)
        nodes |= {f"{name}/{key}": value for key, value in _variables(part).items()}
    # A network hands its own settings to its components: they come last.
    settings |= _settings(state)
    nodes |= _variables(state)
    return Network(
        name=_text(state.get("name")),
        function=_text(state.get("build_func_name")),
        synthesis=_text(parts.get("synthesis", {}).get("build_func_name")),
        settings=settings,
        variables=Variables(document, nodes),
    )


def _state(node: Any) -> Mapping[Any, Any] | None:
    """The state of a network of dnnlib, which some forks have inside a package of theirs."""
    return as_mapping(node.state) if _is_network(node) and node.function.module.endswith("tflib.network") else None


def _settings(state: Mapping[Any, Any]) -> dict[str, Any]:
    settings = as_mapping(state.get("static_kwargs")) or {}
    return {name: _plain(value) for name, value in settings.items() if isinstance(name, str)}


def _plain(value: Any) -> Any:
    """A setting as a number, text, None, or a list of numbers; anything else stays as it is."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value[:_MAX_ITEMS] if not isinstance(item, (list, tuple))]
    if (array := as_array(value, "a setting")) is not None:
        return array.tolist() if array.size <= _MAX_ITEMS else value
    number = as_number(value)
    return value if number is None else number


def _variables(state: Mapping[Any, Any]) -> dict[str, Any]:
    variables = state.get("variables")
    pairs = variables if isinstance(variables, list) else []
    return {
        pair[0]: pair[1] for pair in pairs if isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], str)
    }


def _text(node: Any) -> str:
    return node if isinstance(node, str) else ""


def _refuse_shared(document: Document, networks: list[Network]) -> None:
    """Arrays that share their bytes would become many times the file once they are copied."""
    seen: set[int] = set()
    for network in networks:
        for name, node in network.variables.nodes.items():
            payload = node.state[-1] if isinstance(node, Call) and isinstance(node.state, tuple) and node.state else None
            # Pickles of protocol 2 have text for bytes, as an argument of a call.
            payload = payload.args[0] if isinstance(payload, Call) and payload.args else payload
            if not isinstance(payload, (bytes, memoryview, str)) or len(payload) < _MAX_SHARED_BYTES:
                continue
            if id(payload) in seen:
                raise CheckpointError(
                    f"{document.name} is damaged: the variable {clean(name, 80)} shares its numbers with another. Get the file "
                    "again."
                )
            seen.add(id(payload))
