"""A language model that is no decoder: a table of which token follows which."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmodels.layers.masks import CAUSAL, Mask
from jaxmodels.layers.spec import Param
from jaxmodels.layers.window import next_window
from jaxmodels.models.depth import ALL_LAYERS
from jaxmodels.models.scored import EVERYWHERE, Scored, check_logits_at, check_taps, logits_where


@struct.dataclass
class Counted:
    """Lengths alone: what came before the newest token says nothing. Both cache and pending."""

    length: Any
    valid: Any


@dataclass(frozen=True)
class Bigrams:
    """Logits of the next token by the newest one. Its hidden states are those logits."""

    vocab_size: int
    learned_positions: int | None = None
    mask: Mask = CAUSAL

    def spec(self):
        return {"table": Param((self.vocab_size, self.vocab_size), (None, "vocab"))}

    def dtype_of(self, params):
        return params["table"].dtype

    def init_cache(self, batch, capacity, dtype=jnp.float32):
        zeros = jnp.zeros((batch,), jnp.int32)
        return Counted(length=zeros, valid=zeros + 0)

    def forward(self, params, inputs):
        return self.logits(params, params["table"][inputs])

    def peek(
        self,
        params,
        inputs,
        cache,
        *,
        positions=None,
        mask=None,
        valid=None,
        known=None,
        depth=ALL_LAYERS,
        taps=(),
        logits_at=EVERYWHERE,
        condition=None,
    ):
        window = next_window(inputs, cache.length, positions=positions, valid=valid, mask=mask, known=known)
        options = {"depth": depth, "taps": taps, "logits_at": logits_at, "condition": condition}
        return self.score(params, inputs, cache, window, **options)

    def score(
        self,
        params,
        inputs,
        cache,
        window,
        *,
        depth=ALL_LAYERS,
        taps=(),
        logits_at=EVERYWHERE,
        condition=None,
    ):
        check_taps(taps, ())
        check_logits_at(logits_at, *inputs.shape)
        if depth != ALL_LAYERS or condition is not None:
            raise ValueError("Bigrams has neither blocks nor a condition")
        hidden = params["table"][inputs]
        logits = logits_where(lambda hidden: self.logits(params, hidden), hidden, logits_at)
        return Scored(hidden=hidden, logits=logits, taps={}), Counted(cache.length, window.valid)

    def commit(self, pending, n=None, path=None):
        n = pending.valid if n is None else n
        return Counted(pending.length + n, jnp.zeros_like(pending.valid))

    def logits(self, params, hidden):
        return hidden.astype(jnp.float32)


def continuation(table, prompt, new):
    """The greedy tokens, one table look-up each."""
    tokens = [int(np.argmax(table[prompt[-1]]))]
    while len(tokens) < new:
        tokens.append(int(np.argmax(table[tokens[-1]])))
    return tokens
