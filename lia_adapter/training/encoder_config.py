"""The keys of a training of an encoder: what `lia-adapt train-encoder` can be told."""

from dataclasses import dataclass

from lia_adapter.config import check_choices, check_least, check_rates, check_seed, key
from lia_adapter.errors import ConfigError
from lia_adapter.keys import PRECISIONS, PYRAMID_WEIGHT, SCHEDULES, SPACES, LabelledImageKeys

__all__ = ["NOT_HELD_OUT", "EncoderConfig"]

NOT_HELD_OUT = "not held out"
"""The split where a recipe names none: see `lia_adapter.data.open.held_out_numbers`."""

_TICKS = 400  # lines of the log


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(LabelledImageKeys):
    """The keys of `recipes/encoder.toml`."""

    split: str = key(
        'all, "first 65000", "last 5000", "list names.txt", "held out" (5 %), or one of these after "not"', NOT_HELD_OUT
    )
    mirror: bool = key("the paper mirrors faces, not cats, bedrooms or cars", False)
    images: int = key("shown in all", 12_000_000)
    batch: int = key("over all processes", 128)
    accumulate: int = key("parts that a process cuts its share of a batch into; more where memory asks for it", 1)
    seed: int = key("of all that is random", 0)
    space: str = key("one code an image; or ys: one a layer, as offsets to y", "y")
    passes: int = key("answers an image: each but the first sees what the last one draws, and learns what to add", 1, new=True)
    width: int = key("feature maps of the first layer; each halving doubles them ...", 64)
    width_max: int = key("... up to this many", 1024)
    learning_rate: float = key("of Adam(0.9, 0.99) for encoder and discriminator", 1e-4)
    schedule: str = key("quarters: x 0.8 after each quarter of the run; or cosine, with a short warm-up", "quarters")
    features: str | None = key(
        "vgg16: the paper's (fetched, 528 MB); a .safetensors or .pth of any torchvision network; or none", "vgg16",
        none="none",
    )  # fmt: skip
    pixel_weight: float = key("mean squared error on [-1, 1]", 1.0)
    vgg_weight: float = key("mean squared difference of VGG16's conv4_3", 5e-5)
    perceptual_weight: float = key("distance of normalised features, of any other network", 1.0)
    pyramid_weight: float = key(
        "distance of Laplacian pyramids, without a network: keeps edges; 0: none", PYRAMID_WEIGHT, new=True
    )
    adversarial_weight: float = key("against the checkpoint's discriminator, which learns along; 0: none", 0.1)
    r1_gamma: float = key("its gradient penalty", 10.0)
    prior_weight: float = key(
        "keeps the codes' z, taken together, near those of the prior; ten times where perceptual_weight counts; 0: none",
        0.003, new=True,
    )  # fmt: skip
    generated: float = key("share of a batch that the generator draws: their codes are known", 0.25, new=True)
    ema_images: int = key("half-life of the averaged weights, which are what is saved", 10_000)
    precision: str = key("auto: bfloat16 where the GPU has it, else float32; or float64", "auto")
    statistics_samples: int = key("for the mean and the covariance of y", 60_000)
    known_answers: int = key("drawn and held-out images that are encoded before and after, where time allows so many", 1000)
    check_seconds: float = key(
        "for what is measured, and for a search at the end; a tenth of the training if that is less, but at least 20", 300.0
    )
    save_seconds: float = key("how much a kill may lose", 60.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, {"space": SPACES, "schedule": SCHEDULES, "precision": PRECISIONS})
        check_least(
            self,
            {
                "images": 0, "batch": 1, "accumulate": 1, "passes": 1, "width": 1, "width_max": 1, "pixel_weight": 0,
                "vgg_weight": 0, "perceptual_weight": 0, "pyramid_weight": 0, "adversarial_weight": 0, "r1_gamma": 0,
                "prior_weight": 0, "generated": 0, "ema_images": 1, "statistics_samples": 100, "known_answers": 2,
                "check_seconds": 0, "save_seconds": 0,
            },
        )  # fmt: skip
        check_seed(self)
        check_rates(self, "learning_rate")
        if not self.generated < 1:
            raise ConfigError(f"generated is {self.generated}; expected less than 1: an encoder needs photographs, too.")

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return -(-self.images // self.batch)

    @property
    def tick_steps(self) -> int:
        """Steps between two lines of the log."""
        return max(1, self.steps // _TICKS)
