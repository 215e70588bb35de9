"""Medusa: output heads beside the model's own, each of which predicts one token further ahead.

    head k:  h = h + silu(W h + b), once or more;  scores = lm_head_k(h)

h is the model's hidden state behind its final norm, from which its own head says what the next token is; head
k says what stands k + 1 tokens behind that one. Source: https://arxiv.org/abs/2401.10774 and its published
weights; heads that share one output matrix are a form of vLLM's.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.linear import linear
from jaxmodels.layers.spec import ZEROS, Normal, Param, Params, ParamTree
from jaxmodels.models.draft_heads.feature_head import check_streams, check_vocabulary, check_width
from jaxmodels.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Medusa:
    """The heads. Static and hashable; their parameters are `spec`.

    Attributes:
        target_vocab_size: the target's vocabulary.
        vocab_size: tokens that the heads predict, fewer where they know the most frequent ones alone.
        d_model: width of the target's hidden state.
        heads: how many there are: the most tokens that they can draft.
        depth: residual layers of each head.
        bias: whether these have biases.
        shared_output: all heads have one output matrix, in place of one each.
        layout: the published form that they were read in and are written in.
    """

    target_vocab_size: int
    vocab_size: int
    d_model: int
    heads: int
    depth: int = 1
    bias: bool = True
    shared_output: bool = False
    layout: str | None = None

    # What a `Table` of weights asks for; the heads' rows are not by layer.
    blocks = ()

    @property
    def taps(self) -> tuple[str, ...]:
        return ("hidden",)

    def spec(self) -> ParamTree:
        width = self.d_model
        # Weights of 0 make every head the output matrix alone, as the authors begin with.
        layer: ParamTree = {"weight": Param((width, width), ("mlp", "embed"), ZEROS)}
        if self.bias:
            layer["bias"] = Param((width,), ("mlp",), ZEROS)
        output: ParamTree = {"weight": Param((self.vocab_size, width), ("vocab", "embed"), Normal(0.02))}
        own: ParamTree = {} if self.shared_output else {"output": output}
        shared: ParamTree = {"output": output} if self.shared_output else {}
        head: ParamTree = {"layers": {str(j): layer for j in range(self.depth)}, **own}
        return {"heads": {str(k): head for k in range(self.heads)}, **shared}

    def check_target(self, target: LanguageModel) -> None:
        check_width("Medusa", self.d_model, target)
        check_vocabulary("Medusa", self.target_vocab_size, target)
        check_streams("Medusa", self.taps, target)

    def __call__(self, params: Params, hidden: Float[Array, "... D"]) -> Float[Array, "... K W"]:
        """The float32 scores of all heads, from the target's hidden states."""
        found = []
        for k in range(self.heads):
            head = params["heads"][str(k)]
            x = hidden.astype(head["layers"]["0"]["weight"].dtype)
            for j in range(self.depth):
                layer = head["layers"][str(j)]
                y = linear(x, layer["weight"])
                x = x + jax.nn.silu(y + layer["bias"] if self.bias else y)
            found.append(x if self.shared_output else linear(x, head["output"]["weight"], jnp.float32))
        stacked = jnp.stack(found, axis=-2)
        return linear(stacked, params["output"]["weight"], jnp.float32) if self.shared_output else stacked
