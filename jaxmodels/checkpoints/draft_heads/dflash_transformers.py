"""DFlash as transformers has it: a ``MuseGlimmerAssistantModel``.

The configuration does not say how many tokens the target has, which must therefore be known. Numbers in
``target_layer_ids`` are those of the target's layers, from 0 on. A sliding window holds as many tokens on
either side of a slot as its key says, the slot's own not counted, and no layer is causal.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxmodels.checkpoints.draft_heads import dflash_parts
from jaxmodels.checkpoints.draft_heads.forms import TRANSFORMERS_DFLASH_TYPE
from jaxmodels.checkpoints.draft_heads.layout import (
    Layout,
    Stored,
    Written,
    check_all_read,
    read_head_params,
    target_of,
    write_head_params,
)
from jaxmodels.decoding.drafters.dflash import DFlashDrafter
from jaxmodels.models.draft_heads.dflash import DFlash
from jaxmodels.models.family import Table
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense

NAME = "transformers_dflash"
# What the configuration class has where a key is absent.
DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 6656,
    "intermediate_size": 19968,
    "num_hidden_layers": 5,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "sliding_window": 2048,
    "block_size": 16,
    "mask_token_id": 201818,
    "target_layer_ids": [1, 13, 25, 37, 49],
}

RENAMED = {"fc.weight": "encoder.fc.weight", "hidden_norm.weight": "encoder.output_norm_enc.weight"}
TABLE: Table[DFlash] = Table(
    model_type=NAME,
    weights=tuple(
        replace(row, theirs=RENAMED.get(row.theirs, row.theirs)) for row in dflash_parts.BLOCK_WEIGHTS
    ),
)


def read(stored: Stored) -> DFlashDrafter:
    target = target_of(stored, "it does not say how many tokens its target has")
    name = stored.reader("a transformers DFlash head").name
    reader = ConfigReader(_completed(stored.values), name)
    blocks = dflash_parts.read_blocks(reader, causal=False, also=1)
    head = DFlash(
        target_vocab_size=target.vocab_size,
        vocab_size=target.vocab_size,
        d_model=reader.positive("hidden_size"),
        blocks=blocks,
        feature_norm=blocks[0].mixer_norm,
        norm=blocks[0].mixer_norm,
        target_layers=dflash_parts.read_layer_ids(reader, "target_layer_ids", 0) or (),
        target_depth=len(getattr(target, "blocks", ())) or None,
        block_size=reader.positive("block_size"),
        mask_token=dflash_parts.read_mask_token(reader),
        layout=NAME,
    )
    check_all_read(reader, dflash_parts.LAYER_INERT)
    return DFlashDrafter(head=head, params=read_head_params(TABLE, head, stored))


def _completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the defaults of its class, and windows in use wherever a layer slides."""
    given = {key: value for key, value in values.items() if value is not None}
    full: dict[str, Any] = {**DEFAULTS, **given, "use_sliding_window": True, "attention_bias": False}
    if "rope_parameters" in given:
        full["rope_parameters"] = {"rope_theta": DEFAULTS["rope_theta"], **given["rope_parameters"]}
    full.setdefault("layer_types", [dense.SLIDING] * full["num_hidden_layers"])
    return full


def write(drafter: DFlashDrafter) -> Written:
    head = drafter.head
    plain = (False, head.vocab_size, None, None, 1.0, 1.0, None)
    if plain != (
        head.from_anchor, head.target_vocab_size, head.choice, head.confidence, head.embed_scale,
        head.logit_scale, head.logit_softcap,
    ) or any(block.causal or block.mixer_conv or block.mixer.qkv_bias for block in head.blocks):  # fmt: skip
        raise ConfigError(
            "DFlash: the form of transformers has plain heads alone, without causal layers, biases, "
            "convolutions, scales, a choice by the token before or a vocabulary of their own"
        )
    blocks = dflash_parts.write_blocks(head, also=1)
    values = {
        "architectures": ["MuseGlimmerAssistantModel"],
        "model_type": TRANSFORMERS_DFLASH_TYPE,
        **{
            key: value for key, value in blocks.items() if key not in ("use_sliding_window", "attention_bias")
        },
        "block_size": head.block_size,
        "mask_token_id": head.mask_token,
        "target_layer_ids": list(head.target_layers),
    }
    if values["sliding_window"] is None:
        values.pop("sliding_window")
    return Written(values=values, tensors=write_head_params(TABLE, head, drafter.params))


LAYOUT = Layout(name=NAME, read=read, write=write)
