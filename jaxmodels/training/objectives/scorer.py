"""A model with its parameters, as objectives call it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.masks import MaskLike
from jaxmodels.layers.moe.routing import Routing
from jaxmodels.layers.spec import Params
from jaxmodels.layers.window import Valid
from jaxmodels.models.depth import chosen
from jaxmodels.models.filling import MaskFilling, filling_of
from jaxmodels.training.trainable import Trainable


@runtime_checkable
class HasHiddenStates(Protocol):
    """A model whose head can be left out. `Decoder` and `ScannedDecoder` are."""

    def hidden_with_routing(
        self,
        params: Params,
        inputs: Int[Array, "B S"],
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
    ) -> tuple[Float[Array, "B S D"], dict[str, Routing]]:
        """What the head takes, and each mixture's routing by the name of its block."""

    def logits(self, params: Params, hidden: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """The head."""


@dataclass
class Scorer:
    """See `Score`.

    Attributes:
        model, params: what is called.
        is_routed: whether `routings` is asked for.
        routings: once it was called, what each mixture of experts decided, by the name of its block.
    """

    model: Trainable
    params: Params
    is_routed: bool = False
    routings: dict[str, Routing] = field(default_factory=dict)

    @property
    def filling(self) -> MaskFilling | None:
        return filling_of(self.model)

    @property
    def blocks(self) -> int:
        model: Any = self.model
        return len(model.blocks)

    def __call__(
        self,
        inputs: Int[Array, "R T"],
        *,
        mask: MaskLike | None = None,
        valid: Valid | None = None,
        positions: Int[Array, "R T"] | None = None,
        pick: Callable[[Float[Array, "R T D"]], Float[Array, "B S D"]] | None = None,
    ) -> Float[Array, "B S V"]:
        model: Any = self.model
        if mask is None and valid is None and positions is None and pick is None:
            if not self.is_routed:
                return self.model.forward(self.params, inputs)
            logits, self.routings = model.forward_with_routing(self.params, inputs)
            return logits
        hidden, self.routings = model.hidden_with_routing(
            self.params, inputs, positions=positions, mask=mask, valid=valid
        )
        logits = model.logits(self.params, hidden if pick is None else pick(hidden))
        return logits

    def with_exits(
        self, inputs: Int[Array, "B S"], exits: Int[Array, "B"], read: Bool[Array, "B L"]
    ) -> tuple[Float[Array, "B S V"], Float[Array, "B S V"]]:
        model: Any = self.model
        stream, window = model.begin_forward(self.params, inputs)
        early = stream
        for i, block in enumerate(model.blocks):
            behind = block.forward(model.block_params(self.params, i), stream, window)
            stream = chosen(jnp.broadcast_to(read[:, i, None], inputs.shape), behind, stream)
            early = chosen(jnp.broadcast_to(exits[:, None] > i, inputs.shape), stream, early)
        last, early = (
            model.logits(self.params, model.normalise(self.params, one)) for one in (stream, early)
        )
        return last, early

    def with_recursions(
        self, inputs: Int[Array, "B S"], shares: Float[Array, "B R"]
    ) -> tuple[Float[Array, "B S V"], Float[Array, ""]]:
        model: Any = self.model
        logits, nats = model.forward_choosing(self.params, inputs, shares)
        return logits, nats
