"""Exits: when the rest of a block is filled in at once, see `jaxmodels.decoding.masked.seen.Stop`."""

from typing import TYPE_CHECKING

from jaxmodels.on_first_use import lazy_names

if TYPE_CHECKING:
    from jaxmodels.decoding.masked.stop.prophet import Prophet
    from jaxmodels.decoding.masked.stop.sched import SchED
    from jaxmodels.decoding.masked.stop.schedules import Cosine, Exponential, Linear, Schedule
    from jaxmodels.decoding.masked.stop.stable_confident import StableAndConfident

__all__ = ["Cosine", "Exponential", "Linear", "Prophet", "SchED", "Schedule", "StableAndConfident"]

_HOMES = {
    "prophet": ("Prophet",),
    "sched": ("SchED",),
    "schedules": ("Cosine", "Exponential", "Linear", "Schedule"),
    "stable_confident": ("StableAndConfident",),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
