"""The keys of a training of an encoder: what `lia-adapt train-encoder` can be told."""

from dataclasses import dataclass

from lia_adapter.config import PRECISIONS, check_choices, check_least
from lia_adapter.data import FITS
from lia_adapter.encoder import SPACES
from lia_adapter.errors import ConfigError
from lia_adapter.generators.labels import Label

__all__ = ["EncoderConfig"]

_TICKS = 400  # lines of the log


@dataclass(frozen=True)
class EncoderConfig:
    """The keys of `recipes/encoder.toml`, where each is explained."""

    images: int = 12_000_000
    batch: int = 128
    accumulate: int = 1
    seed: int = 0
    space: str = "y"
    width: int = 64
    width_max: int = 1024
    split: str = "all"
    label: int | tuple[float, ...] = -1
    bits: int = 0
    fit: str = "crop"
    mirror: bool = False
    learning_rate: float = 1e-4
    schedule: str = "quarters"
    features: str = "vgg16"
    pixel_weight: float = 1.0
    vgg_weight: float = 5e-5
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.1
    r1_gamma: float = 10.0
    ema_images: int = 10_000
    precision: str = "auto"
    statistics_samples: int = 60_000
    known_answers: int = 1000
    check_seconds: float = 300.0
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        check_choices(self, {"space": SPACES, "fit": FITS, "schedule": ("quarters", "cosine"), "precision": PRECISIONS})
        check_least(
            self,
            {
                "images": 0, "bits": 0, "batch": 1, "accumulate": 1, "seed": 0, "width": 1, "width_max": 1, "pixel_weight": 0,
                "vgg_weight": 0, "perceptual_weight": 0, "adversarial_weight": 0, "r1_gamma": 0, "ema_images": 1,
                "statistics_samples": 100, "known_answers": 2, "check_seconds": 0, "save_seconds": 0,
            },
        )  # fmt: skip
        if self.seed >= 2**31:
            raise ConfigError(f"seed is {self.seed}; expected less than 2**31.")
        if not 0 < self.learning_rate <= 1:
            raise ConfigError(f"learning_rate is {self.learning_rate}; expected more than 0 and at most 1.")

    @property
    def given_label(self) -> Label | None:
        """The label of all images, or None where each has its own."""
        return None if self.label == -1 else self.label

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return -(-self.images // self.batch)

    @property
    def tick_steps(self) -> int:
        """Steps between two lines of the log."""
        return max(1, self.steps // _TICKS)
