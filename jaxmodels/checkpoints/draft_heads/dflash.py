"""DFlash and DFlash2 as the authors' dflash package has them: a Qwen3 with a section ``dflash_config``.

Numbers in ``target_layer_ids`` are those of the target's layers, from 0 on. Every key of the section may
stand beside it as well, as in older files. DSpark heads in this form have their keys in the section too.
"""

from typing import Any

from jaxmodels.checkpoints.draft_heads import dflash_parts
from jaxmodels.checkpoints.draft_heads.forms import DFLASH, DFLASH_SECTION
from jaxmodels.checkpoints.draft_heads.layout import (
    Layout,
    Stored,
    Written,
    check_all_read,
    read_head_params,
    write_head_params,
)
from jaxmodels.decoding.drafters.dflash import DFlashDrafter
from jaxmodels.models.draft_heads.dflash import DFlash, even_layers
from jaxmodels.models.draft_heads.slot_choice import CandidateSelector
from jaxmodels.models.family import Table
from jaxmodels.models.hf_config import ConfigReader

NAME = "dflash"
DEFAULT_BLOCK = 16
# Keys that decide what a head is made of.
SELECTOR_KEY, MARKOV_KEY = "selector_rank", "markov_rank"


TABLE: Table[DFlash] = Table(
    model_type=NAME,
    weights=(*dflash_parts.BLOCK_WEIGHTS, *dflash_parts.CONV_WEIGHTS, *dflash_parts.CONFIDENCE_WEIGHTS),
    named_weights=dflash_parts.choice_rows,
    renamed=dflash_parts.RENAMED,
)


def read(stored: Stored) -> DFlashDrafter:
    outer = stored.reader("a DFlash head")
    section = outer.take_or(DFLASH_SECTION, dict, {})
    # What the section does not say is said beside it.
    beside = {key: value for key, value in stored.values.items() if key != DFLASH_SECTION}
    reader = ConfigReader(beside | section, outer.name)
    blocks = dflash_parts.read_blocks(reader, causal=reader.optional("is_causal", bool))
    vocabulary, width = reader.positive("vocab_size"), reader.positive("hidden_size")
    depth = reader.count("num_target_layers")
    layers = dflash_parts.read_layer_ids(reader, "target_layer_ids", 0)
    if layers is None:
        layers = even_layers(reader.positive("num_target_layers"), len(blocks))
    choice: Any = None
    confidence = None
    if SELECTOR_KEY in reader.values:
        blocks = dflash_parts.read_convolutions(reader, blocks)
        choice = dflash_parts.read_selector(reader, vocabulary, width)
    elif MARKOV_KEY in reader.values:
        choice, confidence = dflash_parts.read_markov(reader, stored, vocabulary, vocabulary, width)
    cap = reader.take_or("final_logit_softcapping", float, 0.0)
    head = DFlash(
        target_vocab_size=vocabulary,
        vocab_size=vocabulary,
        d_model=width,
        blocks=blocks,
        feature_norm=blocks[0].mixer_norm,
        norm=blocks[0].mixer_norm,
        target_layers=layers,
        target_depth=depth,
        block_size=reader.positive_or("block_size", DEFAULT_BLOCK),
        mask_token=dflash_parts.read_mask_token(reader),
        from_anchor=reader.flag("sample_from_anchor", MARKOV_KEY in reader.values),
        embed_scale=reader.factor("input_embedding_scale", 1.0),
        logit_scale=reader.factor("output_multiplier", 1.0),
        logit_softcap=cap if cap > 0 else None,
        choice=choice,
        confidence=confidence,
        layout=NAME,
    )
    check_all_read(reader, dflash_parts.LAYER_INERT)
    return DFlashDrafter(head=head, params=read_head_params(TABLE, head, stored))


def write(drafter: DFlashDrafter) -> Written:
    head = drafter.head
    causal = dflash_parts.causal_of(head)
    values = {
        "architectures": [DFLASH[isinstance(head.choice, CandidateSelector)]],
        "model_type": "qwen3",
        **dflash_parts.write_blocks(head),
        **({} if causal is None else {"is_causal": causal}),
        "vocab_size": head.target_vocab_size,
        "block_size": head.block_size,
        **({} if head.target_depth is None else {"num_target_layers": head.target_depth}),
        DFLASH_SECTION: {
            "mask_token_id": head.mask_token,
            "target_layer_ids": list(head.target_layers),
            "block_size": head.block_size,
            **_written_scales(head),
            **dflash_parts.write_convolutions(head),
            **dflash_parts.write_selector(head),
            **dflash_parts.write_markov(head),
            "sample_from_anchor": head.from_anchor,
        },
    }
    return Written(values=values, tensors=write_head_params(TABLE, head, drafter.params))


def _written_scales(head: DFlash) -> dict[str, Any]:
    scales = {
        "input_embedding_scale": (head.embed_scale, 1.0),
        "output_multiplier": (head.logit_scale, 1.0),
        "final_logit_softcapping": (head.logit_softcap, None),
    }
    return {key: value for key, (value, default) in scales.items() if value != default}


LAYOUT = Layout(name=NAME, read=read, write=write)
