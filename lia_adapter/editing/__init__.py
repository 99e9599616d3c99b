"""Editing: moving codes along what changes one thing in the image, or where the prior has others."""

from lia_adapter.editing.linear import Directions, fit_directions
from lia_adapter.editing.prior import between, vary

__all__ = ["Directions", "between", "fit_directions", "vary"]
