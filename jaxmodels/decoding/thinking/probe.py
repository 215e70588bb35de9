"""A probe of the model's streams that says whether the answer would be right if it were given now."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, number, shown
from jaxmodels.decoding.strategy import check_policy
from jaxmodels.decoding.thinking.moments import EveryTokens, Moments
from jaxmodels.decoding.thinking.policy import Thought
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """LYNX: thinking is left where a small network says that an answer given now would be right.

    The score is the sigmoid of the network's output; between its layers stands a ReLU. Its input are the
    streams of `taps`, one behind the other. Source: LYNX (https://arxiv.org/abs/2512.05325) and its released
    code, where the streams are those behind two middle blocks and the last one, the network has hidden layers
    of 256 and 64, and `moments` are cues such as "hmm" and "wait". There inputs are standardised, which here
    is part of the first layer; and a cue at which thinking is left is taken back, while here the closing
    tokens follow it, since a recurrent state cannot be taken back. `ProbeTraining`
    fits the network and `conformal_threshold` finds the threshold.

    Attributes:
        weights: f32[inputs, outputs] each, of the layers; the last has one output. One layer is a linear
            probe.
        biases: f32[outputs] each.
        threshold: the probability that must be exceeded; with 1 nothing is left. Data.
        taps: names of streams, see `Decoder.tap_names`; "hidden" is the one that the head reads.
        moments: the tokens behind which the probe is asked.

    Raises:
        ValueError: layers that do not fit each other, or a value out of range; when traced, a model of
            another width or without such streams.
    """

    weights: tuple[jax.Array, ...]
    biases: tuple[jax.Array, ...]
    threshold: Array | float
    taps: tuple[str, ...] = ("hidden",)
    moments: Moments = EveryTokens()

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", tuple(self.taps))
        check_policy("moments", self.moments, "__call__", "AtTokens((5, 9))")
        if not self.taps:
            raise ValueError('taps must name a stream, such as ("hidden",), got none')
        if not is_traced(self.threshold) and jnp.ndim(self.threshold) == 0:
            number("threshold", self.threshold, low=0.0, high=1.0)
        if isinstance(self.weights, list | tuple) and not any(map(is_traced, jax.tree.leaves(self.weights))):
            self._check_layers()

    def _check_layers(self) -> None:
        weights, biases = ([jnp.shape(part) for part in parts] for parts in (self.weights, self.biases))
        fits = bool(weights) and all(len(shape) == 2 for shape in weights) and weights[-1][1] == 1
        fits = fits and all(one[1] == other[0] for one, other in pairwise(weights))
        if not fits or biases != [shape[1:] for shape in weights]:
            raise ValueError(
                "weights must be [inputs, outputs], each with as many inputs as the one before has outputs "
                f"and the last with one output, and biases [outputs], got {[*map(list, weights)]} and "
                f"{[*map(list, biases)]}"
            )

    def begin(self, batch: int) -> tuple[()]:
        return ()

    def look(self, thought: Thought, notes: tuple[()]) -> tuple[Float[Array, "B"], tuple[()]]:
        return jnp.where(self.moments(thought), self.probability(thought), -jnp.inf), notes

    def probability(self, thought: Thought) -> Float[Array, "B"]:
        """That the answer would be right if it were given now."""
        inside = self.features(thought)
        if inside.shape[-1] != self.weights[0].shape[0]:
            raise ValueError(
                f"Probe: weights[0] {list(self.weights[0].shape)} has {self.weights[0].shape[0]} inputs, but "
                f"the streams {shown(self.taps)} of this model have {inside.shape[-1]} features"
            )
        return jax.nn.sigmoid(network(self.weights, self.biases, inside))

    def features(self, thought: Thought) -> Float[Array, "B F"]:
        """What the network reads."""
        streams = [thought.streams[name].astype(jnp.float32) for name in self.taps]
        return jnp.concatenate(streams, axis=-1)


def network(
    weights: Sequence[Array], biases: Sequence[Array], features: Float[Array, "B F"]
) -> Float[Array, "B"]:
    """Layers with a ReLU between them, the last with one output."""
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        features = (jax.nn.relu(features) if i else features) @ weight + bias
    return features[:, 0]


register_dataclass(Probe, ["weights", "biases", "threshold", "moments"], ["taps"])
