"""Editing: moving codes along what changes one thing in the image, or where the prior has others."""

from lia_adapter.editing.directions import Direction, Directions, join_directions, read_directions
from lia_adapter.editing.edits import Edit, edited, planned
from lia_adapter.editing.prior import between, vary
from lia_adapter.editing.regression import Regression, fit_regression
from lia_adapter.editing.space import CodeSpace
from lia_adapter.editing.task import Examples, Task

__all__ = [
    "CodeSpace",
    "Direction",
    "Directions",
    "Edit",
    "Examples",
    "Regression",
    "Task",
    "between",
    "edited",
    "fit_regression",
    "join_directions",
    "planned",
    "read_directions",
    "vary",
]
