"""Layers as most denoisers have them, by their sizes."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.condition import NORM_PARTS, AdaptiveNorm, ProjectedModulation, TableModulation
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.norm import LayerNorm, RMSNorm
from jaxmodels.layers.rope_axes import AxesRope
from jaxmodels.layers.window import Window, fresh_window

# Of norms, in the official codes and in what the configurations of `diffusers` do not reach.
EPS = 1e-6

# Activations by the names of `diffusers`.
ACTIVATIONS: Mapping[str, str] = MappingProxyType({"gelu-approximate": "gelu_new", "gelu": "gelu"})

# The order in which `diffusers` stores the modulations of a last norm, `AdaLayerNormContinuous`.
LAST_PARTS = ("scale", "shift")

# Keys of `Transformer2DModel`, which was several classes in one, that those of today do not have.
OLDER_KEYS = ("double_self_attention", "num_vector_embeds", "only_cross_attention", "use_linear_projection")


def activation_name(ours: str) -> str:
    """The name that `diffusers` has for an activation."""
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)


def bare_norm(d_model: int, eps: float = EPS) -> LayerNorm:
    """A norm without weights: what an adaptive layer modulates."""
    return LayerNorm(dim=d_model, eps=eps, scale=False, bias=False)


def plain_attention(num_heads: int, head_dim: int, qk_norm: RMSNorm | None = None) -> Attention:
    """Attention with biases and as many key heads as query heads. qk_norm: of each query and key head."""
    return Attention(
        d_model=num_heads * head_dim,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        query_norm=qk_norm,
        key_norm=qk_norm,
        qkv_bias=True,
        out_bias=True,
    )


def final_norm(
    d_model: int, parts: tuple[str, ...] = LAST_PARTS, activation: str | None = "silu"
) -> AdaptiveNorm:
    """The norm in front of the last projection. parts: a shift and a scale, as they are stored; activation:
    see `ProjectedModulation`."""
    made = ProjectedModulation(d_model=d_model, d_condition=d_model, parts=parts, activation=activation)
    return AdaptiveNorm(norm=bare_norm(d_model), modulation=made)


def table_norm(d_model: int) -> AdaptiveNorm:
    """The norm in front of the last projection where the blocks share one projection of the time."""
    made = TableModulation(d_model=d_model, d_condition=d_model, parts=NORM_PARTS)
    return AdaptiveNorm(norm=bare_norm(d_model), modulation=made)


def placed_window(rope: AxesRope, places: Any, batch: int) -> Window:
    """The window of `batch` rows of tokens at these places, rotated by all of their numbers: [1, S, A] of
    numpy for all rows, or [B, S, A] of a traced program."""
    window = fresh_window(jnp.zeros((batch, places.shape[1]), jnp.int32), mask=BIDIRECTIONAL)
    broadcast = np.broadcast_to if isinstance(places, np.ndarray) else jnp.broadcast_to
    turned = rope.at(broadcast(places, (batch, *places.shape[1:])))
    return replace(window, rotations={rope: turned})
