"""MiMo-7B's layout: the hidden state stands before the embedding in the projection."""

from collections.abc import Mapping
from typing import Any

from jaxmodels.models.block import DecoderBlock
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.mtp_layouts.layout import MTPLayout
from jaxmodels.models.family import Weight


def read_blocks(config: Decoder, values: Mapping[str, Any]) -> tuple[DecoderBlock, ...]:
    return (config.blocks[-1],)


MODULE = "model.mtp_layers.{k}"

LAYOUT = MTPLayout(
    model_types=("mimo",),
    count_key="num_nextn_predict_layers",
    read_blocks=read_blocks,
    architecture="MiMoMTPModel",
    first_number=lambda config: 0,
    block=f"{MODULE}.",
    weights=(
        Weight("embed_norm/scale", f"{MODULE}.token_layernorm.weight"),
        Weight("hidden_norm/scale", f"{MODULE}.hidden_layernorm.weight"),
        Weight("w_hidden", f"{MODULE}.input_proj.weight", along=1),
        Weight("w_embed", f"{MODULE}.input_proj.weight", along=1),
        Weight("final_norm/scale", f"{MODULE}.final_layernorm.weight"),
    ),
)
