"""The methods of inversion by name; each is a function of a `Problem`, in a file of its own."""

from collections.abc import Callable

from lia_adapter.inversion.feature_map import feature_map, layerwise
from lia_adapter.inversion.image2stylegan import image2stylegan
from lia_adapter.inversion.in_domain import force_in_domain, in_domain
from lia_adapter.inversion.ladder import ladder
from lia_adapter.inversion.multi_code import multi_code
from lia_adapter.inversion.optimise import Inversion
from lia_adapter.inversion.problem import Problem
from lia_adapter.inversion.projector import projector
from lia_adapter.inversion.tune import tune

__all__ = ["METHODS", "ONE_CODE", "SEARCHING"]

METHODS: dict[str, Callable[[Problem], Inversion]] = {
    "projector": projector,
    "image2stylegan": image2stylegan,
    "in-domain": in_domain,
    "force-in-domain": force_in_domain,
    "multi-code": multi_code,
    "layerwise": layerwise,
    "features": feature_map,
    "tune": tune,
    "ladder": ladder,
}
"""All but the search in y, ys or z, which `LIA.invert` is."""
SEARCHING = ("features", "tune", "ladder")
"""Those that begin with that search."""
ONE_CODE = ("projector", "multi-code")
"""Those that find one y for all layers."""
