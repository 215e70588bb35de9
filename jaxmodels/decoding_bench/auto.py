"""The fastest strategy that keeps the text, found by trying."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.prompts import encode_prompts
from jaxmodels.decoding_bench.contestants import Contestant, contestants
from jaxmodels.decoding_bench.measure import Exam, Trial, sit
from jaxmodels.model import Model

# Tokens by which each strategy is tried, and in how many turns.
TRIED_TOKENS = 48
TURNS = 3


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and by what.

    Attributes:
        contestant: the fastest of those that keep the text.
        trials: all of them.
    """

    contestant: Contestant
    trials: tuple[Trial, ...]


def choose(
    model: Model,
    prompt: Any,
    base: Autoregressive,
    drafts: Mapping[str, Any] | None = None,
    *,
    max_new_tokens: int = 64,
    seed: int = 0,
) -> Choice:
    """Tries the strategies that keep the text on one prompt, for at most `TRIED_TOKENS` tokens.

    Each is compiled first, which takes longer than the trial: it pays for answers of some length, or many.

    Args:
        model, base, drafts: see `contestants`.
        prompt: one prompt, as `Model.generate` takes it.
        max_new_tokens: of the answer to come; trials are no longer.
        seed: of the draws.

    Raises:
        ValueError: several prompts, or what `contestants` and `Model.generate` refuse.
    """
    rows = encode_prompts(prompt, model.tokenizer, model.config.vocab_size)
    if rows.tokens.shape[0] != 1:
        raise ValueError(f"choose tries one prompt, got {rows.tokens.shape[0]}")
    tokens = np.asarray(rows.tokens)[:, : int(rows.lengths[0])]
    exam = Exam(prompts=tokens, new=min(max_new_tokens, TRIED_TOKENS), rounds=TURNS, draws=1, seed=seed)
    bare = replace(base, top_logprobs=None)
    trials = tuple(sit(model, _that_keep_the_text(model, bare, drafts), exam))
    fastest = max(trials, key=lambda trial: trial.speed).name
    named = {one.name: one for one in _that_keep_the_text(model, base, drafts)}
    return Choice(contestant=named[fastest], trials=trials)


def _that_keep_the_text(
    model: Model, base: Autoregressive, drafts: Mapping[str, Any] | None
) -> list[Contestant]:
    return [one for one in contestants(model, base, drafts) if one.keeps_text]
