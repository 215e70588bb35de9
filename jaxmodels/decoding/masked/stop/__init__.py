"""Exits: when the rest of a block is filled in at once, see `jaxmodels.decoding.masked.seen.Stop`."""

from jaxmodels.decoding.masked.stop.prophet import Prophet
from jaxmodels.decoding.masked.stop.sched import SchED
from jaxmodels.decoding.masked.stop.schedules import Cosine, Exponential, Linear, Schedule
from jaxmodels.decoding.masked.stop.stable_confident import StableAndConfident

__all__ = ["Cosine", "Exponential", "Linear", "Prophet", "SchED", "Schedule", "StableAndConfident"]
