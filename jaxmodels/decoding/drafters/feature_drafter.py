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
from jaxmodels.decoding.drafters.drafter import LIMIT, STOP, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.feature_state import (
    FeatureState,
    begin_state,
    choose_token,
    next_state,
    read_all,
)
from jaxmodels.decoding.samplers import Greedy
from jaxmodels.layers.spec import Params, check_params
from jaxmodels.models.draft_heads.feature_head import FeatureHead, KnowsTokens, Target
from jaxmodels.models.draft_heads.history import History, rewound
from jaxmodels.pytrees import register_dataclass

DRAFT_TOKENS = 4


@struct.dataclass
class _Chain:
    """What has been drafted so far.

    Attributes:
        index: i32[], how many tokens the longest row has.
        tokens: i32[B, G].
        count: i32[B], how many of them are there.
        goes_on: bool[B], whether one more is drafted.
        feature: [B, F], what stands for the last one's.
        history: the head's, with a pair for each drafted token but the last.
        distributions: f32[B, G, V], what tokens were drawn from; None where they are certain.
    """

    index: jax.Array
    tokens: jax.Array
    count: jax.Array
    goes_on: jax.Array
    feature: jax.Array
    history: History
    distributions: jax.Array | None


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
        batch, target = around.token.shape[0], Target(around.config, around.params)
        distributions = None
        if not isinstance(around.sampler, Greedy):
            distributions = jnp.zeros((batch, self.size, around.config.vocab_size), jnp.float32)

        def step(chain: _Chain) -> _Chain:
            token = lax.dynamic_slice_in_dim(chain.tokens, chain.index - 1, 1, axis=1)
            predicted, history = self.head.extend(
                self.params,
                target,
                token,
                chain.feature[:, None],
                chain.history,
                valid=chain.goes_on.astype(jnp.int32),
            )
            assert predicted.logits is not None
            chain = replace(chain, feature=predicted.features[:, 0], history=history)
            return self._with_token(around, chain, predicted.logits[:, 0])

        chain = _Chain(
            index=jnp.zeros((), jnp.int32),
            tokens=jnp.zeros((batch, self.size), jnp.int32),
            count=jnp.zeros((batch,), jnp.int32),
            goes_on=~around.output.done & (around.limit > 0),
            feature=read.feature,
            history=read.history,
            distributions=distributions,
        )
        chain = lax.while_loop(
            lambda chain: (chain.index < self.size) & chain.goes_on.any(),
            step,
            self._with_token(around, chain, read.logits),
        )
        proposal = Proposal(tokens=chain.tokens, count=chain.count, distributions=chain.distributions)
        return proposal, rewound(chain.history, read.history.length)

    def _with_token(self, around: Round, chain: _Chain, logits: Float[Array, "B W"]) -> _Chain:
        """The chain with one more token, which the logits are of."""

        def put(whole: Array, level: Array) -> Array:
            return lax.dynamic_update_slice_in_dim(whole, level[:, None], chain.index, axis=1)

        chosen = choose_token(around, chain.index, logits, chain.tokens, self.token_ids)
        distributions = chain.distributions
        if distributions is not None and chosen.distribution is not None:
            distributions = put(distributions, chosen.distribution)
        count = chain.count + chain.goes_on
        stopped = around.stop(chain.index, chosen.probability)
        return replace(
            chain,
            index=chain.index + 1,
            tokens=put(chain.tokens, chosen.token),
            count=count,
            goes_on=chain.goes_on & ~stopped & (count < around.limit),
            distributions=distributions,
        )

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
