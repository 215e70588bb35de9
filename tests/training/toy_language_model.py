"""A tiny causal model with the two methods that training asks for: it sees the token and the one before."""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxmodels.layers.spec import ONES, Normal, Param


@dataclass(frozen=True)
class ToyModel:
    vocab_size: int = 17
    width: int = 8

    def spec(self):
        return {
            "embedding": Param((self.vocab_size, self.width), ("vocab", "embed"), Normal(0.5)),
            "norm": {"scale": Param((self.width,), ("embed",), ONES)},
            "previous": Param((self.width, self.width), ("embed", None), Normal(0.3)),
            "head": Param((self.width, self.vocab_size), ("embed", "vocab"), Normal(0.3)),
        }

    def forward(self, params, tokens):
        x = params["embedding"][tokens]
        shifted = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        x = x * params["norm"]["scale"] + jnp.tanh(shifted @ params["previous"])
        return x @ params["head"]
