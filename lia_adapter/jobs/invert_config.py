"""The keys of `invert`: what `lia-adapt invert` can be told."""

from dataclasses import dataclass, fields

from lia_adapter.config import check_choices, check_least, check_rates, check_seed, key
from lia_adapter.errors import ConfigError
from lia_adapter.keys import METHODS, QUALITIES, SEARCH_SPACES, STARTS, STARTS_OF, LabelledImageKeys

__all__ = ["InvertConfig"]

_ONLY_OF = {"space": "search", "codes": "multi-code", "quality": "ladder", "seconds": "ladder", "faithful": "ladder"}
"""Keys that one method alone knows."""
_WITHOUT_RATE = ("search", "ladder")


@dataclass(frozen=True, kw_only=True)
class InvertConfig(LabelledImageKeys):
    """The keys of `recipes/invert.toml`."""

    method: str = key("search, as LIA's; or one of the others that recipes are named by, such as projector", "search", new=True)
    space: str = key("search: where, in y, ys (a y of its own for every layer) or z", "y")
    start: str = key("encoder: its codes; mean: of y; or random codes", "encoder")
    steps: int = key("each a drawing and its gradient; search: at most", 100)
    learning_rate: float | None = key(
        "of Adam, which search and ladder do not use (tune: of the weights); none: the method's own",
        None,
        none=0,
        new=True,
    )
    codes: int = key("multi-code: codes of an image", 10, new=True)
    quality: str = key("ladder: draft, which is y alone; good: ys and a feature map; best: ys and weights", "good", new=True)
    seconds: float | None = key("ladder: about so long an image, in place of steps", None, none=0, new=True)
    faithful: bool = key("ladder: nearer to the picture, also where codes leave what the prior has", False, new=True)
    prior_weight: float = key("of log(1 + |z|²/D) of the code: keeps it where the prior has codes; 0: none", 0.01, new=True)
    seed: int = key("of random starts", 0)
    features: str | None = key(
        "a torchvision network (.pth, .safetensors), to compare what it sees, too; none: a pyramid of the pixels",
        None,
        none="none",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, {"method": METHODS, "quality": QUALITIES, "space": SEARCH_SPACES, "start": STARTS})
        check_least(self, {"steps": 0, "prior_weight": 0, "codes": 1})
        if self.learning_rate is not None:
            check_rates(self, "learning_rate")
        starts = STARTS_OF.get(self.method, STARTS)
        if self.start not in starts:
            raise ConfigError(f"start is {self.start}, but {self.method} begins at {starts[0]}. Set start={starts[0]}.")
        for one in fields(self):
            owner = _ONLY_OF.get(one.name, self.method)
            if owner != self.method and getattr(self, one.name) != one.default:
                raise ConfigError(
                    f"{one.name} is for {owner}, and method is {self.method}. Leave it out, or set method={owner}."
                )
        if self.learning_rate is not None and self.method in _WITHOUT_RATE:
            raise ConfigError(f"learning_rate is of Adam, by which {self.method} does not search. Leave it out.")
        if self.seconds is not None:
            check_least(self, {"seconds": 0.01})
        check_seed(self)
