"""Editing: moving codes along what changes one thing in the image."""

from lia_adapter.editing.linear import Directions, fit_directions

__all__ = ["Directions", "fit_directions"]
