"""EAGLE-3 and P-EAGLE in the form of the `speculators` library, which vLLM reads: layers by number, sections.

``transformer_layer_config`` holds the keys of a Llama or Qwen3 with the target's vocabulary. The numbers in
``eagle_aux_hidden_state_layer_ids`` are those of hidden states: 0 is the embeddings, i what is behind layer
i - 1. ``verifier_norm`` and ``verifier_lm_head``, which older files hold, are the target's own. P-EAGLE heads
have ``mask_token_id`` and the tensor ``mask_hidden`` beside these.
"""

from dataclasses import replace
from typing import Any

from jaxmodels.checkpoints.draft_heads import eagle3
from jaxmodels.checkpoints.draft_heads.eagle3_original import default_layers
from jaxmodels.checkpoints.draft_heads.forms import SPECULATORS, SPECULATORS_TYPE
from jaxmodels.checkpoints.draft_heads.layout import (
    Layout,
    Stored,
    Written,
    check_all_read,
    read_head_params,
    target_of,
    write_head_params,
)
from jaxmodels.checks import is_whole, shown, whole
from jaxmodels.decoding.drafters.feature_drafter import DRAFT_TOKENS, FeatureDrafter
from jaxmodels.decoding.drafters.peagle import PEagleDrafter
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.draft_heads.eagle3 import Eagle3
from jaxmodels.models.family import Table, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader

NAME = "speculators"
LAYERS_KEY = "eagle_aux_hidden_state_layer_ids"
SECTION = "transformer_layer_config"
# Of training and provenance; what the sections say beside the layers is the target's.
INERT = ("speculators_version", "embed_requires_grad", "tie_word_embeddings")
LAYER_INERT = (
    "max_window_layers", "max_position_embeddings", "tie_word_embeddings", "base_model_ep_plan",
    "base_model_tp_plan", "base_model_pp_plan",
)  # fmt: skip

TABLE: Table[Eagle3] = Table(
    model_type=NAME,
    weights=(*eagle3.WEIGHTS, Weight("mask_streams", "mask_hidden", "1 1 d -> d")),
    named_weights=eagle3.stream_norm_rows,
    unused=(eagle3.OFFSETS, eagle3.KNOWN, r"verifier_norm\.weight", r"verifier_lm_head\.weight"),
)


def read(stored: Stored) -> FeatureDrafter | PEagleDrafter:
    kind = stored.values[SPECULATORS_TYPE]
    reader = stored.reader(f"a speculators {kind} head")
    reader.consume(SPECULATORS_TYPE)
    layer = ConfigReader(reader.take(SECTION, dict), f"{reader.name}: {SECTION}")
    size = read_size(reader)
    head = _read_head(reader, layer, stored)
    if kind == "peagle":
        head = replace(head, mask_token=_read_mask_token(reader, head.target_vocab_size))
    check_all_read(layer, LAYER_INERT)
    check_all_read(reader, INERT)
    token_ids = eagle3.read_token_ids(stored, head.vocab_size, head.target_vocab_size)
    params = read_head_params(TABLE, head, stored)
    drafter = FeatureDrafter if head.mask_token is None else PEagleDrafter
    return drafter(head=head, params=params, token_ids=token_ids, size=size)


def read_size(reader: ConfigReader) -> int:
    """How many tokens the first way to propose, among the ``speculators_config``, drafts."""
    methods = reader.take_or("speculators_config", dict, {}).get("proposal_methods") or [{}]
    first = methods[0] if isinstance(methods, list) and isinstance(methods[0], dict) else {}
    given = first.get("speculative_tokens")
    return DRAFT_TOKENS if given is None else whole(f"{reader.name}: speculative_tokens", given, low=1)


def _read_head(reader: ConfigReader, layer: ConfigReader, stored: Stored) -> Eagle3:
    before = reader.flag("norm_before_residual", False)
    first, others = eagle3.read_blocks(layer, norm_before_residual=before)
    norm, layers = first.ffn_norm, _read_layers(reader, stored)
    width, vocabulary = layer.positive("hidden_size"), layer.positive("vocab_size")
    target_width = reader.positive_or("target_hidden_size", width)
    kinds = {"joint": reader.flag("norm_before_fc", False), "each": reader.flag("fc_norm", False)}
    stream_norms: Any = next((kind for kind, is_set in kinds.items() if is_set), "none")
    if all(kinds.values()):
        raise ConfigError(f"{reader.name}: keys 'norm_before_fc' and 'fc_norm' are both true; set one")
    wide = target_width * (len(layers) if stream_norms == "joint" else 1)
    assert isinstance(norm, RMSNorm)
    return Eagle3(
        target_vocab_size=vocabulary,
        vocab_size=reader.positive("draft_vocab_size"),
        target_width=target_width,
        d_model=width,
        layers=layers,
        blocks=(first, *others),
        norm=norm,
        stream_norm=None if stream_norms == "none" else RMSNorm(dim=wide, eps=norm.eps),
        stream_norms=stream_norms,
        norm_output=reader.flag("norm_output", False),
        own_embedding=eagle3.EMBEDDING in stored.tensors.infos,
        layout=NAME,
    )


def _read_mask_token(reader: ConfigReader, vocab_size: int) -> int:
    token = reader.take("mask_token_id", int)
    return whole(f"{reader.name}: key 'mask_token_id'", token, high=vocab_size - 1)


def _read_layers(reader: ConfigReader, stored: Stored) -> tuple[int, ...]:
    given = reader.optional(LAYERS_KEY, list)
    if given is None:
        target = target_of(stored, f"without {LAYERS_KEY!r} the streams that the head reads follow from it")
        return default_layers(len(getattr(target, "blocks", ())))
    if not given or not all(is_whole(layer) and layer >= 0 for layer in given):
        raise ConfigError(
            f"{reader.name}: key {LAYERS_KEY!r} must hold numbers of hidden states, got {shown(given)}"
        )
    return tuple(given)


def write(drafter: FeatureDrafter | PEagleDrafter) -> Written:
    head: Any = drafter.head
    kind = "eagle3" if head.mask_token is None else "peagle"
    values = {
        "architectures": [SPECULATORS[kind]],
        SPECULATORS_TYPE: kind,
        SECTION: {
            **eagle3.write_blocks(head),
            "vocab_size": head.target_vocab_size,
            "tie_word_embeddings": False,
        },
        "draft_vocab_size": head.vocab_size,
        "target_hidden_size": None if head.target_width == head.d_model else head.target_width,
        "norm_before_residual": head.blocks[0].norm_before_residual,
        "norm_before_fc": head.stream_norms == "joint",
        "fc_norm": head.stream_norms == "each",
        "norm_output": head.norm_output,
        LAYERS_KEY: list(head.layers),
        **({} if head.mask_token is None else {"mask_token_id": head.mask_token}),
        "speculators_config": {
            "algorithm": kind,
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": drafter.size}],
            "verifier": {"architectures": [], "name_or_path": None},
        },
    }
    tensors = (
        *write_head_params(TABLE, head, drafter.params),
        *eagle3.write_token_ids(drafter.token_ids, head.target_vocab_size),
    )
    return Written(values=values, tensors=tensors)


LAYOUT = Layout(name=NAME, read=read, write=write)
