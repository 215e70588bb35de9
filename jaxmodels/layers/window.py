"""What every layer is told about the window of tokens it is shown, and the two verbs it answers with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxmodels.layers.masks import CAUSAL, MaskLike, Places, as_mask, tree_of
from jaxmodels.layers.rope import Rotary, Rotations
from jaxmodels.layers.spec import Params, ParamTree

Inputs = TypeVar("Inputs")


# Which tokens of a window are real: the first so many of each row, or those that are True.
Valid: TypeAlias = Int[Array, "B"] | Bool[Array, "B S"]


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of tokens against a history. Built anew inside each trace; never crosses a jit boundary.

    Attributes:
        start: tokens already committed in each row.
        positions: logical position of each window token (what rotary embeddings and masks read).
        valid: how many leading tokens of each row are real; the rest is padding.
        mask: which tokens of the window and of the history each token sees.
        known: how many tokens of each row's sequence are certain, see `lengths`; None: those up to the
            window's end.
        slots: the cache slot, counted in tokens, that each token is written to; None: those from `start` on.
        index: the place of each token in the window as the caller gave it; None: its place in this one.
        rotations: what was made by `with_rotations`; `rotation` makes the others.
    """

    start: Int[Array, "B"]
    positions: Int[Array, "B S"]
    valid: Int[Array, "B"]
    mask: MaskLike = CAUSAL
    known: Int[Array, "B"] | None = None
    slots: Int[Array, "B S"] | None = None
    index: Int[Array, "B S"] | None = None
    rotations: Mapping[Rotary, Rotations] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )

    @property
    def size(self) -> int:
        return self.positions.shape[1]

    @property
    def is_valid(self) -> Bool[Array, "B S"]:
        """Which window slots hold real tokens."""
        return jnp.arange(self.size)[None, :] < self.valid[:, None]

    @property
    def lengths(self) -> Int[Array, "B"] | Int[Array, "B S"]:
        """How long the sequence is, for rotary embeddings that depend on it: of each row or each token.

        A draft token counts those up to itself, as if it were the newest one.
        """
        if self.known is None:
            return self.start + self.valid
        return jnp.maximum(self.known[:, None], self.positions + 1)

    @property
    def ancestors(self) -> Bool[Array, "B S S"] | None:
        """Where the mask makes the window a tree: whether token j is token i or an ancestor of it, at [i, j].

        None where tokens follow one another, which is what recurrent layers do under every other mask.
        """
        tree = tree_of(as_mask(self.mask))
        if tree is None:
            return None
        tree = jnp.broadcast_to(tree, (self.start.shape[0], self.size, self.size))
        if self.index is None:
            return tree
        rows = jnp.take_along_axis(tree, self.index[:, :, None], axis=1)
        return jnp.take_along_axis(rows, self.index[:, None, :], axis=2)

    @property
    def places(self) -> Places:
        """Where the window's tokens stand, [B, S] each."""
        index = jnp.arange(self.size, dtype=jnp.int32)[None, :] if self.index is None else self.index
        index = jnp.broadcast_to(index, self.positions.shape)
        return Places(positions=self.positions, index=index, is_history=jnp.zeros(index.shape, bool))

    def rotation(self, rope: Rotary) -> Rotations:
        """Cosines and sines of the window under `rope`."""
        made = self.rotations.get(rope)
        return rope.rotations(self.positions, self.lengths) if made is None else made

    def with_rotations(self, ropes: Iterable[Rotary]) -> "Window":
        """The window with its rotations under `ropes`, which all layers then share.

        They belong to these positions and lengths: a window that is given others must be given them anew.
        """
        made = {rope: rope.rotations(self.positions, self.lengths) for rope in ropes}
        return replace(self, rotations=MappingProxyType(made))


def fresh_window(
    inputs: Shaped[Array, "B S ..."],
    valid: Valid | None = None,
    mask: MaskLike = CAUSAL,
    *,
    positions: Int[Array, "B S"] | None = None,
    ropes: Iterable[Rotary] = (),
) -> Window:
    """The window of a whole sequence with no history, with its rotations under `ropes`."""
    start = jnp.zeros(inputs.shape[:1], jnp.int32)
    window = next_window(inputs, start, positions=positions, valid=valid, mask=mask)
    return window.with_rotations(ropes)


def next_window(
    inputs: Shaped[Array, "B S ..."],
    start: Int[Array, "B"],
    *,
    positions: Int[Array, "B S"] | None = None,
    valid: Valid | None = None,
    mask: MaskLike = CAUSAL,
    known: Int[Array, "B"] | None = None,
    slots: Int[Array, "B S"] | None = None,
) -> Window:
    """The window behind `start` committed tokens: by default at the positions that follow, and all real.

    Where `valid` says of each token whether it is real, the window is packed: real tokens come first, in
    their order, and `index` says where each was.
    """
    batch, size = inputs.shape[:2]
    index = None
    if valid is None:
        valid = jnp.full((batch,), size, jnp.int32)
    elif valid.ndim == 2:
        index = jnp.argsort(~valid, axis=1, stable=True).astype(jnp.int32)
        positions, slots = (a if a is None else take_path(a, index) for a in (positions, slots))
        valid = valid.sum(1)
    if positions is None:
        positions = start[:, None] + jnp.arange(size, dtype=jnp.int32)
    return Window(
        start=start,
        positions=positions,
        valid=valid.astype(jnp.int32),
        mask=mask,
        known=known,
        slots=slots,
        index=index,
    )


def check_valid(valid: Any, batch: int, size: int) -> None:
    """Raises ValueError unless `valid` fits a window of `size` tokens in `batch` rows."""
    if valid is None:
        return
    shape, dtype = list(np.shape(valid)), getattr(valid, "dtype", type(valid))
    leading = shape == [batch] and jnp.issubdtype(dtype, jnp.integer)
    if not leading and not (shape == [batch, size] and dtype == jnp.bool_):
        raise ValueError(
            f"valid: expected i32[{batch}], how many leading tokens of each row are real, or "
            f"bool[{batch}, {size}], which tokens are, got {dtype}{shape}"
        )


def take_path(a: Shaped[Array, "B S ..."], path: Int[Array, "B P"]) -> Shaped[Array, "B P ..."]:
    """What a window holds for the tokens along an accepted path."""
    return jnp.take_along_axis(a, path.reshape(*path.shape, *(1,) * (a.ndim - 2)), axis=1)


def accepted(
    inputs: Inputs, n: Int[Array, "B"] | None, path: Int[Array, "B P"] | None
) -> tuple[Inputs, Int[Array, "B"]]:
    """The window's inputs in the order in which `commit` takes them, and how many of them count.

    `inputs` is a tree of arrays [B, S, ...]. With `path`, entry i becomes that of token ``path[:, i]``;
    without `n`, all entries count.
    """
    if path is not None:
        inputs = jax.tree.map(lambda a: take_path(a, path), inputs)
    if n is None:
        batch, size = jax.tree.leaves(inputs)[0].shape[:2]
        n = jnp.full((batch,), size, jnp.int32)
    return inputs, n


class SequenceMixer(Protocol):
    """A layer that mixes along a sequence that it sees as a whole. Implementations are hashable frozen
    dataclasses."""

    def spec(self) -> ParamTree: ...

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens, itself included; 0 counts the weights alone."""

    def forward(self, params: Params, x: Float[Array, "B S D"], window: Window) -> Float[Array, "B S D"]:
        """The layer over a whole sequence with no history. Differentiable, keeps no state."""


class Mixer(SequenceMixer, Protocol):
    """A layer that mixes along the sequence and keeps a state between windows.

    The work on a window is cut in two: `write` does what its history depends on, `read` the rest. `peek`
    puts them together.
    """

    def state_spec(self, batch: int, capacity: int) -> Any:
        """The state of an empty history with room for `capacity` tokens; see `Stateful.state_spec`."""

    def write(self, params: Params, x: Float[Array, "B S D"], state: Any, window: Window) -> tuple[Any, Any]:
        """Shows the layer a window that follows the history in `state`: (held, pending).

        `pending` is what `commit` needs to settle or drop the window; `held` is what `read` needs beside it.
        A layer that is skipped for a window is still written, so that later tokens find its history filled.
        """

    def read(self, params: Params, held: Any, pending: Any, window: Window) -> Float[Array, "B S D"]:
        """The layer's output over the window that was written. Changes nothing, so it may stand in a
        `lax.cond`: no state ever leaves it."""

    def commit(
        self, pending: Any, n: Int[Array, "B"] | None = None, path: Int[Array, "B P"] | None = None
    ) -> Any:
        """The state once the first `n` window tokens (of `path`, if given) are history.

        With `n` None, the window's valid tokens are: that state was already computed by `peek`.
        """


@runtime_checkable
class Rotating(Protocol):
    """A layer, block or model that asks a window for rotations."""

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        """The rotary embeddings it asks for."""


def ropes_of(*parts: Any) -> tuple[Rotary, ...]:
    """The rotary embeddings that these parts of a model ask a window for, each once."""
    return tuple(dict.fromkeys(rope for part in parts if isinstance(part, Rotating) for rope in part.ropes))


def peek(
    mixer: Mixer, params: Params, x: Float[Array, "B S I"], state: Any, window: Window
) -> tuple[Float[Array, "B S D"], Any]:
    """A mixer's output over a window that follows the history in `state`, and what `commit` needs."""
    held, pending = mixer.write(params, x, state, window)
    return mixer.read(params, held, pending, window), pending
