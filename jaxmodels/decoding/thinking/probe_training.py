"""Training of the probe that leaves thinking, on answers that were forced at moments of texts set aside."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import number, shown, whole
from jaxmodels.decoding.thinking.calibration import padded_texts
from jaxmodels.decoding.thinking.probe import network
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import LanguageModel

Layers: TypeAlias = tuple[tuple[Array, ...], tuple[Array, ...]]


def thinking_features(
    config: LanguageModel, params: Params, taps: Sequence[str], texts: Sequence[Sequence[int]]
) -> Float[np.ndarray, "N S F"]:
    """What a `Probe` with these `taps` reads behind each token of texts; meaningless behind their ends.

    Raises ValueError where there is no text, or no such stream.
    """
    tokens, lengths = padded_texts("thinking_features", texts)
    return np.asarray(_features(config, tuple(taps), params, tokens, lengths))


@partial(jax.jit, static_argnums=(0, 1))
def _features(
    config: LanguageModel,
    taps: tuple[str, ...],
    params: Params,
    tokens: Int[Array, "N S"],
    lengths: Int[Array, "N"],
) -> Float[Array, "N S F"]:
    batch, size = tokens.shape
    cache = config.init_cache(batch, size, config.dtype_of(params))
    scored, _ = config.peek(params, tokens, cache, valid=lengths, taps=taps)
    return jnp.concatenate([scored.taps[name].astype(jnp.float32) for name in taps], axis=-1)


@dataclass(frozen=True, kw_only=True)
class ProbeTraining:
    """How the network of a `Probe` is fitted: Adam on all moments at once, right and wrong ones weighing as
    much in all.

    Source: LYNX's released code, which standardises the inputs, weighs the two classes and has hidden layers
    of 256 and 64; it stops early on a share of the moments, for which weight decay stands in here.

    Attributes:
        hidden: widths of the hidden layers; none for a linear probe.
        steps: updates.
        learning_rate: of Adam, falling to 0 as a cosine.
        weight_decay: of the weights, decoupled.
        seed: of the weights.

    Raises:
        ValueError: a value outside its range.
    """

    hidden: tuple[int, ...] = (256, 64)
    steps: int = 500
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        widths = tuple(whole(f"hidden[{i}]", width, low=1) for i, width in enumerate(self.hidden))
        object.__setattr__(self, "hidden", widths)
        whole("steps", self.steps, low=1)
        whole("seed", self.seed)
        number("learning_rate", self.learning_rate, low=0.0, low_included=False)
        number("weight_decay", self.weight_decay, low=0.0)

    def fit(self, features: Float[np.ndarray, "N F"], is_right: Bool[np.ndarray, "N"]) -> Layers:
        """The weights and biases of a `Probe`.

        Args:
            features: of moments at which thinking might be left, such as `thinking_features` gives them.
            is_right: whether the answer was right that followed where thinking was closed there.

        Raises:
            ValueError: the two are not as many, or all moments are right or all are wrong.
        """
        features, is_right = np.asarray(features, np.float32), np.asarray(is_right, bool)
        if features.ndim != 2 or is_right.shape != features.shape[:1]:
            raise ValueError(
                f"features must be [N, F] and is_right [N], got {list(features.shape)} and "
                f"{list(is_right.shape)}"
            )
        if is_right.all() or not is_right.any():
            raise ValueError(
                f"is_right must hold right and wrong moments, got {shown(int(is_right.sum()))} right ones of "
                f"{len(is_right)}"
            )
        mean, deviation = features.mean(0), features.std(0)
        deviation = np.where(deviation > 0, deviation, 1.0)
        share = is_right.mean()
        weight = np.where(is_right, 0.5 / share, 0.5 / (1 - share)).astype(np.float32)
        (first, *weights), (shift, *biases) = _fitted(self, (features - mean) / deviation, is_right, weight)
        first = first / deviation[:, None]
        return (first, *weights), (shift - mean @ first, *biases)

    def start(self, inputs: int) -> Layers:
        """Weights scaled by what comes in, biases 0."""
        widths = (inputs, *self.hidden, 1)
        keys = jax.random.split(jax.random.key(self.seed), len(widths) - 1)
        sizes = tuple(pairwise(widths))
        weights = [
            jax.random.normal(key, size) * np.sqrt(2 / size[0]) for key, size in zip(keys, sizes, strict=True)
        ]
        return tuple(weights), tuple(jnp.zeros(width) for width in widths[1:])


@partial(jax.jit, static_argnums=0)
def _fitted(
    training: ProbeTraining,
    features: Float[Array, "N F"],
    is_right: Bool[Array, "N"],
    weight: Float[Array, "N"],
) -> Layers:
    schedule = optax.cosine_decay_schedule(training.learning_rate, training.steps)
    optimizer = optax.adamw(
        schedule, weight_decay=training.weight_decay, mask=lambda layers: _like(layers, (True, False))
    )

    def loss(layers: Layers) -> Float[Array, ""]:
        found = network(*layers, features)
        return (weight * optax.sigmoid_binary_cross_entropy(found, is_right.astype(jnp.float32))).mean()

    def update(state: tuple[Layers, optax.OptState], _: None) -> tuple[tuple[Layers, optax.OptState], None]:
        layers, moments = state
        changes, moments = optimizer.update(jax.grad(loss)(layers), moments, layers)
        return (optax.apply_updates(layers, changes), moments), None

    layers = training.start(features.shape[1])
    (layers, _), _ = lax.scan(update, (layers, optimizer.init(layers)), None, training.steps)
    return layers


def _like(layers: Layers, values: tuple[bool, bool]) -> tuple[tuple[bool, ...], ...]:
    """A value for each weight, and one for each bias."""
    return tuple(tuple(value for _ in parts) for parts, value in zip(layers, values, strict=True))
