"""Medusa's first stage: heads that are trained beside a frozen model, each for its own distance."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import number, whole
from jaxmodels.decoding.drafters.medusa_drafter import MedusaDrafter
from jaxmodels.layers.spec import Params
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.medusa import Medusa
from jaxmodels.training.draft_heads.objective import (
    RIGHT_FIRST_DRAFTS,
    Pupil,
    Seen,
    counts_ahead,
    cross_entropy,
    known_rows,
)


@dataclass(frozen=True, kw_only=True)
class MedusaTraining:
    """Medusa heads with one output matrix, and their training.

    Attributes:
        heads: how many there are.
        depth: residual layers of each.
        draft_vocab_size: see `HeadObjective`.
        decay: the weight of head k is ``decay ** k``; the authors' is 0.8.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    heads: int = 4
    depth: int = 1
    draft_vocab_size: int | None = None
    decay: float = 0.8

    measure: ClassVar[str] = RIGHT_FIRST_DRAFTS

    def __post_init__(self) -> None:
        for name in ("heads", "depth"):
            whole(f"MedusaTraining: {name}", getattr(self, name), low=1)
        if self.draft_vocab_size is not None:
            whole("MedusaTraining: draft_vocab_size", self.draft_vocab_size, low=1)
        number("MedusaTraining: decay", self.decay, low=0, high=1)

    def head(self, target: Decoder) -> Medusa:
        return Medusa(
            target_vocab_size=target.vocab_size,
            vocab_size=self.draft_vocab_size or target.vocab_size,
            d_model=target.d_model,
            heads=self.heads,
            depth=self.depth,
            shared_output=True,
            layout="medusa_vllm",
        )

    def start(self, pupil: Pupil) -> Params:
        """The output matrix is that of the target, and residual layers add nothing."""
        return {**pupil.params, "output": {"weight": known_rows(pupil)}}

    def loss(self, pupil: Pupil, seen: Seen, key: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Cross entropy of head k to what the target says k + 1 tokens further on, weighted and summed.

        The authors take the text's own tokens; the target's distributions behind the same text say more of
        what it will accept.
        """
        teacher, hidden = seen.scored.logits, seen.scored.hidden
        logits = pupil.head(pupil.params, hidden)
        size, total, told = hidden.shape[1], jnp.zeros(()), jnp.zeros(())
        for k in range(self.heads):
            ahead = k + 1
            counts = counts_ahead(seen, ahead + 1, size)
            found = cross_entropy(jnp.roll(teacher, -ahead, axis=1), logits[:, :, k], pupil.token_ids, counts)
            total = total + self.decay**k * found[0]
            told = found[1] if k == 0 else told
        return total, told

    def drafter(self, pupil: Pupil) -> MedusaDrafter:
        return MedusaDrafter(head=pupil.head, params=pupil.params, token_ids=pupil.token_ids)
