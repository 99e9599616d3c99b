"""`train`: from images to a generator with its mapping and discriminator (stage 1), and on to an encoder (stage 2)."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.config import has_table, load_recipe, to_toml
from lia_adapter.data import ImageSet, in_batches, open_images
from lia_adapter.errors import ConfigError
from lia_adapter.generators import MappingSampler, StyleGAN2, broadcast, pictures_at_once
from lia_adapter.lia import LIA, versions
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.distances import Moments, frechet_distance
from lia_adapter.metrics.features import Features, FeatureSet, load_features
from lia_adapter.resize import resize
from lia_adapter.training import ranks
from lia_adapter.training.encoder import EncoderConfig, train_encoder_lia
from lia_adapter.training.encoder import Picture as Reconstructions
from lia_adapter.training.gan import GanTraining
from lia_adapter.training.gan_config import TrainConfig
from lia_adapter.training.log import RunLog
from lia_adapter.training.loop import Progress, run_loop, step_generator

__all__ = ["Pictures", "recipe_stages", "train", "train_lia"]

_TICKS = 400  # lines of the log
_GRID_IMAGES = 64
_STATISTICS = 2**31  # a random stream that no step has
_MEAN_SAMPLES = 10_000  # of y, for its mean


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Who writes the pictures of a run.

    Attributes:
        samples: Writes drawn images [N, C, H, W].
        reconstructions: Writes images and their reconstructions.
    """

    samples: Callable[[Path, Tensor], None]
    reconstructions: Reconstructions


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


def train(recipe: str, data: str | Path = "", overrides: Mapping[str, Any] | None = None, *, device: str = "cpu") -> LIA:
    """Trains a generator with its mapping from scratch and, where the recipe has a second stage, an encoder.

    Args:
        recipe: The name of a shipped recipe (such as toyfaces32) or the path of a .toml.
        data: A folder of images, a data-set zip, or "toyfaces"; empty: what the recipe says.
        overrides: Keys of the recipe and their values.
        device: Where to train.

    Returns:
        The LIA; `LIA.save` writes it. With mapping=mlp it is not invertible yet: pass it to `convert`.

    Raises:
        LIAError: The data cannot be used, or the recipe has an unknown key.
    """
    config, encoder = recipe_stages(recipe, {**(overrides or {}), **({"data": str(data)} if data else {})})
    return train_lia(config, encoder, torch.device(device))


def train_lia(
    config: TrainConfig,
    encoder: EncoderConfig | None,
    device: torch.device,
    *,
    folder: Path | None = None,
    pictures: Pictures | None = None,
    progress: Progress | None = None,
) -> LIA:
    """`train` with everything that the command line can ask for.

    Args:
        config: Stage 1.
        encoder: Stage 2, or None.
        device: Where to train.
        folder: Where the run keeps its state, log and pictures, and goes on from; stage 2 in `encoder` below it.
        pictures: Writes the pictures into it.
        progress: Is told what is done.

    Returns:
        As there.

    Raises:
        LIAError: As there.
    """
    if not config.data:
        raise ConfigError("the recipe names no data. Give --data: a folder of images, a data-set zip, or toyfaces.")
    lia = _first_stage(config, device, folder, pictures, progress)
    if encoder is None:
        return lia
    return train_encoder_lia(
        lia, config.data, encoder,
        folder=None if folder is None else folder / "encoder",
        picture=None if pictures is None else pictures.reconstructions, progress=progress,
    )  # fmt: skip


def _first_stage(
    config: TrainConfig, device: torch.device, folder: Path | None, pictures: Pictures | None, progress: Progress | None
) -> LIA:
    start = time.monotonic()
    images = open_images(
        config.data, (config.height, config.width), config.channels, fit=config.fit, split=config.split, c_dim=config.c_dim,
        bits=config.bits or None,
    )  # fmt: skip
    features = load_features(None if config.features == "none" else config.features)
    training = GanTraining(config, images, device)
    tick_steps = max(1, config.steps // _TICKS)
    watch = _Watch(training, images, features.to(device), folder, pictures, tick_steps) if ranks.rank() == 0 else None
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
    made_by = {
        # Names alone: where files lie on a machine is nobody else's business.
        "recipe": dataclasses.asdict(config) | {"data": Path(config.data).name, "features": Path(config.features).name},
        "data": {"images": len(images), "identity": images.identity()},
        "device": str(device), "processes": ranks.count(), "versions": versions(),
    }  # fmt: skip
    return LIA(
        generator,
        discriminator=training.discriminator.float().eval().requires_grad_(False), family="stylegan2", config=config.networks(),
        provenance={"source": f"trained on {Path(config.data).name}", "training": made_by}, metrics={"training": figures},
    ).eval()  # fmt: skip


@torch.no_grad()
def _measure_mean(generator: StyleGAN2, seed: int, device: torch.device) -> None:
    """Gives a trained generator its centre of truncation."""
    _, y, _ = MappingSampler(generator).pairs(_MEAN_SAMPLES, step_generator(seed, _STATISTICS, device))
    mapping = generator.mapping
    (mapping.y_mean if isinstance(mapping, InvertibleMapping) else mapping.w_avg).copy_(y.mean(dim=0))


class _Watch:
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
        pictures: Pictures | None,
        tick_steps: int,
    ) -> None:
        self.training, self.images, self.features = training, images, features
        self.pictures, self.tick_steps = pictures, tick_steps
        self.log = None if folder is None else RunLog(folder, to_toml(training.config))
        self.curve: list[tuple[int, float]] = []
        self._pictures: int | None = None
        self._real: Moments | None = None

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
            if self.log is not None and self.pictures is not None:
                drawn = [resize(x) for x in self._drawn(_GRID_IMAGES)]
                self.pictures.samples(self.log.folder / f"samples-{step:06d}.png", torch.cat(drawn))
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
            self._real = real.moments
        seen = FeatureSet(self.features)
        for x in self._drawn(n):
            seen.add(x)
        return frechet_distance(seen.moments, self._real)

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
    free = ("features", "metric_images", "metrics", "half", "save_seconds", "data")
    keys = {key: value for key, value in dataclasses.asdict(config).items() if key not in free}
    return hashlib.sha256(json.dumps([keys, images.identity()], sort_keys=True).encode()).hexdigest()
