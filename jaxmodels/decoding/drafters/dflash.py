"""A DFlash head as the drafter of a chain: one pass over the model's own features for all of its tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.checks import shown, whole
from jaxmodels.decoding.draft_windows import in_rows_that_run
from jaxmodels.decoding.drafters.chains import Chain, empty_chain, proposal_of, with_token
from jaxmodels.decoding.drafters.drafter import LIMIT, STOP, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.feature_drafter import check_head
from jaxmodels.decoding.drafters.feature_state import choose_token
from jaxmodels.layers.spec import Params
from jaxmodels.models.draft_heads.dflash import DFlash, DFlashCache
from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class DFlashDrafter:
    """A chain of `size` tokens from one pass of a `DFlash` head, whatever their number.

    The pass gives every slot of the block its logits at once. From these the tokens are chosen one after
    another, under the model's sampler and processors, each by the head's `SlotChoice` if it has one. The
    draft length (`Speculative.length`) is told how sure the head is of each token: by its confidence where it
    has one, else by the token's probability.

    Attributes:
        head: the network.
        params: the head's.
        token_ids: i32[W], the model's number of each token that the head knows; None where both are the same.
        size: tokens drafted per round, by default as many as the head was trained for.

    Raises:
        ValueError: a size outside 1 to ``head.size``, or parameters that are not those of the head; when run,
            a head for another model.
    """

    head: DFlash
    params: Params = field(repr=False)
    token_ids: jax.Array | None = field(default=None, repr=False)
    size: int = None  # type: ignore[assignment]  # a number once made
    obeys: ClassVar[frozenset[str]] = LIMIT | STOP

    def __post_init__(self) -> None:
        if not isinstance(self.head, DFlash):
            raise ValueError(f"head must be a DFlash, got {shown(self.head)}")
        size = self.head.size if self.size is None else whole("size", self.size, low=1, high=self.head.size)
        object.__setattr__(self, "size", size)
        check_head(self.head, self.params, self.token_ids)

    @property
    def taps(self) -> tuple[str, ...]:
        return self.head.taps

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> DFlashCache:
        """The state is what the head keeps of the features of all tokens but the newest."""
        self.head.check_target(around.config)
        (batch, slots), width = around.request.tokens.shape, around.output.tokens.shape[1]
        capacity = slots + width + self.size + self.head.slots(self.size)
        cache = self.head.init_cache(batch, capacity, self.params["fc"]["weight"].dtype)
        return self._keep(cache, taps, around.request.lengths)

    def propose(self, state: DFlashCache, around: Round) -> tuple[Proposal, DFlashCache]:
        slots, target = self.head.slots(self.size), Target(around.config, around.params)
        block = jnp.full((around.token.shape[0], slots), self.head.mask_token, jnp.int32)
        embedded = self.head.embed(self.params, target, block.at[:, 0].set(around.token))
        hidden, state = self.head.peek(self.params, embedded, state, in_rows_that_run(around.output, slots))
        hidden = hidden[:, slots - self.size :]
        return self._chosen(around, self.head.logits(self.params, target, hidden), hidden), state

    def settle(self, pending: DFlashCache, around: Round, verdict: Verdict) -> DFlashCache:
        return self._keep(pending, verdict.taps, verdict.count)

    def _keep(
        self, cache: DFlashCache, taps: Mapping[str, Float[Array, "B S D"]], count: Int[Array, "B"]
    ) -> DFlashCache:
        return self.head.keep(self.params, self.head.features(self.params, taps), cache, count)

    def _chosen(
        self, around: Round, logits: Float[Array, "B G W"], hidden: Float[Array, "B G D"]
    ) -> Proposal:
        """The tokens of all slots, one after another."""
        choice = self.head.choice

        def step(drafts: _Drafts, slot: Any) -> tuple[_Drafts, None]:
            i, logits, hidden = slot
            state = drafts.choice
            if choice is not None:
                logits, state = choice(self.params["choice"], logits, hidden, drafts.before, state)
            chosen = choose_token(around, i, logits, drafts.chain.tokens, self.token_ids)
            sure = None
            if self.head.confidence is not None:
                sure = jax.nn.sigmoid(self.head.confidence_logits(self.params, hidden, drafts.before))
            drafts = _Drafts(
                chain=with_token(around, drafts.chain, i, chosen, sure),
                before=chosen.token,
                choice=state,
            )
            return drafts, None

        first = _Drafts(
            chain=empty_chain(around, self.size),
            before=around.token,
            choice=() if choice is None else choice.begin(hidden[:, 0]),
        )
        slots = jnp.arange(self.size), jnp.swapaxes(logits, 0, 1), jnp.swapaxes(hidden, 0, 1)
        drafts, _ = lax.scan(step, first, slots)
        return proposal_of(drafts.chain)


@struct.dataclass
class _Drafts:
    """What has been drafted of a block so far.

    Attributes:
        chain: the tokens.
        before: i32[B], the token in front of the next slot.
        choice: the state of the head's `SlotChoice`.
    """

    chain: Chain
    before: jax.Array
    choice: Any


register_dataclass(DFlashDrafter, ["params", "token_ids"], ["head", "size"])
