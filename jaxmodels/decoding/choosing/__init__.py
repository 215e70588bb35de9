"""Choosing among several continuations: samples of one prompt, or steps of two models."""

from jaxmodels.decoding.choosing.best_of import BestOf
from jaxmodels.decoding.choosing.first_finish import FirstFinish
from jaxmodels.decoding.choosing.most_probable import MostProbable

__all__ = ["BestOf", "FirstFinish", "MostProbable"]
