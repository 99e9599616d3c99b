"""The keys of `convert`: what `lia-adapt convert` can be told."""

from dataclasses import dataclass

from lia_adapter.config import check_choices, check_least, check_rates, check_seed, key
from lia_adapter.keys import COUPLINGS

__all__ = ["ConvertConfig"]

_FLOW_STEPS, _DENSE_STEPS = 1500, 800
_KEPT = 60_000


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """The keys of `recipes/convert.toml`."""

    coupling: str = key("auto, which is flow; or affine, additive (LIA's own), dense (keeps seeds, not the prior)", "auto")
    seed: int = key("of the fit", 0)
    steps: int | None = key("of the fit; none: 1500, and 800 of dense", None)
    batch: int = key("codes a step", 512)
    least_singular: float = key("dense: starts at the mapping's own weights, singular values raised to this", 0.3, was="floor")
    dense_learning_rate: float = key("dense: of Adam(0.9, 0.99)", 1e-3)
    reach_weight: float = key("dense: how strongly codes of the original mapping must keep a z that the prior knows", 0.03)
    reach_noise: float = key("dense: noise on those codes, in standard deviations of y", 0.1)
    coupling_learning_rate: float = key("flow, affine, additive: of Adam(0.9, 0.99), by maximum likelihood", 3e-4)
    moments_weight: float = key("the same: how strongly samples must have y's mean and covariance", 0.1, new=True)
    noise: float = key("the same: on the codes, in standard deviations of y", 0.0315, new=True)
    refine_steps: int = key("with data: adversarial steps against the checkpoint's own discriminator, after the fit", 200)
    refine_learning_rate: float = key("of these", 1e-5)
    statistics_samples: int = key("for the mean and the covariance of y", 300_000)
    eval_samples: int = key("a side, for every figure in the report", 10_000)
    eval_seeds: int = key("repetitions of each figure", 3)
    image_seconds: float = key("images are measured for about so long in all: 50 to 10,000 a side", 120.0)
    save_seconds: float = key("how much a kill may lose", 20.0)

    @property
    def kept_samples(self) -> int:
        """The same where all have to be in memory at once."""
        return min(self.statistics_samples, _KEPT)

    def fit_steps(self, coupling: str) -> int:
        """Steps of the fit of a coupling."""
        if self.steps is not None:
            return self.steps
        return _DENSE_STEPS if coupling == "dense" else _FLOW_STEPS

    def __post_init__(self) -> None:
        check_choices(self, {"coupling": ("auto", *COUPLINGS)})
        check_least(
            self,
            {
                "steps": 0, "noise": 1e-6, "moments_weight": 0,
                "batch": 2, "refine_steps": 0, "statistics_samples": 100, "eval_samples": 20,
                "eval_seeds": 1, "image_seconds": 0, "save_seconds": 0, "least_singular": 0, "reach_weight": 0,
                "reach_noise": 0,
            },
        )  # fmt: skip
        check_seed(self)
        check_rates(self, "dense_learning_rate", "coupling_learning_rate", "refine_learning_rate")
