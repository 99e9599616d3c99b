"""Inversion: from an image to the code that draws it, by optimisation."""

from lia_adapter.inversion.loss import ReconstructionLoss, check_prior_weight, prior_loss
from lia_adapter.inversion.optimise import Y_RATE, Inversion, optimise, paced_coordinates, search_coordinates
from lia_adapter.inversion.posterior import ADDED_ERROR, Answers, Posterior
from lia_adapter.inversion.search import search

__all__ = [
    "ADDED_ERROR",
    "Y_RATE",
    "Answers",
    "Inversion",
    "Posterior",
    "ReconstructionLoss",
    "check_prior_weight",
    "optimise",
    "paced_coordinates",
    "prior_loss",
    "search",
    "search_coordinates",
]
