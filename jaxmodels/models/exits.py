"""Windows that are read in two parts: the first blocks token by token, the others over all tokens at once.

So a model drafts for itself. What its first blocks make of a token, the stream behind them and their part of
the history, is what they would make of it in the window that verifies the draft. That window therefore begins
at the exit, and no block sees a token twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Int

from jaxmodels.layers.masks import MaskLike
from jaxmodels.layers.spec import Params
from jaxmodels.layers.window import Window, next_window
from jaxmodels.models.block import Stream
from jaxmodels.models.cache import Cache, Pending
from jaxmodels.models.chain import Choose, can_join, join
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.scored import EVERYWHERE, LogitsAt, Scored, check_wanted, logits_where
from jaxmodels.models.transcript import recoded


@struct.dataclass
class Exit:
    """What the first blocks made of a window.

    Attributes:
        hidden: [B, S, D], the residual stream behind the last of them.
        router_logits: f32[B, S, E], see `Stream`; None in models without such.
        pending: what settles any of its first tokens in their histories.
    """

    hidden: jax.Array
    router_logits: jax.Array | None
    pending: Pending


@dataclass(frozen=True)
class Halves:
    """A decoder that is cut behind its first `layers` blocks."""

    config: Decoder
    layers: int

    @property
    def first(self) -> Decoder:
        """The model of the first blocks, with the ends and the parameters of the whole."""
        return replace(self.config, blocks=self.config.blocks[: self.layers])

    @property
    def rest(self) -> Decoder:
        """The other blocks, whose parameters are `rest_params`."""
        return replace(self.config, blocks=self.config.blocks[self.layers :])

    def rest_params(self, params: Params) -> Params:
        """The parameters, with the blocks behind the exit counted from 0."""
        behind = range(self.layers, len(self.config.blocks))
        return {**params, "blocks": {str(i - self.layers): params["blocks"][str(i)] for i in behind}}

    def can_chain(self, cache: Cache, size: int) -> bool:
        """Whether `chain` takes windows of `size` tokens behind this cache."""
        return can_join(self.first, cache.of_blocks(0, self.layers), size)

    def chain(
        self,
        params: Params,
        token: Int[Array, "B"],
        cache: Cache,
        size: int,
        choose: Choose,
        carry: Any,
        *,
        valid: Int[Array, "B"],
    ) -> tuple[Any, Exit, Cache]:
        """`peek_chain` by the first blocks: (the last carry, the window at the exit, the others' histories).

        The window's last token is chosen by those before it, and nothing is chosen behind it: `choose` is
        asked once less than there are tokens, and the head is computed as often. A row that `choose` ends
        still has the token that it chose last in its window.

        Args:
            valid: the most tokens to show in each row, 0 to `size`; how many were is the pending's `valid`.
        """
        one = next_window(token[:, None], cache.length, valid=jnp.minimum(valid, 1), known=cache.length + 1)
        cache = recoded(self.config, params, cache, one)
        first, batch = self.first, token.shape[0]

        def look(
            i: Array, token: Array, cache: Cache, window: Window, state: _Reading
        ) -> tuple[Pending, Array, Array, "_Reading"]:
            stream = self.config.begin(params, token[:, None], window)
            stream, _, pending = first.through_blocks(params, token[:, None], cache, window, stream=stream)
            seen = jax.tree.map(
                lambda all, one: lax.dynamic_update_slice_in_dim(all, one, i, axis=1),
                state.seen,
                _carried(stream),
            )
            drafts = state.drafts & (i + 1 < valid)

            def ask(turn: Array, chosen: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
                hidden = first.normalise(params, stream)
                logits = first.logits(params, hidden)
                return choose(i, Scored(hidden=hidden, logits=logits, taps={}), chosen[2])

            # A loop of no or one turn: what is carried is not copied, as behind a `lax.cond`.
            token, goes_on, carry = lax.fori_loop(
                0, drafts.any().astype(jnp.int32), ask, (token, drafts, state.carry)
            )
            return pending, token, drafts, _Reading(carry=carry, drafts=drafts & goes_on, seen=seen)

        shape = jax.eval_shape(lambda: _carried(self.config.begin(params, token[:, None], one)))
        seen = jax.tree.map(lambda a: jnp.zeros((a.shape[0], size, *a.shape[2:]), a.dtype), shape)
        state = _Reading(carry=carry, drafts=jnp.ones((batch,), bool), seen=seen)
        own = cache.of_blocks(0, self.layers)
        last, pending = join(first, params, token, own, size, look, state, valid=valid)
        hidden, router_logits = last.seen
        at_exit = Exit(hidden=hidden, router_logits=router_logits, pending=pending)
        return last.carry, at_exit, cache.of_blocks(self.layers)

    def commit(self, at_exit: Exit, n: Int[Array, "B"], rest: Cache) -> Cache:
        """The whole cache, once the first n tokens of a window are history behind the exit, in `rest`."""
        return self.first.commit(at_exit.pending, n).in_front_of(rest)


def halves_of(model: Any, layers: int) -> Halves | None:
    """The model cut behind its first `layers` blocks, None where it is no `Decoder`."""
    return Halves(model, layers) if isinstance(model, Decoder) else None


@struct.dataclass
class _Reading:
    """What goes from token to token.

    Attributes:
        carry: the caller's.
        drafts: bool[B], the rows that have not ended their drafts.
        seen: the window's streams at the exit so far.
    """

    carry: Any
    drafts: jax.Array
    seen: Any


def _carried(stream: Stream) -> tuple[Array, Array | None]:
    """What of a stream blocks change."""
    return stream.hidden, stream.router_logits


@dataclass(frozen=True, kw_only=True)
class BehindExit:
    """Reads a window on from the exit: a model's `peek` and `commit`, on the histories behind the exit.

    Built anew in each trace. The window is the one that was read as far as `at_exit`, or its first tokens.
    """

    halves: Halves
    at_exit: Exit

    def peek(
        self,
        params: Params,
        inputs: Int[Array, "B S"],
        cache: Cache,
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike | None = None,
        valid: Int[Array, "B"] | None = None,
        known: Int[Array, "B"] | None = None,
        taps: Sequence[str] = (),
        logits_at: LogitsAt = EVERYWHERE,
    ) -> tuple[Scored, Pending]:
        """See `Decoder.peek`. Raises ValueError for taps: there are no streams of the first blocks here."""
        check_wanted((), inputs, taps, logits_at)
        config, rest, size = self.halves.config, self.halves.rest, inputs.shape[1]
        shown = self.at_exit.pending.valid
        window = next_window(
            inputs,
            cache.length,
            positions=positions,
            valid=shown if valid is None else jnp.minimum(valid, shown),
            mask=config.mask if mask is None else mask,
            known=known,
        )
        router_logits = self.at_exit.router_logits
        stream = replace(
            config.begin(params, inputs, window),
            hidden=self.at_exit.hidden[:, :size],
            router_logits=None if router_logits is None else router_logits[:, :size],
        )
        stream, _, pending = rest.through_blocks(
            self.halves.rest_params(params), inputs, cache, window, stream=stream
        )
        hidden = rest.normalise(params, stream)
        logits = logits_where(lambda at: rest.logits(params, at), hidden, logits_at)
        return Scored(hidden=hidden, logits=logits, taps={}), pending

    def commit(
        self, pending: Pending, n: Int[Array, "B"] | None = None, path: Int[Array, "B P"] | None = None
    ) -> Cache:
        """See `Decoder.commit`: the histories behind the exit."""
        return self.halves.rest.commit(pending, n, path)
