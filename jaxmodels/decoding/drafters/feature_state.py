"""What drafters with a `FeatureHead` keep: the pairs that the head has read, and those it has yet to read.

A head's own features stand in for the target's only while it drafts. Once the target has computed the
accepted tokens, the head's history is rewound and these tokens are read with their true features, together
with the newest token, in one window.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.draft_windows import even_without_choice, fold_keys
from jaxmodels.decoding.drafters.chains import Chain, Chosen, empty_chain, proposal_of, with_token
from jaxmodels.decoding.drafters.drafter import Proposal, Round, Verdict
from jaxmodels.decoding.processors.chain import process
from jaxmodels.decoding.samplers import Greedy
from jaxmodels.decoding.strategy import has_choice
from jaxmodels.layers.spec import Params, filled
from jaxmodels.models.draft_heads.feature_head import FeatureHead, Target
from jaxmodels.models.draft_heads.history import History
from jaxmodels.models.scored import NOWHERE


@struct.dataclass
class FeatureState:
    """What a head knows between rounds.

    Attributes:
        history: the pairs it has read, all with features of the target.
        tokens: i32[B, P], the tokens of those it has yet to read; the newest token is the last of them.
        features: [B, P, F], theirs.
        count: i32[B], how many these are; 0 in rows that are done.
    """

    history: History
    tokens: jax.Array
    features: jax.Array
    count: jax.Array


@struct.dataclass
class Read:
    """A head that has read all pairs: where drafting begins.

    Attributes:
        logits: f32[B, W], of the token behind the newest one.
        feature: [B, F], what stands for the newest token's feature.
        history: with all pairs.
    """

    logits: jax.Array
    feature: jax.Array
    history: History


def begin_state(
    head: FeatureHead,
    params: Params,
    around: Round,
    taps: Mapping[str, Float[Array, "B S D"]],
    *,
    room: int,
    longest: int,
) -> FeatureState:
    """The state behind the prompts: all of their pairs are read but the last.

    Args:
        taps: the target's streams of the prompts.
        room: pairs beyond prompt and answer that the history must have room for.
        longest: tokens on the longest path that can be accepted, the newest one included.

    Raises ValueError where the head is for another target.
    """
    head.check_target(around.config)
    request, features = around.request, head.features(params, taps)
    (batch, slots), answer = request.tokens.shape, around.output.tokens.shape[1]
    history = filled(head.init_history(batch, slots + answer + room), features.dtype)
    # The token behind each of the prompt, the newest one at last.
    following = jnp.roll(request.tokens, -1, axis=1)
    history = _read_prompts(head, params, around, following, features, history)
    last = jnp.maximum(request.lengths - 1, 0)[:, None, None]
    newest = jnp.take_along_axis(features, last, axis=1)
    ahead = ((0, 0), (0, longest - 1))
    return FeatureState(
        history=history,
        tokens=jnp.pad(around.token[:, None], ahead),
        features=jnp.pad(newest, (*ahead, (0, 0))),
        count=jnp.ones((batch,), jnp.int32),
    )


def _read_prompts(
    head: FeatureHead,
    params: Params,
    around: Round,
    tokens: Int[Array, "B S"],
    features: Float[Array, "B S F"],
    history: History,
) -> History:
    """The history with all pairs of the prompts but the last, read in windows as the model was."""
    target = Target(around.config, around.params)
    size, window, pairs = tokens.shape[1], around.prefill_window, around.request.lengths - 1
    width = min(size, window)

    def read(index: Array | int, history: History) -> History:
        start = index * width
        part = lax.dynamic_slice_in_dim(tokens, start, width, axis=1)
        seen = lax.dynamic_slice_in_dim(features, start, width, axis=1)
        valid = jnp.clip(pairs - start, 0, width)
        _, history = head.extend(params, target, part, seen, history, valid=valid, logits_at=NOWHERE)
        return history

    if size <= window:
        return read(0, history)
    return lax.fori_loop(0, -(-pairs.max() // width), read, history)


def read_all(head: FeatureHead, params: Params, around: Round, state: FeatureState) -> Read:
    """Reads what is unread."""
    last = jnp.maximum(state.count - 1, 0)[:, None]
    predicted, history = head.extend(
        params,
        Target(around.config, around.params),
        state.tokens,
        state.features,
        state.history,
        valid=jnp.where(around.output.done, 0, state.count),
        logits_at=last,
    )
    assert predicted.logits is not None
    feature = jnp.take_along_axis(predicted.features, last[:, :, None], axis=1)[:, 0]
    return Read(logits=predicted.logits[:, 0], feature=feature, history=history)


def next_state(
    head: FeatureHead, params: Params, history: History, verdict: Verdict, longest: int
) -> FeatureState:
    """The state once accepted tokens are history; `history` is what was read of the target's features."""
    path, tokens = verdict.path[:, :longest], verdict.tokens[:, :longest]
    taps = {
        name: jnp.take_along_axis(stream, path[:, :, None], axis=1) for name, stream in verdict.taps.items()
    }
    return FeatureState(
        history=history, tokens=tokens, features=head.features(params, taps), count=verdict.count
    )


def choose_token(
    around: Round,
    index: Int[Array, ""] | int,
    logits: Float[Array, "B W"],
    drafted: Int[Array, "B G"],
    token_ids: Int[Array, "W"] | None,
) -> Chosen:
    """Drafted token number `index`, behind the first so many of `drafted`.

    Where nothing is left to chance and there are no processors, no vector over the whole vocabulary is made.
    """
    certain = isinstance(around.sampler, Greedy)
    if certain and not around.processors:
        best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        probability = jnp.exp(logits.max(-1) - jax.nn.logsumexp(logits, axis=-1))
        return Chosen(best if token_ids is None else token_ids[best], probability, None)
    scores = over_vocabulary(logits, token_ids, around.config.vocab_size)
    scores = process(around.processors, scores[:, None], around.request, around.output, drafted, first=index)
    scores = even_without_choice(scores, has_choice(scores))[:, 0]
    token = around.sampler(scores, fold_keys(around.keys, index))
    distribution = jax.nn.softmax(scores, axis=-1) if certain else around.sampler.probabilities(scores)
    probability = jnp.take_along_axis(distribution, token[:, None], axis=1)[:, 0]
    return Chosen(token, probability, None if certain else distribution)


def choose_chain(around: Round, logits: Float[Array, "B G W"], token_ids: Int[Array, "W"] | None) -> Proposal:
    """A chain by a head whose scores of all drafted tokens are there at once.

    Processors see the tokens before each. A row ends where `Round.limit` and `Round.stop` say so.
    """
    size = logits.shape[1]

    def step(chain: Chain, place: tuple[Array, Array]) -> tuple[Chain, None]:
        i, scores = place
        chosen = choose_token(around, i, scores, chain.tokens, token_ids)
        return with_token(around, chain, i, chosen), None

    places = jnp.arange(size), jnp.swapaxes(logits, 0, 1)
    chain, _ = lax.scan(step, empty_chain(around, size), places)
    return proposal_of(chain)


def over_vocabulary(
    logits: Float[Array, "... W"], token_ids: Int[Array, "W"] | None, size: int
) -> Float[Array, "... V"]:
    """Scores of the whole vocabulary: minus infinity for tokens that the head does not know."""
    if token_ids is None:
        return logits
    return jnp.full((*logits.shape[:-1], size), -jnp.inf, logits.dtype).at[..., token_ids].set(logits)
