"""What the rules of masked generation are shown in a step, and what each kind of rule answers.

A rule is a frozen dataclass, registered as a pytree whose numbers are data. It is a function of arrays and
knows neither the model nor the other rules.
"""

from typing import Any, Protocol, runtime_checkable

import jax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.models.filling import MaskFilling


@struct.dataclass
class Seen:
    """One step's view of each row's block, which is padded to L places.

    Attributes:
        tokens: i32[B, L], what stands there; the mask token where a token is unknown.
        masked: bool[B, L], the places that are unknown and may be filled in now.
        editable: bool[B, L], the places of the block that hold a token which is not of the prompt.
        positions: i32[B, L], places in the sequence, counted from 0.
        logits: f32[B, L, V], of each place, behind guidance and processors; minus infinity for the mask
            token.
        proposed: i32[B, L], what the sampler chose from the logits.
        probability: f32[B, L], that of `proposed` under the softmax of `logits`, without the sampler's
            temperature and filters.
        distribution: f32[B, L, V], what the sampler chose from; the softmax of `logits` where it is greedy.
        step: i32[B], steps that were taken in this block before this one.
        steps: i32[B], steps that are planned for the block.
        initial: i32[B], unknown places of the block before its first step.
        idle: i32[B], steps of this block that began with every place known.
        keys: one random key per row and step.
        filled: bool[B, L], the places that this step's unmasking fills in; None before it was asked.
        memory: what the rule that is asked remembers of the block, see `Remembering`; None for other rules.
        unknown: bool[B, L], all unknown places of the block; None where they are those of `masked`.
    """

    tokens: jax.Array
    masked: jax.Array
    editable: jax.Array
    positions: jax.Array
    logits: jax.Array
    proposed: jax.Array
    probability: jax.Array
    distribution: jax.Array
    step: jax.Array
    steps: jax.Array
    initial: jax.Array
    idle: jax.Array
    keys: jax.Array
    filled: Any = None
    memory: Any = None
    unknown: jax.Array | None = None

    @property
    def still_unknown(self) -> Bool[Array, "B L"]:
        """All unknown places of the block, whether they can be filled in now or not."""
        return self.masked if self.unknown is None else self.unknown


class Unmask(Protocol):
    """Which unknown places are filled in with what is proposed for them."""

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        """Places among ``seen.masked``: at least one in each row that has any, or all of them in the last
        planned step."""


@runtime_checkable
class Remembering(Protocol):
    """A rule of any kind that remembers the steps of a block. Its memory is begun anew with each block."""

    def begin(self, batch: int, length: int, vocab: int) -> Any:
        """The memory before the first step of a block of `length` places: a pytree of arrays that lead with
        `batch`."""

    def fuse(self, seen: Seen) -> tuple[Float[Array, "B L V"], Any]:
        """The logits that proposals are made from, and the memory that the rule finds in ``seen.memory`` when
        it is asked in this step.

        ``seen.memory`` is that of the steps before; what follows from the logits (`proposed`, `probability`,
        `distribution`) is not there yet.
        """


@struct.dataclass
class Edited:
    """What a rule of remasking makes of a block.

    Attributes:
        tokens: i32[B, L], of the block from now on.
        unfinished: bool[B], rows whose block takes another step even if none of its places is unknown.
        memory: what the rule remembers from now on, see `Remembering`; None for other rules.
    """

    tokens: jax.Array
    unfinished: jax.Array
    memory: Any = None


class Remask(Protocol):
    """What becomes of places that are known already: edits, noise, masks again."""

    def __call__(self, seen: Seen, tokens: Int[Array, "B L"]) -> Edited:
        """`tokens` are the block's behind this step's unmasking. Places that are neither ``seen.masked`` nor
        ``seen.editable`` stay as they are."""


class Stop(Protocol):
    """When the rest of a block needs no further step."""

    def __call__(self, seen: Seen, tokens: Int[Array, "B L"]) -> Bool[Array, "B"]:
        """Rows whose unknown places are filled in with the most probable tokens now. `tokens` are the block's
        behind this step."""


@runtime_checkable
class Particular(Protocol):
    """A rule that does not fit every model, or every exit."""

    def check(self, filling: MaskFilling, stop: Stop | None) -> None:
        """Raises ValueError, with the reason, where it does not fit."""


class Blocks(Protocol):
    """How the answer is cut into blocks, and which of a block's places may be filled in when."""

    @property
    def length(self) -> int:
        """Places of the longest block: a shape."""

    def check(self, alignment: int, max_new_tokens: int) -> None:
        """Raises ValueError, with the reason, where blocks do not fit a model whose own begin at multiples of
        `alignment`, or an answer of `max_new_tokens`."""

    def end(self, seen: Seen) -> Int[Array, "B"]:
        """How many of the L places belong to the block; asked in its first step, whose `seen` takes all of
        them for unknown or known as they are."""

    def candidates(self, seen: Seen) -> Bool[Array, "B L"]:
        """Which of ``seen.masked`` may be filled in this step."""


class Guidance(Protocol):
    """How logits are pushed away from those that the model gives without the prompt."""

    def unconditional(
        self, tokens: Int[Array, "B N"], is_prompt: Bool[Array, "B N"], mask_token: int | None
    ) -> Int[Array, "B N"]:
        """The canvas that lacks the prompt."""

    def combine(
        self, conditional: Float[Array, "B L V"], unconditional: Float[Array, "B L V"]
    ) -> Float[Array, "B L V"]:
        """The logits that proposals are made from."""
