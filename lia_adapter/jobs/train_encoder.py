"""`train-encoder`: trains x → y against the frozen generator, on real images (LIA, stage 2), and measures before and after."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lia_adapter import ranks
from lia_adapter.config import load_recipe, stored, to_toml
from lia_adapter.data import ImageSet, open_images
from lia_adapter.devices import device_name
from lia_adapter.download import downloading
from lia_adapter.encoder import encoded
from lia_adapter.errors import LIAError
from lia_adapter.files import sha256_file
from lia_adapter.generators import Generator, at_rest, fingerprint
from lia_adapter.inversion import check_prior_weight, paced_coordinates
from lia_adapter.jobs.invert_config import InvertConfig
from lia_adapter.jobs.run import checked_out, run_folder, write_results
from lia_adapter.lia import LIA
from lia_adapter.lia_file import versions
from lia_adapter.loading import load
from lia_adapter.loop import run_loop
from lia_adapter.metrics.networks import FeatureNetwork, load_network, vgg16_paper
from lia_adapter.pictures import comparison_grid, paired_grid, png_bytes, save_png
from lia_adapter.progress import Progress
from lia_adapter.tensorfile import LIA_FILE
from lia_adapter.training.encoder import EncoderTraining
from lia_adapter.training.encoder_checks import Checks, held_out, measure_typicality
from lia_adapter.training.encoder_config import NOT_HELD_OUT, EncoderConfig
from lia_adapter.training.encoder_search import search_from_codes
from lia_adapter.training.log import RunLog

__all__ = ["remove_state", "train_encoder", "train_encoder_lia", "write_encoder_results"]

_LEAST_IMAGES = 4  # of whose codes two halves say what is usual
_GRIDS = 20  # pictures of a run
_GRID_IMAGES = 16
_SEARCH = "search.png"
_FORM = "turned, pairs, moments"  # of the training, which is another one than that of earlier versions


def train_encoder(
    lia: LIA | str | Path,
    data: str | Path,
    recipe: str = "encoder",
    overrides: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    generator: Generator | nn.Module | str | Path | None = None,
    device: str | None = None,
    adapter_only: bool = False,
    progress: Progress | None = None,
) -> LIA:
    """Trains an encoder for a converted generator.

    Args:
        lia: From `load` or `convert`, trained where it is; or the path of a LIA file. Its weights do not change.
        data: A folder of images or a data-set zip.
        recipe: The name of a shipped recipe (encoder, encoder-cpu) or the path of a .toml.
        overrides: Keys of the recipe and their values.
        out: File for the result, .safetensors, and beside it a picture, figures and the folder of the run with log, pictures
            and state; a run that was stopped goes on where it was. None: nothing is written.
        generator: Of a file that holds the adapter alone, see `load`.
        device: Of a file: cpu, cuda, …; None: cuda where there is one.
        adapter_only: See `LIA.save`.
        progress: Is told what is done.

    Returns:
        A new LIA around the same generator, with the encoder; `LIA.save` writes it. What was measured is in its `metrics`.

    Raises:
        LIAError: The checkpoint was not converted, the data cannot be used, or the recipe has an unknown key.
    """
    config = load_recipe(EncoderConfig, recipe, overrides)
    opened = lia if isinstance(lia, LIA) else load(lia, generator=generator, device=device_name(device))
    if out is None:
        return train_encoder_lia(opened, data, config, progress=progress)
    first = ranks.rank() == 0
    target = checked_out(out, "", kind=LIA_FILE) if first else Path(out)
    folder = run_folder(target)
    trained = train_encoder_lia(opened, data, config, folder=folder, progress=progress)
    if first:
        trained.save(target, adapter_only=adapter_only)
        write_encoder_results(trained, target, folder, progress)
        remove_state(folder)
    ranks.barrier()
    return trained


def remove_state(folder: Path) -> None:
    """Takes from a run's folder what it would go on from, once its result is written."""
    for name in ("state.safetensors", "checks.json"):
        (folder / name).unlink(missing_ok=True)


def write_encoder_results(lia: LIA, out: Path, folder: Path, progress: Progress | None = None) -> None:
    """Writes picture and figures of a training beside `out`; the picture is the search's, or the last of the run's folder.

    Raises:
        LIAError: A file cannot be written.
    """
    pictures = sorted(folder.glob("reconstructions-*.png")) + sorted(folder.glob(_SEARCH))
    picture = pictures[-1].read_bytes() if pictures else png_bytes(comparison_grid(lia, progress))
    write_results(out, picture, {**lia.metrics["encoder"], "provenance": lia.provenance})


def train_encoder_lia(
    lia: LIA, data: str | Path, config: EncoderConfig, *, folder: Path | None = None, progress: Progress | None = None
) -> LIA:
    """`train_encoder` by a recipe that was read.

    Args:
        lia: On the device to train on; its generator is left as it was found.
        data: A folder of images or a data-set zip.
        config: The recipe.
        folder: Where the run keeps its state, log and pictures, and goes on from; None: nowhere.
        progress: Is told what is done.

    Returns:
        A new LIA around the same generator, with the encoder.

    Raises:
        LIAError: The checkpoint was not converted, or the data cannot be used.
    """
    check_prior_weight(config.prior_weight, lia.mapping)
    if lia.mapping is None:
        raise LIAError("this checkpoint has no invertible mapping yet. Run lia-adapt convert on it first.")
    with at_rest([lia.generator, lia.mapping]):
        return _trained(lia, data, config, folder, progress)


def _trained(lia: LIA, data: str | Path, config: EncoderConfig, folder: Path | None, progress: Progress | None) -> LIA:
    generator, device, start = lia.generator, lia.device, time.monotonic()
    images = open_images(
        data, generator.resolution, generator.channels, resize_mode=config.resize_mode, split=config.split,
        c_dim=generator.c_dim, label=config.label, bits=config.bits, align=config.align, landmarks=config.landmarks,
    )  # fmt: skip
    if len(images) < _LEAST_IMAGES:
        raise LIAError(f"an encoder learns from images, at least {_LEAST_IMAGES}; {images.path} has {len(images)}. Give more.")
    network = _network(config.features, progress)
    before = fingerprint(generator)
    others = held_out(data, generator, config)
    identity = _identity(before, lia.mapping, config, images, others)
    if progress:
        progress("statistics of codes", 0, 1)
    training = EncoderTraining(lia, images, config, network)
    checks = _plan(training, None if folder is None else folder / "checks.json", identity, progress)
    training.prepare(others or images, checks, progress)
    watch = None
    if folder is not None and ranks.rank() == 0:
        watch = _Grids(RunLog(folder, to_toml(config)), training)
    first = training.known_answer(progress)
    try:
        history = run_loop(
            training.job(watch.tick if watch else None),
            state_path=None if folder is None else folder / "state.safetensors",
            identity=identity,
            save_seconds=config.save_seconds,
            progress=progress,
            resumed=watch.log.resume if watch else None,
        )
    finally:
        if watch is not None:
            watch.log.close()
    last = training.known_answer(progress)
    encoder = training.average.float().requires_grad_(False)
    typicality = measure_typicality(
        lambda x: encoded(encoder, x, training.draw), encoder.root, images, checks.usual, device, progress
    )
    if fingerprint(generator) != before:
        raise AssertionError("the generator's weights changed during train-encoder")
    figures = {
        "before": first, "after": last, "losses": history, "parameters": sum(p.numel() for p in encoder.parameters()),
        "unreadable": ranks.merged(images.unreadable), "real_images": _real_images(others, images, config),
    }  # fmt: skip
    made_by = {
        "recipe": stored(config), "data": {"images": len(images), "identity": images.identity()},
        "features": None if network is None else network.name, "device": str(device), "processes": ranks.count(),
        "versions": versions(),
    }  # fmt: skip
    made = LIA(
        generator, lia.mapping, lia.discriminator, encoder, typicality, family=lia.family, config=lia.config,
        provenance={**lia.provenance, "encoder": made_by}, metrics={**lia.metrics, "encoder": figures},
    )  # fmt: skip
    figures["search"] = _searched(made, training, others or images, folder, progress)
    figures["seconds"] = round(time.monotonic() - start, 1)
    return made


def _searched(
    lia: LIA, training: EncoderTraining, images: ImageSet, folder: Path | None, progress: Progress | None
) -> dict[str, Any] | None:
    """What a search from the encoder's codes gains on real images; its picture goes into the run's folder."""
    config, loss, root = training.config, training.loss, lia.whitening()[1]
    if loss.network is not None:
        loss.network.float()  # as all else now is
    lia.coordinates = paced_coordinates(*training.answers.spectrum, root)
    found = search_from_codes(
        lia, images, training.checks.searched, loss,
        space=config.space, prior_weight=InvertConfig().prior_weight, progress=progress,
    )  # fmt: skip
    lia.coordinates = None  # whoever searches next may take more time to find them
    if folder is not None and ranks.rank() == 0:
        (folder / _SEARCH).unlink(missing_ok=True)
        if found is not None:
            save_png(folder / _SEARCH, found[1])
    return None if found is None else found[0]


def _real_images(others: ImageSet | None, images: ImageSet, config: EncoderConfig) -> dict[str, Any]:
    """What real images are measured on: how many are held out, and why none are."""
    if others is not None:
        return {"kind": "held-out", "held_out": len(others)}
    few = config.split == NOT_HELD_OUT
    why = f"{len(images)} images are too few to hold any out" if few else f"the split {config.split!r} holds none out"
    return {"kind": "training", "held_out": 0, "why": why}


def _plan(training: EncoderTraining, path: Path | None, identity: str, progress: Progress | None) -> Checks:
    """How much to measure: as an earlier run did, else by the time that one picture takes."""
    kept = ranks.agreed(None if path is None else Checks.kept(path, identity))
    if kept is not None:
        return kept
    if progress:
        progress("measure one picture", 0, 1)
    plan = ranks.agreed(Checks.planned(training.config, len(training.images), *training.timed(), training.accumulation()))
    if progress:
        progress("measure one picture", 1, 1)
    if path is not None and ranks.rank() == 0:
        plan.keep(path, identity)
    return plan


class _Grids:
    """Writes figures and pictures into the run's folder."""

    def __init__(self, log: RunLog, training: EncoderTraining) -> None:
        self.log, self.training = log, training
        self.x = training.held_out[:_GRID_IMAGES]

    def tick(self, step: int, losses: Mapping[str, float]) -> None:
        """Called by the loop after every `tick_steps` steps."""
        self.log.write(step, losses)
        steps = self.training.config.steps
        before = step - self.training.config.tick_steps
        if step * _GRIDS // steps > before * _GRIDS // steps:
            x, drawn = (torch.cat(side) for side in zip(*self.training.redrawn(self.x), strict=True))
            save_png(self.log.folder / f"reconstructions-{step:06d}.png", paired_grid(x, drawn))


def _network(features: str | None, progress: Progress | None) -> FeatureNetwork | None:
    """The perceptual network that a recipe names: vgg16 is fetched, else a local file."""
    if features is None:
        return None
    if features != "vgg16":
        return load_network(features)
    return load_network(vgg16_paper(downloading(progress, "VGG16")))


def _identity(
    generator: str, mapping: nn.Module | None, config: EncoderConfig, images: ImageSet, others: ImageSet | None
) -> str:
    """What a saved run must agree with to be resumed: the generator, the data, and the keys that the training depends on."""
    free = ("known_answers", "check_seconds", "save_seconds", "features", "landmarks")  # files: by what is in them
    keys = {k: v for k, v in stored(config).items() if k not in free}
    if config.split == NOT_HELD_OUT and others is None:
        keys["split"] = "all"  # so few images that a run of before, which held none out, had the same
    network = "none" if config.features is None else config.features
    if network not in ("vgg16", "none"):
        network = sha256_file(network)
    known = [generator, keys, network, images.identity(), _FORM]
    if config.prior_weight and mapping is not None:
        known.append(fingerprint(mapping))
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
