"""`convert`: from a generator with a mapping network to a LIA with an invertible one, measured."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lia_adapter.config import load_recipe
from lia_adapter.data import open_images
from lia_adapter.errors import LIAError
from lia_adapter.generators import Generator, as_generator
from lia_adapter.lia import LIA, fingerprint, load, versions
from lia_adapter.metrics.features import Features, PixelFeatures
from lia_adapter.metrics.mapping import compare_mappings
from lia_adapter.training.loop import Progress
from lia_adapter.training.mapping import ConvertConfig, fit_mapping, pick_coupling
from lia_adapter.training.refine import refine_mapping

__all__ = ["check_convertible", "convert", "convert_lia", "obstacle"]


def convert(
    generator_or_path: Generator | nn.Module | str | Path, recipe: str = "convert", overrides: Mapping[str, Any] | None = None
) -> LIA:
    """Fits an invertible mapping to a generator's own mapping and measures it.

    Args:
        generator_or_path: A checkpoint's path or HTTPS address, a generator of this package, what `wrap` returns, or any module
            that `wrap` knows how to call. Its weights do not change.
        recipe: The name of a shipped recipe or the path of a .toml.
        overrides: Keys of the recipe (`recipes/convert.toml`) and their values.

    Returns:
        The LIA; `LIA.save` writes it. What was measured is in its `metrics`.

    Raises:
        LIAError: The checkpoint can't be read, the recipe has an unknown key, or the generator has no mapping to replace.
    """
    config = load_recipe(ConvertConfig, recipe, overrides)
    if isinstance(generator_or_path, (str, Path)):
        return convert_lia(load(generator_or_path), config)
    return convert_lia(LIA(as_generator(generator_or_path)), config)


def convert_lia(
    lia: LIA,
    config: ConvertConfig,
    *,
    features: Features | None = None,
    data: Path | None = None,
    state_path: Path | None = None,
    progress: Progress | None = None,
) -> LIA:
    """`convert` of an opened checkpoint, with everything that the command line can ask for.

    Args:
        lia: Opened by `load`; a mapping that it already has is fitted anew. Its generator is put into eval mode.
        config: The recipe.
        features: For the Fréchet distance of images; pixels where None.
        data: A folder or zip of real images: adds adversarial steps against the checkpoint's own discriminator.
        state_path: Where the fit is saved while it runs, and resumed from. The caller removes it.
        progress: Is told what is done.

    Returns:
        A new LIA around the same generator.

    Raises:
        LIAError: The generator cannot be converted, or data were given where they can't be used.
    """
    generator, device, start = lia.generator, lia.device, time.monotonic()
    check_convertible(generator)
    # Batch statistics would make y depend on the batch, and running ones would change the generator.
    generator.eval()
    images = None
    if data is not None:
        if lia.discriminator is None or generator.c_dim:
            why = "is class-conditional" if lia.discriminator else "holds no discriminator"
            raise LIAError(f"--data refines against the checkpoint's own discriminator, but this file {why}. Leave --data out.")
        images = open_images(data, generator.resolution, generator.channels)
    before = fingerprint(generator)
    identity = _identity(before, config)
    pick_coupling(generator, config.coupling)  # refuses what cannot be had
    if progress:
        progress("statistics of codes", 0, 1)
    mapping, history = fit_mapping(
        generator, config, device=device, state_path=state_path, identity=identity, progress=progress
    )
    if images is not None and lia.discriminator is not None:
        history |= refine_mapping(generator, lia.discriminator, mapping, images, config, progress=progress)
    fitted = time.monotonic()
    if progress:
        progress("measure", 0, config.eval_seeds)
    metrics = compare_mappings(
        generator,
        mapping,
        (features or PixelFeatures()).to(device),
        samples=config.eval_samples,
        seeds=config.eval_seeds,
        statistics_samples=config.statistics_samples,
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
        "recipe": dataclasses.asdict(config),
        "data": None if images is None else {"images": len(images), "unreadable": len(images.unreadable)},
        "device": str(device),
        "versions": versions(),
    }
    return LIA(
        generator, mapping, lia.discriminator,
        family=lia.family, config=lia.config, provenance=provenance, metrics=metrics,
    )  # fmt: skip


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
    keys = {k: v for k, v in dataclasses.asdict(config).items() if k not in measured}
    return hashlib.sha256(json.dumps([generator, keys], sort_keys=True).encode()).hexdigest()
