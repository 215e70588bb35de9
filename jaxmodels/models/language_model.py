"""What decoding asks of a language model. `Decoder` is one; anything else with these methods is as good."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxmodels.layers.masks import Mask, MaskLike
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import Valid, Window
from jaxmodels.models.block import DecoderBlock, Stream
from jaxmodels.models.depth import ALL_LAYERS, Depth, Walk
from jaxmodels.models.inputs import Inputs
from jaxmodels.models.scored import EVERYWHERE, LogitsAt, Scored


class Cache(Protocol):
    """A batch of histories: a pytree whose type and shapes never change."""

    @property
    def length(self) -> Any:
        """i32[B], tokens committed per row."""


class Pending(Protocol):
    """A scored window that is not history yet: a pytree."""

    @property
    def valid(self) -> Any:
        """i32[B], how many of the window's real tokens can be committed."""


class WindowReader(Protocol):
    """What reads a window of tokens behind a history: a model, or the part of one that has not read it yet.

    The verbs are described where `Decoder` has them.
    """

    def peek(
        self,
        params: Params,
        inputs: Int[Array, "B S"],
        cache: Any,
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike | None = None,
        valid: Int[Array, "B"] | None = None,
        known: Int[Array, "B"] | None = None,
        taps: Sequence[str] = (),
        logits_at: LogitsAt = EVERYWHERE,
    ) -> tuple[Scored, Any]:
        """Scores a window that follows the history in `cache`; the cache is spent."""

    def commit(
        self, pending: Any, n: Int[Array, "B"] | None = None, path: Int[Array, "B P"] | None = None
    ) -> Any:
        """The cache once the first n window tokens (of `path`, if given) are history."""


@runtime_checkable
class LanguageModel(Protocol):
    """A language model that keeps histories. Implementations are hashable: static in programs.

    The verbs are described where `Decoder` has them. A model refuses what it does not have (a tap, a
    condition, a policy of depth) with ValueError, and ignores none of it.
    """

    def __hash__(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def mask(self) -> Mask:
        """Who sees whom, in windows whose caller does not say."""

    @property
    def learned_positions(self) -> int | None:
        """The longest sequence that it can be fed, None where nothing bounds it."""

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""

    def dtype_of(self, params: Params) -> jnp.dtype:
        """The dtype in which a model with these parameters computes, and keeps a cache."""

    def init_cache(self, batch: int, capacity: int, dtype: DTypeLike) -> Any:
        """Empty histories with room for `capacity` tokens each, pending windows included."""

    def forward(self, params: Params, inputs: Inputs) -> Float[Array, "B S V"]:
        """Float32 logits of whole sequences."""

    def peek(
        self,
        params: Params,
        inputs: Inputs,
        cache: Any,
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
        known: Int[Array, "B"] | None = None,
        depth: Depth = ALL_LAYERS,
        taps: Sequence[str] = (),
        logits_at: LogitsAt = EVERYWHERE,
        condition: Array | None = None,
    ) -> tuple[Scored, Any]:
        """Scores a window that follows the history in `cache`; the cache is spent."""

    def score(
        self,
        params: Params,
        inputs: Inputs,
        cache: Any,
        window: Window,
        *,
        depth: Depth = ALL_LAYERS,
        taps: Sequence[str] = (),
        logits_at: LogitsAt = EVERYWHERE,
        condition: Array | None = None,
    ) -> tuple[Scored, Any]:
        """`peek` of a window that is made already, behind a history that is as the window needs it."""

    def commit(
        self, pending: Any, n: Int[Array, "B"] | None = None, path: Int[Array, "B P"] | None = None
    ) -> Any:
        """The cache once the first n window tokens (of `path`, if given) are history."""

    def logits(self, params: Params, hidden: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """The head: float32 scores over the vocabulary, of what `Scored.hidden` holds."""


@runtime_checkable
class RewritesHistory(Protocol):
    """A model with the third verb, described where `Decoder` has it."""

    def refresh(
        self,
        params: Params,
        inputs: Inputs,
        cache: Any,
        slots: Int[Array, "B S"],
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
        taps: Sequence[str] = (),
        logits_at: LogitsAt = EVERYWHERE,
        condition: Array | None = None,
    ) -> tuple[Scored, Any]:
        """Recomputes what is kept of the tokens in `slots`."""


@runtime_checkable
class BlockStack(Protocol):
    """A model made of blocks: a dataclass with a field of them, which can be exchanged and passed by."""

    @property
    def blocks(self) -> tuple[DecoderBlock, ...]: ...

    def init_cache(self, batch: int, capacity: int, dtype: DTypeLike, *, depth: Depth = ALL_LAYERS) -> Any:
        """Empty histories, for windows that are read by `depth`."""


class BlockByBlock(LanguageModel, BlockStack, Protocol):
    """A language model made of blocks that a caller may go through by itself, from one to the next.

    The methods are described where `Decoder` has them.
    """

    @property
    def d_model(self) -> int: ...

    @property
    def head_flops(self) -> int:
        """FLOPs of one token's logits."""

    def init_cache(self, batch: int, capacity: int, dtype: DTypeLike, *, depth: Depth = ALL_LAYERS) -> Any:
        """Empty histories, for windows that are read by `depth`."""

    def block_params(self, params: Params, index: int) -> Params:
        """What block `index` computes with."""

    def begin_forward(
        self,
        params: Params,
        inputs: Inputs,
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
        condition: Array | None = None,
    ) -> tuple[Stream, Window]:
        """Whole sequences in front of the first block."""

    def begin_walk(self, params: Params, window: Window, memory: Any) -> Walk:
        """A policy's way through a window, in front of the first block."""

    def normalise(self, params: Params, stream: Stream) -> Float[Array, "B S D"]:
        """The stream behind the last block, as the head reads it."""
