"""The methods of finding directions by name; each is a function of a `Task`, in a file of its own."""

from collections.abc import Callable

from lia_adapter.editing.boundary import boundary
from lia_adapter.editing.difference import difference
from lia_adapter.editing.directions import Direction
from lia_adapter.editing.discover import discover
from lia_adapter.editing.discover_centroid import discover_centroid
from lia_adapter.editing.jacobian import jacobian
from lia_adapter.editing.pca import pca
from lia_adapter.editing.regress import regress
from lia_adapter.editing.sefa import sefa
from lia_adapter.editing.steer import steer
from lia_adapter.editing.steer_closed import steer_closed
from lia_adapter.editing.task import Task

__all__ = ["METHODS"]

METHODS: dict[str, Callable[[Task], list[Direction]]] = {
    "boundary": boundary,
    "regress": regress,
    "difference": difference,
    "pca": pca,
    "sefa": sefa,
    "jacobian": jacobian,
    "steer": steer,
    "steer-closed": steer_closed,
    "discover": discover,
    "discover-centroid": discover_centroid,
}
