"""What the published forms of DFlash have in common: the keys of its layers and the table of weights."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from jaxmodels.checkpoints.draft_heads import eagle3
from jaxmodels.checkpoints.draft_heads.layout import Stored
from jaxmodels.checks import is_whole, shown
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope import Rope
from jaxmodels.models.draft_heads.block_conv import BlockConv
from jaxmodels.models.draft_heads.dflash import DFlash, DFlashBlock
from jaxmodels.models.draft_heads.slot_choice import (
    CandidateSelector,
    GatedMarkovBias,
    MarkovBias,
    RecurrentMarkovBias,
    SlotConfidence,
)
from jaxmodels.models.family import Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense, qwen

CONFIDENCE_BIAS = "confidence_head.proj.bias"
MARKOV_HEADS = {"vanilla": MarkovBias, "gated": GatedMarkovBias, "rnn": RecurrentMarkovBias}
# What readers of layers do not ask for: limits, and the target's own.
LAYER_INERT = (
    "max_window_layers", "max_position_embeddings", "tie_word_embeddings", "vocab_size",
    "base_model_ep_plan", "base_model_tp_plan", "base_model_pp_plan",
)  # fmt: skip

BLOCK_WEIGHTS = (
    Weight("fc/weight", "fc.weight"),
    Weight("feature_norm/scale", "hidden_norm.weight"),
    Weight("norm/scale", "norm.weight"),
    *(
        replace(row, theirs=row.theirs.removeprefix("model."))
        for row in (*dense.PRE_NORM_WEIGHTS, *dense.ATTENTION_WEIGHTS, *dense.GATED_MLP_WEIGHTS)
    ),
)
CONV_WEIGHTS = tuple(
    Weight(f"blocks/{{i}}/{ours}_conv/{leaf}", f"layers.{{i}}.{theirs}_conv.{name}")
    for ours, theirs in (("mixer", "attention"), ("ffn", "mlp"))
    for leaf, name in (("base", "base_kernel"), ("w_dynamic", "kernel_projection.weight"))
)
CONFIDENCE_WEIGHTS = (
    Weight("confidence/w", "confidence_head.proj.weight"),
    Weight("confidence/b", CONFIDENCE_BIAS),
)
SELECTOR_WEIGHTS = (
    Weight("choice/before", "candidate_selector.predecessor_codebook"),
    Weight("choice/after", "candidate_selector.successor_codebook"),
    Weight("choice/w_hidden", "candidate_selector.hidden_projection.weight"),
)
# The published names of these tables lack the ending that the class of the authors' package writes.
RENAMED = ((r"^(candidate_selector\.\w+_codebook)\.weight$", r"\1"),)
MARKOV_WEIGHTS = (
    Weight("choice/before", "markov_head.markov_w1.weight"),
    Weight("choice/w_bias", "markov_head.markov_w2.weight"),
    Weight("choice/w_gate", "markov_head.gate_proj.weight"),
    Weight("choice/b_gate", "markov_head.gate_proj.bias"),
    Weight("choice/w_joint", "markov_head.joint_proj.weight"),
    Weight("choice/b_joint", "markov_head.joint_proj.bias"),
)


def choice_rows(head: DFlash) -> tuple[Weight, ...]:
    """The rows of the head's `SlotChoice`, of which both kinds have a table of the tokens before."""
    return SELECTOR_WEIGHTS if isinstance(head.choice, CandidateSelector) else MARKOV_WEIGHTS


def read_blocks(reader: ConfigReader, *, causal: bool | None, also: int = 0) -> tuple[DFlashBlock, ...]:
    """The layers, from the keys of a Qwen3.

    Args:
        causal: whether slots see only those before them; None: in layers with a sliding window.
        also: what a window is wider than its key says.
    """
    attention = qwen.read_normed_attention(reader, qwen.HEAD_DIM)
    norm, ffn = dense.read_norm(reader), dense.read_gated_mlp(reader)
    windows = dense.layer_windows(reader, reader.layers(5))
    return tuple(
        DFlashBlock(
            mixer_norm=norm,
            mixer=replace(attention, sliding_window=None if window is None else window + also),
            ffn_norm=norm,
            ffn=ffn,
            causal=window is not None if causal is None else causal,
        )
        for window in windows
    )


def read_convolutions(reader: ConfigReader, blocks: Iterable[DFlashBlock]) -> tuple[DFlashBlock, ...]:
    """The layers with DFlash2's convolutions."""
    width, group = reader.positive_or("conv_kernel_size", 2), reader.positive_or("conv_group_size", 16)

    def convolved(block: DFlashBlock) -> DFlashBlock:
        conv = BlockConv(d_model=block.mixer.d_model, width=width, group=group)
        return replace(block, mixer_conv=conv, ffn_conv=conv)

    return tuple(map(convolved, blocks))


def write_convolutions(head: DFlash) -> dict[str, Any]:
    """The keys that `read_convolutions` reads; none where there are no convolutions.

    Raises ConfigError where layers differ in them, or a selector has none beside it.
    """
    convs = {conv for block in head.blocks for conv in (block.mixer_conv, block.ffn_conv)}
    conv = convs.pop()
    if convs or (conv is not None) != isinstance(head.choice, CandidateSelector):
        raise ConfigError(
            "DFlash: its published forms have a selector and the same convolutions around all layers, or "
            "neither"
        )
    return {} if conv is None else {"conv_kernel_size": conv.width, "conv_group_size": conv.group}


def read_selector(reader: ConfigReader, vocab_size: int, width: int) -> CandidateSelector:
    return CandidateSelector(
        vocab_size=vocab_size,
        d_model=width,
        rank=reader.positive_or("selector_rank", 256),
        candidates=reader.positive_or("selector_top_k", 16),
    )


def write_selector(head: DFlash) -> dict[str, Any]:
    """The keys that `read_selector` reads; none for other heads."""
    choice = head.choice
    if not isinstance(choice, CandidateSelector):
        return {}
    return {"selector_rank": choice.rank, "selector_top_k": choice.candidates}


def read_markov(
    reader: ConfigReader, stored: Stored, target_vocab_size: int, vocab_size: int, width: int
) -> tuple[MarkovBias | None, SlotConfidence | None]:
    """DSpark's bias by the token before, and its confidence."""
    rank, kind = reader.optional("markov_rank", int), reader.take_or("markov_head_type", str, "vanilla")
    reader.expect("markov_head_type", *MARKOV_HEADS)
    told = reader.flag("confidence_head_with_markov", True)
    rank = 256 if rank is None else rank
    bias = None
    if rank:
        bias = MARKOV_HEADS[kind](
            target_vocab_size=target_vocab_size, vocab_size=vocab_size, d_model=width, rank=rank
        )
    if not reader.flag("enable_confidence_head", True):
        return bias, None
    has_bias = CONFIDENCE_BIAS in stored.tensors.infos
    return bias, SlotConfidence(d_model=width, rank=rank if told and rank else None, bias=has_bias)


def write_markov(head: DFlash) -> dict[str, Any]:
    """The keys that `read_markov` reads; none for heads that go by the token before in no such way."""
    choice, confidence = head.choice, head.confidence
    if isinstance(choice, CandidateSelector) or (choice is None and confidence is None):
        return {}
    kinds = [kind for kind, cls in MARKOV_HEADS.items() if type(choice) is cls]
    return {
        "markov_rank": getattr(choice, "rank", 0),
        "markov_head_type": kinds[0] if kinds else "vanilla",
        "enable_confidence_head": confidence is not None,
        "confidence_head_with_markov": confidence is not None and confidence.rank is not None,
    }


def read_mask_token(reader: ConfigReader) -> int:
    """The token of slots that are to be filled."""
    mask = reader.optional("mask_token_id", int)
    if mask is None:
        raise ConfigError(f"{reader.name}: key 'mask_token_id' is missing: the token of slots to be filled")
    return mask


def read_layer_ids(reader: ConfigReader, key: str, least: int) -> tuple[int, ...] | None:
    """Numbers of the target's layers from `least` on; None where the key is absent."""
    given = reader.optional(key, list)
    if given is None:
        return None
    if not given or not all(is_whole(layer) and layer >= least for layer in given):
        raise ConfigError(
            f"{reader.name}: key {key!r} must hold numbers of layers, from {least} on, got {shown(given)}"
        )
    return tuple(given)


def write_blocks(head: DFlash, *, also: int = 0) -> dict[str, Any]:
    """The keys that `read_blocks` reads.

    Raises ConfigError where the layers are of another kind.
    """
    first = head.blocks[0]
    if not (
        isinstance(first.ffn, GatedMLP)
        and isinstance(first.ffn_norm, RMSNorm)
        and isinstance(first.mixer.rope, Rope)
        and first.mixer.query_norm is not None
    ):
        raise ConfigError(
            "DFlash: its published forms hold layers of RMSNorm, rotary attention with norms of queries and "
            "keys, and GatedMLP"
        )
    attention: Attention = first.mixer
    windows = [block.mixer.sliding_window for block in head.blocks]
    return {
        "hidden_size": head.d_model,
        "intermediate_size": first.ffn.d_ff,
        "num_hidden_layers": len(head.blocks),
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "hidden_act": first.ffn.activation,
        "rms_norm_eps": first.ffn_norm.eps,
        "attention_bias": attention.qkv_bias,
        **eagle3.written_windows([None if window is None else window - also for window in windows]),
        **eagle3.written_rope(first.mixer.rope, attention.head_dim),
    }


def causal_of(head: DFlash) -> bool | None:
    """What `read_blocks` must be told so that it reads this head's layers.

    Raises ConfigError where layers differ in a way that no key says.
    """
    if all(block.causal == (block.mixer.sliding_window is not None) for block in head.blocks):
        return None
    kinds = {block.causal for block in head.blocks}
    if len(kinds) > 1:
        raise ConfigError(
            "DFlash: its published forms have causal layers where there is a sliding window, or all layers "
            f"alike, not {[block.causal for block in head.blocks]}"
        )
    return kinds.pop()
