"""Tiny flows: their configuration as published, and random parameters."""

from model_helpers import random_params

from jaxmodels.models.flows.families import FLOWS

HEADS = 3
FLOW = {
    "_class_name": "TarFlow",
    "in_channels": 2,
    "img_size": 8,
    "patch_size": 2,
    "channels": 24,
    "head_dim": 8,
    "num_blocks": 3,
    "layers_per_block": 2,
    "num_classes": 3,
}


def flow(seed=0, **changes):
    """A flow whose steps scale and shift by far less than 1, as those of trained ones do."""
    config = FLOWS.read(FLOW | changes)
    params = random_params(config.spec(), seed)
    for step in params["steps"].values():
        step["out"] = {name: 0.1 * leaf for name, leaf in step["out"].items()}
    params["prior"]["variance"] = 0.5 + abs(params["prior"]["variance"])
    return config, params
