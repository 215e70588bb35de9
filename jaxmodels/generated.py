"""What a generation gives: tokens, text, and what was counted on the way."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from jaxmodels.decoding.draft_record import DraftRecord
from jaxmodels.decoding.strategy import LogProbs


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Counters of one `generate` call. seconds: wall time, compilation included where there was one.

    steps: model calls after the prefill. capacity: cache slots per row that were allocated. counters: what
    the strategy counts besides, summed over rows. per_call: the same per call in which a row still ran, such
    as the drafted tokens that were accepted or the blocks that were read.
    """

    prompt_tokens: int
    new_tokens: int
    steps: int
    capacity: int
    seconds: float
    counters: Mapping[str, int] = field(default_factory=dict)
    per_call: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What `Model.generate` gives.

    tokens: i32[B, max_new_tokens], the padding token beyond each row's length. lengths: i32[B], the stop
    token, or the one that completes a stop string, included. text: one string per row without special tokens
    and those that end texts, up to a stop string; None without a tokenizer. log_probs: None unless the
    strategy was asked for them. drafts: what was drafted, where the strategy was asked to record it.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    text: list[str] | None
    stats: Stats
    log_probs: LogProbs | None = None
    drafts: DraftRecord | None = None
