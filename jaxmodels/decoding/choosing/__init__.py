"""Choosing among several continuations: samples of one prompt, or steps of two models."""

from jaxmodels.decoding.choosing.arbitrage import Arbitrage
from jaxmodels.decoding.choosing.best_of import BestOf
from jaxmodels.decoding.choosing.first_finish import FirstFinish
from jaxmodels.decoding.choosing.most_probable import MostProbable
from jaxmodels.decoding.choosing.routers import DraftedStep, LinearRouter, Regret, Router, fit_router

__all__ = [
    "Arbitrage",
    "BestOf",
    "DraftedStep",
    "FirstFinish",
    "LinearRouter",
    "MostProbable",
    "Regret",
    "Router",
    "fit_router",
]
