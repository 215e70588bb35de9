"""EAGLE-3's training-time test: the head is trained on its own features, as it will draft with them.

Pairs i are the target's feature of token i and token i + 1. In step 0 the head reads them as in any forward
pass. In step s, column i holds the pair that it would draft with s tokens later: the feature that it gave
itself in step s - 1, the token s further on, and the position s further on. A column sees the pairs of step 0
up to its own, and its own pairs of the later steps: what a chain that begins there would have in its cache.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import number, shown, whole
from jaxmodels.decoding.drafters.feature_drafter import FeatureDrafter
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.policy import Projections, rotated
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.spec import Params
from jaxmodels.layers.window import Window, fresh_window
from jaxmodels.models.block import Stream
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.eagle3 import Eagle3, FusingBlock
from jaxmodels.training.draft_heads.objective import (
    RIGHT_FIRST_DRAFTS,
    Pupil,
    Seen,
    counts_ahead,
    cross_entropy,
    known_rows,
)


class OneLayer(Protocol):
    """The sizes of an EAGLE-3 head of one layer; see `Eagle3Training`."""

    @property
    def layers(self) -> tuple[int, ...]: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def d_ff(self) -> int: ...
    @property
    def draft_vocab_size(self) -> int | None: ...
    @property
    def rope_theta(self) -> float: ...


def checked_layers(kind: str, sizes: OneLayer) -> tuple[int, ...]:
    """The streams that a head reads. Raises ValueError where one of its sizes is out of range."""
    if not isinstance(sizes.layers, tuple | list) or not sizes.layers:
        raise ValueError(f"{kind}: layers must be numbers of streams, got {shown(sizes.layers)}")
    for name in ("num_heads", "num_kv_heads", "head_dim", "d_ff"):
        whole(f"{kind}: {name}", getattr(sizes, name), low=1)
    if sizes.draft_vocab_size is not None:
        whole(f"{kind}: draft_vocab_size", sizes.draft_vocab_size, low=1)
    return tuple(whole(f"{kind}: layers", one) for one in sizes.layers)


def one_layer_head(sizes: OneLayer, target: Decoder, *, mask_token: int | None = None) -> Eagle3:
    """A head of one layer, as wide as its target; see `Eagle3` for `mask_token`."""
    width = target.d_model
    norm = RMSNorm(dim=width)
    block = FusingBlock(
        embedding_norm=norm,
        feature_norm=norm,
        mixer=Attention(
            d_model=width,
            input_dim=2 * width,
            num_heads=sizes.num_heads,
            num_kv_heads=sizes.num_kv_heads,
            head_dim=sizes.head_dim,
            rope=Rope(rotary_dim=sizes.head_dim, theta=sizes.rope_theta),
        ),
        ffn_norm=norm,
        ffn=GatedMLP(d_model=width, d_ff=sizes.d_ff),
    )
    return Eagle3(
        target_vocab_size=target.vocab_size,
        vocab_size=sizes.draft_vocab_size or target.vocab_size,
        target_width=width,
        d_model=width,
        layers=sizes.layers,
        blocks=(block,),
        norm=norm,
        mask_token=mask_token,
        layout="speculators",
    )


@dataclass(frozen=True, kw_only=True)
class Eagle3Training:
    """An EAGLE-3 head of one layer, and its training.

    Attributes:
        layers: the target's streams that it reads, see `Eagle3`.
        num_heads, num_kv_heads, head_dim: of its attention.
        d_ff: width of its feed-forward.
        draft_vocab_size: see `HeadObjective`.
        rope_theta: of its rotary embedding.
        steps: of the training-time test; the authors train 7.
        decay: the weight of step s is ``decay ** s``; the authors' is 0.8.
        drafted: tokens that the drafter drafts per round.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    layers: tuple[int, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    draft_vocab_size: int | None = None
    rope_theta: float = 10000.0
    steps: int = 7
    decay: float = 0.8
    drafted: int = 4

    measure: ClassVar[str] = RIGHT_FIRST_DRAFTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers("Eagle3Training", self))
        for name in ("steps", "drafted"):
            whole(f"Eagle3Training: {name}", getattr(self, name), low=1)
        number("Eagle3Training: decay", self.decay, low=0, high=1)

    def head(self, target: Decoder) -> Eagle3:
        return one_layer_head(self, target)

    def start(self, pupil: Pupil) -> Params:
        """The output head is that of the target."""
        return {**pupil.params, "head": {"weight": known_rows(pupil)}}

    def loss(self, pupil: Pupil, seen: Seen, key: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Of step s, cross entropy to what the target says behind the same tokens, weighted and summed."""
        tokens, teacher = seen.tokens, seen.scored.logits
        size = tokens.shape[1] - 1
        features = pupil.head.features(pupil.params, seen.scored.taps)[:, :-1]
        stream = pupil.head.begin(pupil.params, pupil.target, tokens[:, 1:], features)
        columns, total, told = Columns(pupil.head.blocks[0].mixer), jnp.zeros(()), jnp.zeros(())
        for step in range(self.steps):
            stream = columns.extend(pupil, stream, step)
            predicted = pupil.head.predict(pupil.params, stream)
            # Column i has read token i + 1 + step, behind which the target's scores stand.
            counts = counts_ahead(seen, step + 2, size)
            ahead = jnp.roll(teacher[:, 1:], -step, axis=1)
            loss, right = cross_entropy(ahead, predicted.logits, pupil.token_ids, counts)
            total = total + self.decay**step * loss
            told = right if step == 0 else told
            following = jnp.roll(tokens[:, 1:], -step - 1, axis=1)
            stream = pupil.head.begin(pupil.params, pupil.target, following, predicted.features)
        return total, told

    def drafter(self, pupil: Pupil) -> FeatureDrafter:
        return FeatureDrafter(
            head=pupil.head, params=pupil.params, token_ids=pupil.token_ids, size=self.drafted
        )


class Columns:
    """The keys and values of all steps so far, as a head's attention reads them column by column."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention
        self.steps: list[Projections] = []

    def extend(self, pupil: Pupil, stream: Stream, step: int) -> Stream:
        """The stream behind the head's block in this step, whose keys and values are kept."""
        block: Any = pupil.head.blocks[0]
        params, (batch, size) = pupil.params["blocks"]["0"], stream.hidden.shape[:2]
        positions = jnp.broadcast_to(step + jnp.arange(size), (batch, size))
        window: Window = fresh_window(stream.hidden, positions=positions)
        read = block.inputs(params, stream)
        new = rotated(self.attention.heads, self.attention.project(params["mixer"], read, window), window)
        self.steps.append(new)
        mixed = self.attention.output(params["mixer"], self._attend(new.q), None)
        return block.join(params, stream, mixed)

    def _attend(self, q: Float[Array, "B S N H"]) -> Float[Array, "B S N H"]:
        first, later = self.steps[0], self.steps[1:]
        scores, (batch, size, heads, width) = self.attention.heads.scores, q.shape
        q = q.reshape(batch, size, self.attention.num_kv_heads, -1, width)
        whole = jnp.einsum("bskgh,btkh->bskgt", q, first.k)
        causal = jnp.arange(size)[:, None] >= jnp.arange(size)
        whole = jnp.where(causal[:, None, None, :], whole, -jnp.inf)
        own = [jnp.einsum("bskgh,bskh->bskg", q, step.k)[..., None] for step in later]
        weights = jax.nn.softmax(scores.scale * jnp.concatenate([whole, *own], axis=-1), axis=-1)
        out = jnp.einsum("bskgt,btkh->bskgh", weights[..., :size], first.v)
        for i, step in enumerate(later):
            out = out + weights[..., size + i, None] * step.v[:, :, :, None]
        return out.reshape(batch, size, heads, width)
