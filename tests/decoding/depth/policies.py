"""The policies of depth, each at a threshold, plan or parameters at which it reads every block once.

A policy added here is tested against the model itself in `test_never_leaving`. Each entry makes the policy
for a decoder, whose width and number of blocks its parameters fit.
"""

import jax.numpy as jnp
import numpy as np
from model_helpers import random_params
from strategy_helpers import NEW

from jaxmodels.decoding.depth import (
    AmongTokens,
    Budget,
    Certainty,
    Decaying,
    InformedRouting,
    LinearConfidence,
    LoRADrop,
    MaxProbability,
    MindSkip,
    MLPConfidence,
    Patience,
    PerBlock,
    Plan,
    ProbabilityGap,
    PromptRouter,
    RecurrentConfidence,
    RoutedFeedForwards,
    RowPlans,
    Similarity,
    SmallFeedForwards,
    UntilConfident,
)
from jaxmodels.decoding.depth.confidence.recurrent import exit_spec

ABOVE_ALL = 1.5  # no confidence reaches it
RANK = 3


def noise(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape) / 4, jnp.float32)


def until(confidence, threshold=ABOVE_ALL, **options):
    """At a threshold that no token reaches."""
    return UntilConfident(confidence=confidence, threshold=threshold, **options)


def linear(config):
    blocks = len(config.blocks)
    return until(LinearConfidence(weight=noise(blocks, config.d_model), bias=noise(blocks)))


def mlp(config):
    blocks, width = len(config.blocks), config.d_model
    return until(
        MLPConfidence(
            w_in=noise(blocks, width, RANK),
            b_in=noise(blocks, RANK),
            w_out=noise(blocks, RANK),
            b_out=noise(blocks),
        )
    )


def recurrent(config):
    """A classifier behind each block but the last."""
    exits = {str(i): exit_spec(config.d_model, 4, 3) for i in range(len(config.blocks) - 1)}
    return until(RecurrentConfidence(params=random_params(exits) if exits else {}, width=4, state_dim=3))


def asked_once(config):
    """Behind the last block but one, if there are two."""
    last = len(config.blocks) - 1
    return until(MaxProbability(), asked=(last - 1,) if last else None)


def prompt_router(config):
    """Every prompt is told to run every block once."""
    blocks = len(config.blocks)
    return PromptRouter(
        w_in=noise(blocks, RANK, config.d_model),
        b_in=noise(blocks, RANK),
        w_out=jnp.zeros((blocks, 3, RANK)),
        b_out=jnp.tile(jnp.asarray([0.0, 1.0, 0.0]), (blocks, 1)),
    )


def mind_skip(config):
    """Every score is 0.5, which is enough."""
    routed = tuple(range(1, len(config.blocks))) or (0,)
    return MindSkip(weight=jnp.zeros((len(routed), config.d_model)), routed=routed)


def informed_routing(config):
    """No score is below 0.5, whatever is forecast."""
    routed, width = tuple(range(len(config.blocks))), config.d_model
    return InformedRouting(
        down=noise(len(routed), 2, RANK, width),
        up=noise(len(routed), 2, width, RANK),
        on_stream=jnp.zeros((len(routed), 2, width)),
        on_forecast=jnp.zeros((len(routed), 2, width)),
        bias=jnp.zeros((len(routed), 2)),
        routed=routed,
    )


def routed_feed_forwards(config):
    """Every token takes the block's own, which is the first of equals."""
    blocks, width = len(config.blocks), config.d_model
    small = SmallFeedForwards(
        w_gate=noise(blocks, RANK, width), w_up=noise(blocks, RANK, width), w_down=noise(blocks, width, RANK)
    )
    return RoutedFeedForwards(small=small, router=jnp.zeros((blocks, 3, width)))


def lora_drop(config):
    """All tokens are anchors."""
    dropped = tuple(range(len(config.blocks)))[-2:]
    return LoRADrop(
        down=noise(len(dropped), RANK, config.d_model),
        up=noise(len(dropped), config.d_model, RANK),
        dropped=dropped,
        period=1,
    )


# Those that leave out mixers or feed-forwards alone, and the model whose blocks have no such halves.
OF_HALVES = ("mind_skip", "informed_routing", "routed_feed_forwards")
WITHOUT_HALVES = ("sharing",)

NEVER_LEAVING = {
    "max_probability": lambda _: until(MaxProbability()),
    "probability_gap": lambda _: until(ProbabilityGap()),
    "certainty": lambda _: until(Certainty()),
    "similarity": lambda _: until(Similarity()),
    "patience": lambda _: until(Patience(blocks=1)),
    "among_tokens": lambda _: until(AmongTokens(tokens=np.arange(0, 29, 3), confidence=Certainty())),
    "linear": linear,
    "mlp": mlp,
    "recurrent": recurrent,
    "asked_once": asked_once,
    "held": lambda _: until(MaxProbability(), unread="hold"),
    "per_block": lambda config: until(
        MaxProbability(), PerBlock(np.full(len(config.blocks), ABOVE_ALL, np.float32))
    ),
    "decaying": lambda _: until(MaxProbability(), Decaying(threshold=2 * ABOVE_ALL, length=NEW)),
    "budget": lambda config: Budget(blocks=np.asarray([len(config.blocks)])),
    "plan": lambda config: Plan((1,) * len(config.blocks)),
    "row_plans": lambda config: RowPlans(np.ones((1, len(config.blocks)), np.int32)),
    "lora_drop": lora_drop,
    "routed_feed_forwards": routed_feed_forwards,
    "mind_skip": mind_skip,
    "informed_routing": informed_routing,
    "prompt_router": prompt_router,
}
