"""Training of informed routing: forecasters of what mixers and feed-forwards add, and routers."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number, whole
from jaxmodels.decoding.depth.informed_routing import FFN, MIXER, InformedRouting
from jaxmodels.decoding.depth.numbers import check_numbers_of_blocks
from jaxmodels.layers.spec import ONES, ZEROS, FanIn, Param, Params, ParamTree
from jaxmodels.models.block import Stream
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.depth import Pass, Walk
from jaxmodels.models.depth_forward import forward_by_depth
from jaxmodels.training.depth.objective import Frozen, between, divergence, straight_through


@dataclass(frozen=True, kw_only=True)
class InformedRoutingTraining:
    """An `InformedRouting` policy, and the training of its forecasters and routers beside a frozen model.

    Each text is read with the units, mixers and feed-forwards, that its routers want; its distributions are
    drawn to those of the model, forecasts to what the units add, and the share of units that are read to
    `budget`. The choice is passed by the gradient as if it were the score. Source: informed routing
    (https://arxiv.org/abs/2510.13831); that forecasters and routers are trained at once, and the weights of
    the two terms beside the divergence, are inferred.

    Attributes:
        routed: see `InformedRouting`.
        rank: features of a forecaster.
        budget: the share of units of `routed` that are to be read.
        keenness: weight of the squared distance of the share that is read from `budget`.
        fidelity: weight of the forecasts' squared error over the square of what the units add.

    Raises:
        ValueError: a field is out of range; when run, a block that the model does not have.
    """

    routed: tuple[int, ...]
    rank: int = 50
    budget: float = 0.5
    keenness: float = 5.0
    fidelity: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "routed", check_numbers_of_blocks("routed", self.routed))
        whole("InformedRoutingTraining: rank", self.rank, low=1)
        number("InformedRoutingTraining: budget", self.budget, low=0, high=1)
        for name in ("keenness", "fidelity"):
            number(f"InformedRoutingTraining: {name}", getattr(self, name), low=0)

    def spec(self, model: Decoder) -> ParamTree:
        """Forecasts begin at 0, and everything is read."""
        blocks, width, rank = len(self.routed), model.d_model, self.rank
        each = Param((blocks, 2, width), ("layers", None, "embed"), ZEROS)
        return {
            "down": Param((blocks, 2, rank, width), ("layers", None, None, "embed"), FanIn(width)),
            "up": Param((blocks, 2, width, rank), ("layers", None, "embed", None), ZEROS),
            "on_stream": each,
            "on_forecast": each,
            "bias": Param((blocks, 2), ("layers", None), ONES),
        }

    def examples(self, frozen: Frozen, windows: Int[np.ndarray, "N S"], seed: int) -> Int[np.ndarray, "N S"]:
        return windows

    def loss(
        self, frozen: Frozen, params: Params, batch: Int[Array, "B S"], key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Tells the divergence."""
        pupil = _Pupil(self.policy(frozen.model, params))
        logits, walk = forward_by_depth(frozen.model, frozen.params, batch, pupil)
        nats = divergence(frozen.logits(batch), logits)
        read, errors = (jnp.stack(values).mean() for values in zip(*walk.notes, strict=True))
        return nats + self.keenness * (read - self.budget) ** 2 + self.fidelity * errors, nats

    def policy(self, model: Decoder, params: Params) -> InformedRouting:
        return InformedRouting(**params, routed=self.routed)


@dataclass(frozen=True)
class _Pupil:
    """A `Depth`: what `policy` is, with gradients through its choices. It notes of each unit the share of
    tokens that it is read for, and the error of its forecasts."""

    policy: InformedRouting

    def begin(self, walk: Walk) -> Walk:
        return replace(self.policy.begin(walk), notes=())

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        if offered.index not in self.policy.routed:
            read, written = offered.write(stream)
            return read(stream), written, walk
        k = self.policy.routed.index(offered.index)
        read_mixer, read_ffn, written = offered.write_halves(stream)
        for unit, read in ((MIXER, read_mixer), (FFN, read_ffn)):
            scores, forecast = self.policy.scores(k, unit, stream)
            gates, after = straight_through(scores, self.policy.threshold), read(stream)
            added = jax.lax.stop_gradient(after.hidden - stream.hidden)
            error = jnp.square(forecast - added).mean() / jnp.maximum(jnp.square(added).mean(), 1e-9)
            foretold = replace(after, hidden=stream.hidden + forecast)
            stream = between(foretold, after, gates)
            walk = replace(walk, notes=(*walk.notes, (gates.mean(), error)))
        return stream, written, walk
