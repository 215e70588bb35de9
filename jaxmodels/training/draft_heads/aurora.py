"""Aurora's training of a draft head: from what was accepted and rejected of its drafts while it served."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import number, shown
from jaxmodels.layers.spec import Params
from jaxmodels.models.decoder import Decoder
from jaxmodels.training.draft_heads.eagle3 import Eagle3Training
from jaxmodels.training.draft_heads.medusa import MedusaTraining
from jaxmodels.training.draft_heads.mtp import MTPTraining
from jaxmodels.training.draft_heads.objective import Pupil, Seen, see


@dataclass(frozen=True, kw_only=True)
class AuroraTraining:
    """A head that learns from the traces of its own serving, see `Traces`.

        loss = E[KL(target, head)] at accepted tokens + discard_weight * E[KL(target, head)] at discarded ones

    Accepted tokens are those of the answers. For the discarded ones, one draft that was rejected is drawn
    from each text, the target reads it behind the text, and what counts is how the head predicts the tokens
    from the first rejected one on. The divergence and the passes of the head are those of its own training,
    from which this differs in the texts that it reads and in the tokens that count.

    Source: https://arxiv.org/abs/2602.06932 and its project page. Not published, and inferred here: the
    weight of discarded tokens, and that one draft of each text is drawn in a step.

    Attributes:
        of: the head, and how it is trained on texts.
        discard_weight: see above; 0 to learn of accepted tokens alone.

    Raises:
        ValueError: `of` is of another kind, or `discard_weight` below 0.
    """

    of: Eagle3Training | MedusaTraining | MTPTraining
    discard_weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.of, Eagle3Training | MedusaTraining | MTPTraining):
            raise ValueError(
                f"AuroraTraining: of must be a kind of head, such as eagle3, got {shown(self.of)}"
            )
        number("AuroraTraining: discard_weight", self.discard_weight, low=0)

    @property
    def draft_vocab_size(self) -> int | None:
        return self.of.draft_vocab_size

    @property
    def measure(self) -> str:
        return self.of.measure

    def head(self, target: Decoder) -> Any:
        return self.of.head(target)

    def start(self, pupil: Pupil) -> Params:
        return self.of.start(pupil)

    def loss(self, pupil: Pupil, seen: Seen, key: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
        accepted, told = self.of.loss(pupil, seen, key)
        discarded, _ = self.of.loss(pupil, discarded_branch(pupil, seen, key), key)
        return accepted + self.discard_weight * discarded, told

    def drafter(self, pupil: Pupil) -> Any:
        return self.of.drafter(pupil)


def discarded_branch(pupil: Pupil, seen: Seen, key: Array) -> Seen:
    """Each text up to a draft that was rejected, one at random, and that draft: only what was discarded of it
    counts. Nothing counts in texts without one."""
    drafts, tokens = seen.drafts, seen.tokens
    assert drafts is not None
    rejected = drafts.drafted > drafts.accepted
    place = jnp.argmax(jax.random.uniform(key, rejected.shape) * rejected, axis=1)[:, None]
    drafted, accepted = (
        jnp.take_along_axis(count, place, axis=1) for count in (drafts.drafted, drafts.accepted)
    )
    draft = jnp.take_along_axis(drafts.tokens, place[:, :, None], axis=1)[:, 0]
    behind = jnp.arange(tokens.shape[1]) - place  # 0 is the token behind which it was drafted
    index = jnp.clip(behind - 1, 0, draft.shape[1] - 1)
    branch = jnp.where(behind > 0, jnp.take_along_axis(draft, index, axis=1), tokens)
    counts = (behind > accepted) & (behind <= drafted) & rejected.any(1, keepdims=True)
    return replace(see(pupil, branch), weights=counts.astype(jnp.float32))
