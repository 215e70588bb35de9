"""One set of weights in two passes: a causal reading that makes history, and one that refines a canvas.

A decoder with a `Denoising` reads text as any other: `peek` and `commit` make it history. Behind that history
`denoise` reads a canvas whose tokens are guesses and see one another both ways. What it scores is dropped:
once the canvas is settled, the causal reading makes it history. Source: DiffusionGemma, as transformers
computes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.layers.canvas_mask import OnCanvas
from jaxmodels.layers.self_conditioning import SelfConditioning
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import Valid
from jaxmodels.models.scored import EVERYWHERE, LogitsAt, Scored

if TYPE_CHECKING:
    from jaxmodels.models.block import DecoderBlock


@dataclass(frozen=True, kw_only=True)
class Denoising:
    """How a decoder reads a canvas.

    Attributes:
        canvas_length: tokens of the canvases that it was trained with.
        self_conditioning: what tells the canvas of the last step's guess.
        own: the names of those parameters of a block that this reading has for itself; all others are those
            of the causal reading.

    Raises:
        ValueError: `canvas_length` is not at least 1.
    """

    canvas_length: int
    self_conditioning: SelfConditioning
    own: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        whole("Denoising: canvas_length", self.canvas_length, low=1)

    def spec(self, blocks: Sequence["DecoderBlock"]) -> ParamTree:
        """The parameters that only this reading has: of the self-conditioning, and by block."""
        return {
            "self_conditioning": self.self_conditioning.spec(),
            "blocks": {
                str(i): {name: block.spec()[name] for name in self.own} for i, block in enumerate(blocks)
            },
        }


@runtime_checkable
class Denoiser(Protocol):
    """A language model that may read canvases; `Decoder` is one."""

    @property
    def denoising(self) -> Denoising | None:
        """None where it was not trained to."""

    def embeddings(self, params: Params, tokens: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """What may be given to `peek` in the place of tokens."""

    def soft_embeddings(self, params: Params, weights: Float[Array, "B S V"]) -> Float[Array, "B S D"]:
        """The weighted sum of the embeddings of all tokens."""

    def peek(
        self,
        params: Params,
        inputs: Float[Array, "B S D"],
        cache: Any,
        *,
        mask: OnCanvas,
        valid: Valid | None = None,
        logits_at: LogitsAt = EVERYWHERE,
    ) -> tuple[Scored, Any]:
        """Scores a window that follows the history in `cache`; the cache is spent."""


def denoise(
    config: Denoiser,
    params: Params,
    canvas: Int[Array, "B L"],
    guess: Float[Array, "B L D"],
    cache: Any,
    *,
    valid: Valid | None = None,
    logits_at: LogitsAt = EVERYWHERE,
) -> tuple[Scored, Any]:
    """Scores a canvas that follows the history in `cache`; the cache is spent: commit 0 tokens to go on.

    Args:
        canvas: what stands on it.
        guess: what the last step made of it, see `guess_of`; 0 in the first step.
        valid, logits_at: as for `Decoder.peek`.

    Raises:
        ValueError: the model does not read canvases, or as `Decoder.peek`.
    """
    denoising = denoising_of(config)
    own = params["denoising"]
    shown = denoising.self_conditioning(own["self_conditioning"], config.embeddings(params, canvas), guess)
    blocks = {index: {**block, **own["blocks"][index]} for index, block in params["blocks"].items()}
    return config.peek(
        {**params, "blocks": blocks},
        shown,
        cache,
        mask=OnCanvas(start=cache.length),
        valid=valid,
        logits_at=logits_at,
    )


def guess_of(config: Denoiser, params: Params, logits: Float[Array, "B L V"]) -> Float[Array, "B L D"]:
    """What the next step is told of this one: the mean embedding under the softmax of its logits."""
    return config.soft_embeddings(params, jax.nn.softmax(logits.astype(jnp.float32), axis=-1))


def denoising_of(config: object) -> Denoising:
    """How `config` reads a canvas. Raises ValueError where it does not."""
    denoising = as_denoiser(config).denoising
    assert denoising is not None
    return denoising


def reads_canvases(config: object) -> bool:
    """Whether `config` was trained to read canvases."""
    return isinstance(config, Denoiser) and config.denoising is not None


def as_denoiser(config: object) -> Denoiser:
    """`config` as what it is. Raises ValueError where it reads no canvas."""
    if not isinstance(config, Denoiser) or config.denoising is None:
        raise ValueError(
            "the model reads no canvas: it was not trained to refine a window whose tokens are guesses, as "
            "DiffusionGemma was; decode it with Autoregressive, or MaskedDiffusion if it fills masks"
        )
    return config
