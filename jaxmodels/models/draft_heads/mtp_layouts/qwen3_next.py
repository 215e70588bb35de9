"""Qwen3-Next's layout, and that of Qwen3.5: one module under a name of its own, which attends fully."""

from collections.abc import Mapping
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.moe import MoE
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.mtp_layouts.layout import MTPLayout
from jaxmodels.models.family import Weight
from jaxmodels.models.hf_config import ConfigError

COUNT = "mtp_num_hidden_layers"


def read_blocks(config: Decoder, values: Mapping[str, Any]) -> tuple[Block, ...]:
    """A layer that attends to all tokens, with a mixture of experts if the model has any."""
    if values.get(COUNT, 1) != 1:
        raise ConfigError(
            f"config: key {COUNT!r} must be 0 or 1, as there is one projection, got {shown(values[COUNT])}"
        )
    if values.get("mtp_use_dedicated_embeddings"):
        raise ConfigError(
            "config: key 'mtp_use_dedicated_embeddings' must be false, as the module shares the model's, got "
            f"{shown(values['mtp_use_dedicated_embeddings'])}"
        )
    attends = [b for b in config.blocks if isinstance(b, Block) and isinstance(b.mixer, Attention)]
    full = [b for b in attends if isinstance(b.mixer, Attention) and b.mixer.sliding_window is None]
    if not full:
        raise ConfigError(
            "a module for multi-token prediction attends fully, which no layer of the model does"
        )
    return (next((block for block in full if isinstance(block.ffn, MoE)), full[0]),)


LAYOUT = MTPLayout(
    model_types=("qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
    count_key=COUNT,
    read_blocks=read_blocks,
    architecture="Qwen3NextMTP",
    first_number=lambda config: 0,
    block="mtp.layers.{n}.",
    weights=(
        Weight("embed_norm/scale", "mtp.pre_fc_norm_embedding.weight"),
        Weight("hidden_norm/scale", "mtp.pre_fc_norm_hidden.weight"),
        Weight("w_embed", "mtp.fc.weight", along=1),
        Weight("w_hidden", "mtp.fc.weight", along=1),
        Weight("final_norm/scale", "mtp.norm.weight"),
    ),
    unused=(r"mtp\.(embed_tokens|lm_head)\.weight",),
)
