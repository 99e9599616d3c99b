"""Inversion: from an image to what draws it, by optimisation: a code, and what a method finds beside it."""

from lia_adapter.inversion.drawing import STYLES, Stage, kept_names, noise_sizes, redraw
from lia_adapter.inversion.ladder import LADDER, LOSSES, RUNG
from lia_adapter.inversion.loss import IMAGE_LOSS, ReconstructionLoss, check_prior_weight, prior_loss, quick_z
from lia_adapter.inversion.methods import METHODS, ONE_CODE, SEARCHING
from lia_adapter.inversion.optimise import Inversion, optimise, paced_coordinates, search_coordinates
from lia_adapter.inversion.posterior import ADDED_ERROR, Answers, Posterior
from lia_adapter.inversion.problem import Problem
from lia_adapter.inversion.search import search

__all__ = [
    "ADDED_ERROR",
    "IMAGE_LOSS",
    "LADDER",
    "LOSSES",
    "METHODS",
    "ONE_CODE",
    "Answers",
    "Inversion",
    "Posterior",
    "Problem",
    "RUNG",
    "ReconstructionLoss",
    "SEARCHING",
    "STYLES",
    "Stage",
    "check_prior_weight",
    "kept_names",
    "noise_sizes",
    "optimise",
    "paced_coordinates",
    "prior_loss",
    "quick_z",
    "redraw",
    "search",
    "search_coordinates",
]
