"""What training differentiates, and what evaluation sums up: the parts that all objectives share."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.masks import MaskLike
from jaxmodels.layers.window import Valid
from jaxmodels.models.filling import MaskFilling
from jaxmodels.training.trainable import Trainable


@struct.dataclass
class Windows:
    """Windows of text.

    Attributes:
        tokens: i32[B, S].
        predicted: bool[B, S], which tokens are to be predicted; the others are given, as prompts are.
        valid: i32[B], how many leading tokens of each row are real; None for all.
        step: i32[B], the number of the training step that the rows are in, from 0; None outside of training.
    """

    tokens: jax.Array
    predicted: jax.Array
    valid: jax.Array | None = None
    step: jax.Array | None = None


class Score(Protocol):
    """A model with its parameters, as an objective calls it."""

    @property
    def filling(self) -> MaskFilling | None:
        """How the model is shown unknown tokens; None where it fills in none."""

    @property
    def blocks(self) -> int:
        """How many blocks the model is made of."""

    def __call__(
        self,
        inputs: Int[Array, "R T"],
        *,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
        positions: Int[Array, "R T"] | None = None,
        pick: Callable[[Float[Array, "R T D"]], Float[Array, "B S D"]] | None = None,
    ) -> Float[Array, "B S V"]:
        """Float32 logits of whole sequences. Router losses are those of the last call.

        Args:
            inputs: token ids.
            mask: who sees whom, by default as the model's own.
            valid: which inputs are real, see `Decoder.peek`; by default all.
            positions: by default 0, 1, and so on.
            pick: which hidden states the head is computed of, by default all.
        """

    def with_exits(
        self, inputs: Int[Array, "B S"], exits: Int[Array, "B"], read: Bool[Array, "B L"]
    ) -> tuple[Float[Array, "B S V"], Float[Array, "B S V"]]:
        """Logits behind the last block, and behind each row's first ``exits[b]`` as if the model ended there;
        to be called once, of a `Decoder`.

        Args:
            inputs: token ids.
            exits: at least 1.
            read: the blocks that each row is read in; past the others it is passed by.
        """

    def with_recursions(
        self, inputs: Int[Array, "B S"], shares: Float[Array, "B R"]
    ) -> tuple[Float[Array, "B S V"], Float[Array, ""]]:
        """Of a `RecursiveDecoder`, see its `forward_choosing`."""


class Estimator(Protocol):
    """How the cost of tokens under a model is measured.

    A batch is first prepared as a whole, so that what is drawn can be spread evenly over it; then it may be
    cut into micro-batches.
    """

    @property
    def draws(self) -> int:
        """How many draws of its noise evaluation averages; 1 where there is none."""

    def check(self, model: Any) -> None:
        """Raises ValueError where it cannot be used with `model`."""

    def prepare(self, windows: Windows, key: jax.Array) -> Any:
        """Draws what is random: a pytree of arrays [B, ...]."""

    def nats(self, score: Score, example: Any) -> Float[Array, "B P"]:
        """What the predicted tokens cost, f32: summed over a row, an estimate of the nats that all of them
        cost given the rest of the row, or of a bound from above. Nothing elsewhere."""


@runtime_checkable
class Objective(Protocol):
    """What a micro-batch is differentiated through. Implementations are frozen dataclasses."""

    @property
    def estimator(self) -> Estimator:
        """What tells how good the trained model is."""

    def check(self, model: Any) -> None:
        """Raises ValueError where `model` cannot be trained so."""

    def prepare(self, windows: Windows, key: jax.Array) -> Any:
        """See `Estimator.prepare`."""

    def loss(self, score: Score, example: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The mean over the tokens that count, and how many they are, both f32."""


@runtime_checkable
class Extending(Protocol):
    """An objective that trains more than the model of a recipe."""

    def extended(self, model: Any) -> Trainable:
        """The model with what is trained beside it. Raises ValueError where `model` cannot be trained so."""
