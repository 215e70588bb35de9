"""Early exit by a draft's candidates: a second model names a few tokens, and exits look at those alone."""

from dataclasses import dataclass, replace
from typing import Any

from flax import struct
from jax import lax

from jaxmodels.checks import is_traced, shown
from jaxmodels.decoding.adaptive_depth import AdaptiveDepth
from jaxmodels.decoding.autoregressive import Autoregressive, AutoregressiveCarry
from jaxmodels.decoding.depth.confidence import CandidateConfidence
from jaxmodels.decoding.depth.until_confident import UntilConfident
from jaxmodels.decoding.drafters.model_drafter import (
    Draft,
    HasParams,
    as_draft,
    check_same_vocabulary,
    loaded,
)
from jaxmodels.decoding.strategy import Output, Request, check_policy
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.models.prefill import prefill
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class SpeculativeExitCarry:
    """The loop state.

    Attributes:
        decoding: of the model's own decoding.
        drafts: the draft's cache: all tokens but the newest.
    """

    decoding: AutoregressiveCarry
    drafts: Cache

    @property
    def cache(self) -> Cache:
        return self.decoding.cache

    @property
    def output(self) -> Output:
        return self.decoding.output


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeculativeExit:
    """`decode`, with each token leaving where a predictor trusts one of the draft's candidates (SpecEE).

    Each step the draft reads the newest token and names its most probable successors; see
    `CandidateConfidence` for what is made of them. Nothing is verified by the blocks that are left.

    Attributes:
        draft: a small model of the same vocabulary, a `Draft`, or the name of a model, which
            `Model.generate` loads.
        depth: an `UntilConfident` whose confidence is a `CandidateConfidence`; or the directory or name of a
            trained one, see `jaxmodels.load_depth`.
        decode: how the next token is picked.

    Raises:
        ValueError: an option of another kind; when run, a draft of another vocabulary, or a policy that does
            not fit the model.
    """

    draft: Draft | HasParams | str
    depth: UntilConfident | str
    decode: Autoregressive = Autoregressive()

    def __post_init__(self) -> None:
        object.__setattr__(self, "draft", as_draft(self.draft))
        check_policy("decode", self.decode, "advance", "Autoregressive()")
        if not isinstance(self.depth, str) and not is_traced(self.depth):
            confidence = getattr(self.depth, "confidence", None)
            if not is_traced(confidence) and not isinstance(confidence, CandidateConfidence):
                raise ValueError(
                    "depth must be an UntilConfident whose confidence is a CandidateConfidence, got "
                    f"{shown(self.depth)}"
                )

    @property
    def prefill_window(self) -> int:
        return self.decode.prefill_window

    @property
    def lookahead(self) -> int:
        return 0

    @property
    def _at_depth(self) -> AdaptiveDepth:
        return AdaptiveDepth(depth=self.depth, decode=self.decode)

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> SpeculativeExitCarry:
        draft = loaded(self.draft)
        check_same_vocabulary(draft, config)
        (batch, slots), width = request.tokens.shape, output.tokens.shape[1]
        drafts = draft.config.init_cache(batch, slots + width, draft.config.dtype_of(draft.params))
        _, drafts = prefill(
            draft.config, draft.params, request.tokens, request.lengths, drafts, self.prefill_window
        )
        decoding = self._at_depth.prefill(config, params, request, cache, output)
        return SpeculativeExitCarry(decoding=decoding, drafts=drafts)

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: SpeculativeExitCarry
    ) -> SpeculativeExitCarry:
        draft, decoding = loaded(self.draft), carry.decoding
        policy: Any = self._at_depth.policy
        scored, pending = draft.config.peek(
            draft.params,
            decoding.token[:, None],
            carry.drafts,
            valid=(~decoding.output.done).astype("int32"),
        )
        candidates = lax.top_k(scored.logits, policy.confidence.count)[1]
        told = replace(policy, confidence=replace(policy.confidence, candidates=candidates))
        after = replace(self._at_depth, depth=told).step(config, params, request, decoding)
        return SpeculativeExitCarry(decoding=after, drafts=draft.config.commit(pending))


register_dataclass(SpeculativeExit, ["draft", "depth", "decode"], [])
