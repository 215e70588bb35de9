"""A policy of depth that stops where the model is confident."""

from dataclasses import dataclass, replace
from typing import Any

from jax import lax
from jaxtyping import Array, Bool

from jaxmodels.decoding.depth.confidence import Confidence, Passed
from jaxmodels.models.block import Stream
from jaxmodels.models.depth import Pass, Walk, chosen
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class UntilConfident:
    """A `Depth`: at least `min_layers` blocks, then until a token's confidence reaches `threshold`.

    Each token leaves by itself, and is then passed by with the stream of its exit. A block that no real token
    needs is one `lax.cond` around what it reads; it is still written, with the streams of the exits.

    Raises:
        ValueError: when traced, a `min_layers` that exceeds the model's blocks, or a confidence of another
            model.
    """

    confidence: Confidence
    threshold: Array | float
    min_layers: int

    def begin(self, walk: Walk) -> Walk:
        if self.min_layers > walk.blocks:
            raise ValueError(f"min_layers={self.min_layers} exceeds the model's {walk.blocks} layers")
        return replace(walk, notes=walk.window.is_valid)  # the tokens that still run

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        if offered.repeat:
            return stream, offered.hold(), walk
        read, written = offered.write(stream)
        running: Bool[Array, "B S"] = walk.notes
        last = offered.index + 1 == walk.blocks

        def go_on(before: Stream) -> tuple[Stream, Bool[Array, "B S"]]:
            after = read(before)
            if offered.index >= self.min_layers:
                after = chosen(running, after, before)
            if last or offered.index + 1 < self.min_layers:
                return after, running
            passed = Passed(
                index=offered.index, blocks=walk.blocks, before=before, after=after, head=walk.head
            )
            return after, running & (self.confidence(passed) < self.threshold)

        depth = walk.depth + running
        if offered.index < self.min_layers:
            stream, running = go_on(stream)
        else:
            stream, running = lax.cond(running.any(), go_on, lambda before: (before, running), stream)
        return stream, written, replace(walk, depth=depth, notes=running)


register_dataclass(UntilConfident, ["confidence", "threshold"], ["min_layers"])
