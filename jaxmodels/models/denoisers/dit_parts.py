"""What the layouts of denoisers' files share: parts of networks by their sizes, and rows of weights."""

from itertools import chain
from types import MappingProxyType

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.condition import NORM_PARTS, AdaptiveNorm, ProjectedModulation
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import LayerNorm, RMSNorm
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.models.adaptive_block import AdaptiveBlock
from jaxmodels.models.denoisers.class_conditioner import ClassConditioner
from jaxmodels.models.denoisers.dit import DiT
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.family import Weight

# Names of `diffusers`, and ours.
ACTIVATIONS = MappingProxyType({"gelu-approximate": "gelu_new", "gelu": "gelu"})

# How the axes of their projections are arranged, to ours.
HEADS, HEAD_BIAS = "(n h) d -> n h d", "(n h) -> n h"

# In the official code, and in the norms of `diffusers` that its configuration does not reach.
EPS = 1e-6


def build(
    *,
    num_heads: int,
    head_dim: int,
    d_ff: int,
    num_layers: int,
    num_classes: int,
    freq_shift: float = 0.0,
    activation: str = "gelu_new",
    qkv_bias: bool = True,
    ffn_norm: LayerNorm | None = None,
    sample_size: int,
    patch: int,
    in_channels: int,
    out_channels: int,
    own_conditioners: bool = False,
    family: str,
) -> DiT:
    """The network of these sizes. ffn_norm: the blocks' second norm, by default as the others: no weights."""
    d_model = num_heads * head_dim
    norm = LayerNorm(dim=d_model, eps=EPS, scale=False, bias=False)
    block = AdaptiveBlock(
        mixer_norm=norm,
        mixer=Attention(
            d_model=d_model,
            num_heads=num_heads,
            num_kv_heads=num_heads,
            head_dim=head_dim,
            qkv_bias=qkv_bias,
            out_bias=True,
        ),
        ffn_norm=norm if ffn_norm is None else ffn_norm,
        ffn=MLP(d_model=d_model, d_ff=d_ff, activation=activation),
        modulation=ProjectedModulation(d_model=d_model, d_condition=d_model),
    )
    last = ProjectedModulation(d_model=d_model, d_condition=d_model, parts=NORM_PARTS)
    time = TimestepEmbedding(d_model=d_model, freq_shift=freq_shift)
    return DiT(
        sample_size=sample_size,
        projections=PatchProjections(
            d_model=d_model, patch=patch, in_channels=in_channels, out_channels=out_channels
        ),
        blocks=(block,) * num_layers,
        conditioner=ClassConditioner(time=time, num_classes=num_classes),
        final_norm=AdaptiveNorm(norm=norm, modulation=last),
        own_conditioners=own_conditioners,
        family=family,
    )


def activation_name(ours: str) -> str:
    """The name that `diffusers` has for an activation."""
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)


def affine(
    ours: str, theirs: str, axes: str | None = None, bias_axes: str | None = None
) -> tuple[Weight, ...]:
    """The rows of a projection's weight and bias; ``{p}`` in `ours` stands for "w" and "b"."""
    return (
        Weight(ours.replace("{p}", "w"), f"{theirs}.weight", axes),
        Weight(ours.replace("{p}", "b"), f"{theirs}.bias", bias_axes),
    )


def attention(ours: str, theirs: str) -> tuple[Weight, ...]:
    """The rows of an `Attention` in the names of `diffusers`."""
    out = affine(f"{ours}/{{p}}_o", f"{theirs}to_out.0", "d (n h) -> d n h")
    return (*attention_inputs(ours, theirs), *out)


def attention_inputs(ours: str, theirs: str) -> tuple[Weight, ...]:
    """Those of its queries, keys and values."""
    inputs = (affine(f"{ours}/{{p}}_{part}", f"{theirs}to_{part}", HEADS, HEAD_BIAS) for part in "qkv")
    return (
        *chain(*inputs),
        Weight(f"{ours}/query_norm/scale", f"{theirs}norm_q.weight"),
        Weight(f"{ours}/key_norm/scale", f"{theirs}norm_k.weight"),
    )


def embed_mlp(ours: str, theirs: str) -> tuple[Weight, ...]:
    """The rows of the two projections that `jaxmodels.layers.condition.embed_mlp` has, in those names."""
    return (
        *affine(f"{ours}/{{p}}_in", f"{theirs}.linear_1"),
        *affine(f"{ours}/{{p}}_out", f"{theirs}.linear_2"),
    )


def modulation(ours: str, theirs: str) -> tuple[Weight, ...]:
    """The rows of a `ProjectedModulation`."""
    return affine(f"{ours}/{{p}}", theirs, "(m d) c -> m d c", "(m d) -> m d")


def ends(patches: str, out: str) -> tuple[Weight, ...]:
    """The rows of the first projection, a convolution in their code, and the last."""
    return (
        *affine("patches/{p}", patches, "d c p q -> d p q c"),
        *affine("out/{p}", out, "(p q c) d -> p q c d", "(p q c) -> p q c"),
    )


# The order in which `diffusers` stores the modulations of a last norm.
LAST_PARTS = ("scale", "shift")


def final_norm(d_model: int) -> AdaptiveNorm:
    """The norm in front of the last projection, `AdaLayerNormContinuous` of `diffusers`."""
    made = ProjectedModulation(d_model=d_model, d_condition=d_model, parts=LAST_PARTS)
    return AdaptiveNorm(norm=LayerNorm(dim=d_model, eps=EPS, scale=False, bias=False), modulation=made)


def plain_attention(num_heads: int, head_dim: int, qk_norm: RMSNorm | None) -> Attention:
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


def joint_block(ours: str, theirs: str) -> tuple[Weight, ...]:
    """The rows of a `JointBlock`, in the names that SD3 and Flux share."""
    added = (
        affine(f"{ours}/mixer/context/{{p}}_{part}", f"{theirs}attn.add_{part}_proj", HEADS, HEAD_BIAS)
        for part in "qkv"
    )
    return (
        *modulation(f"{ours}/modulation", f"{theirs}norm1.linear"),
        *modulation(f"{ours}/context_modulation", f"{theirs}norm1_context.linear"),
        *attention(f"{ours}/mixer/stream", f"{theirs}attn."),
        *chain(*added),
        *affine(f"{ours}/mixer/context/{{p}}_o", f"{theirs}attn.to_add_out", "d (n h) -> d n h"),
        Weight(f"{ours}/mixer/context/query_norm/scale", f"{theirs}attn.norm_added_q.weight"),
        Weight(f"{ours}/mixer/context/key_norm/scale", f"{theirs}attn.norm_added_k.weight"),
        *affine(f"{ours}/ffn/{{p}}_up", f"{theirs}ff.net.0.proj"),
        *affine(f"{ours}/ffn/{{p}}_down", f"{theirs}ff.net.2"),
        *affine(f"{ours}/context_ffn/{{p}}_up", f"{theirs}ff_context.net.0.proj"),
        *affine(f"{ours}/context_ffn/{{p}}_down", f"{theirs}ff_context.net.2"),
    )
