"""Editing: moving codes along what changes one thing in the image, or where the prior has others."""

from lia_adapter.editing.directions import Direction, Directions, join_directions, read_directions
from lia_adapter.editing.edits import Edit, edited, moved, planned, style_shift
from lia_adapter.editing.prior import between, vary
from lia_adapter.editing.regression import Regression, fit_regression
from lia_adapter.editing.space import CodeSpace, Metric
from lia_adapter.editing.style_space import StyleSpace
from lia_adapter.editing.task import Examples, Task

__all__ = [
    "CodeSpace",
    "Direction",
    "Directions",
    "Edit",
    "Examples",
    "Metric",
    "Regression",
    "StyleSpace",
    "Task",
    "between",
    "edited",
    "fit_regression",
    "join_directions",
    "moved",
    "planned",
    "read_directions",
    "style_shift",
    "vary",
]
