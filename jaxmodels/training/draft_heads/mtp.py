"""Training of a module for multi-token prediction on a frozen model.

The module reads pairs of the model's hidden state of token i and token i + 1, and is trained to say behind
each pair what the model says behind token i + 1. As it is to draft on, it then reads in step s what it made
itself of each pair in step s - 1, beside the token s further on. DeepSeek-V3's modules are trained like that,
each for a step of its own, and on the text (https://arxiv.org/abs/2412.19437, section 2.2); a single module
for all steps is FastMTP's (https://arxiv.org/abs/2509.18362).
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import number, whole
from jaxmodels.decoding.drafters.mtp import MTP
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.spec import Params
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.mtp import MTPHead, MTPModule
from jaxmodels.training.draft_heads.objective import (
    RIGHT_FIRST_DRAFTS,
    Pupil,
    Seen,
    counts_ahead,
    cross_entropy,
)


@dataclass(frozen=True, kw_only=True)
class MTPTraining:
    """A module with a layer of Qwen3, whatever the model is made of, and its training.

    Attributes:
        num_heads, num_kv_heads, head_dim: of its attention.
        d_ff: width of its feed-forward.
        rope_theta: of its rotary embedding.
        steps: tokens that are drafted in training.
        decay: the weight of step s is ``decay ** s``.
        drafted: tokens that the drafter drafts per round.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    rope_theta: float = 10000.0
    steps: int = 3
    decay: float = 0.8
    drafted: int = 3

    measure: ClassVar[str] = RIGHT_FIRST_DRAFTS

    def __post_init__(self) -> None:
        for name in ("num_heads", "num_kv_heads", "head_dim", "d_ff", "steps", "drafted"):
            whole(f"MTPTraining: {name}", getattr(self, name), low=1)
        number("MTPTraining: decay", self.decay, low=0, high=1)

    @property
    def draft_vocab_size(self) -> None:
        """The output head is the model's own, with its whole vocabulary."""

    def head(self, target: Decoder) -> MTPHead:
        width = target.d_model
        norm, head_norm = RMSNorm(dim=width), RMSNorm(dim=self.head_dim, axis=None)
        block = Block(
            mixer_norm=norm,
            mixer=Attention(
                d_model=width,
                num_heads=self.num_heads,
                num_kv_heads=self.num_kv_heads,
                head_dim=self.head_dim,
                rope=Rope(rotary_dim=self.head_dim, theta=self.rope_theta),
                query_norm=head_norm,
                key_norm=head_norm,
            ),
            ffn_norm=norm,
            ffn=GatedMLP(d_model=width, d_ff=self.d_ff),
        )
        module = MTPModule(embed_norm=norm, hidden_norm=norm, blocks=(block,), final_norm=norm)
        return MTPHead(
            vocab_size=target.vocab_size,
            d_model=width,
            num_layers=len(target.blocks),
            modules=(module,),
            family="qwen3",
        )

    def start(self, pupil: Pupil) -> Params:
        """The norm in front of the output head is that of the target."""
        norm = {
            name: jnp.array(leaf, jnp.float32) for name, leaf in pupil.target.params["final_norm"].items()
        }
        return {"modules": {"0": {**pupil.params["modules"]["0"], "final_norm": norm}}}

    def loss(self, pupil: Pupil, seen: Seen, key: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Of step s, cross entropy to what the target says behind the same tokens, weighted and summed."""
        tokens, teacher, hidden = seen.tokens, seen.scored.logits, seen.scored.hidden
        size, module, params = tokens.shape[1], pupil.head.modules[0], pupil.params["modules"]["0"]
        total, told = jnp.zeros(()), jnp.zeros(())
        for step in range(self.steps):
            following = jnp.roll(tokens, -1 - step, axis=1)
            predicted = module.forward(params, pupil.target, following, hidden)
            # Place i has read token i + 1 + step, behind which the target's scores stand.
            counts = counts_ahead(seen, step + 2, size)
            ahead = jnp.roll(teacher, -1 - step, axis=1)
            loss, right = cross_entropy(ahead, predicted.logits, None, counts)
            total, hidden = total + self.decay**step * loss, predicted.features
            told = right if step == 0 else told
        return total, told

    def drafter(self, pupil: Pupil) -> MTP:
        return MTP(head=pupil.head, params=pupil.params, size=self.drafted)
