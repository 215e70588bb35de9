"""Speculative decoding: tokens are drafted, and the model verifies all of them in one window."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced
from jaxmodels.decoding.acceptance import Acceptance, TokenVerification, draw, longest_agreement
from jaxmodels.decoding.draft_record import empty_record, recorded
from jaxmodels.decoding.draft_windows import even_without_choice, first_token, fold_keys, settle
from jaxmodels.decoding.drafters.drafter import (
    HIDDEN,
    LIMIT,
    STOP,
    Choosy,
    Drafter,
    DraftsOnCache,
    Obeying,
    Proposal,
    Round,
    Varying,
    Verdict,
)
from jaxmodels.decoding.drafters.model_drafter import Draft, HasParams, ModelDrafter, as_draft
from jaxmodels.decoding.lengths.length import DraftLength, Judging, Sharing
from jaxmodels.decoding.lengths.whole import Whole
from jaxmodels.decoding.processors.chain import Processor, process, process_tree
from jaxmodels.decoding.rungs import lengthened, run_rung, rungs
from jaxmodels.decoding.samplers import Greedy, Sampler
from jaxmodels.decoding.strategy import Output, Request, check_options, check_policy, has_choice, row_keys
from jaxmodels.decoding.trees import Tree, depths
from jaxmodels.layers.masks import CAUSAL, MaskLike
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel, Pending, WindowReader
from jaxmodels.models.scored import Scored
from jaxmodels.pytrees import register_dataclass

DRAFT_TOKENS_OF_A_MODEL = 4


@struct.dataclass
class SpeculativeCarry:
    """The loop state.

    Attributes:
        cache: all tokens but the newest.
        token: i32[B], the newest token of each row.
        output: what has been generated.
        drafts: the drafter's state.
        length: that of the draft length.
    """

    cache: Cache
    token: jax.Array
    output: Output
    drafts: Any
    length: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Speculative:
    """Drafts some tokens per step and keeps those that `acceptance` accepts, per row.

    The output follows exactly the model's own distribution under `processors` and `sampler`, whatever the
    draft is; with `Greedy` it is that of `Autoregressive`, token for token. The draft proposes under the same
    two.

    Attributes:
        draft: a model, a `Draft`, or the name of a model, which `Model.generate` loads: any architecture with
            the same vocabulary, see `ModelDrafter`. Or a `Drafter`, such as `PromptLookup()`.
        gamma: tokens that a model drafts per step, 4 where it is None. A `Drafter` has its own `size`.
        sampler, processors, top_logprobs, prefill_window: see `Autoregressive`.
        record_drafts: None to record nothing, n for the first n tokens of each draft, accepted or not, in the
            generation's `drafts`.
        length: how many of the drafter's tokens are drafted and verified in each round, by what the drafter
            obeys (`Obeying`).
        acceptance: which drafted tokens are kept where the sampler is not `Greedy`; with it, all rules keep
            the longest path that the model agrees with. `TypicalAcceptance` alone changes the distribution.

    Raises:
        ValueError: a value outside its range, `gamma` beside a `Drafter`, a length that the drafter does not
            obey; when run, a draft of another vocabulary, or a tree with an acceptance rule that does not
            take it.
    """

    draft: Draft | HasParams | str | Drafter | DraftsOnCache
    gamma: int | None = None
    length: DraftLength = Whole()
    sampler: Sampler = Greedy()
    processors: tuple[Processor, ...] = ()
    acceptance: Acceptance = TokenVerification()
    top_logprobs: int | None = None
    record_drafts: int | None = None
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        if _is_drafter(self.draft):
            if self.gamma is not None:
                raise ValueError(
                    f"gamma={self.gamma} is for a draft that is a model; tell {type(self.draft).__name__} "
                    "itself how many tokens to draft"
                )
        else:
            object.__setattr__(self, "draft", as_draft(self.draft))
        given = {name: 1 for name in ("gamma", "record_drafts") if getattr(self, name) is not None}
        check_options(self, given)
        check_policy("length", self.length, "limit", "Whole()")
        check_policy("acceptance", self.acceptance, "outcomes", "TokenVerification()")
        drafter = self.drafter
        self._check_length(drafter, drafter.obeys if isinstance(drafter, Obeying) else LIMIT)

    @property
    def drafter(self) -> Drafter | DraftsOnCache:
        """What drafts: `draft` itself, or the `ModelDrafter` of it."""
        draft: Any = self.draft
        if _is_drafter(draft):
            return draft
        return ModelDrafter(draft=draft, size=DRAFT_TOKENS_OF_A_MODEL if self.gamma is None else self.gamma)

    @property
    def lookahead(self) -> int:
        return self.drafter.size - 1

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> SpeculativeCarry:
        drafter = self.drafter
        if isinstance(drafter, Choosy):
            drafter.check_model(config)
        token, cache, output, taps = first_token(
            config, params, request, cache, output,
            sampler=self.sampler, processors=self.processors, top_logprobs=self.top_logprobs,
            prefill_window=self.prefill_window, taps=drafter.taps,
        )  # fmt: skip
        if self.record_drafts is not None:
            batch, most = output.tokens.shape
            output = replace(output, drafts=empty_record(batch, most, self.record_drafts))
        length = self.length.begin(request.tokens.shape[0])
        carry = SpeculativeCarry(cache=cache, token=token, output=output, drafts=None, length=length)
        return replace(carry, drafts=drafter.begin(self._round(config, params, request, carry), taps))

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: SpeculativeCarry
    ) -> SpeculativeCarry:
        drafter = self.drafter
        around = self._round(config, params, request, carry)
        reader: WindowReader = config
        cache = carry.cache
        if isinstance(drafter, DraftsOnCache):
            proposal, pending_drafts, reader, cache = drafter.propose_on(carry.drafts, around, cache)
        else:
            proposal, pending_drafts = drafter.propose(carry.drafts, around)
        if proposal.tree is not None:  # of a drafter that does not say what it obeys
            self._check_length(drafter, STOP)
        proposal = replace(proposal, count=jnp.minimum(proposal.count, around.limit))
        if isinstance(self.length, Sharing):
            proposal = replace(proposal, count=self.length.share(proposal))
        verdict = self._no_verdict(reader, around, proposal, cache)
        given = _Verified(cache, carry.token, carry.output, verdict)
        sizes = self._sizes(proposal)
        if len(sizes) == 1:
            verified = self._verify(reader, around, proposal, given)
        else:
            verified = run_rung(
                sizes,
                proposal,
                around.keys,
                lambda cut, keys, state: self._verify(reader, replace(around, keys=keys), cut, state),
                given,
            )
        verdict, cache = verified.verdict, verified.cache
        if isinstance(drafter, DraftsOnCache):
            drafts, cache = drafter.settle_on(pending_drafts, around, verdict, cache)
        else:
            drafts = drafter.settle(pending_drafts, around, verdict)
        accepted = jnp.maximum(verdict.count - 1, 0)
        length = self.length.update(carry.length, proposal.count, accepted)
        output = self._recorded(verified.output, carry.output, proposal, accepted)
        return SpeculativeCarry(
            cache=cache, token=verified.token, output=output, drafts=drafts, length=length
        )

    def _recorded(
        self, output: Output, before: Output, proposal: Proposal, accepted: Int[Array, "B"]
    ) -> Output:
        """The output with a proposal in its record of drafts, if it keeps one.

        Raises ValueError where the proposal is a tree.
        """
        if output.drafts is None:
            return output
        if proposal.tree is not None:
            raise ValueError(
                f"record_drafts={self.record_drafts} records chains, and draft={type(self.drafter).__name__}"
                "(...) drafts a tree; leave it out"
            )
        drafts = recorded(output.drafts, before.lengths, proposal.tokens, proposal.count, accepted)
        return replace(output, drafts=drafts)

    def _check_length(self, drafter: Drafter | DraftsOnCache, obeyed: frozenset[str]) -> None:
        """Raises ValueError where the length needs what is not obeyed."""
        if is_traced(self.length):
            return
        names = f"length={type(self.length).__name__}(...)", f"draft={type(drafter).__name__}(...)"
        if LIMIT & self.length.needs - obeyed:
            raise ValueError(
                f"{names[0]} shortens chains by how much of them was accepted, and {names[1]} drafts a tree "
                "or learns from all that it drafted; draft a chain by a model, a head or the text, or leave "
                "the length out"
            )
        if STOP & self.length.needs - obeyed:
            raise ValueError(
                f"{names[0]} ends drafts by the probability of their tokens, which {names[1]} does not ask "
                "about; draft with a model or a head, or choose another length"
            )
        if HIDDEN & self.length.needs - obeyed:
            raise ValueError(
                f"{names[0]} judges drafts by the hidden states of a model that drafts, which {names[1]} "
                "does not show; draft a chain with a second model, or choose another length"
            )

    def _sizes(self, proposal: Proposal) -> tuple[int, ...]:
        """How many draft tokens the windows have that this program is made for."""
        size, tree = proposal.tokens.shape[1], proposal.tree
        drafter: Any = self.drafter
        varies = self.length.varies or (isinstance(drafter, Varying) and drafter.varies)
        # Paths that were drafted independently are verified together.
        return rungs(size) if varies and (tree is None or tree.fork is None) else (size,)

    def _no_verdict(self, reader: WindowReader, around: Round, proposal: Proposal, cache: Cache) -> Verdict:
        """What a verdict on the whole proposal is as large as."""
        tree, (batch, size) = proposal.tree, proposal.tokens.shape
        path = jnp.zeros((batch, 1 + (size if tree is None else tree.depth)), jnp.int32)
        taps: dict[str, Array] = {}
        if self.drafter.taps:
            window = jnp.zeros((batch, size + 1), jnp.int32)
            shapes, _ = jax.eval_shape(lambda: self._peek(reader, around, proposal, window, cache))
            taps = {name: jnp.zeros(tap.shape, tap.dtype) for name, tap in shapes.taps.items()}
        return Verdict(
            path=path,
            count=jnp.zeros((batch,), jnp.int32),
            tokens=path,
            choices=jnp.zeros((batch, size + 1), jnp.int32),
            taps=taps,
        )

    def _verify(
        self, reader: WindowReader, around: Round, proposal: Proposal, given: "_Verified"
    ) -> "_Verified":
        """Scores the proposal in one window, emits and settles what is accepted of it."""
        window = jnp.concatenate([given.token[:, None], proposal.tokens], axis=1)
        scored, pending = self._peek(reader, around, proposal, window, given.cache)
        scores = self._process(around, proposal, scored.logits)
        chosen = has_choice(scores)
        choices = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        most = given.verdict.choices.shape[1]
        node, last = self._accept(around, proposal, even_without_choice(scores, chosen), choices, most)
        path, length = _path(proposal.tree, node, window)
        # What follows each token of the path: the next one of it, and behind the last accepted one `last`.
        place = jnp.arange(path.shape[1])
        following = jnp.pad(jnp.take_along_axis(window, path, axis=1)[:, 1:], ((0, 0), (0, 1)))
        tokens = jnp.where(place == length[:, None] - 1, last[:, None], following)
        # Draft tokens that the model could not be shown yet do not become history.
        count = ((place < length[:, None]) & (path < pending.valid[:, None])).sum(1, dtype=jnp.int32)
        logits = scored.logits
        if proposal.tree is not None:
            chosen = jnp.take_along_axis(chosen, path, axis=1)
            logits = jnp.take_along_axis(logits, path[:, :, None], axis=1)
        token, cache, output = settle(
            reader, around.request, given.output, pending, tokens, count, logits,
            chosen=chosen, drafted=proposal.count, path=None if proposal.tree is None else path,
        )  # fmt: skip
        verdict = Verdict(path=path, count=count, tokens=tokens, choices=choices, taps=scored.taps)
        return _Verified(cache, token, output, lengthened(verdict, given.verdict))

    def _round(
        self, config: LanguageModel, params: Params, request: Request, carry: SpeculativeCarry
    ) -> Round:
        return Round(
            config=config,
            params=params,
            request=request,
            output=carry.output,
            token=carry.token,
            sampler=self.sampler,
            processors=self.processors,
            keys=row_keys(request, carry.output.lengths),
            prefill_window=self.prefill_window,
            limit=self.length.limit(carry.length, self.drafter.size),
            stop=functools.partial(self.length.stop, carry.length),
            judge=self._judge(),
        )

    def _judge(self) -> Any:
        """See `Round.judge`."""
        if isinstance(self.length, Judging) and HIDDEN & self.length.needs:
            return self.length.judge
        return None

    def _peek(
        self,
        reader: WindowReader,
        around: Round,
        proposal: Proposal,
        window: Int[Array, "B S"],
        cache: Cache,
    ) -> tuple[Scored, Pending]:
        """The model's view of the newest token and the draft tokens behind it."""
        mask: MaskLike = CAUSAL
        positions = None
        if proposal.tree is not None:
            mask = proposal.tree.ancestors()
            positions = cache.length[:, None] + depths(mask)
        return reader.peek(
            around.params,
            window,
            cache,
            positions=positions,
            mask=mask,
            valid=jnp.where(around.output.done, 0, 1 + proposal.count),
            known=cache.length + 1,
            taps=self.drafter.taps,
        )

    def _process(
        self, around: Round, proposal: Proposal, logits: Float[Array, "B S V"]
    ) -> Float[Array, "B S V"]:
        """The logits behind all processors, of which each sees the draft tokens that lead to its token."""
        given = self.processors, logits, around.request, around.output, proposal.tokens
        return process(*given) if proposal.tree is None else process_tree(*given, proposal.tree)

    def _accept(
        self,
        around: Round,
        proposal: Proposal,
        scores: Float[Array, "B S V"],
        choices: Int[Array, "B S"],
        most: int,
    ) -> tuple[Int[Array, "B"], Int[Array, "B"]]:
        """The last window token that is accepted, and what follows it.

        `most` is the size of the longest window: what is drawn does not depend on which one is run.
        """
        drafted, tree = proposal.tokens, proposal.tree
        if isinstance(self.sampler, Greedy):  # no distribution over the vocabulary is made
            node = longest_agreement(choices, drafted, proposal.count, tree)
            return node, jnp.take_along_axis(choices, node[:, None], axis=1)[:, 0]
        draft = proposal.distributions
        if not drafted.shape[1]:  # the rules are asked about one token at least, which is not there
            drafted = jnp.zeros((drafted.shape[0], 1), jnp.int32)
            scores = jnp.broadcast_to(scores, (*scores.shape[:1], 2, scores.shape[2]))
            draft = None
        if draft is None:
            draft = jax.nn.one_hot(drafted, scores.shape[-1])
        is_there = jnp.arange(drafted.shape[1]) < proposal.count[:, None]
        target, draft = self.sampler.probabilities(scores), jnp.where(is_there[:, :, None], draft, 0.0)
        outcomes = self.acceptance.outcomes(target, draft, drafted, tree)
        return draw(outcomes, fold_keys(around.keys, most - 1), most)


@struct.dataclass
class _Verified:
    """What a window changes: the cache, the newest token, the output, and the verdict on its draft."""

    cache: Cache
    token: jax.Array
    output: Output
    verdict: Verdict


def _is_drafter(draft: Any) -> bool:
    if is_traced(draft) or isinstance(draft, type):
        return False
    return hasattr(draft, "propose") or hasattr(draft, "propose_on")


def _path(
    tree: Tree | None, node: Int[Array, "B"], window: Int[Array, "B S"]
) -> tuple[Int[Array, "B P"], Int[Array, "B"]]:
    """The window tokens from the newest one to `node`, and how many they are."""
    if tree is None:
        return jnp.broadcast_to(jnp.arange(window.shape[1]), window.shape), node + 1
    depth = jnp.take_along_axis(depths(tree.ancestors()), node[:, None], axis=1)[:, 0]
    return tree.path_to(node), depth + 1


register_dataclass(
    Speculative,
    ["draft", "length", "sampler", "processors", "acceptance"],
    ["gamma", "top_logprobs", "record_drafts", "prefill_window"],
)
