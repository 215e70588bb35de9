"""Zamba2 (`model_type` "zamba2"): Mamba-2 layers, some behind a transformer layer that they share."""

import math
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import GatedRMSNorm, RMSNorm
from jaxmodels.layers.rope import rope_to_hf
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense, hybrid
from jaxmodels.models.shared_attention_block import SharedAttentionBlock

# Beside how weights are drawn: sizes that follow from others or are named anew, and what transformers' code
# does not read, such as `use_conv_bias` and switches of low-rank adapters under older names.
INERT = (
    "attention_head_dim", "attention_hidden_size", "conv_dimension", "expansion_factor", "ffn_hidden_size",
    "ft_lora", "hybrid_layer_ids", "kv_channels", "lora_rank", "mamba_headdim", "num_query_groups",
    "rescale_prenorm_residual", "state_size", "time_step_floor", "time_step_max", "use_conv_bias",
    "use_mem_eff_path", "use_shared_attention_lora", "use_shared_block_lora",
)  # fmt: skip

MAMBA, SHARED_ATTENTION = "linear_attention", "hybrid"


def read_config(reader: ConfigReader) -> Decoder:
    reader.expect("use_long_context", False)
    reader.expect("gated_linear_unit", True)
    reader.expect("tie_word_embeddings", True)  # without, transformers' code shares no layers either
    norm = dense.read_norm(reader, default_eps=1e-5)
    ssd = _read_ssd(reader)
    types = hybrid.read_layer_types(reader, (MAMBA, SHARED_ATTENTION), key="layers_block_type")
    sets = reader.positive_or("num_mem_blocks", 1)
    if SHARED_ATTENTION not in types:
        raise ConfigError(
            f"{reader.name}: key 'layers_block_type' must hold a {SHARED_ATTENTION!r}, got {shown(types)}"
        )
    attention, ffn = _read_transformer(reader)
    wide = RMSNorm(dim=2 * norm.dim, eps=norm.eps)
    blocks: list[Block | SharedAttentionBlock] = []
    for i, kind in enumerate(types):
        if kind == MAMBA:
            blocks.append(Block(mixer_norm=norm, mixer=ssd))
        else:
            shared = types[:i].count(SHARED_ATTENTION) % sets
            blocks.append(
                SharedAttentionBlock(
                    mixer_norm=norm,
                    mixer=ssd,
                    attention_norm=wide,
                    attention=attention,
                    ffn_norm=norm,
                    ffn=ffn,
                    shared=shared,
                )
            )
    return dense.finish_decoder(reader, blocks, norm, default_tie=True)


def _read_ssd(reader: ConfigReader) -> SSDMixer:
    d_model, num_heads = reader.positive("hidden_size"), reader.positive_or("n_mamba_heads", 8)
    d_inner = reader.positive_or("mamba_expand", 2) * d_model
    groups = reader.positive_or("mamba_ngroups", 1)
    if num_heads < 1 or d_inner % num_heads:
        raise ConfigError(
            f"{reader.name}: key 'n_mamba_heads' must divide the inner width {d_inner}, got {num_heads}"
        )
    return SSDMixer(
        d_model=d_model,
        num_heads=num_heads,
        head_dim=d_inner // num_heads,
        state_dim=reader.positive_or("mamba_d_state", 64),
        num_groups=groups,
        conv_width=reader.positive_or("mamba_d_conv", 4),
        chunk_size=reader.positive_or("chunk_size", 256),
        dt_limit=(reader.take_or("time_step_min", float, 0.001), math.inf),
        projection_bias=reader.flag("add_bias_linear", False),
        norm=GatedRMSNorm(dim=d_inner, eps=1e-5, num_groups=max(groups, 1)),
    )


def _read_transformer(reader: ConfigReader) -> tuple[Attention, GatedMLP]:
    """The layers that are shared; heads are twice as wide as usual, logits scaled as if they were not."""
    d_model, num_heads = reader.positive("hidden_size"), reader.positive("num_attention_heads")
    rank = reader.positive_or("adapter_rank", 128)
    adapted = reader.flag("use_shared_attention_adapter", False)
    head_dim = 2 * d_model // num_heads
    rope = dense.read_rope(reader, head_dim)
    attention = Attention(
        d_model=d_model,
        input_dim=2 * d_model,
        num_heads=num_heads,
        num_kv_heads=reader.positive_or("num_key_value_heads", num_heads),
        head_dim=head_dim,
        rope=rope if reader.flag("use_mem_rope", False) else None,
        scale=(head_dim / 2) ** -0.5,
        adapter_rank=rank if adapted else None,
    )
    ffn = GatedMLP(
        d_model=d_model,
        d_ff=reader.positive_or("intermediate_size", 4 * d_model),
        activation=dense.read_activation(reader, default="gelu"),
        bias=reader.flag("add_bias_linear", False),
        adapter_rank=rank,
    )
    return attention, ffn


def write_config(config: Decoder) -> dict[str, Any]:
    sharing = [block for block in config.blocks if isinstance(block, SharedAttentionBlock)]
    if not sharing:
        raise ConfigError("the 'zamba2' layout needs at least one block behind a shared transformer layer")
    attention, ffn, ssd = sharing[0].attention, sharing[0].ffn, sharing[0].mixer
    assert isinstance(ssd, SSDMixer)
    return hybrid.write_decoder(config) | {
        "architectures": ["Zamba2ForCausalLM"],
        "layers_block_type": [
            SHARED_ATTENTION if isinstance(block, SharedAttentionBlock) else MAMBA for block in config.blocks
        ],
        "num_mem_blocks": len({block.shared for block in sharing}),
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "use_mem_rope": attention.rope is not None,
        **({} if attention.rope is None else rope_to_hf(attention.rope, attention.head_dim)),
        "use_shared_attention_adapter": attention.adapter_rank is not None,
        "adapter_rank": ffn.adapter_rank,
        "intermediate_size": ffn.d_ff,
        "hidden_act": ffn.activation,
        "add_bias_linear": ffn.bias,
        "n_mamba_heads": ssd.num_heads,
        "mamba_d_state": ssd.state_dim,
        "mamba_ngroups": ssd.num_groups,
        "mamba_d_conv": ssd.conv_width,
        "mamba_expand": ssd.d_inner // ssd.d_model,
        "chunk_size": ssd.chunk_size,
        "time_step_min": ssd.dt_limit[0],
    }


def named_weights(config: Decoder) -> tuple[Weight, ...]:
    """The rows of all blocks: where a tensor is found depends on the kinds of the layers before it."""
    rows: list[Weight] = []
    first: dict[int, int] = {}  # the layer that stores a set of shared parameters
    count = 0
    for i, block in enumerate(config.blocks):
        layer = f"model.layers.{i}"
        if isinstance(block, SharedAttentionBlock):
            owner = f"model.layers.{first.setdefault(block.shared, i)}.shared_transformer"
            if first[block.shared] == i:
                rows += _shared_rows(f"shared/{block.shared}", owner)
            rows += _adapter_rows(f"blocks/{i}", owner, count)
            rows.append(Weight(f"blocks/{i}/w_out", f"{layer}.linear.weight"))
            layer, count = f"{layer}.mamba_decoder", count + 1
        rows.append(Weight(f"blocks/{i}/mixer_norm/scale", f"{layer}.input_layernorm.weight"))
        rows += hybrid.ssd_weights(f"blocks/{i}/mixer", f"{layer}.mamba")
    return tuple(rows)


def _shared_rows(ours: str, theirs: str) -> list[Weight]:
    attention = hybrid.renamed(
        dense.ATTENTION_WEIGHTS,
        ours=("blocks/{i}/mixer", f"{ours}/attention"),
        theirs=("model.layers.{i}", theirs),
    )
    mlp = f"{theirs}.feed_forward"
    return [
        *attention,
        Weight(f"{ours}/attention_norm/scale", f"{theirs}.input_layernorm.weight"),
        Weight(f"{ours}/ffn_norm/scale", f"{theirs}.pre_ff_layernorm.weight"),
        Weight(f"{ours}/ffn/w_gate", f"{mlp}.gate_up_proj.weight"),
        Weight(f"{ours}/ffn/w_up", f"{mlp}.gate_up_proj.weight"),
        Weight(f"{ours}/ffn/w_down", f"{mlp}.down_proj.weight"),
        Weight(f"{ours}/ffn/b_gate", f"{mlp}.gate_up_proj.bias"),
        Weight(f"{ours}/ffn/b_up", f"{mlp}.gate_up_proj.bias"),
        Weight(f"{ours}/ffn/b_down", f"{mlp}.down_proj.bias"),
    ]


def _adapter_rows(ours: str, theirs: str, use: int) -> list[Weight]:
    """Of the `use`-th block behind a shared layer: its adapters are stored with that layer."""
    rows = []
    for x, heads in (("q", "n"), ("k", "k"), ("v", "k")):
        name, adapter = f"{theirs}.self_attn.linear_{x}_adapter_list.{use}", f"{ours}/attention/adapter"
        rows.append(Weight(f"{adapter}/a_{x}", f"{name}.0.weight"))
        rows.append(Weight(f"{adapter}/b_{x}", f"{name}.1.weight", f"({heads} h) r -> {heads} h r"))
    name, adapter = f"{theirs}.feed_forward.gate_up_proj_adapter_list.{use}", f"{ours}/ffn/adapter"
    return [
        *rows,
        Weight(f"{adapter}/a", f"{name}.0.weight"),
        Weight(f"{adapter}/b_gate", f"{name}.1.weight"),
        Weight(f"{adapter}/b_up", f"{name}.1.weight"),
    ]


FAMILY = Family(
    model_type="zamba2",
    summary="Zamba2: Mamba-2 around shared transformer layers",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=hybrid.FRAME_WEIGHTS[:3],
    named_weights=named_weights,
)
