"""What a recurrent draft head is: a module that reads a target's features and tokens, one pair after another.

Pair i is the target's feature of token i and token i + 1, from which the head predicts token i + 2. It gives
a feature of its own for each pair, which stands for that of token i + 1 until the target has computed it: so
it can go on from its own prediction. EAGLE-3 and MTP modules are such heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import jax
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.layers.masks import CAUSAL, MaskLike
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.models.draft_heads.history import History
from jaxmodels.models.language_model import LanguageModel
from jaxmodels.models.scored import EVERYWHERE, LogitsAt


@dataclass(frozen=True)
class Target:
    """The model that a head drafts for, of which it may share embeddings and output head."""

    config: LanguageModel
    params: Params = field(repr=False)


@struct.dataclass
class Predicted:
    """What a head finds for a window of pairs.

    Attributes:
        logits: f32[B, P, W], scores of the token behind each pair at the P positions that were asked for,
            over the W tokens that the head knows; None for nowhere.
        features: [B, S, F], what stands for the feature of each pair's token.
    """

    logits: jax.Array | None
    features: jax.Array


class KnowsTokens(Protocol):
    """A head of any kind: its parameters, and how many tokens it predicts."""

    @property
    def vocab_size(self) -> int:
        """W, how many tokens it can predict."""

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of its own parameters."""


class FeatureHead(Protocol):
    """A head that reads pairs of a feature and the token behind it. Implementations are hashable."""

    @property
    def vocab_size(self) -> int:
        """W, how many tokens it can predict: the target's vocabulary, or a part that the drafter maps."""

    @property
    def taps(self) -> tuple[str, ...]:
        """The target's streams that features are made of, by the names that `peek` knows."""

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of its own parameters."""

    def check_target(self, target: LanguageModel) -> None:
        """Raises ValueError, with both values, where it was made for a target of another shape."""

    def features(self, params: Params, taps: Mapping[str, Float[Array, "B S D"]]) -> Float[Array, "B S F"]:
        """The features of the target's tokens, made of its streams."""

    def init_history(self, batch: int, capacity: int) -> History:
        """The spec of an empty history with room for `capacity` pairs, see `layers.spec.Buffer`."""

    def extend(
        self,
        params: Params,
        target: Target,
        tokens: Int[Array, "B S"],
        features: Float[Array, "B S F"],
        history: History,
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike = CAUSAL,
        valid: Int[Array, "B"],
        logits_at: LogitsAt = EVERYWHERE,
    ) -> tuple[Predicted, History]:
        """Reads pairs behind a history, which is spent: what the head predicts, and the history with them.

        Args:
            positions: of the pairs, by default those after the history.
            mask: which pairs each of them sees.
            valid: how many leading pairs of each row are real.
            logits_at: see `Decoder.peek`.
        """


@runtime_checkable
class Embedding(Protocol):
    """A target whose embeddings a head can share."""

    d_model: int

    def embeddings(self, params: Params, tokens: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """See `Decoder.embeddings`."""


def embeddings_of(target: Target, tokens: Int[Array, "B S"]) -> Float[Array, "B S D"]:
    """The target's embeddings of these tokens.

    Raises ValueError where the target is a model of a kind that has none to share.
    """
    if not isinstance(target.config, Embedding):
        raise ValueError(
            f"draft head: it shares the target's embeddings, and a {type(target.config).__name__} has none"
        )
    return target.config.embeddings(target.params, tokens)


def check_width(head: str, width: int, target: LanguageModel) -> None:
    """Raises ValueError unless the target's streams have the `width` that a head was made for."""
    theirs = getattr(target, "d_model", None)
    if theirs != width:
        raise ValueError(f"{head}: it reads streams of width {width}, and those of the target have {theirs}")


def check_vocabulary(head: str, size: int, target: LanguageModel) -> None:
    """Raises ValueError unless the target's vocabulary has the `size` that a head was made for."""
    if target.vocab_size != size:
        raise ValueError(
            f"{head}: it was trained for a vocabulary of {size} tokens, and the target's has "
            f"{target.vocab_size}"
        )


def check_streams(head: str, taps: tuple[str, ...], target: LanguageModel) -> None:
    """Raises ValueError unless the target has the streams that a head reads."""
    names = getattr(target, "tap_names", ())
    for name in taps:
        if name not in names:
            raise ValueError(
                f"{head}: it reads the stream {name!r}, and the target has {', '.join(names) or 'none'}"
            )
