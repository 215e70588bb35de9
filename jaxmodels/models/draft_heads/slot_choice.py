"""How the token in one slot of a drafted block goes by the one before it, in blocks drafted in one pass.

The pass gives all slots their logits at once, so that no slot knows what the others will say. These rules
change the logits of a slot once the token in front of it is chosen, by small tables alone. Each keeps the
Protocol `SlotChoice`; its state runs along the slots of a block.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.layers.linear import linear
from jaxmodels.layers.spec import ZEROS, FanIn, Normal, Param, Params, ParamTree


class SlotChoice(Protocol):
    """Scores of one slot, given the token before. Implementations are hashable frozen dataclasses."""

    def spec(self) -> ParamTree: ...

    def begin(self, hidden: Float[Array, "B D"]) -> Any:
        """The state in front of the first slot; `hidden` tells rows and dtype."""

    def __call__(
        self,
        params: Params,
        logits: Float[Array, "B V"],
        hidden: Float[Array, "B D"],
        before: Int[Array, "B"],
        state: Any,
    ) -> tuple[Float[Array, "B V"], Any]:
        """(scores, state): float32 scores in place of the slot's `logits`.

        hidden: the slot's state behind the final norm. before: the token in front of the slot.
        """

    def taught(
        self,
        params: Params,
        logits: Float[Array, "B G V"],
        hidden: Float[Array, "B G D"],
        before: Int[Array, "B G"],
        right: Int[Array, "B G"],
    ) -> Float[Array, "B G V"]:
        """The scores of whole blocks whose tokens are known, finite for the `right` ones. For training."""


@dataclass(frozen=True, kw_only=True)
class CandidateSelector:
    """The best `candidates` tokens by logits, each with ``<table_1[before] * W h, table_2[token]>`` added; no
    others. Source: DFlash2 of the dflash package (0.1.0).

    Attributes:
        vocab_size, d_model: of the model.
        rank: width of the tables.
        candidates: tokens that are compared.

    Raises:
        ValueError: a size below 1, or more candidates than tokens.
    """

    vocab_size: int
    d_model: int
    rank: int = 256
    candidates: int = 16

    def __post_init__(self) -> None:
        _check_sizes(self, "vocab_size", "d_model", "rank", "candidates")
        if self.candidates > self.vocab_size:
            raise ValueError(
                f"CandidateSelector: candidates={self.candidates} exceeds the vocabulary, {self.vocab_size}"
            )

    def spec(self) -> ParamTree:
        table = Param((self.vocab_size, self.rank), ("vocab", None), Normal(0.02))
        return {
            "before": table,
            "after": table,
            "w_hidden": Param((self.rank, self.d_model), (None, "embed"), FanIn(self.d_model)),
        }

    def begin(self, hidden: Float[Array, "B D"]) -> Any:
        return ()

    def taught(
        self,
        params: Params,
        logits: Float[Array, "B G V"],
        hidden: Float[Array, "B G D"],
        before: Int[Array, "B G"],
        right: Int[Array, "B G"],
    ) -> Float[Array, "B G V"]:
        asked = params["before"][before] * linear(hidden, params["w_hidden"])
        tokens = jnp.arange(self.vocab_size)
        least = jax.lax.top_k(logits, self.candidates)[0][..., -1:]
        compared = (logits >= least) | (tokens == right[..., None])
        return jnp.where(compared, logits + linear(asked, params["after"], jnp.float32), -jnp.inf)

    def __call__(
        self,
        params: Params,
        logits: Float[Array, "B V"],
        hidden: Float[Array, "B D"],
        before: Int[Array, "B"],
        state: Any,
    ) -> tuple[Float[Array, "B V"], Any]:
        best, tokens = jax.lax.top_k(logits, self.candidates)
        asked = params["before"][before] * linear(hidden, params["w_hidden"])
        agreed = jnp.einsum("br,bcr->bc", asked, params["after"][tokens], preferred_element_type=jnp.float32)
        rows = jnp.arange(logits.shape[0])[:, None]
        return jnp.full_like(logits, -jnp.inf).at[rows, tokens].set(best + agreed), state


@dataclass(frozen=True, kw_only=True)
class MarkovBias:
    """``logits + W2 W1[before]``, a bigram table of low rank. Source: DSpark as speculators 0.9.0 has it.

    Attributes:
        target_vocab_size: of the model, by whose tokens the table is asked.
        vocab_size: tokens that have logits.
        d_model: of the model.
        rank: of the table.

    Raises:
        ValueError: a size below 1.
    """

    target_vocab_size: int
    vocab_size: int
    d_model: int
    rank: int = 256

    def __post_init__(self) -> None:
        _check_sizes(self, "target_vocab_size", "vocab_size", "d_model", "rank")

    def spec(self) -> ParamTree:
        return {
            "before": Param((self.target_vocab_size, self.rank), ("vocab", None), Normal(0.01)),
            "w_bias": Param((self.vocab_size, self.rank), ("vocab", None), FanIn(self.rank)),
        }

    def begin(self, hidden: Float[Array, "B D"]) -> Any:
        return ()

    def __call__(
        self,
        params: Params,
        logits: Float[Array, "B V"],
        hidden: Float[Array, "B D"],
        before: Int[Array, "B"],
        state: Any,
    ) -> tuple[Float[Array, "B V"], Any]:
        return logits + linear(params["before"][before], params["w_bias"], jnp.float32), state

    def taught(
        self,
        params: Params,
        logits: Float[Array, "B G V"],
        hidden: Float[Array, "B G D"],
        before: Int[Array, "B G"],
        right: Int[Array, "B G"],
    ) -> Float[Array, "B G V"]:
        state, scores = self.begin(hidden[:, 0]), []
        for slot in range(logits.shape[1]):
            score, state = self(params, logits[:, slot], hidden[:, slot], before[:, slot], state)
            scores.append(score)
        return jnp.stack(scores, axis=1)


@dataclass(frozen=True, kw_only=True)
class GatedMarkovBias(MarkovBias):
    """``logits + W2 (sigmoid(W [h | W1[before]] + b) * W1[before])``: DSpark's "gated" head."""

    def spec(self) -> ParamTree:
        width = self.d_model + self.rank
        return {
            **super().spec(),
            "w_gate": Param((self.rank, width), (None, None), FanIn(width)),
            "b_gate": Param((self.rank,), (None,), ZEROS),
        }

    def __call__(
        self,
        params: Params,
        logits: Float[Array, "B V"],
        hidden: Float[Array, "B D"],
        before: Int[Array, "B"],
        state: Any,
    ) -> tuple[Float[Array, "B V"], Any]:
        told = params["before"][before]
        both = jnp.concatenate([hidden, told], axis=-1)
        gate = jax.nn.sigmoid(linear(both, params["w_gate"]) + params["b_gate"])
        return logits + linear(gate * told, params["w_bias"], jnp.float32), state


@dataclass(frozen=True, kw_only=True)
class RecurrentMarkovBias(MarkovBias):
    """``logits + W2 tanh(o)`` with a state that runs along the block: DSpark's "rnn" head.

    ``[g, c, o] = W [state | W1[before] | h] + b``, and with ``s = sigmoid(g)``
    ``state = s * state + (1 - s) * tanh(c)``.
    """

    def spec(self) -> ParamTree:
        width = 2 * self.rank + self.d_model
        return {
            **super().spec(),
            "w_joint": Param((3 * self.rank, width), (None, None), FanIn(width)),
            "b_joint": Param((3 * self.rank,), (None,), ZEROS),
        }

    def begin(self, hidden: Float[Array, "B D"]) -> Float[Array, "B R"]:
        return jnp.zeros((hidden.shape[0], self.rank), hidden.dtype)

    def __call__(
        self,
        params: Params,
        logits: Float[Array, "B V"],
        hidden: Float[Array, "B D"],
        before: Int[Array, "B"],
        state: Any,
    ) -> tuple[Float[Array, "B V"], Any]:
        told = jnp.concatenate([state, params["before"][before].astype(state.dtype), hidden], axis=-1)
        gate, new, out = jnp.split(linear(told, params["w_joint"]) + params["b_joint"], 3, axis=-1)
        gate = jax.nn.sigmoid(gate)
        state = gate * state + (1 - gate) * jnp.tanh(new)
        return logits + linear(jnp.tanh(out), params["w_bias"], jnp.float32), state


@dataclass(frozen=True, kw_only=True)
class SlotConfidence:
    """``sigmoid(w . [h | W1[before]] + b)``: the share of a slot's drafts that the model accepts (DSpark).

    Trained to ``sum_v min(p(v), q(v))``, the probability that sampling accepts.

    Attributes:
        d_model: of the model.
        rank: width of the `MarkovBias` table whose entry it reads beside h; None where it reads h alone.
        bias: whether there is b.

    Raises:
        ValueError: a size below 1.
    """

    d_model: int
    rank: int | None = None
    bias: bool = True

    def __post_init__(self) -> None:
        _check_sizes(self, "d_model", *(() if self.rank is None else ("rank",)))

    def spec(self) -> ParamTree:
        width = self.d_model + (self.rank or 0)
        tree: ParamTree = {"w": Param((1, width), (None, None), FanIn(width))}
        return tree | {"b": Param((1,), (None,), ZEROS)} if self.bias else tree

    def logits(
        self, params: Params, hidden: Float[Array, "... D"], told: Float[Array, "... R"] | None
    ) -> Float[Array, "..."]:
        """In front of the sigmoid, f32. told: the table's entries of the tokens before, if it reads them."""
        read = hidden if told is None else jnp.concatenate([hidden, told], axis=-1)
        score = linear(read, params["w"], jnp.float32)[..., 0]
        return score + params["b"].astype(jnp.float32)[0] if self.bias else score


def _check_sizes(owner: Any, *names: str) -> None:
    for name in names:
        whole(f"{type(owner).__name__}: {name}", getattr(owner, name), low=1)
