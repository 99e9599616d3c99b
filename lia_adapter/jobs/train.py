"""`train`: from images to a generator with its mapping and discriminator (stage 1), and on to an encoder (stage 2)."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter import ranks
from lia_adapter.budget import in_parts
from lia_adapter.config import has_table, load_recipe, stored, to_toml
from lia_adapter.data import ImageSet, in_batches, open_images
from lia_adapter.devices import device_name
from lia_adapter.errors import ConfigError, argument
from lia_adapter.generators import MappingSampler, StyleGAN2, broadcast, pictures_at_once
from lia_adapter.jobs.run import checked_out, run_folder, write_results
from lia_adapter.jobs.train_encoder import train_encoder_lia, write_encoder_results
from lia_adapter.lia import LIA
from lia_adapter.lia_file import versions
from lia_adapter.loop import run_loop, step_generator
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.distances import Moments, frechet_distance
from lia_adapter.metrics.features import Features, FeatureSet, load_features
from lia_adapter.pictures import Sheet, png_bytes, samples_sheet, save_png
from lia_adapter.progress import Progress
from lia_adapter.tensorfile import LIA_FILE
from lia_adapter.training.encoder_config import EncoderConfig
from lia_adapter.training.gan import GanTraining
from lia_adapter.training.gan_config import TrainConfig
from lia_adapter.training.log import RunLog

__all__ = ["recipe_stages", "train", "train_lia"]

_TICKS = 400  # lines of the log
_SHEET_IMAGES = 64
_STATISTICS = 2**31  # a random stream that no step has
_MEAN_SAMPLES = 10_000  # of y, for its mean


def recipe_stages(recipe: str, overrides: Mapping[str, Any] | None = None) -> tuple[TrainConfig, EncoderConfig | None]:
    """The keys of both stages.

    Args:
        recipe: The name of a shipped recipe or the path of a .toml. One with a table [encoder] has a second stage.
        overrides: Keys and their values; those of the second stage begin with "encoder.".

    Returns:
        Stage 1, and stage 2 or None. An encoder needs an invertible mapping, so mapping=mlp has no second stage.

    Raises:
        ConfigError: As `load_recipe`.
    """
    prefix = "encoder."
    given = dict(overrides or {})
    later = {key.removeprefix(prefix): given.pop(key) for key in list(given) if key.startswith(prefix)}
    config = load_recipe(TrainConfig, recipe, given)
    if config.mapping == "mlp" or not has_table(recipe, "encoder"):
        if later:
            why = "mapping=mlp must be converted first" if config.mapping == "mlp" else "the recipe has no table [encoder]"
            raise ConfigError(f"{prefix}{next(iter(later))} was given, but there is no second stage: {why}.")
        return config, None
    return config, load_recipe(EncoderConfig, recipe, later, table="encoder")


def train(
    recipe: str,
    data: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    features: str | Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> LIA:
    """Trains a generator with its mapping from scratch and, where the recipe has a second stage, an encoder.

    Args:
        recipe: The name of a shipped recipe (such as toyfaces32) or the path of a .toml.
        data: A folder of images, a data-set zip, or "toyfaces"; None: what the recipe says.
        overrides: Keys of the recipe and their values.
        out: File for the result, .safetensors, and beside it a picture, figures and the folder of the run with log, pictures
            and state; a run that was stopped goes on where it was. None: nothing is written.
        features: A torchvision network as .safetensors, to compare images with; None: what the recipe says.
        device: cpu, cuda, …; None: cuda where there is one.
        progress: Is told what is done.

    Returns:
        The LIA; `LIA.save` writes it. With mapping=mlp it is not invertible yet: pass it to `convert`.

    Raises:
        LIAError: The data cannot be used, or the recipe has an unknown key.
    """
    given = {"data": None if data is None else str(data), "features": None if features is None else str(features)}
    stages = recipe_stages(recipe, {**(overrides or {}), **{key: value for key, value in given.items() if value is not None}})
    where = torch.device(device_name(device))
    if out is None:
        return train_lia(*stages, where, progress=progress)
    first, (config, encoder) = ranks.rank() == 0, stages
    target = checked_out(out, "", kind=LIA_FILE) if first else Path(out)
    folder = run_folder(target)
    lia = train_lia(config, encoder, where, folder=folder, progress=progress)
    if first:
        lia.save(target, half=config.half)
        figures = {**lia.metrics, "provenance": lia.provenance}
        write_results(target, png_bytes(samples_sheet(lia, _SHEET_IMAGES, progress)), figures)
        if encoder is not None:
            write_encoder_results(lia, folder / "encoder.safetensors", folder / "encoder", progress)
        for state in ("state.safetensors", "encoder/state.safetensors", "encoder/checks.json"):
            (folder / state).unlink(missing_ok=True)
    ranks.barrier()
    return lia


def train_lia(
    config: TrainConfig,
    encoder: EncoderConfig | None,
    device: torch.device,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> LIA:
    """`train` by a recipe that was read.

    Args:
        config: Stage 1.
        encoder: Stage 2, or None.
        device: Where to train.
        folder: Where the run keeps its state, log and pictures, and goes on from; stage 2 in `encoder` below it.
        progress: Is told what is done.

    Returns:
        The LIA.

    Raises:
        LIAError: The data cannot be used.
    """
    if config.data is None:
        raise ConfigError(
            f"the recipe names no data. Give {argument('data')}: a folder of images, a data-set zip, or toyfaces."
        )
    lia = _first_stage(config, config.data, device, folder, progress)
    if encoder is None:
        return lia
    return train_encoder_lia(
        lia, config.data, encoder, folder=None if folder is None else folder / "encoder", progress=progress
    )


def _first_stage(config: TrainConfig, data: str, device: torch.device, folder: Path | None, progress: Progress | None) -> LIA:
    start = time.monotonic()
    images = open_images(
        data, (config.height, config.width), config.channels, resize_mode=config.resize_mode, split=config.split,
        c_dim=config.c_dim, bits=config.bits, align=config.align, landmarks=config.landmarks,
    )  # fmt: skip
    features = load_features(config.features)
    training = GanTraining(config, images, device)
    tick_steps = max(1, config.steps // _TICKS)
    watch = _Curve(training, images, features.to(device), folder, tick_steps) if ranks.rank() == 0 else None
    try:
        losses = run_loop(
            training.job(watch.tick if watch else None, tick_steps),
            state_path=None if folder is None else folder / "state.safetensors",
            identity=_identity(config, images),
            save_seconds=config.save_seconds,
            progress=progress,
            resumed=watch.resume if watch else None,
        )
    finally:
        if watch is not None:
            watch.close()
    generator = training.players.average.float()
    _measure_mean(generator, config.seed, device)
    figures = {
        "losses": losses, "curve": watch.curve if watch else [], "features": features.name,
        "images": config.steps * config.batch,
        "parameters": sum(p.numel() for p in generator.parameters()), "augment": float(training.players.augment.p),
        "seconds": round(time.monotonic() - start, 1), "unreadable": ranks.merged(images.unreadable),
    }  # fmt: skip
    keys = stored(config)
    made_by = {
        # Names alone: where files lie on a machine is nobody else's business.
        "recipe": keys | {name: Path(keys[name]).name for name in ("data", "features")},
        "data": {"images": len(images), "identity": images.identity()},
        "device": str(device), "processes": ranks.count(), "versions": versions(),
    }  # fmt: skip
    return LIA(
        generator,
        discriminator=training.discriminator.float().eval().requires_grad_(False), family="stylegan2", config=config.networks(),
        provenance={"source": f"trained on {Path(data).name}", "training": made_by}, metrics={"training": figures},
    ).eval()  # fmt: skip


@torch.no_grad()
def _measure_mean(generator: StyleGAN2, seed: int, device: torch.device) -> None:
    """Gives a trained generator its centre of truncation."""
    _, y, _ = MappingSampler(generator).pairs(_MEAN_SAMPLES, step_generator(seed, _STATISTICS, device))
    mapping = generator.mapping
    (mapping.y_mean if isinstance(mapping, InvertibleMapping) else mapping.w_avg).copy_(y.mean(dim=0))


class _Curve:
    """Writes figures and pictures into the run's folder, and measures how far drawn images are from real ones.

    Attributes:
        curve: Images shown so far and the Fréchet distance then.
    """

    def __init__(
        self,
        training: GanTraining,
        images: ImageSet,
        features: Features,
        folder: Path | None,
        tick_steps: int,
    ) -> None:
        self.training, self.images, self.features = training, images, features
        self.tick_steps = tick_steps
        self.log = None if folder is None else RunLog(folder, to_toml(training.config))
        self.curve: list[tuple[int, float]] = []
        self._pictures: int | None = None
        self._real: Tensor | Moments | None = None

    def resume(self, step: int) -> None:
        """Reads back what the run measured before."""
        if self.log is None:
            return
        self.log.resume(step)
        for line in self.log.stats.read_text().splitlines():
            if "frechet" in (values := json.loads(line)):
                self.curve.append((values["step"] * self.training.config.batch, values["frechet"]))

    def tick(self, step: int, losses: Mapping[str, float]) -> None:
        """Called by the loop after every `tick_steps` steps."""
        config = self.training.config
        values = {**losses, "augment": float(self.training.players.augment.p)}
        before = step - self.tick_steps
        if step * config.metrics // config.steps > max(before, 0) * config.metrics // config.steps:
            distance = self._frechet()
            values["frechet"] = distance
            self.curve.append((step * config.batch, distance))
            if self.log is not None:
                sheet = Sheet(_SHEET_IMAGES)
                for x in self._drawn(_SHEET_IMAGES):
                    sheet.add(x)
                save_png(self.log.folder / f"samples-{step:06d}.png", sheet.image)
        if self.log is not None:
            self.log.write(step, values)

    def close(self) -> None:
        """Ends the log."""
        if self.log is not None:
            self.log.close()

    def _frechet(self) -> float:
        """Fréchet distance of the averaged generator's images from the training images."""
        n = self.training.config.metric_images
        if self._real is None:
            numbers = sorted({i * len(self.images) // n for i in range(n)})
            real = FeatureSet(self.features)
            for batch in in_batches(self.images, numbers, self._at_once(), self.training.device):
                real.add(batch.x)
            self._real = real.whole
        seen = FeatureSet(self.features)
        for x in self._drawn(n):
            seen.add(x)
        return frechet_distance(seen.whole, self._real)

    def _at_once(self) -> int:
        if self._pictures is None:
            self._pictures = pictures_at_once(self.training.players.average, lambda x: self.features(x.float()))
        return self._pictures

    @torch.no_grad()
    def _drawn(self, n: int) -> Iterator[Tensor]:
        """n images of the averaged generator, always the same codes."""
        training = self.training
        average, random = training.players.average, step_generator(training.config.seed, _STATISTICS, training.device)
        _, y, _ = MappingSampler(average).pairs(n, random)
        y = y.to(training.dtype)
        yield from in_parts(
            lambda part: average.synthesis(broadcast(part, average.num_ws), noise_mode="const").float(), y, self._at_once()
        )


def _identity(config: TrainConfig, images: ImageSet) -> str:
    """What a saved run must agree with to be resumed: the data, and the keys that the training depends on."""
    free = ("features", "metric_images", "metrics", "half", "save_seconds", "data", "landmarks")
    keys = {key: value for key, value in stored(config).items() if key not in free}
    return hashlib.sha256(json.dumps([keys, images.identity()], sort_keys=True).encode()).hexdigest()
