"""Router-Tuning: the training of MindSkip's routers beside a frozen model."""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number
from jaxmodels.decoding.depth.mind_skip import MindSkip
from jaxmodels.decoding.depth.numbers import check_numbers_of_blocks
from jaxmodels.layers.spec import ZEROS, Param, Params, ParamTree
from jaxmodels.models.block import Stream
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.depth import Pass, Walk
from jaxmodels.models.depth_forward import forward_by_depth
from jaxmodels.training.depth.objective import Frozen, between, divergence, straight_through


@dataclass(frozen=True, kw_only=True)
class MindSkipTraining:
    """A `MindSkip` policy, and the training of its routers.

    Each text is read with the mixers that its routers want; its distributions are drawn to those of the
    model, and each mixer that is read costs `price`. The choice is passed by the gradient as if it were the
    score. Source: Router-Tuning (https://arxiv.org/abs/2410.13184), which trains on the text's own tokens.

    Attributes:
        routed: see `MindSkip`.
        price: nats per token for all mixers of `routed` together.

    Raises:
        ValueError: a field is out of range; when run, a block that the model does not have.
    """

    routed: tuple[int, ...]
    price: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "routed", check_numbers_of_blocks("routed", self.routed))
        number("MindSkipTraining: price", self.price, low=0)

    def spec(self, model: Decoder) -> ParamTree:
        """All scores begin at the threshold, where everything is read."""
        return {"weight": Param((len(self.routed), model.d_model), ("layers", "embed"), ZEROS)}

    def examples(self, frozen: Frozen, windows: Int[np.ndarray, "N S"], seed: int) -> Int[np.ndarray, "N S"]:
        return windows

    def loss(
        self, frozen: Frozen, params: Params, batch: Int[Array, "B S"], key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Tells the divergence."""
        pupil = _Pupil(self.policy(frozen.model, params))
        logits, walk = forward_by_depth(frozen.model, frozen.params, batch, pupil)
        nats = divergence(frozen.logits(batch), logits)
        return nats + self.price * jnp.stack(walk.notes).mean(), nats

    def policy(self, model: Decoder, params: Params) -> MindSkip:
        return MindSkip(weight=params["weight"], routed=self.routed)


@dataclass(frozen=True)
class _Pupil:
    """A `Depth`: what `policy` is, with gradients through its choices, which are noted."""

    policy: MindSkip

    def begin(self, walk: Walk) -> Walk:
        nothing = jnp.full((walk.window.positions.shape[0], len(self.policy.routed)), -1, jnp.int32)
        return replace(self.policy.begin(replace(walk, state=nothing)), notes=(), state=None)

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        if offered.index not in self.policy.routed:
            read, written = offered.write(stream)
            return read(stream), written, walk
        scores = self.policy.scores(self.policy.routed.index(offered.index), stream, walk.window)
        gates = straight_through(scores, self.policy.threshold)
        read_mixer, read_ffn, written = offered.write_halves(stream)
        stream = between(stream, read_mixer(stream), gates[:, None])
        return read_ffn(stream), written, replace(walk, notes=(*walk.notes, gates))
