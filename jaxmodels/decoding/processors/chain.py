"""The chain of processors: what each of them sees of a row, and how all of them run over a window."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.strategy import Output, Request
from jaxmodels.decoding.trees import Tree, depths


@struct.dataclass
class Context:
    """What a processor sees of a row where its next token is chosen.

    Attributes:
        tokens: i32[T], the row's text, prompt first; what stands beyond `length` is arbitrary.
        length: i32, of prompt and answer so far.
        prompt_length: i32.
        max_new: i32, tokens that the answer has at most.
        stop_tokens: i32[any], those that end the row; -1 where there are fewer.
        row: i32, its number in the batch.
        rows: how many the batch has.
    """

    tokens: jax.Array
    length: jax.Array
    prompt_length: jax.Array
    max_new: jax.Array
    stop_tokens: jax.Array
    row: jax.Array
    rows: int = struct.field(pytree_node=False)

    @property
    def new(self) -> Int[Array, ""]:
        """Length of the answer so far."""
        return self.length - self.prompt_length

    def seen(self, vocab: int) -> Bool[Array, "V"]:
        """Which tokens occur in prompt or answer."""
        is_text = jnp.arange(self.tokens.shape[0]) < self.length
        return jnp.zeros((vocab,), bool).at[jnp.where(is_text, self.tokens, vocab)].set(True, mode="drop")

    def counts(self, vocab: int) -> Int[Array, "V"]:
        """How often each token occurs in the answer."""
        index = jnp.arange(self.tokens.shape[0])
        is_new = (index >= self.prompt_length) & (index < self.length)
        at = jnp.where(is_new, self.tokens, vocab)
        return jnp.zeros((vocab,), jnp.int32).at[at].add(1, mode="drop")


class Processor(Protocol):
    """Changes the logits of one row's next token by what the row holds. A pytree: its numbers are data.

    positional: whether it depends on the next token's place alone and not on the text before it, so that it
    applies where later tokens become known before earlier ones.
    """

    @property
    def positional(self) -> bool: ...

    def __call__(self, logits: Float[Array, "V"], context: Context) -> Float[Array, "V"]: ...


def check_positional(processors: Sequence[Processor]) -> None:
    """Raises ValueError unless all processors go by a token's place alone."""
    for processor in processors:
        if not processor.positional:
            raise ValueError(
                f"processors: {processor} goes by the text before a token, which is not known where tokens "
                "are filled in in any order; leave it out, or decode with Autoregressive"
            )


def contexts(request: Request, output: Output, drafts: Int[Array, "B G"] | None = None) -> Context:
    """Each row's context; every field leads with B.

    `drafts`, draft tokens, are taken to follow the answer: where the token behind the first i of them is
    chosen, the length is greater by i.
    """

    def joined(prompt: Array, length: Array, new: Array, new_length: Array, drafts: Array) -> Array:
        text = jnp.pad(prompt, (0, new.shape[0] + drafts.shape[0]))
        text = lax.dynamic_update_slice(text, new, (length,))
        return lax.dynamic_update_slice(text, drafts, (length + new_length,))

    batch = request.tokens.shape[0]
    if drafts is None:
        drafts = jnp.zeros((batch, 0), jnp.int32)
    return Context(
        tokens=jax.vmap(joined)(request.tokens, request.lengths, output.tokens, output.lengths, drafts),
        length=request.lengths + output.lengths,
        prompt_length=request.lengths,
        max_new=jnp.broadcast_to(request.max_new, (batch,)),
        stop_tokens=jnp.broadcast_to(request.stop_tokens, (batch, *request.stop_tokens.shape)),
        row=jnp.arange(batch),
        rows=batch,
    )


def process(
    processors: Sequence[Processor],
    logits: Float[Array, "B S V"],
    request: Request,
    output: Output,
    drafts: Int[Array, "B G"] | None = None,
    *,
    first: Int[Array, ""] | int = 0,
) -> Float[Array, "B S V"]:
    """The logits behind the answer and behind each draft token that follows it, changed by all processors.

    The i-th logits are those behind the first ``first + i`` draft tokens.
    """
    if not processors:
        return logits
    ahead = first + jnp.arange(logits.shape[1])
    over_rows = jax.vmap(jax.vmap(_changed, in_axes=(None, 0, 0, None)), in_axes=(None, 0, None, 0))
    return over_rows(tuple(processors), logits, ahead, contexts(request, output, drafts))


def process_places(
    processors: Sequence[Processor],
    logits: Float[Array, "B S V"],
    request: Request,
    output: Output,
    places: Int[Array, "B S"],
) -> Float[Array, "B S V"]:
    """The logits of tokens at these places of the answer, counted from 0, changed by all processors, which
    must be positional."""
    if not processors:
        return logits
    ahead = places - output.lengths[:, None]
    over_rows = jax.vmap(jax.vmap(_changed, in_axes=(None, 0, 0, None)), in_axes=(None, 0, 0, 0))
    return over_rows(tuple(processors), logits, ahead, contexts(request, output))


def process_tree(
    processors: Sequence[Processor],
    logits: Float[Array, "B S V"],
    request: Request,
    output: Output,
    drafts: Int[Array, "B G"],
    tree: Tree,
) -> Float[Array, "B S V"]:
    """`process` where the draft tokens are a tree: each one's text ends with the path to it."""
    if not processors:
        return logits
    # The root is part of the answer; what stands behind a path's end is beyond the length.
    paths = jnp.maximum(tree.paths()[:, :, 1:] - 1, 0)
    texts = jnp.take_along_axis(drafts[:, None, :], paths, axis=2)
    around = jax.vmap(lambda path: contexts(request, output, path), in_axes=1, out_axes=1)(texts)
    over_rows = jax.vmap(jax.vmap(_changed, in_axes=(None, 0, 0, 0)), in_axes=(None, 0, 0, 0))
    return over_rows(tuple(processors), logits, depths(tree.ancestors()), around)


def _changed(
    processors: tuple[Processor, ...], logits: Float[Array, "V"], ahead: Array, context: Context
) -> Float[Array, "V"]:
    """One token's logits behind all processors, `ahead` draft tokens behind the answer."""
    context = replace(context, length=context.length + ahead)
    for processor in processors:
        logits = processor(logits, context)
    return logits
