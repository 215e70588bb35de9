"""Models of codes as language models without histories: what masked generation decodes them as."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxmodels.layers.masks import BIDIRECTIONAL, Mask, MaskLike
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import Valid, Window
from jaxmodels.models.depth import ALL_LAYERS, Depth
from jaxmodels.models.filling import MaskFilling
from jaxmodels.models.inputs import Inputs
from jaxmodels.models.scored import EVERYWHERE, LogitsAt, Scored, check_wanted, logits_where
from jaxmodels.models.token_images.mage import MAGE
from jaxmodels.models.token_images.uvit import UVit2D


class CanvasNetwork(Protocol):
    """A network over whole sequences of one length: a token in front, then the codes of an image."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def size(self) -> int:
        """Tokens of a sequence."""

    @property
    def mask_token(self) -> int: ...

    def spec(self) -> ParamTree: ...

    def logits(self, params: Params, tokens: Int[Array, "B S"]) -> Float[Array, "B S V"]:
        """Those of every token; minus infinity for what is no code."""


@struct.dataclass
class NoHistory:
    """The cache, and the pending window, of a model that keeps nothing.

    Attributes:
        length: i32[B], zeros.
        valid: i32[B], zeros: nothing can be committed.
    """

    length: jax.Array
    valid: jax.Array


@dataclass(frozen=True)
class WholeCanvas:
    """A `LanguageModel` for `MaskedDiffusion` with ``cache=Recompute()``: every window is a whole sequence,
    and none becomes history.

    Attributes:
        network: what computes the logits.
    """

    network: CanvasNetwork

    @property
    def vocab_size(self) -> int:
        return self.network.vocab_size

    @property
    def mask(self) -> Mask:
        return BIDIRECTIONAL

    @property
    def filling(self) -> MaskFilling:
        return MaskFilling(mask_token=self.network.mask_token)

    @property
    def learned_positions(self) -> int:
        return self.network.size

    def spec(self) -> ParamTree:
        """Those of the network."""
        return self.network.spec()

    def dtype_of(self, params: Params) -> jnp.dtype:
        return jnp.dtype(jax.tree.leaves(params)[0].dtype)

    def init_cache(self, batch: int, capacity: int, dtype: DTypeLike) -> NoHistory:
        none = jnp.zeros((batch,), jnp.int32)
        return NoHistory(length=none, valid=none)

    def forward(self, params: Params, inputs: Inputs) -> Float[Array, "B S V"]:
        """Float32 logits of whole sequences.

        Raises:
            ValueError: sequences of another length.
        """
        if inputs.ndim != 2 or inputs.shape[1] != self.network.size:
            raise ValueError(
                f"inputs: expected whole sequences [B, {self.network.size}], got {list(inputs.shape)}"
            )
        return self.network.logits(params, inputs).astype(jnp.float32)

    def peek(
        self,
        params: Params,
        inputs: Inputs,
        cache: NoHistory,
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
        known: Int[Array, "B"] | None = None,
        depth: Depth = ALL_LAYERS,
        taps: Sequence[str] = (),
        logits_at: LogitsAt = EVERYWHERE,
        condition: Array | None = None,
    ) -> tuple[Scored, NoHistory]:
        """The logits of whole sequences, all of whose tokens are real; see `LanguageModel.peek`.

        Raises:
            ValueError: sequences of another length, taps, or anything that changes who sees what.
        """
        given = {"positions": positions, "mask": mask, "known": known, "condition": condition}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name}: the model reads whole sequences in one way; leave it out")
        if depth is not ALL_LAYERS:
            raise ValueError(f"depth: the model has no layers that could be passed by, got {depth}")
        check_wanted((), inputs, taps, logits_at)
        logits = self.forward(params, inputs)
        found = logits_where(lambda chosen: chosen, logits, logits_at)
        return Scored(hidden=logits, logits=found, taps={}), cache

    def score(
        self,
        params: Params,
        inputs: Inputs,
        cache: NoHistory,
        window: Window,
        *,
        depth: Depth = ALL_LAYERS,
        taps: Sequence[str] = (),
        logits_at: LogitsAt = EVERYWHERE,
        condition: Array | None = None,
    ) -> tuple[Scored, NoHistory]:
        """`peek` of a window that is made already; only a whole sequence can be one."""
        return self.peek(
            params, inputs, cache, depth=depth, taps=taps, logits_at=logits_at, condition=condition
        )

    def commit(
        self, pending: NoHistory, n: Int[Array, "B"] | None = None, path: Int[Array, "B P"] | None = None
    ) -> NoHistory:
        """The empty history."""
        return pending

    def logits(self, params: Params, hidden: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """`Scored.hidden` holds them already."""
        return hidden


@dataclass(frozen=True)
class MAGECanvas:
    """MAGE over sequences that begin with its `class_token`."""

    model: MAGE

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    @property
    def size(self) -> int:
        return self.model.places + 1

    @property
    def mask_token(self) -> int:
        return self.model.mask_token

    def spec(self) -> ParamTree:
        return self.model.spec()

    def logits(self, params: Params, tokens: Int[Array, "B S"]) -> Float[Array, "B S V"]:
        return _codes_alone(self.model.logits(params, tokens), self.model.num_codes, self.vocab_size)


@dataclass(frozen=True)
class PromptedCanvas:
    """A U-ViT under prompts, which are data: its parameters are ``{"model": ..., "prompt": Prompt}``. The
    token in front of the codes is not read.

    Attributes:
        model: the network.
        rows, columns: of the grid.
        mask_token: the published scheduler's `mask_token_id`, which is the last of the vocabulary.
    """

    model: UVit2D
    rows: int
    columns: int
    mask_token: int

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    @property
    def size(self) -> int:
        return self.rows * self.columns + 1

    def spec(self) -> ParamTree:
        """Without the prompt."""
        return {"model": self.model.spec()}

    def logits(self, params: Params, tokens: Int[Array, "B S"]) -> Float[Array, "B S V"]:
        grid = tokens[:, 1:].reshape(-1, self.rows, self.columns)
        found = self.model.logits(params["model"], grid, params["prompt"])
        flat = found.reshape(len(tokens), -1, found.shape[-1])
        front = jnp.zeros_like(flat[:, :1])
        return _codes_alone(jnp.concatenate([front, flat], axis=1), self.model.num_codes, self.vocab_size)


def _codes_alone(logits: Float[Array, "B S V"], codes: int, vocab: int) -> Float[Array, "B S V"]:
    """The logits of codes, and minus infinity for the rest of the vocabulary."""
    missing = ((0, 0), (0, 0), (0, vocab - codes))
    return jnp.pad(logits[..., :codes], missing, constant_values=-jnp.inf)
