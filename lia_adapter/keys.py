"""What configs, code and command line share: the values that choices have, and the keys of how images are read.

Nothing here needs torch, so that help and completion need not wait for it.
"""

from dataclasses import dataclass

from lia_adapter.config import check_choices, check_least, key

__all__ = [
    "ALIGNMENTS",
    "COUPLINGS",
    "MAPPINGS",
    "METHODS",
    "QUALITIES",
    "PRECISIONS",
    "PYRAMID_WEIGHT",
    "RESIZE_MODES",
    "SCHEDULES",
    "SEARCH_SPACES",
    "SEED_MAPPINGS",
    "SPACES",
    "STARTS",
    "STARTS_OF",
    "ImageKeys",
    "LabelledImageKeys",
]

RESIZE_MODES = ("crop", "letterbox", "stretch")
"""How images come to a size: the middle is cut out; all of it, with black bars (LIA's LSUN cars); all of it, distorted."""
ALIGNMENTS = ("ffhq",)
"""How faces are cut out of photographs by their landmarks."""
COUPLINGS = ("flow", "affine", "additive", "dense")
"""Cores of the invertible mapping: those that are fitted."""
MAPPINGS = ("additive", "affine", "dense", "mlp")
"""What a generator may learn with; mlp is StyleGAN's own, which has no inverse."""
SPACES = ("y", "ys")
"""What an encoder finds: one code an image, or one a layer."""
SEARCH_SPACES = (*SPACES, "z")
"""What an inversion moves."""
METHODS = (
    "search", "projector", "image2stylegan", "in-domain", "force-in-domain", "multi-code", "layerwise", "features", "tune",
    "ladder",
)  # fmt: skip
"""How an inversion is made; search is that of LIA, in y, ys or z."""
QUALITIES = ("draft", "good", "best")
"""How high the ladder of methods is climbed."""
SEED_MAPPINGS = ("original", "invertible")
"""What makes codes of seeds: the generator's own mapping, or the one that `convert` fitted."""
STARTS = ("encoder", "mean", "random")
"""Where an inversion begins."""
STARTS_OF = {"projector": ("mean",), "in-domain": ("encoder",), "force-in-domain": ("encoder",)}
"""The same of methods that leave no choice."""
PRECISIONS = ("auto", "bfloat16", "float32", "float64")
"""What a training computes in."""
PYRAMID_WEIGHT = 0.3
"""Of Laplacian pyramids in a loss without a network, beside 1 of squared errors."""
SCHEDULES = ("quarters", "cosine")
"""How the learning rate falls."""


@dataclass(frozen=True, kw_only=True)
class ImageKeys:
    """How images are read; see `lia_adapter.data.open_images`."""

    split: str = key('all, "first 65000", "last 5000", "list names.txt", "held out" (5 %), or one of these after "not"', "all")
    resize_mode: str = key("how images come to the size: crop, letterbox or stretch", "crop", was="fit")
    bits: int | None = key(
        "of integer images of more than 8 bits, how many count; none: as many as the largest value takes", None, none=0
    )
    align: str | None = key(
        "ffhq cuts faces out as FFHQ has them, by their landmarks; none: as resize_mode says", None, new=True
    )
    landmarks: str | None = key("the .json that tells where eyes and mouths are, for align", None, new=True)

    def __post_init__(self) -> None:
        check_choices(self, {"resize_mode": RESIZE_MODES} | ({} if self.align is None else {"align": ALIGNMENTS}))
        if self.bits is not None:
            check_least(self, {"bits": 1})


@dataclass(frozen=True, kw_only=True)
class LabelledImageKeys(ImageKeys):
    """How images are read, and their labels."""

    label: int | tuple[float, ...] | None = key(
        "the class of all images (or a list of numbers), where the data set has no labels", None, none=-1
    )
