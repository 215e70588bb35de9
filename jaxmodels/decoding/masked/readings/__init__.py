"""Readings: in which order a model is shown a window, and who sees whom in it, see
`jaxmodels.decoding.masked.readings.reading.Reading`."""

from jaxmodels.decoding.masked.readings.in_blocks import InBlocks
from jaxmodels.decoding.masked.readings.known_first import KnownFirst
from jaxmodels.decoding.masked.readings.reading import Reading

__all__ = ["InBlocks", "KnownFirst", "Reading"]
