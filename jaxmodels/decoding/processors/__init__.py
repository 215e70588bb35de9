"""Logits processors: a chain of policies in front of the sampler, each of which bans or biases tokens.

A strategy applies its `processors` in their order, to every logits that a token is picked or verified with.
`PerRow` gives each row of a batch one of its own. `jaxmodels.Model.recommended_strategy` orders them as
`transformers` does: sequence bias, repetition, frequency and presence penalties, n-grams, bad words, least
lengths, forced tokens, suppressed tokens. Temperature and the filters top-k, top-p, min-p, typical, epsilon
and eta belong to the sampler behind them.
"""

from typing import TYPE_CHECKING

from jaxmodels.on_first_use import lazy_names

if TYPE_CHECKING:
    from jaxmodels.decoding.processors.bad_words import BadWords
    from jaxmodels.decoding.processors.chain import Context, Processor
    from jaxmodels.decoding.processors.forced_bos import ForcedBos
    from jaxmodels.decoding.processors.forced_eos import ForcedEos
    from jaxmodels.decoding.processors.frequency_penalty import FrequencyPenalty
    from jaxmodels.decoding.processors.logit_bias import LogitBias
    from jaxmodels.decoding.processors.min_length import MinLength
    from jaxmodels.decoding.processors.min_new_tokens import MinNewTokens
    from jaxmodels.decoding.processors.no_repeat_ngram import NoRepeatNGram
    from jaxmodels.decoding.processors.per_row import PerRow
    from jaxmodels.decoding.processors.presence_penalty import PresencePenalty
    from jaxmodels.decoding.processors.repetition_penalty import RepetitionPenalty
    from jaxmodels.decoding.processors.sequence_bias import SequenceBias
    from jaxmodels.decoding.processors.suppress import Suppress
    from jaxmodels.decoding.processors.suppress_at_begin import SuppressAtBegin

__all__ = [
    "BadWords",
    "Context",
    "ForcedBos",
    "ForcedEos",
    "FrequencyPenalty",
    "LogitBias",
    "MinLength",
    "MinNewTokens",
    "NoRepeatNGram",
    "PerRow",
    "PresencePenalty",
    "Processor",
    "RepetitionPenalty",
    "SequenceBias",
    "Suppress",
    "SuppressAtBegin",
]

_HOMES = {
    "bad_words": ("BadWords",),
    "chain": ("Context", "Processor"),
    "forced_bos": ("ForcedBos",),
    "forced_eos": ("ForcedEos",),
    "frequency_penalty": ("FrequencyPenalty",),
    "logit_bias": ("LogitBias",),
    "min_length": ("MinLength",),
    "min_new_tokens": ("MinNewTokens",),
    "no_repeat_ngram": ("NoRepeatNGram",),
    "per_row": ("PerRow",),
    "presence_penalty": ("PresencePenalty",),
    "repetition_penalty": ("RepetitionPenalty",),
    "sequence_bias": ("SequenceBias",),
    "suppress": ("Suppress",),
    "suppress_at_begin": ("SuppressAtBegin",),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
