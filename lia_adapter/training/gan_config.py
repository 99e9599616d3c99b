"""The keys of stage 1: what `lia-adapt train` can be told, and the networks that follow from it."""

from dataclasses import dataclass

from lia_adapter.canonical import NetworksConfig
from lia_adapter.config import PRECISIONS, check_choices, check_least
from lia_adapter.data import FITS
from lia_adapter.errors import ConfigError
from lia_adapter.generators import stylegan2_config
from lia_adapter.mapping import InvertibleMapping

__all__ = ["MAPPINGS", "TrainConfig"]

MAPPINGS = ("additive", "affine", "mlp")


@dataclass(frozen=True)
class TrainConfig:
    """The keys of `recipes/toyfaces32.toml`, where each is explained."""

    height: int
    width: int
    data: str = ""
    split: str = "all"
    fit: str = "crop"
    bits: int = 0
    mirror: bool = False
    channels: int = 3
    c_dim: int = 0
    mapping: str = "additive"
    depth: int = 0
    z_dim: int = 512
    y_dim: int = 512
    noise: bool = True
    channel_base: int = 16384
    channel_max: int = 512
    images: int = 10_000_000
    batch: int = 32
    accumulate: int = 1
    seed: int = 0
    learning_rate: float = 2e-3
    r1_gamma: float = 10.0
    r1_every: int = 16
    path_weight: float = 2.0
    path_every: int = 4
    mixing: float = 0.9
    augment_target: float = 0.0
    ema_images: int = 10_000
    precision: str = "auto"
    features: str = "none"
    metric_images: int = 5000
    metrics: int = 20
    half: bool = False
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        check_choices(self, {"mapping": MAPPINGS, "fit": FITS, "precision": PRECISIONS})
        check_least(
            self,
            {
                "height": 8, "width": 8, "bits": 0, "channels": 1, "c_dim": 0, "depth": 0, "z_dim": 2, "y_dim": 2,
                "channel_base": 1, "channel_max": 1, "images": 0, "batch": 1, "accumulate": 1, "seed": 0, "r1_gamma": 0,
                "r1_every": 1, "path_weight": 0, "path_every": 1, "mixing": 0, "augment_target": 0, "ema_images": 1,
                "metric_images": 2, "metrics": 0, "save_seconds": 0,
            },
        )  # fmt: skip
        if self.seed >= 2**31:
            raise ConfigError(f"seed is {self.seed}; expected less than 2**31.")
        for key in ("mixing", "augment_target"):
            if getattr(self, key) > 1:
                raise ConfigError(f"{key} is {getattr(self, key)}; expected 0 to 1.")
        if not 0 < self.learning_rate <= 1:
            raise ConfigError(f"learning_rate is {self.learning_rate}; expected more than 0 and at most 1.")
        if self.channel_base < min(self.height, self.width):
            raise ConfigError(
                f"channel_base is {self.channel_base}; expected at least the shorter side, {min(self.height, self.width)}, so "
                "that the last layers have a feature map."
            )
        if self.mapping != "mlp" and self.z_dim != self.y_dim:
            raise ConfigError(
                f"z_dim is {self.z_dim} and y_dim {self.y_dim}; an invertible mapping needs them equal. "
                "Set both, or mapping=mlp."
            )

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return -(-self.images // self.batch)

    def networks(self) -> NetworksConfig:
        """The canonical config of generator and discriminator.

        Raises:
            ConfigError: The size of the images cannot be halved often enough.
        """
        invertible = None
        if self.mapping != "mlp":
            depth = {"depth": self.depth} if self.depth else {}
            invertible = InvertibleMapping(self.mapping, self.y_dim, self.c_dim, **depth).config()
        return stylegan2_config(
            (self.height, self.width), z_dim=self.z_dim, y_dim=self.y_dim, c_dim=self.c_dim, channels=self.channels,
            mapping_layers=self.depth or 8, invertible=invertible, noise=self.noise,
            channel_base=self.channel_base, channel_max=self.channel_max,
        )  # fmt: skip
