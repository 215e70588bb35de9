"""Training of SpecDec++'s head: which of a draft's tokens the target will accept.

In a text X, the draft is asked for a token of its own, Y, at every place. The draft then reads a mixture of
both, in which most tokens are its own, as they are while it drafts. The head learns, from the draft's hidden
state at each Y that was read, with which probability the target would have accepted it behind the text.
"""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Int

import jaxmodels.io
from jaxmodels.checks import number, whole
from jaxmodels.decoding.lengths.predicted_acceptance import PredictedAcceptance
from jaxmodels.layers.spec import Params
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.acceptance import AcceptanceHead
from jaxmodels.training.draft_heads.objective import Pupil, Seen


@dataclass(frozen=True, kw_only=True)
class AcceptanceTraining:
    """An acceptance head on a draft model, and its training.

    A token y is accepted with probability ``min(1, p(y) / q(y))``, p being the target's distribution and q
    the draft's, both behind the text. The loss is the binary cross entropy to that, in which rejections count
    `reject_weight` times. Source: SpecDec++ (https://arxiv.org/abs/2405.19715) and its published code, whose
    settings are the defaults.

    Attributes:
        draft: a model directory or bundled name, of the same vocabulary as the target.
        layers: see `AcceptanceHead`.
        reject_weight: above 0.
        text_share: how many of the tokens that the draft reads are those of the text, from 0 to below 1. They
            are not judged.
        temperature: at which tokens will be drawn, for model and draft; 0 for greedy decoding, in which a
            token is accepted where it is the target's most probable one.
        threshold: of the length that is written, see `PredictedAcceptance`.

    Raises:
        ValueError: a field is out of range; the message names it. When run, a draft of another vocabulary.
    """

    draft: str
    layers: int = 3
    reject_weight: float = 6.0
    text_share: float = 0.15
    temperature: float = 1.0
    threshold: float = 0.7

    measure: ClassVar[str] = "kl_of_acceptance"

    def __post_init__(self) -> None:
        whole("AcceptanceTraining: layers", self.layers)
        number("AcceptanceTraining: reject_weight", self.reject_weight, low=0, low_included=False)
        number("AcceptanceTraining: temperature", self.temperature, low=0)
        number("AcceptanceTraining: threshold", self.threshold, low=0, high=1)
        if number("AcceptanceTraining: text_share", self.text_share, low=0, high=1) == 1:
            raise ValueError("AcceptanceTraining: text_share must be below 1, or no token is the draft's")

    @property
    def draft_vocab_size(self) -> None:
        """Tokens are the draft's."""

    def head(self, target: Decoder) -> AcceptanceHead:
        draft = _loaded(self.draft)[0]
        if draft.vocab_size != target.vocab_size:
            raise ValueError(
                f"draft={self.draft!r}: its vocabulary has {draft.vocab_size} tokens and the target's "
                f"{target.vocab_size}; they must be the same"
            )
        return AcceptanceHead(d_model=draft.d_model, layers=self.layers)

    def start(self, pupil: Pupil) -> Params:
        return pupil.params

    def loss(self, pupil: Pupil, seen: Seen, key: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The weighted binary cross entropy, and the mean divergence of acceptance from its prediction."""
        draft, params = _loaded(self.draft)
        draw, mix = jax.random.split(key)
        text, behind = seen.tokens[:, 1:], draft.forward(params, seen.tokens)[:, :-1]
        drafted, accepted = self.drafted(seen.scored.logits[:, :-1], behind, draw)
        is_text = jax.random.bernoulli(mix, self.text_share, text.shape)
        read = jnp.concatenate([seen.tokens[:, :1], jnp.where(is_text, text, drafted)], axis=1)
        hidden = jax.lax.stop_gradient(draft.forward_scored(params, read).hidden[:, 1:])
        return weighted_cross_entropy(
            pupil.head(pupil.params, hidden), accepted, ~is_text, self.reject_weight
        )

    def drafter(self, pupil: Pupil) -> PredictedAcceptance:
        return PredictedAcceptance(head=pupil.head, params=pupil.params, threshold=self.threshold)

    def drafted(
        self, target: Float[Array, "B S V"], draft: Float[Array, "B S V"], key: Array
    ) -> tuple[Int[Array, "B S"], Float[Array, "B S"]]:
        """A token of the draft's at each place, and with which probability the target accepts it.

        target, draft: the logits of both.
        """
        target, draft = (logits.astype(jnp.float32) for logits in (target, draft))
        if self.temperature == 0:
            token = jnp.argmax(draft, axis=-1).astype(jnp.int32)
            return token, (token == jnp.argmax(target, axis=-1)).astype(jnp.float32)
        token = jax.random.categorical(key, draft / self.temperature).astype(jnp.int32)
        p, q = (
            jnp.take_along_axis(jax.nn.log_softmax(logits / self.temperature), token[..., None], axis=-1)
            for logits in (target, draft)
        )
        return token, jnp.exp(jnp.minimum(p - q, 0.0))[..., 0]


def weighted_cross_entropy(
    logits: Float[Array, "B S 2"],
    accepted: Float[Array, "B S"],
    counts: Array,
    reject_weight: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The binary cross entropy with weights, over their sum; and the mean divergence without weights.

    Args:
        logits: of rejection and acceptance.
        accepted: with which probability each is accepted.
        counts: whether a place counts.
    """
    log_p, rejected = jax.nn.log_softmax(logits.astype(jnp.float32)), 1.0 - accepted
    nats = jnp.where(counts, -(rejected * log_p[..., 0] * reject_weight + accepted * log_p[..., 1]), 0.0)
    weight = jnp.where(counts, rejected * reject_weight + accepted, 0.0).sum()
    entropy = -(xlogy(accepted, accepted) + xlogy(rejected, rejected))
    plain = -(rejected * log_p[..., 0] + accepted * log_p[..., 1]) - entropy
    divergence = jnp.where(counts, plain, 0.0).sum() / jnp.maximum(counts.sum(), 1)
    return nats.sum() / jnp.maximum(weight, 1e-9), divergence


@functools.lru_cache(maxsize=2)
def _loaded(name: str) -> tuple[Any, Params]:
    """A draft model in float32."""
    model = jaxmodels.io.as_language_model(jaxmodels.io.load(name, "float32"), name)
    return model.decoder, model.params
