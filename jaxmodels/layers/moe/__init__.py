"""Mixtures of experts: routers, stacks of experts, and how tokens travel between them."""

from jaxmodels.layers.moe.dispatch import Capacity, Dense, DenseAbove, Dispatch, Dropless
from jaxmodels.layers.moe.expert_choice import ExpertChoice
from jaxmodels.layers.moe.experts import ClampedGatedExperts, Experts, GatedExperts, PlainExperts
from jaxmodels.layers.moe.hyper_router import HyperRouter
from jaxmodels.layers.moe.latent import LatentSpace
from jaxmodels.layers.moe.moe import MoE
from jaxmodels.layers.moe.ranked import Ranked
from jaxmodels.layers.moe.relu_router import ReLURouter
from jaxmodels.layers.moe.residual_router import ResidualRouter, ZeroComputationExperts
from jaxmodels.layers.moe.rms_router import RMSRouter
from jaxmodels.layers.moe.routers import Router, SigmoidTopK, SoftmaxTopK
from jaxmodels.layers.moe.routing import RoutedFeedForward, RouterContext, Routing
from jaxmodels.layers.moe.versatile import VersatileFFN

__all__ = [
    "Capacity",
    "ClampedGatedExperts",
    "Dense",
    "DenseAbove",
    "Dispatch",
    "Dropless",
    "ExpertChoice",
    "Experts",
    "GatedExperts",
    "HyperRouter",
    "LatentSpace",
    "MoE",
    "PlainExperts",
    "RMSRouter",
    "Ranked",
    "ReLURouter",
    "ResidualRouter",
    "RoutedFeedForward",
    "Router",
    "RouterContext",
    "Routing",
    "SigmoidTopK",
    "SoftmaxTopK",
    "VersatileFFN",
    "ZeroComputationExperts",
]
