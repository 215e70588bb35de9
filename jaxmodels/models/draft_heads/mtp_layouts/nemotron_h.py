"""Nemotron-3's layout: a module is several blocks of one layer each, as the model's own are."""

from collections.abc import Mapping
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.moe import MoE
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.mtp_layouts.layout import MTPLayout
from jaxmodels.models.family import Weight
from jaxmodels.models.hf_config import ConfigError

# The layer of a block, by the letter of `mtp_hybrid_override_pattern` or the name of `mtp_layers_block_type`.
LAYERS: Mapping[str, type] = {
    "*": Attention, "attention": Attention, "full_attention": Attention,
    "E": MoE, "moe": MoE, "-": MLP, "mlp": MLP,
}  # fmt: skip


def read_blocks(config: Decoder, values: Mapping[str, Any]) -> tuple[Block, ...]:
    """Blocks as the model has them, in the order that the configuration gives."""
    given = values.get("mtp_layers_block_type") or values.get("mtp_hybrid_override_pattern") or "*E"
    blocks = []
    for name in given:
        kind = LAYERS.get(name) if isinstance(name, str) else None
        if kind is None:
            raise ConfigError(
                "config: key 'mtp_layers_block_type' or 'mtp_hybrid_override_pattern' must hold some of "
                f"{list(LAYERS)}, got {shown(given)}"
            )
        blocks.append(_first_of(config, kind, name))
    return tuple(blocks)


def _first_of(config: Decoder, kind: type, name: str) -> Block:
    for block in config.blocks:
        if isinstance(block, Block) and isinstance(block.mixer or block.ffn, kind):
            return block
    raise ConfigError(
        f"config: a module for multi-token prediction has a block {name!r}, and the model has none whose "
        "sizes it could have"
    )


LAYOUT = MTPLayout(
    model_types=("nemotron_h",),
    count_key="num_nextn_predict_layers",
    read_blocks=read_blocks,
    architecture="NemotronHMTPModel",
    first_number=lambda config: 0,
    block="mtp.layers.{n}.",
    weights=(
        Weight("embed_norm/scale", "mtp.layers.{first}.enorm.weight"),
        Weight("hidden_norm/scale", "mtp.layers.{first}.hnorm.weight"),
        Weight("w_embed", "mtp.layers.{first}.eh_proj.weight", along=1),
        Weight("w_hidden", "mtp.layers.{first}.eh_proj.weight", along=1),
        Weight("final_norm/scale", "mtp.layers.{last}.final_layernorm.weight"),
    ),
)
