"""`LIA`: a generator, its invertible mapping, its encoder, and the one file that holds them."""

import dataclasses
import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lia_adapter.budget import GRADIENT, allowance, at_once, in_parts, seconds_of
from lia_adapter.canonical import NetworksConfig
from lia_adapter.checkpoints import Checkpoint, read_checkpoint
from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.safetensor import MAX_HEADER, read_metadata, read_tensors, write_tensors
from lia_adapter.download import fetch
from lia_adapter.encoder import Encoder, one_code
from lia_adapter.errors import CheckpointError, LIAError
from lia_adapter.files import atomic_write
from lia_adapter.generators import (
    Generator,
    Original,
    PublishedEncoder,
    WrappedGenerator,
    broadcast,
    build,
    build_by_script,
    build_encoder,
    filled,
    graphs_at_once,
    is_script,
    of_class,
    picture_bytes,
    respond,
    response_error,
    truncate,
    weights_digest,
    wrap,
)
from lia_adapter.generators.labels import Label
from lia_adapter.inversion import Y_RATE, Inversion, ReconstructionLoss, optimise, search_coordinates
from lia_adapter.mapping import InvertibleMapping, covariance_root
from lia_adapter.metrics.typicality import Typicality

__all__ = ["LIA", "fingerprint", "from_checkpoint", "is_lia_file", "load", "read_header", "seed_to_z", "versions"]

FORMAT, VERSION = "lia-adapter", 1

_SAME_WEIGHTS = 0.05  # relative error of a generator's answers that other devices and precisions make of the same weights


def seed_to_z(seeds: Iterable[int], z_dim: int) -> Tensor:
    """z of StyleGAN's seeds: row s is numpy.random.RandomState(s).randn(z_dim), whatever the other rows are.

    Args:
        seeds: Each in 0 .. 2³² - 1.
        z_dim: Entries of z.

    Returns:
        float32 [N, z_dim].
    """
    rows = [np.random.RandomState(seed).randn(z_dim) for seed in seeds]
    return torch.from_numpy(np.stack(rows)).float() if rows else torch.zeros(0, z_dim)


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes and values of all parameters and buffers: the same for the same weights, however stored.

    Of a wrapped generator, those of the user's modules; where functions have none, what they answer.
    """
    digest = hashlib.sha256()
    weights = _weights(module)
    if not weights and isinstance(module, WrappedGenerator):
        digest.update(json.dumps(respond(module)).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _weights(module: nn.Module) -> Mapping[str, Tensor]:
    return module.weights() if isinstance(module, WrappedGenerator) else module.state_dict()


def versions() -> dict[str, str]:
    """Versions of what made a file."""
    packages = ("lia-adapter", "torch", "torchvision", "numpy", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


class LIA(nn.Module):
    """A generator, once converted with an invertible mapping, once trained with an encoder.

    Made by `load`, `convert` or `train_encoder`.

    Attributes:
        generator: With the ORIGINAL mapping; its weights never change.
        mapping: φ⁻¹ and φ, or None for a checkpoint that was not converted. A generator that was trained with an invertible
            mapping (`train`) brings it along: the two are then one and the same.
        discriminator: The checkpoint's, or None.
        encoder: x → y: one that train_encoder made, or the one of an official LIA's checkpoint; else None.
        typicality: Tells how usual the code of an image is; train_encoder measures it.
        coordinates: Mean and matrix of the coordinates that `invert` searches y in, once it has found them.
        family: Family of the generator, or None for a wrapped third-party one.
        config: Canonical config of generator and discriminator.
        provenance: Where the weights came from and what made the file, as JSON.
        metrics: What `convert` and `train_encoder` measured, as JSON.
    """

    def __init__(
        self,
        generator: Generator,
        mapping: InvertibleMapping | None = None,
        discriminator: nn.Module | None = None,
        encoder: Encoder | PublishedEncoder | None = None,
        typicality: Typicality | None = None,
        *,
        family: str | None = None,
        config: NetworksConfig | None = None,
        provenance: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if mapping is None and isinstance(generator.mapping, InvertibleMapping):
            mapping = generator.mapping
        if mapping is not None and mapping.y_dim != generator.y_dim:
            raise LIAError(f"the mapping makes y of {mapping.y_dim} entries; the generator takes {generator.y_dim}.")
        self.generator = generator
        self.mapping = mapping
        self.discriminator = discriminator
        self.encoder = encoder
        self.typicality = typicality
        self.coordinates: tuple[Tensor, Tensor] | None = None
        self._bytes: dict[str, int] = {}
        self._sampled_mean: Tensor | None = None
        self.family = family
        self.config: NetworksConfig = {**config} if config else {}
        self.provenance, self.metrics = dict(provenance or {}), dict(metrics or {})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for part in (self.generator, self) for p in part.parameters()), torch.device("cpu"))  # type: ignore[union-attr]

    @property
    def z_dim(self) -> int:
        """Entries of z: y_dim once converted, because a bijection keeps the number."""
        return self.generator.z_dim if self.mapping is None else self.mapping.y_dim

    def find_coordinates(
        self, seconds: float = math.inf, progress: Callable[[str, int, int], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and matrix of the coordinates to search y in; found once, as it takes up to thousands of gradients.

        Args:
            seconds: About how long it may take; fewer gradients tell less well which directions move pixels.
            progress: Is told what is done.
        """
        if self.coordinates is None or self.coordinates[0].device != self.device:
            mean, root = self.whitening()
            self.coordinates = (mean, search_coordinates(self.generator, root, seconds=seconds, progress=progress))
        return self.coordinates

    def at_once(self, work: str, most: int | None = None) -> int:
        """How many pictures this LIA should work on at once: for those who read them one batch after another.

        Args:
            work: "draw", or "reconstruct", which is to encode and draw.
            most: No more than this.

        Raises:
            LIAError: There is no memory for a single one.
        """
        if work not in self._bytes:  # measured once, as it takes longer than to draw a small picture
            use = None if work == "draw" else lambda x: self.synthesize(self.encode(x))
            self._bytes[work] = picture_bytes(self.generator, use)
        height, width = self.generator.resolution
        return at_once(self._bytes[work], self.device, most=most, what=f"picture of {width}x{height}")

    def whitening(self) -> tuple[Tensor, Tensor]:
        """Mean [y_dim] and root of the covariance [y_dim, y_dim] of the original mapping's y."""
        if isinstance(self.encoder, Encoder):
            return self.encoder.mean, self.encoder.root
        _, y, _ = Original(self.generator).pairs(20_000, torch.Generator(self.device).manual_seed(0))
        mean, root = covariance_root(y)
        return mean.to(y), root.to(y)

    @property
    def y_mean(self) -> Tensor:
        """Centre of truncation [y_dim]: the generator's own average, else the mapping's, else that of 10,000 samples."""
        if self.generator.y_mean is not None:
            return self.generator.y_mean
        if self.mapping is not None:
            return self.mapping.y_mean
        if self.generator.c_dim:
            raise LIAError("this conditional generator keeps no average y; sample it with psi 1 (--trunc 1).")
        if self._sampled_mean is None or self._sampled_mean.device != self.device:  # asked for with every batch of pictures
            z = torch.randn(10_000, self.z_dim, generator=torch.Generator().manual_seed(0)).to(self.device)
            with torch.no_grad():
                self._sampled_mean = self.generator.mapping(z).mean(dim=0)
        return self._sampled_mean

    def to_y(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """φ⁻¹: z [N, z_dim] ~ N(0, I), c [N, c_dim] -> y [N, y_dim]. Before conversion, the original mapping."""
        return self.generator.mapping(z, c) if self.mapping is None else self.mapping.to_y(z, c)

    def to_z(self, y: Tensor, c: Tensor | None = None) -> Tensor:
        """φ: y [N, y_dim], c [N, c_dim] -> z [N, y_dim], in float64, in which it gives the same y again.

        Raises:
            LIAError: The checkpoint was not converted: its own mapping has no inverse.
        """
        if self.mapping is None:
            raise LIAError("this checkpoint's mapping has no inverse. Run lia-adapt convert on it first.")
        return self.mapping.to_z(y, c)

    def _centre(self, c: Tensor | None) -> Tensor:
        """Centre of truncation: y_mean, [N, 1, y_dim] where there is one for each class (StyleGAN-XL); one for each layer."""
        means: Tensor | None = getattr(self.generator, "y_means", None)
        mean = self.y_mean if means is None or c is None else means[c.argmax(dim=1)][:, None]
        many = mean.shape[-1] != self.generator.y_dim
        return mean.reshape(self.generator.num_ws, self.generator.y_dim) if many else mean

    def synthesize(
        self,
        y_or_ys: Tensor,
        *,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise_mode: str = "const",
        c: Tensor | None = None,
    ) -> Tensor:
        """Draws images from codes.

        Args:
            y_or_ys: y [N, y_dim] or ys [N, num_ws, y_dim].
            psi: Truncation; 1 is none.
            cutoff: Layers that are truncated, from the first on; None is all.
            noise_mode: none, const or random.
            c: Labels [N, c_dim], for truncation towards the mean of each class where the generator knows that.

        Returns:
            x [N, C, H, W], about in [-1, 1] (not clamped).
        """
        ys = broadcast(y_or_ys, self.generator.num_ws, self.generator.y_dim)
        if psi != 1:
            ys = truncate(ys, self._centre(c), psi, cutoff)
        return self.generator.synthesis(ys, noise_mode=noise_mode)

    @torch.no_grad()
    def sample(self, seeds: Sequence[int], *, psi: float = 1.0, c: Tensor | None = None) -> Tensor:
        """Images of seeds, which mean what they mean to StyleGAN's users: seed 42 is picture 42.

        Args:
            seeds: N numbers in 0 .. 2³² - 1.
            psi: Truncation; 1 is none.
            c: Labels [N, c_dim] of a conditional generator.

        Returns:
            x [N, C, H, W], about in [-1, 1] (not clamped).
        """
        images = list(self.pictures(seeds, psi=psi, c=c))
        return torch.cat(images) if images else torch.zeros(0, self.generator.channels, *self.generator.resolution)

    def pictures(self, seeds: Sequence[int], *, psi: float = 1.0, c: Tensor | None = None) -> Iterator[Tensor]:
        """What `sample` gives, but no more at once than memory and speed allow: batches [n, C, H, W]."""

        @torch.no_grad()
        def draw(part: range) -> Tensor:
            z = seed_to_z(seeds[part.start : part.stop], self.z_dim).to(self.device)
            label = None if c is None else c[part.start : part.stop].to(self.device)
            return self.synthesize(self.to_y(z, label), psi=psi, c=label)

        yield from in_parts(draw, range(len(seeds)), self.at_once("draw") if len(seeds) > 1 else 1)

    def encode(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """f: images x [N, C, H, W] in [-1, 1] -> y [N, y_dim] in one pass; ys [N, num_ws, y_dim] of an encoder into ys.

        Args:
            x: At the generator's resolution; `lia_adapter.data.fit_image` fits a picture to it.
            c: Labels, for the sake of `to_z`; y carries the class, and the encoder finds it without being told.

        Raises:
            LIAError: There is no encoder yet, or x has another shape.
        """
        if self.encoder is None:
            raise LIAError("this file has no encoder. Run lia-adapt train-encoder on it first.")
        codes: Tensor = self.encoder(x.to(self.device))
        return codes

    def typicality_of(self, y: Tensor) -> Tensor:
        """How usual codes y [N, y_dim] are, [N] in 0 to 1 (`Typicality`); nan where train_encoder has not measured it."""
        return y.new_full([len(y)], torch.nan) if self.typicality is None else self.typicality(y)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """g(f(x)): images [N, C, H, W] in [-1, 1] encoded and drawn again, the same shape."""
        n = self.at_once("reconstruct") if len(x) > 1 else 1
        parts = list(in_parts(lambda part: self.synthesize(self.encode(part.to(self.device))), x, n))
        return torch.cat(parts) if parts else x

    @torch.no_grad()
    def invert(
        self,
        x: Tensor,
        c: Tensor | None = None,
        *,
        steps: int = 0,
        space: str = "y",
        start: str = "encoder",
        loss: ReconstructionLoss | None = None,
        seed: int | Sequence[int] = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Inversion:
        """Codes of images by the encoder, by optimisation, or by the one and then the other.

        As many images are worked on at once as memory and speed allow; what one gets does not depend on the others.

        Args:
            x: [N, C, H, W] in [-1, 1].
            c: Labels [N, c_dim] of a conditional generator.
            steps: Of optimisation; 0 is none.
            space: Where to search: y, ys (a y of its own for every layer) or z.
            start: encoder, mean, or random.
            loss: What is minimised; pixels alone where None.
            seed: Of the random start of each image, or of the first, where the others have the numbers that follow.
            progress: Is told the steps done and to do, over all images.

        Raises:
            LIAError: An unknown space or start, no mapping, or no encoder to start from.
        """
        if space not in ("y", "ys", "z"):
            raise LIAError(f"space is {space!r}; expected y, ys or z.")
        if start not in ("encoder", "mean", "random"):
            raise LIAError(f"start is {start!r}; expected encoder, mean or random.")
        if self.mapping is None:
            raise LIAError("this checkpoint was not converted, so its codes have no z. Run lia-adapt convert on it first.")
        loss = loss or ReconstructionLoss()
        seeds = range(seed, seed + len(x)) if isinstance(seed, int) else seed
        compare = loss
        n, drawing = graphs_at_once(self.generator, lambda x: compare(x, x.detach())) if steps else (1, nullcontext)
        if steps and space != "z" and self.coordinates is None:
            self.find_coordinates(self.search_seconds(len(x) * steps))
        if not steps and len(x) > 1:
            n = self.at_once("reconstruct" if start == "encoder" else "draw")
        found: list[Inversion] = []

        def search(part: range) -> Inversion:
            before, here = sum(len(p.loss) for p in found), slice(part.start, part.stop)
            tell = None if progress is None else lambda step, _: progress(before * steps + step * len(part), len(x) * steps)
            return self._invert(
                x[here].to(self.device), None if c is None else c[here].to(self.device), steps, space, start, loss,
                seeds[here], tell,
            )  # fmt: skip

        with drawing():
            found.extend(in_parts(search, range(len(x)), n))
        return Inversion(*(torch.cat([getattr(part, field.name) for part in found]) for field in dataclasses.fields(Inversion)))

    def search_seconds(self, passes: int) -> float:
        """How long finding the coordinates of a search may take that draws so many pictures and their gradients."""
        ys = self.y_mean.expand(1, self.generator.num_ws, -1)
        drawing = min(seconds_of(lambda: self.generator.synthesis(ys)) for _ in range(2))  # the first time is slower
        return allowance(passes * GRADIENT * drawing)

    def _invert(
        self,
        x: Tensor,
        c: Tensor | None,
        steps: int,
        space: str,
        start: str,
        loss: ReconstructionLoss,
        seeds: Sequence[int],
        progress: Callable[[int, int], None] | None,
    ) -> Inversion:
        """`invert` of as many images as there is memory for."""
        num_ws = self.generator.num_ws
        if start == "encoder":
            first = self.encode(x)
        else:
            randoms = [torch.Generator().manual_seed(seed) for seed in seeds] if start == "random" else []
            z = torch.stack([torch.randn(self.z_dim, generator=random) for random in randoms]).to(x) if randoms else None
            first = self.y_mean.expand(len(x), -1) if z is None else self.to_y(z, c)
        mean, matrix = self.find_coordinates() if space != "z" and steps else self.whitening()
        if space == "z":
            codes = self.to_z(one_code(first), c)
            codes = torch.zeros_like(codes) if start == "mean" else codes
        else:
            codes = ((broadcast(first, num_ws) if space == "ys" else one_code(first)) - mean) @ torch.linalg.inv(matrix)

        def to_ys(codes: Tensor) -> Tensor:
            return broadcast(self.to_y(codes, c) if space == "z" else mean + codes @ matrix, num_ws)

        found, losses = optimise(
            lambda codes: self.generator.synthesis(to_ys(codes)), codes, x, loss,
            steps=steps, rate=0.1 if space == "z" else Y_RATE, progress=progress,
        )  # fmt: skip
        ys = to_ys(found).contiguous()
        return Inversion(ys, self.to_z(one_code(ys), c), self.generator.synthesis(ys), losses)

    def save(self, path: str | Path, *, adapter_only: bool = False, half: bool = False) -> None:
        """Writes one .safetensors file, whole or not at all.

        Args:
            path: The file.
            adapter_only: Leave generator and discriminator out and bind the file to them by hash; always so for a
                wrapped third-party generator.
            half: Write the weights of generator and discriminator in float16. They are rounded; adapters made for the
                generator as it is now will not fit it any more.

        Raises:
            LIAError: There is nothing to save, or the file cannot be written.
        """
        adapter_only = adapter_only or self.family is None
        # A mapping that the generator brought along is saved as a part of it.
        mapping = None if self.mapping is self.generator.mapping else self.mapping
        parts: dict[str, nn.Module] = {} if mapping is None else {"mapping": mapping}
        parts |= {name: part for name in ("encoder", "typicality") if isinstance(part := getattr(self, name), nn.Module)}
        if adapter_only and not parts:
            raise LIAError("there is no adapter to save: the checkpoint was not converted. Run lia-adapt convert first.")
        if not adapter_only:
            parts["generator"] = self.generator  # type: ignore[assignment]
            if self.discriminator is not None:
                parts["discriminator"] = self.discriminator
        tensors = {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}
        if half:
            networks = ("generator.", "discriminator.")
            tensors |= {n: t.half() for n, t in tensors.items() if n.startswith(networks) and t.dtype == torch.float32}
        header = {
            "format": FORMAT,
            "version": VERSION,
            "adapter_only": adapter_only,
            "family": self.family,
            "config": {} if adapter_only else self.config,
            "mapping": None if mapping is None else mapping.config(),
            "encoder": None if self.encoder is None else self.encoder.config(),
            "generator_sha256": fingerprint(self.generator),  # type: ignore[arg-type]
            "weights_sha256": weights_digest(_weights(self.generator)) if adapter_only else None,  # type: ignore[arg-type]
            "response": respond(self.generator) if adapter_only else None,
            "provenance": self.provenance,
            "metrics": self.metrics,
        }
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        with atomic_write(path, needs=size) as temporary:
            write_tensors(temporary, tensors, {FORMAT: json.dumps(header, sort_keys=True)})


def is_lia_file(path: str | Path) -> bool:
    """Whether lia-adapt wrote this file: a .safetensors file that says so in its header."""
    try:
        with open(path, "rb") as file:
            start = file.read(9)
            size = int.from_bytes(start[:8], "little")
            if len(start) < 9 or start[8:] != b"{" or size > MAX_HEADER:
                return False
            header = json.loads(b"{" + file.read(size - 1))
    except (OSError, ValueError, RecursionError):
        return False
    metadata = header.get("__metadata__")
    return isinstance(metadata, dict) and FORMAT in metadata


def load(
    path_or_url: str | Path,
    *,
    generator: Generator | nn.Module | str | Path | None = None,
    device: torch.device | str = "cpu",
    label: Label | None = None,
    channel_order: str = "rgb",
    assume: Mapping[str, str] | None = None,
) -> LIA:
    """Opens a LIA file, or any known checkpoint (then without an invertible mapping).

    Args:
        path_or_url: A local file, or an HTTPS address, which is kept in the cache; or `module.py:make`, a function of a Python
            file of yours that builds a generator. Nothing but the last runs any code.
        generator: For a file that holds the adapter alone: the generator, or the path of its checkpoint, or `module.py:make`.
        device: Where to put the weights.
        label: Of a conditional checkpoint, the one class to take, or the numbers of a label: the generator is then
            unconditional.
        channel_order: "bgr" for a checkpoint whose images come out with red and blue exchanged (mmagic trains such); in the
            result they are RGB, like all images here.
        assume: What a checkpoint does not say itself, see `lia_adapter.checkpoints.read_checkpoint`.

    Raises:
        CheckpointError: The file cannot be read.
        LIAError: The adapter belongs to another generator, or an argument does not go with the file.
    """
    if is_script(str(path_or_url)):
        lia = LIA(build_by_script(str(path_or_url)), provenance={"source": str(path_or_url)})
        return lia.to(device).eval().requires_grad_(False)
    path = fetch(str(path_or_url))
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
        built,  # type: ignore[arg-type]
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
    header = read_header(path)
    tensors = read_tensors(path)
    discriminator: nn.Module | None = None
    mapping, typicality = None, None
    encoder: Encoder | PublishedEncoder | None = None
    try:
        if header["adapter_only"]:
            built, discriminator, family, config = _bound_generator(path, header, generator)
        else:
            family, config = str(header["family"]), header["config"]
            module, discriminator = build(family, config, tensors)
            built = module  # type: ignore[assignment]
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
        raise CheckpointError(f"{path.name} is damaged: a network in it does not fit its config ({_reason(error)}).") from error


def read_header(path: Path) -> dict[str, Any]:
    """The JSON of a LIA file, checked as far as it is needed to go on; no weights are read.

    Raises:
        CheckpointError: It is damaged, newer than this program, or a .safetensors file of another kind.
    """
    try:
        text = read_metadata(path).get(FORMAT)
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {_reason(error)}. Check the path and its permissions.") from error
    if text is None:
        raise CheckpointError(
            f"{path.name} is a .safetensors file, but not one that lia-adapt wrote. lia-adapt inspect tells what it holds."
        )
    try:
        header = json.loads(text)
        expected = {
            "adapter_only": bool, "config": dict, "generator_sha256": str, "mapping": dict | None, "metrics": dict,
            "provenance": dict, "version": int,
        }  # fmt: skip
        bad = [key for key, kind in expected.items() if not isinstance(header[key], kind)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is damaged: its header cannot be read ({_reason(error)}).") from error
    if bad:
        raise CheckpointError(f"{path.name} is damaged: {', '.join(bad)} in its header is of the wrong kind.")
    if header["version"] > VERSION:
        raise CheckpointError(
            f"{path.name} has format version {clean(header['version'], 20)}; this program reads up to {VERSION}. "
            "Run pip install -U lia-adapter."
        )
    return dict(header)


def _reason(error: Exception) -> str:
    """An error of other people's code as one short line: it may quote the file."""
    return clean(" ".join(str(error).split()), 200)


def _bound_generator(
    path: Path, header: Mapping[str, Any], generator: Generator | nn.Module | str | Path | None
) -> tuple[Generator, nn.Module | None, str | None, NetworksConfig]:
    """The generator that an adapter belongs to; refuses a different one."""
    source = clean(header["provenance"].get("source", "its checkpoint"))
    if generator is None:
        raise LIAError(
            f"{path.name} holds the adapter alone, made for {source}: give that, too (generator=…, --generator FILE)."
        )
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
    if not isinstance(generator, Generator):
        generator = wrap(generator)
    if why := _difference(header, generator):
        kind = "the wrapped module" if isinstance(generator, WrappedGenerator) else "the given generator"
        raise LIAError(f"{path.name} was made for another generator ({source}) than {kind}: {why}.")
    return generator, discriminator, family, config


def _difference(header: Mapping[str, Any], generator: Generator) -> str | None:
    """How a generator differs from the one that an adapter was made for; None where it is the same.

    A generator that was wrapped, then or now, is known by what it does: its weights may have other names, and the same weights
    may be called in another way.
    """
    assert isinstance(generator, nn.Module)  # noqa: S101
    same, answers = fingerprint(generator) == header["generator_sha256"], header.get("response")
    wrapped = isinstance(generator, WrappedGenerator)
    if answers and (wrapped or header.get("family") is None):
        if (error := response_error(answers, respond(generator))) <= answers["tolerance"]:
            return None
        equal = same or (digest := header.get("weights_sha256")) and digest == weights_digest(_weights(generator))
        if equal and error <= _SAME_WEIGHTS:
            return None
        far = "sizes differ" if error == math.inf else f"answers to the same codes differ by {error:.2g} of their spread"
        return f"{'though their weights are equal, ' if equal else ''}their {far}"
    # A file of before answers were stored: functions without a module then counted as having no weights at all.
    if same or (wrapped and header["generator_sha256"] == hashlib.sha256().hexdigest()):
        return None
    return "their weights differ"
