"""The keys of `directions find`: without torch, so that help and completion need not wait for it."""

from dataclasses import dataclass

from lia_adapter.config import check_choices, check_least, check_rates, check_seed, key
from lia_adapter.errors import ConfigError

__all__ = ["CHANGES", "FIND_METHODS", "LABELLED", "FindConfig"]

FIND_METHODS = (
    "boundary", "regress", "difference", "pca", "sefa", "jacobian", "steer", "steer-closed", "discover", "discover-centroid",
)  # fmt: skip
"""How directions are found."""
LABELLED = ("boundary", "regress")
"""Those that need attributes of images, from labels or a scorer."""
CHANGES = ("zoom", "shift-x", "shift-y", "rotate", "brightness", "red", "green", "blue")
"""What `steer` can make a direction do."""


@dataclass(frozen=True, kw_only=True)
class FindConfig:
    """The keys of `recipes/directions-*.toml`."""

    method: str = key("how: " + ", ".join(FIND_METHODS), "pca")
    space: str = key("boundary, regress, difference: y, z or s; pca: y or s", "y")
    layers: tuple[int, ...] | None = key("which ys the directions move, of s which style layers, from 0; none: all", None)
    count: int = key("directions, of methods that know no attributes", 10)
    samples: int = key("codes that statistics are taken of; of methods with a scorer, pictures", 20_000)
    share: float = key("boundary: which share of all is either extreme of an attribute", 0.02)
    activation: bool = key("pca: of an early feature map, regressed to codes, in place of y itself", False)
    changes: str = key("steer: which of " + ", ".join(CHANGES) + ", with commas between", ",".join(CHANGES))
    shift: float = key("discover: largest shift, in standard deviations", 3.0)
    steps: int = key("of trained methods", 2000)
    batch: int = key("images a step, likewise", 16)
    learning_rate: float = key("of Adam, likewise", 1e-3)
    seed: int = key("of codes and of what is trained", 0)

    def __post_init__(self) -> None:
        check_choices(self, {"method": FIND_METHODS, "space": ("y", "z", "s")})
        check_least(self, {"count": 1, "samples": 100, "steps": 1, "batch": 1})
        check_rates(self, "learning_rate")
        check_seed(self)
        if not 0 < self.share <= 0.5:
            raise ConfigError(
                f"share is {self.share}; expected more than 0, at most 0.5: the two extremes are parts of one set."
            )
        if not 0 < self.shift <= 20:
            raise ConfigError(f"shift is {self.shift}; expected more than 0 and at most 20 standard deviations.")
        if (
            self.method not in (others := (*LABELLED, "difference", *(["pca"] if self.space == "s" else [])))
            and self.space != "y"
        ):
            raise ConfigError(
                f"{self.method} finds directions of y. Leave space={self.space} out, or use one of {', '.join(others)}."
            )
        if self.space == "s" and self.activation:
            raise ConfigError("activation regresses feature maps to y. Leave space=s out, or activation=true.")
        if unknown := [name for name in self.wanted if name not in CHANGES]:
            raise ConfigError(f"changes has {unknown[0]!r}; expected some of {', '.join(CHANGES)}.")
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise ConfigError(f"layers is {list(self.layers)}; expected numbers from 0 on, or none for all.")

    @property
    def wanted(self) -> list[str]:
        """The names in `changes`."""
        return [name.strip() for name in self.changes.split(",") if name.strip()]
