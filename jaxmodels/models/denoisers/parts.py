"""Layers as most denoisers have them, by their sizes."""

from collections.abc import Mapping
from types import MappingProxyType

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.condition import AdaptiveNorm, ProjectedModulation
from jaxmodels.layers.norm import LayerNorm, RMSNorm

# Of norms, in the official codes and in what the configurations of `diffusers` do not reach.
EPS = 1e-6

# Activations by the names of `diffusers`.
ACTIVATIONS: Mapping[str, str] = MappingProxyType({"gelu-approximate": "gelu_new", "gelu": "gelu"})

# The order in which `diffusers` stores the modulations of a last norm, `AdaLayerNormContinuous`.
LAST_PARTS = ("scale", "shift")


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


def final_norm(d_model: int, parts: tuple[str, ...] = LAST_PARTS) -> AdaptiveNorm:
    """The norm in front of the last projection. parts: a shift and a scale, as they are stored."""
    made = ProjectedModulation(d_model=d_model, d_condition=d_model, parts=parts)
    return AdaptiveNorm(norm=bare_norm(d_model), modulation=made)
