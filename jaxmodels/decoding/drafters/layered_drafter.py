"""Several modules for multi-token prediction as a drafter: each drafts one token, the last one all beyond.

Module k reads, at place i, what module k - 1 made there and token i + 1 + k. So at the last k places it reads
tokens that are only drafted. These places are read anew in the next round, by all modules, with the target's
features of them, which are kept for that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeAlias

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.draft_windows import in_rows_that_run
from jaxmodels.decoding.drafters.chains import Chain, empty_chain, proposal_of, with_token
from jaxmodels.decoding.drafters.drafter import LIMIT, STOP, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.feature_drafter import check_head
from jaxmodels.decoding.drafters.feature_state import choose_token
from jaxmodels.layers.spec import Params, filled
from jaxmodels.layers.window import take_path
from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.models.draft_heads.history import History, empty_history, rewound
from jaxmodels.models.draft_heads.mtp import MTPHead, MTPModule
from jaxmodels.models.scored import NOWHERE, LogitsAt
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class LayeredState:
    """What the modules know between rounds.

    Attributes:
        histories: of each module, the places at which all of them have read known tokens alone.
        tokens: i32[B, P], the token behind each place that is yet to be read, or to be read again.
        features: [B, P, D], the target's features of these places.
        count: i32[B], how many these are.
    """

    histories: tuple[History, ...]
    tokens: jax.Array
    features: jax.Array
    count: jax.Array


# The number of the next token, the hidden state behind the last one, the draft and the last module's history.
_DraftingOn: TypeAlias = tuple[Array, Array, Chain, History]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayeredDrafter:
    """A chain of `size` tokens, one by each module and the others by the last one.

    A token costs a window of its module, over what was accepted before and as many places more as there are
    further modules; those beyond the modules cost one step.

    Attributes:
        head, params: the modules and their parameters.
        size: tokens drafted per round.

    Raises:
        ValueError: `size` is below 1, or parameters are not those of the head; when run, a head for another
            model.
    """

    head: MTPHead
    params: Params = field(repr=False)
    size: int = 3
    obeys: ClassVar[frozenset[str]] = LIMIT | STOP

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", whole("size", self.size, low=1))
        check_head(self.head, self.params, None)

    @property
    def taps(self) -> tuple[str, ...]:
        return self.head.taps

    @property
    def modules(self) -> tuple[MTPModule, ...]:
        """Those that draft: no more than there are tokens."""
        return self.head.modules[: self.size]

    @property
    def again(self) -> int:
        """How many places are read again at most."""
        return len(self.modules) - 1

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> LayeredState:
        """The state behind the prompts: all places are read at which no module needs the newest token."""
        self.head.check_target(around.config)
        features = self.head.features(self.params, taps)
        lengths, (batch, slots) = around.request.lengths, around.request.tokens.shape
        capacity = slots + around.output.tokens.shape[1] + 2 * self.size + 1 + self.again
        histories = tuple(
            filled(empty_history(module.blocks, batch, capacity), features.dtype) for module in self.modules
        )
        following = jnp.roll(around.request.tokens, -1, axis=1)
        last = jnp.maximum(lengths - 1, 0)
        following = following.at[jnp.arange(batch), last].set(around.token)
        count = jnp.minimum(lengths, self.again + 1)
        histories = self._read_prompts(around, following, features, lengths - count, histories)
        unread = (lengths - count)[:, None] + jnp.arange(self.again + self.size + 1)
        unread = jnp.minimum(unread, slots - 1)
        return LayeredState(
            histories=histories,
            tokens=take_path(following, unread),
            features=take_path(features, unread),
            count=count,
        )

    def propose(self, state: LayeredState, around: Round) -> tuple[Proposal, LayeredState]:
        """What is pending is the state, its histories without what was read of drafted tokens."""
        target = Target(around.config, around.params)
        drafted = empty_chain(around, self.size)
        valid = in_rows_that_run(around.output, state.count)
        last = jnp.maximum(state.count - 1, 0)[:, None]
        hidden, histories = state.features, list(state.histories)
        for k in range(len(self.modules)):
            following = _following(state, drafted.tokens, k)
            hidden, logits, histories[k] = self._read(
                k, target, following, hidden, histories[k], valid, logits_at=last
            )
            assert logits is not None
            drafted = _add(around, k, logits[:, 0], drafted)
        drafted, histories[-1] = self._draft_on(
            target, around, take_path(hidden, last), drafted, histories[-1]
        )
        known = state.histories[0].length + jnp.maximum(valid - self.again, 0)
        return proposal_of(drafted), replace(
            state, histories=tuple(rewound(history, known) for history in histories)
        )

    def settle(self, pending: LayeredState, around: Round, verdict: Verdict) -> LayeredState:
        """The places that are read again, and behind them those of the accepted tokens."""
        again = jnp.minimum(pending.count, self.again)
        place = jnp.arange(pending.tokens.shape[1]) - again[:, None]
        old = jnp.clip(place + pending.count[:, None], 0, pending.tokens.shape[1] - 1)
        new = jnp.clip(place, 0, verdict.path.shape[1] - 1)
        is_old, path = place < 0, take_path(verdict.path, new)
        features = self.head.features(
            self.params, {name: take_path(tap, path) for name, tap in verdict.taps.items()}
        )
        return LayeredState(
            histories=pending.histories,
            tokens=jnp.where(is_old, take_path(pending.tokens, old), take_path(verdict.tokens, new)),
            features=jnp.where(is_old[:, :, None], take_path(pending.features, old), features),
            count=again + verdict.count,
        )

    def _read_prompts(
        self,
        around: Round,
        following: Int[Array, "B S"],
        features: Float[Array, "B S D"],
        places: Int[Array, "B"],
        histories: tuple[History, ...],
    ) -> tuple[History, ...]:
        """The histories with the first `places` of the prompts, read in windows as the model was."""
        target = Target(around.config, around.params)
        width = min(following.shape[1], around.prefill_window)

        def part(whole: Array, start: Array | int) -> Array:
            return lax.dynamic_slice_in_dim(whole, start, width, axis=1)

        def read(index: Array | int, histories: tuple[History, ...]) -> tuple[History, ...]:
            start = index * width
            valid, hidden, longer = jnp.clip(places - start, 0, width), part(features, start), []
            for k in range(len(self.modules)):
                tokens = part(jnp.roll(following, -k, axis=1), start)
                hidden, _, read_on = self._read(
                    k, target, tokens, hidden, histories[k], valid, logits_at=NOWHERE
                )
                longer.append(read_on)
            return tuple(longer)

        return lax.fori_loop(0, -(-jnp.max(places) // width), read, histories)

    def _read(
        self,
        k: int,
        target: Target,
        tokens: Int[Array, "B S"],
        hidden: Float[Array, "B S D"],
        history: History,
        valid: Int[Array, "B"],
        *,
        logits_at: LogitsAt,
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B P V"] | None, History]:
        """What module k makes of some places, and its scores: (hidden, logits, history)."""
        predicted, history = self.modules[k].extend(
            self.params["modules"][str(k)], target, tokens, hidden, history, valid=valid, logits_at=logits_at
        )
        return predicted.features, predicted.logits, history

    def _draft_on(
        self,
        target: Target,
        around: Round,
        hidden: Float[Array, "B 1 D"],
        drafted: Chain,
        history: History,
    ) -> tuple[Chain, History]:
        """The tokens beyond the modules, by the last one, which is given what it made itself."""
        last = len(self.modules) - 1

        def step(state: _DraftingOn) -> _DraftingOn:
            index, hidden, drafted, history = state
            token = lax.dynamic_slice_in_dim(drafted.tokens, index - 1, 1, axis=1)
            hidden, logits, history = self._read(
                last,
                target,
                token,
                hidden,
                history,
                drafted.goes_on.astype(jnp.int32),
                logits_at=jnp.zeros_like(token),
            )
            assert logits is not None
            return index + 1, hidden, _add(around, index, logits[:, 0], drafted), history

        begin = (jnp.asarray(len(self.modules)), hidden, drafted, history)
        _, _, drafted, history = lax.while_loop(
            lambda state: (state[0] < self.size) & state[2].goes_on.any(), step, begin
        )
        return drafted, history


def _following(state: LayeredState, drafted: Int[Array, "B G"], k: int) -> Int[Array, "B P"]:
    """The token k + 1 places behind each place: a known one, or behind those a drafted one."""
    size, count = state.tokens.shape[1], state.count[:, None]
    behind = jnp.arange(size) + k
    behind = jnp.where(behind < count, behind, size + behind - count)
    return take_path(
        jnp.concatenate([state.tokens, drafted], axis=1), jnp.clip(behind, 0, size + drafted.shape[1] - 1)
    )


def _add(around: Round, index: Array | int, logits: Float[Array, "B V"], drafted: Chain) -> Chain:
    """The draft with one token more."""
    chosen = choose_token(around, index, logits, drafted.tokens, None)
    return with_token(around, drafted, index, chosen)


register_dataclass(LayeredDrafter, ["params"], ["head", "size"])
