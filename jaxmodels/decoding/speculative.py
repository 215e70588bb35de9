"""Speculative decoding: a small model drafts, the model verifies the draft in one window."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, shown
from jaxmodels.decoding.acceptance import Acceptance, TokenVerification, draw
from jaxmodels.decoding.guesses import first_token, in_rows_that_run, settle
from jaxmodels.decoding.processors.chain import Processor, process
from jaxmodels.decoding.samplers import Greedy, Sampler
from jaxmodels.decoding.strategy import Output, Request, check_options, check_policy, has_choice, row_keys
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel, Pending
from jaxmodels.models.prefill import prefill
from jaxmodels.models.scored import NOWHERE


@dataclass(frozen=True, eq=False)
class Draft:
    """A model that drafts. A pytree: the configuration is static, the parameters are data."""

    config: LanguageModel
    params: Params = field(repr=False)


class HasParams(Protocol):
    """A configuration and its parameters, such as a `jaxmodels.Model`."""

    @property
    def config(self) -> LanguageModel: ...
    @property
    def params(self) -> Params: ...


def as_draft(value: Any) -> Draft | str:
    """The `Draft` of a model; a name stays one.

    Raises ValueError for anything else.
    """
    if isinstance(value, str) or is_traced(value):
        return value
    config: Any = getattr(value, "config", None)
    params: Any = getattr(value, "params", None)
    if not isinstance(config, LanguageModel) or not (isinstance(params, Mapping) or is_traced(params)):
        raise ValueError(
            f"draft must be a model, a Draft(config, params) or the name of a model, got {shown(value)}"
        )
    return value if isinstance(value, Draft) else Draft(config, dict(params))


@struct.dataclass
class SpeculativeCarry:
    """cache, draft_cache: all tokens but the newest. token: i32[B], the newest token of each row."""

    cache: Cache
    draft_cache: Cache
    token: jax.Array
    output: Output


@dataclass(frozen=True, kw_only=True, eq=False)
class Speculative:
    """Drafts `gamma` tokens per step and keeps those that `acceptance` accepts, per row.

    The output follows exactly the model's own distribution under `processors` and `sampler`, whatever the
    draft is; with `Greedy` it is that of `Autoregressive`, token for token. The draft proposes under the same
    two. Any two architectures with one vocabulary go together. processors, top_logprobs, prefill_window: see
    `Autoregressive`.

    draft: a model, a `Draft`, or the name of a model, which `Model.generate` loads.

    Raises:
        ValueError: a value outside its range; when run, a draft of another vocabulary.
    """

    draft: Draft | HasParams | str
    gamma: int = 4
    sampler: Sampler = Greedy()
    processors: tuple[Processor, ...] = ()
    acceptance: Acceptance = TokenVerification()
    top_logprobs: int | None = None
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        object.__setattr__(self, "draft", as_draft(self.draft))
        check_options(self, {"gamma": 1})
        check_policy("acceptance", self.acceptance, "outcomes", "TokenVerification()")

    @property
    def _draft(self) -> Draft:
        if not isinstance(self.draft, Draft):
            raise ValueError(f"draft {self.draft!r} is a name, which Model.generate loads; give a model here")
        return self.draft

    @property
    def lookahead(self) -> int:
        return self.gamma - 1

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> SpeculativeCarry:
        draft = self._draft
        if draft.config.vocab_size != config.vocab_size:
            raise ValueError(
                f"draft: its vocabulary has {draft.config.vocab_size} tokens and the model's "
                f"{config.vocab_size}; they must be the same"
            )
        (batch, slots), width = request.tokens.shape, output.tokens.shape[1]
        dtype = draft.config.dtype_of(draft.params)
        draft_cache = draft.config.init_cache(batch, slots + width + self.lookahead, dtype)
        _, draft_cache = prefill(
            draft.config, draft.params, request.tokens, request.lengths, draft_cache, self.prefill_window
        )
        token, cache, output = first_token(
            config, params, request, cache, output,
            sampler=self.sampler, processors=self.processors,
            top_logprobs=self.top_logprobs, prefill_window=self.prefill_window,
        )  # fmt: skip
        return SpeculativeCarry(cache=cache, draft_cache=draft_cache, token=token, output=output)

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: SpeculativeCarry
    ) -> SpeculativeCarry:
        output = carry.output
        keys = row_keys(request, output.lengths)
        window, proposed, draft_pending = self._propose(carry, request, keys)
        valid = in_rows_that_run(output, self.gamma + 1)
        scored, pending = config.peek(params, window, carry.cache, valid=valid, known=carry.cache.length + 1)
        scores = process(self.processors, scored.logits, request, output, window[:, 1:])
        chosen = has_choice(scores)
        target = self.sampler.probabilities(_finite(scores, chosen))
        outcomes = self.acceptance.outcomes(target, proposed, window[:, 1:])
        accepted, last = draw(outcomes, _fold(keys, self.gamma))
        # The verdict: the drafted tokens one place to the left, then the token that follows the accepted.
        tokens = jnp.where(jnp.arange(self.gamma + 1) == accepted[:, None], last[:, None], _shifted(window))
        count = jnp.minimum(accepted + 1, pending.valid)
        token, cache, output = settle(
            config, request, output, pending, tokens, count, scored.logits, chosen=chosen
        )
        draft_cache = self._draft.config.commit(draft_pending, count)
        return SpeculativeCarry(cache=cache, draft_cache=draft_cache, token=token, output=output)

    def _propose(
        self, carry: SpeculativeCarry, request: Request, keys: Array
    ) -> tuple[Int[Array, "B G+1"], Float[Array, "B G V"], Pending]:
        """The newest token and the draft behind it, each drafted token's distribution, and the draft
        model's view of the whole window.

        The draft grows inside one window that is looked at again for every token, so that no part of it is
        history before it is accepted: any draft model can then drop what was not.
        """
        config, params = self._draft.config, self._draft.params
        batch, size = carry.token.shape[0], self.gamma + 1
        window = jnp.zeros((batch, size), jnp.int32).at[:, 0].set(carry.token)
        proposed = jnp.zeros((batch, self.gamma, config.vocab_size), jnp.float32)

        def extend(i: Array, state: tuple[Array, Array, Cache]) -> tuple[Array, Array, Cache]:
            window, proposed, cache = state
            valid = in_rows_that_run(carry.output, i + 1)
            scored, pending = config.peek(
                params,
                window,
                cache,
                valid=valid,
                known=cache.length + 1,
                logits_at=jnp.full((batch, 1), i),
            )
            scores = process(self.processors, scored.logits, request, carry.output, window[:, 1:], first=i)
            logits = _finite(scores, has_choice(scores))[:, 0]
            token = self.sampler(logits, _fold(keys, i))
            window = lax.dynamic_update_slice_in_dim(window, token[:, None], i + 1, axis=1)
            distribution = self.sampler.probabilities(logits)
            proposed = lax.dynamic_update_slice_in_dim(proposed, distribution[:, None], i, axis=1)
            return window, proposed, config.commit(pending, jnp.zeros((batch,), jnp.int32))

        window, proposed, cache = lax.fori_loop(0, self.gamma, extend, (window, proposed, carry.draft_cache))
        valid = in_rows_that_run(carry.output, size)
        _, pending = config.peek(
            params, window, cache, valid=valid, known=cache.length + 1, logits_at=NOWHERE
        )
        return window, proposed, pending


jax.tree_util.register_dataclass(Draft, ["params"], ["config"])
jax.tree_util.register_dataclass(
    Speculative, ["draft", "sampler", "processors", "acceptance"], ["gamma", "top_logprobs", "prefill_window"]
)


def _fold(keys: Array, index: Array | int) -> Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)


def _finite(scores: Float[Array, "B S V"], chosen: Bool[Array, "B S"]) -> Float[Array, "B S V"]:
    """Scores that leave a choice as they are, others even: a guess must not spoil those before it."""
    return jnp.where(chosen[..., None], scores, 0.0)


def _shifted(window: Int[Array, "B S"]) -> Int[Array, "B S"]:
    return jnp.pad(window[:, 1:], ((0, 0), (0, 1)))
