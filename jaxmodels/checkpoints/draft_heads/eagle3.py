"""What the published forms of EAGLE-3 have in common: the keys of its layers, the table of weights, d2t."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.checkpoints.draft_heads.layout import Stored, integers
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.safetensors_io import TensorToWrite
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope import UNSCALED, Rope, rope_to_hf
from jaxmodels.models.block import Block
from jaxmodels.models.draft_heads.eagle3 import Eagle3, FusingBlock
from jaxmodels.models.family import Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense, qwen

# Which tensors there are decides on a part of the head.
EMBEDDING, OFFSETS, KNOWN = "embed_tokens.weight", "d2t", "t2d"

WEIGHTS = (
    Weight("fc/weight", "fc.weight"),
    Weight("norm/scale", "norm.weight"),
    Weight("head/weight", "lm_head.weight"),
    Weight("embed/weight", EMBEDDING),
    Weight("stream_norm/scale", "input_norm.weight"),
    Weight("blocks/{i}/embedding_norm/scale", "layers.{i}.input_layernorm.weight"),
    Weight("blocks/{i}/feature_norm/scale", "layers.{i}.hidden_norm.weight"),
    *(
        replace(row, theirs=row.theirs.removeprefix("model."))
        for row in (*dense.PRE_NORM_WEIGHTS, *dense.ATTENTION_WEIGHTS, *dense.GATED_MLP_WEIGHTS)
    ),
)


def stream_norm_rows(head: Eagle3) -> tuple[Weight, ...]:
    """The rows of norms of single streams."""
    if head.stream_norms != "each":
        return ()
    return tuple(Weight(f"stream_norm/{i}/scale", f"fc_norm.{i}.weight") for i in range(len(head.layers)))


def read_blocks(reader: ConfigReader, *, norm_before_residual: bool) -> tuple[FusingBlock, tuple[Block, ...]]:
    """The first layer and the others, from the keys of a Llama or a Qwen3."""
    if reader.take_or("model_type", str, "llama") == "qwen3":
        attention = qwen.read_normed_attention(reader, qwen.HEAD_DIM)
        mlp_bias = False
    else:
        bias = reader.flag("attention_bias", False)
        attention = Attention(**dense.read_attention(reader), qkv_bias=bias, out_bias=bias)
        mlp_bias = reader.flag("mlp_bias", False)
    norm, ffn = dense.read_norm(reader), dense.read_gated_mlp(reader, mlp_bias)
    layers = reader.layers(1)
    windows = dense.layer_windows(reader, layers)
    mixers = [replace(attention, sliding_window=window) for window in windows]
    first = FusingBlock(
        embedding_norm=norm,
        feature_norm=norm,
        mixer=replace(mixers[0], input_dim=2 * attention.d_model),
        ffn_norm=norm,
        ffn=ffn,
        norm_before_residual=norm_before_residual,
    )
    return first, tuple(dense.pre_norm_blocks(norm, mixers[1:], ffn))


def write_blocks(head: Eagle3) -> dict[str, Any]:
    """The keys that `read_blocks` reads.

    Raises ConfigError where the layers are of another kind.
    """
    first = head.blocks[0]
    if not (
        isinstance(first, FusingBlock)
        and isinstance(first.ffn, GatedMLP)
        and isinstance(first.ffn_norm, RMSNorm)
        and isinstance(first.mixer.rope, Rope)
    ):
        raise ConfigError(
            "Eagle3: its published forms hold a FusingBlock of RMSNorm, rotary attention and GatedMLP in "
            f"front, not {type(first).__name__}"
        )
    attention, ffn = first.mixer, first.ffn
    qwen3 = attention.query_norm is not None
    windows = [block.mixer.sliding_window for block in head.blocks if isinstance(block.mixer, Attention)]
    return {
        "model_type": "qwen3" if qwen3 else "llama",
        "hidden_size": head.d_model,
        "intermediate_size": ffn.d_ff,
        "num_hidden_layers": len(head.blocks),
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "hidden_act": ffn.activation,
        "rms_norm_eps": first.ffn_norm.eps,
        "attention_bias": attention.qkv_bias,
        **({} if qwen3 else {"mlp_bias": ffn.bias}),
        **written_windows(windows),
        **written_rope(first.mixer.rope, attention.head_dim),
    }


def written_windows(windows: list[int | None]) -> dict[str, Any]:
    """The keys of the layers' sliding windows."""
    window = next((one for one in windows if one is not None), None)
    types = [dense.FULL if one is None else dense.SLIDING for one in windows]
    return {"layer_types": types, "sliding_window": window, "use_sliding_window": window is not None}


def written_rope(rope: Rope, head_dim: int) -> dict[str, Any]:
    """In the keys of both generations of `transformers`; engines read one or the other."""
    written = rope_to_hf(rope, head_dim)
    inner = {key: value for key, value in written["rope_parameters"].items() if key != "rope_theta"}
    older = None if rope.scaling == UNSCALED else inner
    return {**written, "rope_theta": rope.theta, **({} if older is None else {"rope_scaling": older})}


def read_token_ids(stored: Stored, vocab_size: int, target_vocab_size: int) -> jax.Array | None:
    """The target's number of each token that the head knows, from the offsets that are stored; None where
    there are none.

    Raises CheckpointError where the numbers are none of the target's, or missing.
    """
    if OFFSETS not in stored.tensors.infos:
        if vocab_size != target_vocab_size:
            raise CheckpointError(
                f"{stored.directory}: the head knows {vocab_size} of {target_vocab_size} tokens, and there "
                f"is no tensor {OFFSETS!r} that says which"
            )
        return None
    offsets = stored.tensors.read(OFFSETS)
    if offsets.shape != (vocab_size,):
        raise CheckpointError(
            f"{stored.directory}: tensor {OFFSETS!r} must have a number for each of draft_vocab_size="
            f"{vocab_size} tokens, got shape {list(offsets.shape)}"
        )
    token_ids = np.arange(vocab_size) + offsets.astype(np.int64)
    outside = token_ids[(token_ids < 0) | (token_ids >= target_vocab_size)]
    if outside.size:
        raise CheckpointError(
            f"{stored.directory}: tensor {OFFSETS!r} leads to token {outside[0]}, and the vocabulary has "
            f"{target_vocab_size}"
        )
    return jnp.asarray(token_ids, jnp.int32)


def write_token_ids(token_ids: jax.Array | None, target_vocab_size: int) -> list[TensorToWrite]:
    """The tensors that say which tokens a head knows: offsets of its own, and flags of the target's."""
    if token_ids is None:
        return []
    numbers = np.asarray(token_ids, np.int64)
    known = np.zeros(target_vocab_size, np.bool_)
    known[numbers] = True
    return [integers(OFFSETS, numbers - np.arange(len(numbers))), integers(KNOWN, known)]
