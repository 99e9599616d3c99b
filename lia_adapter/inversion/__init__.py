"""Inversion: from an image to the code that draws it, by optimisation."""

from lia_adapter.inversion.loss import ReconstructionLoss
from lia_adapter.inversion.optimise import Inversion, optimise

__all__ = ["Inversion", "ReconstructionLoss", "optimise"]
