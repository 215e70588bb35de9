"""Rows of weight tables that several layouts of denoisers share, in the names of `diffusers` if any."""

from itertools import chain

from jaxmodels.models.family import Weight
from jaxmodels.models.readers import dense

# How the axes of attention's projections are arranged, to ours.
HEADS, HEAD_BIAS = "(n h) d -> n h d", "(n h) -> n h"


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


def class_conditioner(ours: str) -> tuple[Weight, ...]:
    """The rows of a `ClassConditioner`, in the names of the official code of DiT."""
    return (
        *affine(f"{ours}/time/{{p}}_in", "t_embedder.mlp.0"),
        *affine(f"{ours}/time/{{p}}_out", "t_embedder.mlp.2"),
        Weight(f"{ours}/classes/weight", "y_embedder.embedding_table.weight"),
    )


def modulation(ours: str, theirs: str) -> tuple[Weight, ...]:
    """The rows of a `ProjectedModulation`."""
    return affine(f"{ours}/{{p}}", theirs, "(m d) c -> m d c", "(m d) -> m d")


def gated_mlp(ours: str, theirs: str, axes: str | None = None) -> tuple[Weight, ...]:
    """The rows of a `GatedMLP` without biases, in the names of Llama's own code."""
    names = (("gate", "w1"), ("up", "w3"), ("down", "w2"))
    return tuple(Weight(f"{ours}/w_{part}", f"{theirs}{name}.weight", axes) for part, name in names)


def ends(patches: str, out: str) -> tuple[Weight, ...]:
    """The rows of the first projection, a convolution in their code, and the last."""
    return (
        *affine("patches/{p}", patches, "d c p q -> d p q c"),
        *affine("out/{p}", out, "(p q c) d -> p q c d", "(p q c) -> p q c"),
    )


def vit_block(ours: str, theirs: str) -> tuple[Weight, ...]:
    """The rows of a block of a vision transformer, in the names of timm."""
    inputs = (affine(f"{ours}/mixer/{{p}}_{part}", f"{theirs}attn.qkv", HEADS, HEAD_BIAS) for part in "qkv")
    return (
        *dense.layer_norm_rows(f"{ours}/mixer_norm", f"{theirs}norm1"),
        *chain(*inputs),
        *affine(f"{ours}/mixer/{{p}}_o", f"{theirs}attn.proj", "d (n h) -> d n h"),
        *dense.layer_norm_rows(f"{ours}/ffn_norm", f"{theirs}norm2"),
        *affine(f"{ours}/ffn/{{p}}_up", f"{theirs}mlp.fc1"),
        *affine(f"{ours}/ffn/{{p}}_down", f"{theirs}mlp.fc2"),
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
