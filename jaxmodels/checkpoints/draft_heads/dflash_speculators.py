"""DFlash, DFlash2 and DSpark in the form of the `speculators` library, which vLLM reads.

``transformer_layer_config`` holds the keys of a Qwen3 with the target's vocabulary. The numbers in
``aux_hidden_state_layer_ids`` are those of hidden states: i is what is behind layer i - 1. Layers with a
sliding window are causal inside a block unless ``sliding_window_non_causal`` is set.
"""

from typing import Any

from jaxmodels.checkpoints.draft_heads import dflash_parts, eagle3
from jaxmodels.checkpoints.draft_heads.forms import SPECULATORS_DFLASH, SPECULATORS_TYPE
from jaxmodels.checkpoints.draft_heads.layout import (
    Layout,
    Stored,
    Written,
    check_all_read,
    read_head_params,
    write_head_params,
)
from jaxmodels.checkpoints.draft_heads.speculators import INERT, SECTION
from jaxmodels.decoding.drafters.dflash import DFlashDrafter
from jaxmodels.models.draft_heads.dflash import DFlash
from jaxmodels.models.draft_heads.slot_choice import CandidateSelector
from jaxmodels.models.family import Table, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader

NAME, LAYERS_KEY = "speculators_dflash", "aux_hidden_state_layer_ids"
HEAD = "lm_head.weight"

TABLE: Table[DFlash] = Table(
    model_type=NAME,
    weights=(
        *dflash_parts.BLOCK_WEIGHTS,
        *dflash_parts.CONV_WEIGHTS,
        *dflash_parts.CONFIDENCE_WEIGHTS,
        Weight("head/weight", HEAD),
    ),
    named_weights=dflash_parts.choice_rows,
    renamed=dflash_parts.RENAMED,
    # Of the target, and where the head knows all of its tokens also its output head.
    unused=(
        eagle3.OFFSETS,
        eagle3.KNOWN,
        r"embed_tokens\.weight",
        r"verifier_norm\.weight",
        r"verifier_lm_head\.weight",
        r"lm_head\.weight",
    ),
)


def read(stored: Stored) -> DFlashDrafter:
    kind = stored.values[SPECULATORS_TYPE]
    reader = stored.reader(f"a speculators {kind} head")
    reader.consume(SPECULATORS_TYPE)
    layer = ConfigReader(reader.take(SECTION, dict), f"{reader.name}: {SECTION}")
    non_causal = reader.flag("sliding_window_non_causal", kind == "dflash2")
    blocks = dflash_parts.read_blocks(layer, causal=False if non_causal else None)
    vocabulary, width = layer.positive("vocab_size"), layer.positive("hidden_size")
    known = reader.positive("draft_vocab_size")
    reader.expect("target_hidden_size", None, width)
    layers = dflash_parts.read_layer_ids(reader, LAYERS_KEY, 1)
    if layers is None:
        raise ConfigError(f"{reader.name}: key {LAYERS_KEY!r} is missing: the hidden states that it reads")
    choice: Any = None
    confidence = None
    if kind == "dflash2":
        blocks = dflash_parts.read_convolutions(reader, blocks)
        choice = dflash_parts.read_selector(reader, vocabulary, width)
    elif kind == "dspark":
        choice, confidence = dflash_parts.read_markov(reader, stored, vocabulary, known, width)
    head = DFlash(
        target_vocab_size=vocabulary,
        vocab_size=known,
        d_model=width,
        blocks=blocks,
        feature_norm=blocks[0].mixer_norm,
        norm=blocks[0].mixer_norm,
        target_layers=tuple(number - 1 for number in layers),
        block_size=reader.positive_or("block_size", 8),
        mask_token=dflash_parts.read_mask_token(reader),
        from_anchor=reader.flag("sample_from_anchor", kind == "dspark"),
        choice=choice,
        confidence=confidence,
        layout=NAME,
    )
    reader.consume("speculators_config")
    check_all_read(layer, dflash_parts.LAYER_INERT)
    check_all_read(reader, INERT)
    token_ids = eagle3.read_token_ids(stored, head.vocab_size, head.target_vocab_size)
    params = read_head_params(TABLE, head, stored)
    return DFlashDrafter(head=head, params=params, token_ids=token_ids)


def write(drafter: DFlashDrafter) -> Written:
    head, kind = drafter.head, _kind_of(drafter.head)
    causal = dflash_parts.causal_of(head)
    slides = any(block.mixer.sliding_window is not None for block in head.blocks)
    if causal is True or (head.embed_scale, head.logit_scale, head.logit_softcap) != (1.0, 1.0, None):
        raise ConfigError(
            "DFlash: the form of speculators has neither causal layers without a sliding window nor scales "
            "of embeddings and logits; the layout 'dflash' has"
        )
    values = {
        "architectures": [SPECULATORS_DFLASH[kind]],
        SPECULATORS_TYPE: kind,
        SECTION: {
            "model_type": "qwen3",
            **dflash_parts.write_blocks(head),
            "vocab_size": head.target_vocab_size,
            "tie_word_embeddings": False,
        },
        "draft_vocab_size": head.vocab_size,
        "target_hidden_size": None,
        "block_size": head.block_size,
        "mask_token_id": head.mask_token,
        LAYERS_KEY: [layer + 1 for layer in head.target_layers],
        "sliding_window_non_causal": slides and causal is False,
        "sample_from_anchor": head.from_anchor,
        **dflash_parts.write_convolutions(head),
        **dflash_parts.write_selector(head),
        **dflash_parts.write_markov(head),
        "speculators_config": {
            "algorithm": kind,
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": head.size}],
            "verifier": {"architectures": [], "name_or_path": None},
        },
    }
    tensors = (
        *write_head_params(TABLE, head, drafter.params),
        *eagle3.write_token_ids(drafter.token_ids, head.target_vocab_size),
    )
    return Written(values=values, tensors=tensors)


def _kind_of(head: DFlash) -> str:
    if isinstance(head.choice, CandidateSelector):
        return "dflash2"
    return "dflash" if head.choice is None and head.confidence is None else "dspark"


LAYOUT = Layout(name=NAME, read=read, write=write)
