"""A parallel EAGLE-3 head as the drafter of a chain: one pass over the model's features for all tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import shown, whole
from jaxmodels.decoding.drafters.drafter import LIMIT, STOP, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.feature_drafter import DRAFT_TOKENS, check_head
from jaxmodels.decoding.drafters.feature_state import FeatureState, begin_state, choose_chain, next_state
from jaxmodels.layers.spec import Params
from jaxmodels.models.draft_heads.eagle3 import Eagle3
from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.models.draft_heads.history import History, rewound
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class PEagleDrafter:
    """A chain of `size` tokens from one pass of a parallel `Eagle3`, under the same sampler and processors.

    The pass reads the pairs of all tokens that were accepted before, which predict the first token, and one
    pair of the head's mask for each further token. These see the pairs before them, so that the mask is
    causal; they are taken back from the history after the pass.

    Attributes:
        head: the head; it has a `mask_token`.
        params: the head's.
        token_ids: i32[W], the model's number of each token that the head knows; None where both are the same.
        size: tokens drafted per round. The head predicts further than it was trained for, but badly.

    Raises:
        ValueError: the head is none that drafts in parallel, `size` is below 1, or parameters are not those
            of the head; when run, a head for another model.
    """

    head: Eagle3
    params: Params = field(repr=False)
    token_ids: jax.Array | None = field(default=None, repr=False)
    size: int = DRAFT_TOKENS
    obeys: ClassVar[frozenset[str]] = LIMIT | STOP

    def __post_init__(self) -> None:
        if not isinstance(self.head, Eagle3):
            raise ValueError(f"head must be an Eagle3 with a mask_token, got {shown(self.head)}")
        if self.head.mask_token is None:
            raise ValueError(
                "head: an Eagle3 with mask_token=None was not trained to draft in parallel; FeatureDrafter "
                "drafts with it"
            )
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
        mask_token, mask_feature = self.head.mask_token, self.head.mask_feature(self.params)
        assert mask_token is not None
        masks, count = self.size - 1, jnp.where(around.output.done, 0, state.count)
        tokens = jnp.pad(state.tokens, ((0, 0), (0, masks)))
        features = jnp.pad(state.features, ((0, 0), (0, masks), (0, 0)))
        is_true = jnp.arange(tokens.shape[1]) < count[:, None]
        newest = jnp.maximum(count - 1, 0)[:, None]
        predicted, history = self.head.extend(
            self.params,
            Target(around.config, around.params),
            jnp.where(is_true, tokens, mask_token),
            jnp.where(is_true[..., None], features, mask_feature.astype(features.dtype)),
            state.history,
            valid=jnp.where(around.output.done, 0, count + masks),
            logits_at=newest + jnp.arange(self.size),
        )
        assert predicted.logits is not None
        proposal = choose_chain(around, predicted.logits, self.token_ids)
        return proposal, rewound(history, state.history.length + count)

    def settle(self, pending: History, around: Round, verdict: Verdict) -> FeatureState:
        return next_state(self.head, self.params, pending, verdict, self.size + 1)


register_dataclass(PEagleDrafter, ["params", "token_ids"], ["head", "size"])
