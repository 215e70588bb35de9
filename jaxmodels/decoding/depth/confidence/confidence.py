"""What a confidence is: how sure a model is of each token behind a block, which early exits go by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int

from jaxmodels.models.block import Stream
from jaxmodels.models.depth import Walk


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A block that was passed, as a confidence sees it.

    Attributes:
        index: the block's number. blocks: how many the model has.
        before, after: the stream on either side of it.
        head: float32[B, S, V] logits of a stream, as if the decoder ended there.
        head_of: float32[B, S, N], of these the logits of some tokens, i32[N] or i32[B, S, N], alone.
        threshold: what the confidence will be compared with, a number or one for each token: work that only
            an exit needs may be left out where none is near.
    """

    index: int
    blocks: int
    before: Stream
    after: Stream
    head: Callable[[Stream], Float[Array, "B S V"]]
    head_of: Callable[[Stream, Int[Array, "*BS N"]], Float[Array, "B S N"]]
    threshold: jax.Array | float


class Confidence(Protocol):
    """How sure the model is of each token behind a block. Implementations are pytrees.

    It is asked where tokens are read that have not left; what it gives for the others is not looked at.
    """

    def __call__(self, passed: Passed) -> Float[Array, "B S"]: ...


@runtime_checkable
class Following(Protocol):
    """A confidence that goes by what it found of the same token behind earlier blocks, too."""

    def begin(self, walk: Walk) -> Any:
        """What it has found in front of the first block.

        Raises ValueError where its parameters are of another model.
        """

    def follow(self, passed: Passed, found: Any) -> tuple[Float[Array, "B S"], Any]:
        """The confidence, and what it has found so far."""


@runtime_checkable
class Recalling(Protocol):
    """A confidence that goes by the tokens before, too: it is shown every token, those that left as they
    left, and keeps a state between windows as `jaxmodels.models.depth.Remembering` says."""

    def state_spec(self, batch: int, d_model: int) -> Any:
        """The state in front of the first token: a tree of `Buffer`, each [B, ...]."""

    def recall(self, passed: Passed, walk: Walk) -> tuple[Float[Array, "B S"], Walk]:
        """The confidence, and the walk with the state behind each token."""
