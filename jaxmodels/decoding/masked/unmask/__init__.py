"""Rules of unmasking: which unknown places a step fills in, see `jaxmodels.decoding.masked.seen.Unmask`."""

from typing import TYPE_CHECKING

from jaxmodels.on_first_use import lazy_names

if TYPE_CHECKING:
    from jaxmodels.decoding.masked.unmask.confidence import (
        AsSampled,
        Confidence,
        EndsLast,
        Margin,
        NegativeEntropy,
        Probability,
        Random,
    )
    from jaxmodels.decoding.masked.unmask.credit_decoding import CreditDecoding
    from jaxmodels.decoding.masked.unmask.dream import Dream, DreamOrigin
    from jaxmodels.decoding.masked.unmask.dynamic_threshold import DynamicThreshold
    from jaxmodels.decoding.masked.unmask.entropy_bounded import EntropyBounded
    from jaxmodels.decoding.masked.unmask.entropy_threshold import EntropyThreshold
    from jaxmodels.decoding.masked.unmask.factor import Factor, ReleasedFactor
    from jaxmodels.decoding.masked.unmask.hierarchy import Hierarchy
    from jaxmodels.decoding.masked.unmask.local_leap import LocalLeap
    from jaxmodels.decoding.masked.unmask.maskgit import MAGE, MaskGIT
    from jaxmodels.decoding.masked.unmask.pipelined import Pipelined, PipelinedEntropy
    from jaxmodels.decoding.masked.unmask.quota import Quota
    from jaxmodels.decoding.masked.unmask.schedules import Cosine, FromTo, Power, Towards, ToZero
    from jaxmodels.decoding.masked.unmask.strict_threshold import StrictThreshold
    from jaxmodels.decoding.masked.unmask.tempered import Tempered
    from jaxmodels.decoding.masked.unmask.threshold import Threshold

__all__ = [
    "MAGE",
    "AsSampled",
    "Confidence",
    "Cosine",
    "CreditDecoding",
    "Dream",
    "DreamOrigin",
    "DynamicThreshold",
    "EndsLast",
    "EntropyBounded",
    "EntropyThreshold",
    "Factor",
    "FromTo",
    "Hierarchy",
    "LocalLeap",
    "Margin",
    "MaskGIT",
    "NegativeEntropy",
    "Pipelined",
    "PipelinedEntropy",
    "Power",
    "Probability",
    "Quota",
    "Random",
    "ReleasedFactor",
    "StrictThreshold",
    "Tempered",
    "Threshold",
    "ToZero",
    "Towards",
]

_HOMES = {
    "confidence": (
        "AsSampled",
        "Confidence",
        "EndsLast",
        "Margin",
        "NegativeEntropy",
        "Probability",
        "Random",
    ),
    "credit_decoding": ("CreditDecoding",),
    "dream": ("Dream", "DreamOrigin"),
    "dynamic_threshold": ("DynamicThreshold",),
    "entropy_bounded": ("EntropyBounded",),
    "entropy_threshold": ("EntropyThreshold",),
    "factor": ("Factor", "ReleasedFactor"),
    "hierarchy": ("Hierarchy",),
    "local_leap": ("LocalLeap",),
    "maskgit": ("MAGE", "MaskGIT"),
    "pipelined": ("Pipelined", "PipelinedEntropy"),
    "quota": ("Quota",),
    "schedules": ("Cosine", "FromTo", "Power", "Towards", "ToZero"),
    "strict_threshold": ("StrictThreshold",),
    "tempered": ("Tempered",),
    "threshold": ("Threshold",),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
