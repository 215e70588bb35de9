"""What an inversion is told of the tokens that it has found: scales and shifts of the next, with guidance."""

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced
from jaxmodels.decoding.samplers import check_number
from jaxmodels.layers.spec import Params, unflatten, walk
from jaxmodels.models.flows.flow_block import FlowBlock
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class FlowGuidance:
    """Scales and shifts are pushed away from those without a class: ``a + g (a - without)``.

    Source: Zhai et al. 2024 (TarFlow, https://arxiv.org/abs/2412.06329) and its code.

    Attributes:
        scale: g, for all tokens, or of the last where it rises.
        rises: whether g rises with the number of the token, as ``scale * (i + 1) / (tokens - 1)``.
        temperature: divides the logits of attention where there is no class: above 1 blurs what is known of
            the tokens before, which guides models without classes as well.

    Raises:
        ValueError: a negative scale, or a temperature that is not positive.
    """

    scale: float
    rises: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_number("FlowGuidance: scale", self.scale, low=0.0)
        check_number("FlowGuidance: temperature", self.temperature, low=0.0, low_included=False)


@struct.dataclass
class Histories:
    """What is kept of the tokens that were read.

    Attributes:
        cache: of the images.
        without: of the same images without a class; None without guidance.
    """

    cache: Any
    without: Any


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One step of a flow, and the images that run through it backwards.

    Attributes:
        step: of the flow.
        params: of the step.
        classes: i32[B]; -1, or None for all, for no class.
        guidance: None for none, which saves half of the work.
    """

    step: FlowBlock
    params: Params = field(repr=False)
    classes: Int[Array, "B"] | None
    guidance: FlowGuidance | None

    def begin(self, batch: int) -> Histories:
        """The histories of images of which no token was read."""
        places, dtype = self.step.places, self.params["in"]["w"].dtype

        def cache() -> Any:
            return self.step.trunk.init_cache(batch, places, dtype)

        return Histories(cache=cache(), without=None if self.guidance is None else cache())

    def read(
        self, x: Float[Array, "B N C"], first: Int[Array, ""] | int, histories: Histories
    ) -> tuple[Float[Array, "B N C"], Float[Array, "B N C"], Histories]:
        """The log scales and shifts of the tokens behind each of `x`, the first of which has the number
        `first`; and the window, which `settle` makes history or drops."""
        log_scale, shift, pending = self._peek(self.params, x, first, histories.cache, self.classes)
        if self.guidance is None:
            return log_scale, shift, Histories(cache=pending, without=None)
        g: Any = self.guidance.scale
        if self.guidance.rises:
            number = first + jnp.arange(x.shape[1], dtype=jnp.float32)
            g = (g * (number + 1) / (self.step.places - 1))[:, None]
        params = _cooled(self.params, self.guidance.temperature)
        other, moved, without = self._peek(params, x, first, histories.without, None)
        log_scale, shift = log_scale + g * (log_scale - other), shift + g * (shift - moved)
        return log_scale, shift, Histories(cache=pending, without=without)

    def settle(self, window: Histories, count: Int[Array, ""] | int) -> Histories:
        """The histories with the first `count` tokens of a window that was read."""

        def settled(pending: Any) -> Any:
            return self.step.trunk.commit(pending, jnp.broadcast_to(count, pending.valid.shape))

        without = None if window.without is None else settled(window.without)
        return Histories(cache=settled(window.cache), without=without)

    def _peek(
        self, params: Params, x: Array, first: Array | int, cache: Any, classes: Array | None
    ) -> tuple[Array, Array, Any]:
        embedded = self.step.embed(params, x, first, classes)
        hidden, pending = self.step.trunk.peek(params["blocks"], embedded, cache)
        return *self.step.steps(params, hidden), pending


def _cooled(params: Params, temperature: Any) -> Params:
    """The step's parameters with the logits of attention divided by `temperature`: queries made smaller."""
    if not is_traced(temperature) and temperature == 1.0:
        return params
    leaves = {
        path: leaf / temperature if path.endswith(("mixer/w_q", "mixer/b_q")) else leaf
        for path, leaf in walk(params)
    }
    return unflatten(leaves, params)


register_dataclass(FlowGuidance, ["scale", "temperature"], ["rises"])
