"""Giving the layers of a model policies of their caches and states, and measuring what policies by layer
depend on."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.policy import CachePolicy
from jaxmodels.layers.gated_delta_mixer import GatedDeltaMixer
from jaxmodels.layers.spec import Params
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.layers.state.policy import StatePolicy
from jaxmodels.layers.sum_mixer import SumMixer
from jaxmodels.layers.window import Mixer
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.language_model import BlockStack
from jaxmodels.models.scored import NOWHERE

if TYPE_CHECKING:
    from jaxmodels.layers.cache.d2o import D2O


def attention_layers(config: Decoder) -> tuple[int, ...]:
    """The blocks whose mixer is attention with a cache of keys and values, or a sum with such a branch."""
    return tuple(i for i, block in enumerate(config.blocks) if _has_cache(block.mixer))


def policies_of(config: BlockStack) -> tuple[tuple[int, CachePolicy], ...]:
    """Every cache policy that a layer keeps keys and values under, with the number of its block."""
    found = []
    for i, block in enumerate(config.blocks):
        layers = [block.mixer, getattr(block, "attention", None)]
        while layers:
            layer = layers.pop(0)
            if isinstance(layer, SumMixer):
                layers = [branch.mixer for branch in layer.branches] + layers
            elif isinstance(layer, Attention):
                found.append((i, layer.cache))
    return tuple(found)


def state_policies_of(config: Decoder) -> tuple[tuple[int, StatePolicy], ...]:
    """Every policy that a layer keeps a recurrent state under, with the number of its block."""
    return tuple((i, mixer.cache) for i, mixer in _recurrent(config))


def with_state_policy(config: Decoder, policy: StatePolicy, layers: Sequence[int] | None = None) -> Decoder:
    """`config` with `policy` for the states of its Mamba-2 and gated delta layers. Parameters stay as they
    are.

    Args:
        layers: numbers of blocks; by default every block with such a layer.

    Raises:
        ValueError: a block has no such layer.
    """
    recurrent = tuple(dict.fromkeys(i for i, _ in _recurrent(config)))
    layers = recurrent if layers is None else tuple(layers)
    if not recurrent:
        raise ValueError(
            f"{policy}: none of the model's {len(config.blocks)} layers is Mamba-2 or a gated delta rule"
        )
    blocks: list[Any] = list(config.blocks)
    for layer in layers:
        if layer not in recurrent:
            raise ValueError(
                f"{policy} needs the state of a Mamba-2 or gated delta layer, which layer {layer} does not "
                f"have: those of the model are {list(recurrent)}"
            )
        mixer = _with_field(blocks[layer].mixer, policy, SSDMixer | GatedDeltaMixer)
        blocks[layer] = replace(blocks[layer], mixer=mixer)
    return replace(config, blocks=tuple(blocks))


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
        if not _has_cache(block.mixer):
            raise ValueError(
                f"{one} needs a cache of keys and values, which layer {layer} does not have: its mixer is "
                f"{type(block.mixer).__name__}"
            )
        blocks[layer] = replace(block, mixer=_with_field(block.mixer, one, Attention))
    return replace(config, blocks=tuple(blocks))


@functools.partial(jax.jit, static_argnums=0)
def attention_variances(config: Decoder, params: Params, tokens: Int[Array, "B S"]) -> Float[Array, "L"]:
    """How unevenly each attention layer spreads its attention over `tokens`, from 0 (evenly) to 1.

    The variance, over the tokens, of the attention that each has been given in all, by key head, scaled to
    [0, 1] between the layer's heads, then their mean. D2O's released code has it by query head.
    """
    from jaxmodels.layers.cache.d2o import D2O, D2OState  # which few models have

    size = tokens.shape[1]
    probe = with_cache_policy(config, D2O(budget=size + 1, recent=1, sinks=1, longest_peek=size))
    cache = probe.init_cache(tokens.shape[0], size)
    _, pending = probe.peek(params, tokens, cache, logits_at=NOWHERE)
    layers = probe.commit(pending).layers
    leaves = jax.tree.leaves(layers, is_leaf=lambda state: isinstance(state, D2OState))
    states = [leaf for leaf in leaves if isinstance(leaf, D2OState)]
    return jnp.stack([_between_heads(state.mass.var(-1).mean(0)) for state in states])


def d2o_by_layer(
    config: Decoder, params: Params, tokens: Int[Array, "B S"], policy: "D2O", dense: int = 2
) -> Decoder:
    """`config` with D2O in its attention layers, ``policy.budget`` tokens per layer in the mean.

    The first level of the method: layers in which attention to the calibration `tokens` is spread out keep
    more. `recent` follows the budget. The first `dense` attention layers and the last one keep everything, as
    released.

    Raises ValueError where no layer is left over.
    """
    from jaxmodels.layers.cache.d2o import layer_budgets

    layers = attention_layers(config)
    chosen = range(dense, len(layers) - 1)
    if not chosen:
        raise ValueError(
            f"d2o_by_layer: dense={dense} and the last one leave none of {len(layers)} attention layers"
        )
    variances = attention_variances(config, params, tokens)
    policies = []
    for budget in layer_budgets([float(variances[i]) for i in chosen], policy.budget, least=policy.sinks + 1):
        recent = round(policy.recent * budget / policy.budget)
        recent = max(1, min(recent, budget - policy.sinks))
        policies.append(replace(policy, budget=budget, recent=recent))
    return with_cache_policy(config, policies, [layers[i] for i in chosen])


def _has_cache(mixer: Mixer | None) -> bool:
    return any(isinstance(one, Attention) for one in _branches(mixer))


def _recurrent(config: Decoder) -> list[tuple[int, SSDMixer | GatedDeltaMixer]]:
    """The layers whose state has a policy, with the numbers of their blocks."""
    return [
        (i, mixer)
        for i, block in enumerate(config.blocks)
        for mixer in _branches(block.mixer)
        if isinstance(mixer, SSDMixer | GatedDeltaMixer)
    ]


def _branches(mixer: Mixer | None) -> list[Mixer | None]:
    """The mixers that one is the sum of, or it alone."""
    if not isinstance(mixer, SumMixer):
        return [mixer]
    return [one for branch in mixer.branches for one in _branches(branch.mixer)]


def _with_field(mixer: Any, policy: CachePolicy | StatePolicy, kind: Any) -> Any:
    """The mixer with the policy as `cache`, in those of its branches that are of the kind."""
    if isinstance(mixer, SumMixer):
        branches = [
            replace(branch, mixer=_with_field(branch.mixer, policy, kind)) for branch in mixer.branches
        ]
        return replace(mixer, branches=tuple(branches))
    return replace(mixer, cache=policy) if isinstance(mixer, kind) else mixer


def _between_heads(variances: Float[Array, "K"]) -> Float[Array, ""]:
    low, high = variances.min(), variances.max()
    return ((variances - low) / (high - low + 1e-6)).mean()
