"""Giving the attention layers of a model a cache policy."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.policy import CachePolicy
from jaxmodels.models.decoder import Decoder


def attention_layers(config: Decoder) -> tuple[int, ...]:
    """The blocks whose mixer is attention with a cache of keys and values."""
    return tuple(i for i, block in enumerate(config.blocks) if isinstance(block.mixer, Attention))


def with_cache_policy(
    config: Decoder, policy: CachePolicy | Sequence[CachePolicy], layers: Sequence[int] | None = None
) -> Decoder:
    """`config` with `policy` in its attention layers. Parameters stay as they are.

    Args:
        policy: one for all, or one for each of `layers`.
        layers: numbers of blocks; by default every block whose mixer is attention.

    Raises:
        ValueError: a block has no cache of keys and values, there are more or fewer policies than layers, or
            a policy does not fit its layer.
    """
    layers = attention_layers(config) if layers is None else tuple(layers)
    policies = tuple(policy) if isinstance(policy, Sequence) else (policy,) * len(layers)
    if not layers:
        raise ValueError(
            f"{policies or policy}: none of the model's {len(config.blocks)} layers is attention"
        )
    if len(policies) != len(layers):
        raise ValueError(
            f"{len(policies)} policies for {len(layers)} layers {list(layers)}: give one for each"
        )
    blocks: list[Any] = list(config.blocks)
    for layer, one in zip(layers, policies, strict=True):
        if not 0 <= layer < len(blocks):
            raise ValueError(f"layer {layer} is not one of the model's layers 0 to {len(blocks) - 1}")
        block = blocks[layer]
        if not isinstance(block.mixer, Attention):
            raise ValueError(
                f"{one} needs a cache of keys and values, which layer {layer} does not have: its mixer is "
                f"{type(block.mixer).__name__}"
            )
        blocks[layer] = replace(block, mixer=replace(block.mixer, cache=one))
    return replace(config, blocks=tuple(blocks))
