"""Opening what users have: a LIA file, any known checkpoint, an address, or a Python file that builds a generator."""

import hashlib
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lia_adapter.canonical import NetworksConfig
from lia_adapter.checkpoints import Checkpoint, read_checkpoint
from lia_adapter.checkpoints.decoder import clean
from lia_adapter.devices import default_device
from lia_adapter.download import fetch
from lia_adapter.encoder import Encoder
from lia_adapter.errors import CheckpointError, LIAError, argument
from lia_adapter.generators import (
    Generator,
    PublishedEncoder,
    WrappedGenerator,
    as_generator,
    build,
    build_by_script,
    build_encoder,
    filled,
    fingerprint,
    is_script,
    of_class,
    respond,
    response_error,
    weights_digest,
    weights_of,
)
from lia_adapter.generators.labels import Label
from lia_adapter.lia import LIA
from lia_adapter.lia_file import is_lia_file, read_lia_file, reason
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.typicality import Typicality

__all__ = ["from_checkpoint", "load", "open_file"]

_SAME_WEIGHTS = 0.05  # relative error of a generator's answers that other devices and precisions make of the same weights


def load(
    path_or_url: str | Path,
    *,
    generator: Generator | nn.Module | str | Path | None = None,
    device: torch.device | str | None = None,
    label: Label | None = None,
    channel_order: str = "rgb",
    assume: Mapping[str, str] | None = None,
) -> LIA:
    """Opens a LIA file, or any known checkpoint (then without an invertible mapping).

    Args:
        path_or_url: A local file, or an HTTPS address, which is kept in the cache; or `module.py:make`, a function of a Python
            file of yours that builds a generator. Nothing but the last runs any code.
        generator: For a file that holds the adapter alone: the generator, or the path of its checkpoint, or `module.py:make`.
        device: Where to put the weights; None: cuda where there is one, else cpu, as in every command.
        label: Of a conditional checkpoint, the one class to take, or the numbers of a label: the generator is then
            unconditional.
        channel_order: "bgr" for a checkpoint whose images come out with red and blue exchanged (mmagic trains such); in the
            result they are RGB, like all images here.
        assume: What a checkpoint does not say itself, see `lia_adapter.checkpoints.read_checkpoint`.

    Raises:
        CheckpointError: The file cannot be read.
        LIAError: The adapter belongs to another generator, or an argument does not go with the file.
    """
    device = default_device() if device is None else device
    if is_script(str(path_or_url)):
        lia = LIA(build_by_script(str(path_or_url)), provenance={"source": str(path_or_url)})
        return lia.to(device).eval().requires_grad_(False)
    return open_file(
        fetch(str(path_or_url)), generator=generator, device=device, label=label, channel_order=channel_order, assume=assume
    )


def open_file(
    path: Path,
    *,
    generator: Generator | nn.Module | str | Path | None = None,
    device: torch.device | str = "cpu",
    label: Label | None = None,
    channel_order: str = "rgb",
    assume: Mapping[str, str] | None = None,
) -> LIA:
    """`load` of a file that is on this machine."""
    if is_lia_file(path):
        if label is not None or channel_order != "rgb" or assume:
            raise LIAError(
                f"{path.name} is converted already; class, channel order and what is assumed are chosen when a checkpoint is."
            )
        lia = _load_lia(path, generator)
    else:
        if channel_order not in ("rgb", "bgr"):
            raise LIAError(f"channel order {channel_order!r} is unknown; expected rgb or bgr.")
        lia = from_checkpoint(read_checkpoint(path, assume=assume), label=label, channel_order=channel_order)
    return lia.to(device).eval().requires_grad_(False)


def from_checkpoint(checkpoint: Checkpoint, *, label: Label | None = None, channel_order: str = "rgb") -> LIA:
    """The networks of a checkpoint, which share its tensors' memory; see `load`."""
    if channel_order == "bgr":
        checkpoint = checkpoint.from_bgr()
    config = checkpoint.config if label is None or not checkpoint.config["generator"] else of_class(checkpoint.config, label)
    built, discriminator = build(checkpoint.family, config, checkpoint.tensors)
    if built is None:
        raise CheckpointError(f"{checkpoint.source} holds {checkpoint.content()}, and no generator. Pass the generator's file.")
    return LIA(
        built,
        discriminator=discriminator,
        encoder=build_encoder(config, checkpoint.tensors),
        family=checkpoint.family,
        config=config,
        provenance={
            "source": checkpoint.source,
            "source_sha256": checkpoint.sha256,
            "notes": list(checkpoint.notes),
            "class": label if label is None or isinstance(label, int) else list(label),
            "channel_order": channel_order,
            "assumed": {assumption.key: assumption.value for assumption in checkpoint.assumptions},
        },
    )


def _load_lia(path: Path, generator: Generator | nn.Module | str | Path | None) -> LIA:
    header, tensors = read_lia_file(path)
    discriminator: nn.Module | None = None
    mapping, typicality = None, None
    encoder: Encoder | PublishedEncoder | None = None
    try:
        if header["adapter_only"]:
            built, discriminator, family, config = _bound_generator(path, header, generator)
        else:
            family, config = str(header["family"]), header["config"]
            module, discriminator = build(family, config, tensors)
            if module is None:
                raise CheckpointError(f"{path.name} is damaged: it holds no generator.")
            built = module
        if header["mapping"]:
            mapping = filled(partial(InvertibleMapping.from_config, header["mapping"]), tensors, "mapping.")
        if header.get("encoder"):
            if "kind" in header["encoder"]:  # published with its generator
                encoder = build_encoder({"encoder": header["encoder"]}, tensors)
            else:
                encoder = filled(partial(Encoder.from_config, header["encoder"]), tensors, "encoder.")
                typicality = filled(partial(Typicality, encoder.y_dim), tensors, "typicality.")
        return LIA(
            built, mapping, discriminator, encoder, typicality,
            family=family, config=config, provenance=header["provenance"], metrics=header["metrics"],
        )  # fmt: skip
    except LIAError:
        raise
    except Exception as error:  # the config is whatever the file says, and networks of it raise about anything
        raise CheckpointError(f"{path.name} is damaged: a network in it does not fit its config ({reason(error)}).") from error


def _bound_generator(
    path: Path, header: Mapping[str, Any], generator: Generator | nn.Module | str | Path | None
) -> tuple[Generator, nn.Module | None, str | None, NetworksConfig]:
    """The generator that an adapter belongs to; refuses a different one."""
    source = clean(header["provenance"].get("source", "its checkpoint"))
    if generator is None:
        raise LIAError(f"{path.name} holds the adapter alone, made for {source}: give that, too: {argument('generator')} FILE.")
    discriminator: nn.Module | None = None
    family: str | None = None
    config: NetworksConfig = {}
    if isinstance(generator, (str, Path)):
        made = header["provenance"]
        plain = load(
            generator, label=made.get("class"), channel_order=made.get("channel_order", "rgb"), assume=made.get("assumed")
        )
        generator, discriminator, family, config = plain.generator, plain.discriminator, plain.family, plain.config
    if not isinstance(generator, nn.Module):
        raise LIAError("generator must be a path, a generator of this package, or what lia_adapter.wrap returns.")
    generator = as_generator(generator)
    if why := _difference(header, generator):
        kind = "the wrapped module" if isinstance(generator, WrappedGenerator) else "the given generator"
        raise LIAError(f"{path.name} was made for another generator ({source}) than {kind}: {why}.")
    return generator, discriminator, family, config


def _difference(header: Mapping[str, Any], generator: Generator) -> str | None:
    """How a generator differs from the one that an adapter was made for; None where it is the same.

    A generator that was wrapped, then or now, is known by what it does: its weights may have other names, and the same weights
    may be called in another way.
    """
    same, answers = fingerprint(generator) == header["generator_sha256"], header.get("response")
    wrapped = isinstance(generator, WrappedGenerator)
    if answers and (wrapped or header.get("family") is None):
        if (error := response_error(answers, respond(generator))) <= answers["tolerance"]:
            return None
        equal = same or (digest := header.get("weights_sha256")) and digest == weights_digest(weights_of(generator))
        if equal and error <= _SAME_WEIGHTS:
            return None
        far = "sizes differ" if error == math.inf else f"answers to the same codes differ by {error:.2g} of their spread"
        return f"{'though their weights are equal, ' if equal else ''}their {far}"
    # A file of before answers were stored: functions without a module then counted as having no weights at all.
    if same or (wrapped and header["generator_sha256"] == hashlib.sha256().hexdigest()):
        return None
    return "their weights differ"
