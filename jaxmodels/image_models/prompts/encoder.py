"""A text encoder and its tokenizer, ready to encode prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxmodels.checkpoints.tokenizer import Tokenizer
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.image_models.prompts.tokens import Tokens, longest, padded
from jaxmodels.layers.spec import Params
from jaxmodels.models.text_encoders.encoded import Encoded, EncodesText


@dataclass(frozen=True, kw_only=True)
class PromptEncoder:
    """One of a pipeline's text encoders.

    Attributes:
        config: the encoder.
        params: its parameters.
        tokenizer: of its texts.
    """

    config: EncodesText
    params: Params = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)

    def longest(self, default: int) -> int:
        """How many tokens it takes; see `jaxmodels.image_models.prompts.tokens.longest`."""
        return longest(self.tokenizer, default)

    def encode(
        self,
        prompts: Sequence[str],
        length: int,
        *,
        states: tuple[int, ...] = (),
        pad_id: int | None = None,
    ) -> tuple[Encoded, Bool[Array, "B L"]]:
        """Prompts of which padding is not looked at, and which of their tokens are none.

        Args:
            prompts: any number.
            length: in tokens, to which they are cut and padded.
            states: which of `Encoded.states` are given, counted as a tuple's; -2 is the last but one.
            pad_id: see `padded`.
        """
        tokens = self._tokens(prompts, length, pad_id)
        ids, seen = jnp.asarray(tokens.ids), jnp.asarray(tokens.seen)
        return _encode(self.params, ids, seen, config=self.config, states=states), seen

    def encode_whole(self, prompts: Sequence[str], length: int, *, states: tuple[int, ...] = ()) -> Encoded:
        """Prompts whose padding is looked at as if it were text, as some pipelines have it."""
        tokens = self._tokens(prompts, length, None)
        return _encode(self.params, jnp.asarray(tokens.ids), None, config=self.config, states=states)

    def _tokens(self, prompts: Sequence[str], length: int, pad_id: int | None) -> Tokens:
        """Raises ValueError where the encoder has no embedding of a token: they are of different models."""
        tokens = padded(self.tokenizer, prompts, length, pad_id)
        highest = int(tokens.ids.max())
        if highest >= self.config.vocab_size:
            raise ValueError(
                f"the tokenizer gives the token {highest}, and the text encoder has embeddings of "
                f"{self.config.vocab_size} tokens (vocab_size)"
            )
        return tokens


@bounded_jit(static_argnames=("config", "states"))
def _encode(
    params: Params,
    tokens: Int[Array, "B L"],
    seen: Bool[Array, "B L"] | None,
    *,
    config: EncodesText,
    states: tuple[int, ...],
) -> Encoded:
    encoded = config.encode(params, tokens, seen)
    return encoded.replace(states=tuple(encoded.states[i] for i in states))  # type: ignore[attr-defined]
