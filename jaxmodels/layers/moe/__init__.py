"""Mixtures of experts: routers, stacks of experts, and how tokens travel between them."""

from jaxmodels.layers.moe.dispatch import Capacity, Dense, DenseAbove, Dispatch, Dropless
from jaxmodels.layers.moe.experts import ClampedGatedExperts, Experts, GatedExperts, PlainExperts
from jaxmodels.layers.moe.moe import MoE
from jaxmodels.layers.moe.routers import Router, SigmoidTopK, SoftmaxTopK
from jaxmodels.layers.moe.routing import Routing

__all__ = [
    "Capacity",
    "ClampedGatedExperts",
    "Dense",
    "DenseAbove",
    "Dispatch",
    "Dropless",
    "Experts",
    "GatedExperts",
    "MoE",
    "PlainExperts",
    "Router",
    "Routing",
    "SigmoidTopK",
    "SoftmaxTopK",
]
