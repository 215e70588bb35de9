"""A head on features of the model as the drafter of a chain: EAGLE-3, or an MTP module that is run again."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.drafters.chains import Chain, empty_chain, proposal_of, with_token
from jaxmodels.decoding.drafters.drafter import LIMIT, STOP, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.feature_state import (
    FeatureState,
    begin_state,
    choose_token,
    next_state,
    read_all,
)
from jaxmodels.layers.spec import Params, check_params
from jaxmodels.models.draft_heads.feature_head import FeatureHead, KnowsTokens, Target
from jaxmodels.models.draft_heads.history import History, rewound
from jaxmodels.pytrees import register_dataclass

DRAFT_TOKENS = 4


@struct.dataclass
class _Drafting:
    """What has been drafted so far, and the head behind it.

    Attributes:
        index: i32[], how many tokens the longest row has.
        drafted: the tokens.
        feature: [B, F], what stands for the last one's.
        history: the head's, with a pair for each drafted token but the last.
    """

    index: jax.Array
    drafted: Chain
    feature: jax.Array
    history: History


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureDrafter:
    """A chain of `size` tokens by a head on the model's features, under the same sampler and processors.

    Each token costs one step of the head; that of the first reads all tokens that were accepted before.

    Attributes:
        head: which reads features and tokens, such as an `Eagle3`.
        params: the head's.
        token_ids: i32[W], the model's number of each token that the head knows; None where both are the same.
        size: tokens drafted per round.

    Raises:
        ValueError: `size` is below 1, or parameters are not those of the head; when run, a head for another
            model.
    """

    head: FeatureHead
    params: Params = field(repr=False)
    token_ids: jax.Array | None = field(default=None, repr=False)
    size: int = DRAFT_TOKENS
    obeys: ClassVar[frozenset[str]] = LIMIT | STOP

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", whole("size", self.size, low=1))
        check_head(self.head, self.params, self.token_ids)

    @property
    def taps(self) -> tuple[str, ...]:
        return self.head.taps

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> FeatureState:
        return begin_state(
            self.head, self.params, around, taps, room=2 * self.size + 1, longest=self.size + 1
        )

    def propose(self, state: FeatureState, around: Round) -> tuple[Proposal, History]:
        """What is pending is the history of true pairs."""
        read = read_all(self.head, self.params, around, state)
        target = Target(around.config, around.params)

        def step(drafting: _Drafting) -> _Drafting:
            token = lax.dynamic_slice_in_dim(drafting.drafted.tokens, drafting.index - 1, 1, axis=1)
            predicted, history = self.head.extend(
                self.params,
                target,
                token,
                drafting.feature[:, None],
                drafting.history,
                valid=drafting.drafted.goes_on.astype(jnp.int32),
            )
            assert predicted.logits is not None
            drafting = replace(drafting, feature=predicted.features[:, 0], history=history)
            return self._with_token(around, drafting, predicted.logits[:, 0])

        drafting = _Drafting(
            index=jnp.zeros((), jnp.int32),
            drafted=empty_chain(around, self.size),
            feature=read.feature,
            history=read.history,
        )
        drafting = lax.while_loop(
            lambda drafting: (drafting.index < self.size) & drafting.drafted.goes_on.any(),
            step,
            self._with_token(around, drafting, read.logits),
        )
        return proposal_of(drafting.drafted), rewound(drafting.history, read.history.length)

    def _with_token(self, around: Round, drafting: _Drafting, logits: Float[Array, "B W"]) -> _Drafting:
        """The chain with one more token, which the logits are of."""
        chosen = choose_token(around, drafting.index, logits, drafting.drafted.tokens, self.token_ids)
        drafted = with_token(around, drafting.drafted, drafting.index, chosen)
        return replace(drafting, index=drafting.index + 1, drafted=drafted)

    def settle(self, pending: History, around: Round, verdict: Verdict) -> FeatureState:
        return next_state(self.head, self.params, pending, verdict, self.size + 1)


def check_head(head: KnowsTokens, params: Params, token_ids: jax.Array | None) -> None:
    """Raises ValueError where parameters are not those of a head, or it predicts another number of tokens."""
    if any(map(is_traced, jax.tree.leaves((params, token_ids)))) or is_traced(params):
        return
    check_params(head.spec(), params)
    if token_ids is not None and token_ids.shape != (head.vocab_size,):
        raise ValueError(
            f"token_ids must be i32[{head.vocab_size}], a number for each token of the head's vocabulary, "
            f"got {token_ids.dtype}{list(token_ids.shape)}"
        )


register_dataclass(FeatureDrafter, ["params", "token_ids"], ["head", "size"])
