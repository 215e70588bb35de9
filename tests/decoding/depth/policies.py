"""The policies of depth, each at a threshold, plan or parameters at which it reads every block once.

A policy added here is tested against the model itself in `test_never_leaving`. Each entry makes the policy
for a decoder, whose width and number of blocks its parameters fit.
"""

import jax.numpy as jnp
import numpy as np

from jaxmodels.decoding.depth import (
    Budget,
    LinearConfidence,
    LoRADrop,
    MaxProbability,
    Plan,
    ProbabilityGap,
    RowPlans,
    Similarity,
    UntilConfident,
)

ABOVE_ALL = 1.5  # no confidence reaches it
RANK = 3


def noise(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape) / 4, jnp.float32)


def until(confidence):
    """At a threshold that no token reaches."""
    return UntilConfident(confidence=confidence, threshold=ABOVE_ALL, min_layers=1)


def linear(config):
    blocks = len(config.blocks)
    return until(LinearConfidence(weight=noise(blocks, config.d_model), bias=noise(blocks)))


def lora_drop(config):
    """All tokens are anchors."""
    dropped = tuple(range(len(config.blocks)))[-2:]
    return LoRADrop(
        down=noise(len(dropped), RANK, config.d_model),
        up=noise(len(dropped), config.d_model, RANK),
        dropped=dropped,
        period=1,
    )


NEVER_LEAVING = {
    "max_probability": lambda _: until(MaxProbability()),
    "probability_gap": lambda _: until(ProbabilityGap()),
    "similarity": lambda _: until(Similarity()),
    "linear": linear,
    "budget": lambda config: Budget(blocks=np.asarray([len(config.blocks)])),
    "plan": lambda config: Plan((1,) * len(config.blocks)),
    "row_plans": lambda config: RowPlans(np.ones((1, len(config.blocks)), np.int32)),
    "lora_drop": lora_drop,
}
