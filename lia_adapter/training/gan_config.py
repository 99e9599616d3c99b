"""The keys of stage 1: what `lia-adapt train` can be told, and the networks that follow from it."""

from dataclasses import dataclass

from lia_adapter.canonical import NetworksConfig
from lia_adapter.config import check_choices, check_least, check_rates, check_seed, key
from lia_adapter.errors import ConfigError
from lia_adapter.keys import MAPPINGS, PRECISIONS, ImageKeys

__all__ = ["TrainConfig"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ImageKeys):
    """The keys of `recipes/toyfaces32.toml`."""

    data: str | None = key("a folder, a data-set zip, or toyfaces", None, none="")
    mirror: bool = key("half of the images as in a mirror", False)
    height: int = key("of the images; both can be halved until the shorter one is 4 to 7")
    width: int = key("of the images, likewise")
    channels: int = key("1 for gray", 3)
    c_dim: int = key("classes, whose labels the data set must have", 0)
    mapping: str = key(
        "additive: LIA's couplings; affine ones; dense: StyleGAN's layers, kept invertible; or mlp, its own, to be converted",
        "additive",
    )
    depth: int | None = key("couplings (none: LIA's 4, affine 6), or layers of dense (none: 4) or mlp (none: 8)", None, none=0)
    z_dim: int = key("numbers of z", 512)
    y_dim: int = key("numbers of y; equal to z_dim, but for mlp", 512)
    noise: bool = key("noise images in all layers", True)
    channel_base: int = key("feature maps: channel_base / side ...", 16384)
    channel_max: int = key("... up to this many", 512)
    images: int = key("shown in all", 10_000_000)
    batch: int = key("over all processes", 32)
    accumulate: int = key("parts that a process cuts its share of a batch into, where memory is short", 1)
    seed: int = key("of all that is random", 0)
    learning_rate: float = key("of Adam(0, 0.99)", 2e-3)
    r1_gamma: float = key("weight of the gradient penalty ...", 10.0)
    r1_every: int = key("... and the steps between two", 16)
    path_weight: float = key("weight of the path length regularisation, a third of the time; 0: none", 2.0)
    path_every: int = key("steps between two", 4)
    mixing: float = key("share of images drawn from two codes", 0.9)
    augment_target: float = key("adaptive augmentation for small data sets: 0.6; 0: none", 0.0)
    ema_images: int = key("half-life of the averaged generator, which is what is saved", 10_000)
    precision: str = key("auto: bfloat16 where the GPU has it, else float32; or float64", "auto")
    features: str | None = key(
        "a torchvision network as .safetensors, for the Fréchet distance; none: pixels at 16x16", None, none="none"
    )
    metric_images: int = key("drawn and real images that it compares ...", 5000)
    metrics: int = key("... so many times in a run", 20)
    half: bool = key("write the weights in float16", False)
    save_seconds: float = key("how much a kill may lose", 60.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, {"mapping": MAPPINGS, "precision": PRECISIONS})
        check_least(
            self,
            {
                "height": 8, "width": 8, "channels": 1, "c_dim": 0, "z_dim": 2, "y_dim": 2, "channel_base": 1,
                "channel_max": 1, "images": 0, "batch": 1, "accumulate": 1, "r1_gamma": 0, "r1_every": 1, "path_weight": 0,
                "path_every": 1, "mixing": 0, "augment_target": 0, "ema_images": 1, "metric_images": 2, "metrics": 0,
                "save_seconds": 0,
            },
        )  # fmt: skip
        if self.depth is not None:
            check_least(self, {"depth": 1})
        check_seed(self)
        check_rates(self, "learning_rate")
        for name in ("mixing", "augment_target"):
            if getattr(self, name) > 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 to 1.")
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
        # Here, as the keys alone need no torch.
        from lia_adapter.generators import stylegan2_config
        from lia_adapter.mapping import InvertibleMapping

        invertible = None
        if self.mapping != "mlp":
            core: dict[str, int] = {} if self.depth is None else {"depth": self.depth}
            if self.mapping == "dense":
                core = {"layers": self.depth or 4} | ({"label_features": self.y_dim} if self.c_dim else {})
            invertible = InvertibleMapping(self.mapping, self.y_dim, self.c_dim, **core).config()
        return stylegan2_config(
            (self.height, self.width), z_dim=self.z_dim, y_dim=self.y_dim, c_dim=self.c_dim, channels=self.channels,
            mapping_layers=self.depth or 8, invertible=invertible, noise=self.noise,
            channel_base=self.channel_base, channel_max=self.channel_max,
        )  # fmt: skip
