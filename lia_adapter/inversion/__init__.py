"""Inversion: from an image to the code that draws it, by optimisation."""

from lia_adapter.inversion.loss import ReconstructionLoss
from lia_adapter.inversion.optimise import Y_RATE, Inversion, optimise, search_coordinates

__all__ = ["Y_RATE", "Inversion", "ReconstructionLoss", "optimise", "search_coordinates"]
