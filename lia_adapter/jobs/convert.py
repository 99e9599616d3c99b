"""`convert`: from a generator with a mapping network to a LIA with an invertible one, measured."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from PIL import Image
from torch import nn

from lia_adapter.config import load_recipe, stored
from lia_adapter.data import open_images
from lia_adapter.devices import device_name
from lia_adapter.download import downloading, fetch, source_stem
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.generators import (
    Generator,
    as_generator,
    at_rest,
    broadcast,
    draw_reduced,
    fingerprint,
    is_script,
    seed_to_z,
)
from lia_adapter.generators.labels import Label
from lia_adapter.jobs.run import checked_out, write_results
from lia_adapter.lia import LIA
from lia_adapter.lia_file import versions
from lia_adapter.loading import load, open_file
from lia_adapter.metrics.features import Features, PixelFeatures, load_features
from lia_adapter.metrics.mapping import compare_mappings
from lia_adapter.metrics.prior import thicken
from lia_adapter.pictures import COLUMNS, comparison_grid, one_hot, paired_grid, png_bytes
from lia_adapter.progress import Progress
from lia_adapter.tensorfile import LIA_FILE
from lia_adapter.training.convert_config import ConvertConfig
from lia_adapter.training.mapping import fit_mapping, pick_coupling
from lia_adapter.training.refine import refine_mapping

__all__ = ["check_convertible", "convert", "convert_lia", "noise_picture", "obstacle", "open_source"]


def convert(
    source: LIA | Generator | nn.Module | str | Path,
    recipe: str = "convert",
    overrides: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    device: str | None = None,
    label: Label | None = None,
    channel_order: str = "rgb",
    assume: Mapping[str, str] | None = None,
    sha256: str | None = None,
    features: str | Path | None = None,
    data: str | Path | None = None,
    adapter_only: bool = False,
    progress: Progress | None = None,
) -> LIA:
    """Fits an invertible mapping to a generator's own mapping and measures it.

    Args:
        source: A checkpoint's path or HTTPS address, a generator of this package, what `wrap` returns, or any module that
            `wrap` knows how to call. Its weights do not change.
        recipe: The name of a shipped recipe or the path of a .toml.
        overrides: Keys of the recipe (`recipes/convert.toml`) and their values.
        out: File for the result, .safetensors, and beside it a picture and figures; a run that was stopped goes on where it
            was. None: nothing is written.
        device: Of a checkpoint: cpu, cuda, …; None: cuda where there is one. A module stays where it is.
        label: Of a checkpoint, see `load`.
        channel_order: Of a checkpoint, see `load`.
        assume: Of a checkpoint, see `load`.
        sha256: What a checkpoint must hash to.
        features: torchvision's squeezenet1_0 as .safetensors, to compare images with; pixels where None.
        data: A folder or zip of real images: adds adversarial steps against the checkpoint's own discriminator.
        adapter_only: See `LIA.save`.
        progress: Is told what is done.

    Returns:
        The LIA; `LIA.save` writes it. What was measured is in its `metrics`.

    Raises:
        LIAError: The checkpoint can't be read, the recipe has an unknown key, or the generator has no mapping to replace.
    """
    config = load_recipe(ConvertConfig, recipe, overrides)
    if isinstance(source, (str, Path)):
        lia = open_source(
            source, device=device, label=label, channel_order=channel_order, assume=assume, sha256=sha256, progress=progress
        )
    elif isinstance(source, LIA):
        lia = source
    else:
        lia = LIA(as_generator(source))
    return convert_lia(
        lia, config, features=load_features(features), data=data, out=out, adapter_only=adapter_only, progress=progress
    )


def open_source(
    source: str | Path,
    *,
    device: str | None = None,
    label: Label | None = None,
    channel_order: str = "rgb",
    assume: Mapping[str, str] | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> LIA:
    """A checkpoint to convert, with its address in the provenance; see `convert`.

    Raises:
        LIAError: It cannot be had or read.
    """
    source = str(source)
    if is_script(source):
        if sha256:
            raise ConfigError(
                f"{argument('sha256')} is for files that are read; a Python file that builds a generator is run as it is."
            )
    else:
        path = fetch(source, sha256=sha256, progress=downloading(progress))
    if progress:
        progress(f"open {source_stem(source)}", 0, None)
    where = device_name(device)
    if is_script(source):
        return load(source, device=where)
    lia = open_file(path, device=where, label=label, channel_order=channel_order, assume=assume)
    if "://" in source:  # without what may be a password or a token
        address = urlsplit(source)
        lia.provenance["address"] = f"{address.scheme}://{address.hostname}{address.path}"
    return lia


def convert_lia(
    lia: LIA,
    config: ConvertConfig,
    *,
    features: Features | None = None,
    data: str | Path | None = None,
    out: str | Path | None = None,
    adapter_only: bool = False,
    progress: Progress | None = None,
) -> LIA:
    """`convert` of an opened checkpoint by a recipe that was read; a mapping that it already has is fitted anew.

    Returns:
        A new LIA around the same generator, which is left as it was found.

    Raises:
        LIAError: The generator cannot be converted, or data were given where they can't be used.
    """
    check_convertible(lia.generator)
    target = None if out is None else checked_out(out, "", kind=LIA_FILE)
    state = None if target is None else target.with_name(f".{target.name}.fit")
    # Batch statistics would make y depend on the batch, and running ones would change the generator.
    with at_rest([lia.generator]):
        converted = _fitted(lia, config, features or PixelFeatures(), data, state, progress)
        if target is not None:
            picture = png_bytes(comparison_grid(converted, progress))
    if target is not None and state is not None:
        converted.save(target, adapter_only=adapter_only)
        write_results(target, picture, {**converted.metrics, "provenance": converted.provenance})
        state.unlink(missing_ok=True)
    return converted


def _fitted(
    lia: LIA,
    config: ConvertConfig,
    features: Features,
    data: str | Path | None,
    state: Path | None,
    progress: Progress | None,
) -> LIA:
    """Fits, maybe refines, and measures."""
    generator, device, start = lia.generator, lia.device, time.monotonic()
    images = None
    if data is not None:
        if lia.discriminator is None or generator.c_dim:
            why = "is class-conditional" if lia.discriminator else "holds no discriminator"
            given = argument("data")
            raise LIAError(
                f"{given} refines against the checkpoint's own discriminator, but this file {why}. Leave {given} out."
            )
        images = open_images(data, generator.resolution, generator.channels)
    before = fingerprint(generator)
    identity = _identity(before, config)
    pick_coupling(generator, config.coupling)  # refuses what cannot be had
    if progress:
        progress("statistics of codes", 0, 1)
    mapping, history = fit_mapping(generator, config, device=device, state_path=state, identity=identity, progress=progress)
    if images is not None and lia.discriminator is not None:
        history |= refine_mapping(generator, lia.discriminator, mapping, images, config, progress=progress)
    fitted = time.monotonic()
    if progress:
        progress("measure", 0, config.eval_seeds)
    metrics = compare_mappings(
        generator,
        mapping,
        features.to(device),
        samples=config.eval_samples,
        seeds=config.eval_seeds,
        statistics_samples=config.kept_samples,
        image_seconds=config.image_seconds,
        device=device,
        progress=progress,
    )
    if fingerprint(generator) != before:
        raise AssertionError("the generator's weights changed during convert")
    metrics["coupling"] = mapping.coupling
    metrics["parameters"] = sum(p.numel() for p in mapping.parameters())
    metrics["losses"] = history
    metrics["seconds"] = {"fit": round(fitted - start, 1), "measure": round(time.monotonic() - fitted, 1)}
    provenance = {
        **lia.provenance,
        "recipe": stored(config),
        "data": None if images is None else {"images": len(images), "unreadable": len(images.unreadable)},
        "device": str(device),
        "versions": versions(),
    }
    return LIA(
        generator, mapping, lia.discriminator,
        family=lia.family, config=lia.config, provenance=provenance, metrics=metrics,
    )  # fmt: skip


@torch.no_grad()
def noise_picture(lia: LIA, progress: Progress | None = None) -> Image.Image:
    """How the noise looks that z is measured with.

    Rows: pictures of the first seeds' y, of the same y with noise, and ten times the difference, about grey.

    Args:
        lia: Any; its generator's own mapping is used.
        progress: Is told the beginning and the end.
    """
    if progress:
        progress("picture of the noise", 0, 1)
    g, seeds = lia.generator, range(COLUMNS)
    c = one_hot([seed % max(g.c_dim, 1) for seed in seeds], g.c_dim)
    with at_rest([g]):
        y = g.mapping(seed_to_z(seeds, g.z_dim).to(lia.device), None if c is None else c.to(lia.device))
        noisy = thicken(y, lia.whitening()[1].double(), torch.Generator(lia.device).manual_seed(0)).to(y)
        x, x_noisy = (torch.cat([draw_reduced(g, broadcast(one, g.num_ws)) for one in codes.split(1)]) for codes in (y, noisy))
    if progress:
        progress("picture of the noise", 1, 1)
    return paired_grid(x, x_noisy, 10 * (x_noisy - x))


@torch.no_grad()
def obstacle(generator: Generator) -> str | None:
    """Why a generator cannot be converted, as a sentence without its subject; None where it can.

    Args:
        generator: Its mapping is run once.
    """
    if generator.learnt_mapping is not None:
        return "was trained with an invertible mapping, so that there is nothing to convert: LIA.save writes it as it is"
    if generator.makes != "images":
        return f"makes {generator.makes}, which only a renderer turns into images. Its mapping can be used from Python"
    device = next((p.device for p in generator.parameters()), None)
    c = torch.zeros(1, generator.c_dim, device=device) if generator.c_dim else None
    numbers = generator.mapping(torch.ones(1, generator.z_dim, device=device), c).shape[1]
    if numbers != generator.y_dim:
        return (
            f"has a mapping that gives each of its {generator.num_ws} layers a y of its own, {numbers:,} numbers for a z of "
            f"{generator.z_dim}, so that no bijection can take its place. lia-adapt sample works"
        )
    return None


def check_convertible(generator: Generator) -> None:
    """Refuses a generator that `convert` can do nothing for.

    Raises:
        LIAError: There is an obstacle.
    """
    if why := obstacle(generator):
        raise LIAError(f"this generator {why}.")


def _identity(generator: str, config: ConvertConfig) -> str:
    """What a saved fit must agree with to be resumed: the generator, and the keys that the fit depends on."""
    measured = ("eval_samples", "eval_seeds", "image_seconds", "save_seconds", "refine_steps", "refine_learning_rate")
    keys = {k: v for k, v in stored(config).items() if k not in measured}
    return hashlib.sha256(json.dumps([generator, keys], sort_keys=True).encode()).hexdigest()
