"""What stands around a decoder's blocks: the embeddings in front of them, final norm and head behind."""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.condition import AdaptiveNorm
from jaxmodels.layers.linear import contract, linear
from jaxmodels.layers.moe.routing import RoutedFeedForward
from jaxmodels.layers.quantized.array import take_rows
from jaxmodels.layers.sequence_parts import split
from jaxmodels.layers.spec import ZEROS, Normal, Param, Params, ParamTree
from jaxmodels.layers.window import Window
from jaxmodels.models.block import Stream, layer_specs
from jaxmodels.models.inputs import Inputs, are_embeddings

if TYPE_CHECKING:
    from jaxmodels.models.decoder import Decoder  # whose ends are computed here


def ends_spec(config: "Decoder") -> ParamTree:
    """The parameters of both ends."""

    def table(rows: int, axis: str | None) -> ParamTree:
        contracted = (-1,) if axis == "vocab" else ()
        shape = (rows, config.d_model)
        return {"weight": Param(shape, (axis, "embed"), Normal(0.02), contracted=contracted)}

    tree: ParamTree = {
        "embed": table(config.vocab_size, "vocab"),
        **layer_specs(
            embed_norm=config.embed_norm,
            final_norm=config.final_norm,
            head_transform=config.head_transform,
            time=config.time,
        ),
    }
    for name, rows in (("segments", config.segments), ("positions", config.learned_positions)):
        if rows is not None:
            tree[name] = table(rows, None)
    head = {} if config.tie_embeddings else table(config.vocab_size, "vocab")
    if config.head_bias:
        head["bias"] = Param((config.vocab_size,), ("vocab",), ZEROS)
    return tree | {"head": head} if head else tree


def embeddings(
    config: "Decoder", params: Params, tokens: Int[Array, "B S"], segments: Int[Array, "B S"] | None
) -> Float[Array, "B S D"]:
    """See `Decoder.embeddings`."""
    x = scaled_embeddings(config, take_rows(params["embed"]["weight"], tokens))
    if config.segments is None:
        if segments is not None:
            raise ValueError("segments: the model has no embedding of segments; leave them out")
        return x
    return x + params["segments"]["weight"][0 if segments is None else segments]


def scaled_embeddings(config: "Decoder", x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    """Embeddings times `embed_scale`."""
    return x if config.embed_scale == 1.0 else x * jnp.asarray(config.embed_scale, x.dtype)


def embed(config: "Decoder", params: Params, inputs: Inputs, window: Window) -> Stream:
    """The stream in front of the first block."""
    if are_embeddings(inputs):
        x = inputs.astype(config.dtype_of(params))
    else:
        x = config.embeddings(params, inputs)
    if config.learned_positions is not None:
        x = x + params["positions"]["weight"][window.positions]
    if config.embed_norm is not None:
        x = config.embed_norm(params["embed_norm"], x)
    # Layers give padding no weight, but no weight times NaN is NaN: whatever it is, it enters as 0.
    x = split(jnp.where(window.is_valid[..., None], x, 0))
    wide = x.dtype if config.residual_dtype is None else jnp.promote_types(x.dtype, config.residual_dtype)
    carried = _carried_logits(config)
    router_logits = None if carried is None else jnp.zeros((*x.shape[:2], carried), jnp.float32)
    return Stream(hidden=x.astype(wide), embedded=x, router_logits=router_logits)


def _carried_logits(config: "Decoder") -> int | None:
    """How many router logits per token pass from one mixture of experts to the next."""
    for block in config.blocks:
        ffn = block.ffn
        if isinstance(ffn, RoutedFeedForward) and ffn.carried_logits is not None:
            return ffn.carried_logits
    return None


def normalise(config: "Decoder", params: Params, stream: Stream) -> Float[Array, "B S D"]:
    """The final norm, if there is one, in the parameters' dtype."""
    x, norm = stream.narrow(), config.final_norm
    if norm is None:
        return x
    if isinstance(norm, AdaptiveNorm):
        assert stream.condition is not None
        return norm(params["final_norm"], x, stream.condition.astype(x.dtype))
    return norm(params["final_norm"], x)


def logits(config: "Decoder", params: Params, hidden: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
    """The head: float32 scores over the vocabulary."""
    hidden = _transformed(config, params, hidden)
    scores = linear(hidden, _head_weight(config, params), jnp.float32)
    return _finished(config, scores, params["head"]["bias"] if config.head_bias else None)


def logits_of(
    config: "Decoder", params: Params, hidden: Float[Array, "B S D"], tokens: Int[Array, "*BS N"]
) -> Float[Array, "B S N"]:
    """The head for some tokens alone, the same everywhere or others at each place: `logits` of these rows of
    its matrix."""
    hidden = _transformed(config, params, hidden)
    rows = take_rows(_head_weight(config, params), tokens)
    if tokens.ndim == 1:
        scores = linear(hidden, rows, jnp.float32)
    else:
        scores = contract("...d,...nd->...n", hidden, rows, jnp.float32)
    return _finished(config, scores, params["head"]["bias"][tokens] if config.head_bias else None)


def _transformed(config: "Decoder", params: Params, hidden: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    if config.head_transform is None:
        return hidden
    return config.head_transform(params["head_transform"], hidden)


def _head_weight(config: "Decoder", params: Params) -> Any:
    """[V, D], which may be quantised."""
    return params["embed" if config.tie_embeddings else "head"]["weight"]


def _finished(config: "Decoder", scores: Float[Array, "... N"], bias: Any) -> Float[Array, "... N"]:
    """Scores with their bias, scale and cap, each where the model has one."""
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    if config.logit_scale != 1.0:
        scores = scores * config.logit_scale
    if config.logit_softcap is not None:
        scores = config.logit_softcap * jnp.tanh(scores / config.logit_softcap)
    return scores
