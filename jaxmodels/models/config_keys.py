"""What becomes of keys of a ``config.json`` that no family reads: known by name, switched off, or unknown.

A key that a family reads is none of this file's business. Of the others,

- those of `INERT_KEYS` do not change what a forward pass computes, whatever their value;
- those of `SWITCHES` would, but have a value that leaves the feature off;
- the rest are unknown. Where the value is one that leaves most features off (false, null, 0, empty), or the
  name is of a kind that does not reach a forward pass, `check_unknown` warns; else it raises.
"""

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.models.hf_config import ConfigError, ConfigWarning

# What transformers' PretrainedConfig writes for every model, in release 4 or 5.
BASE_KEYS = frozenset(
    {
        "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_experts_implementation",
        "_name_or_path", "architectures", "auto_map", "bos_token_id", "chunk_size_feed_forward",
        "custom_pipelines", "decoder_start_token_id", "dtype", "eos_token_id", "finetuning_task", "id2label",
        "is_decoder", "label2id", "model_type", "num_labels", "output_attentions", "output_hidden_states",
        "pad_token_id", "prefix", "problem_type", "return_dict", "sep_token_id", "task_specific_params",
        "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "torch_dtype", "torchscript",
        "transformers_version", "use_bfloat16", "use_cache",
    }
)  # fmt: skip

# What transformers 4 wrote of generation settings among them. They belong to generation_config.json.
GENERATION_KEYS = frozenset(
    {
        "bad_words_ids", "begin_suppress_tokens", "cache_implementation", "constraints",
        "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
        "encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty",
        "force_words_ids", "forced_bos_token_id", "forced_eos_token_id", "guidance_scale", "length_penalty",
        "low_memory", "max_length", "max_new_tokens", "max_time", "min_length", "min_new_tokens", "min_p",
        "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_logits",
        "output_scores", "penalty_alpha", "remove_invalid_values", "renormalize_logits",
        "repetition_penalty", "return_dict_in_generate", "sequence_bias", "stop_strings",
        "suppress_tokens", "temperature", "token_healing", "top_k", "top_p", "typical_p",
        "watermarking_config",
    }
)  # fmt: skip

# What training alone reads: initial values, dropout, losses, parallelism.
TRAINING_KEYS = frozenset(
    {
        "attention_dropout", "attn_pdrop", "aux_loss_alpha", "classifier_dropout", "dropout", "embd_pdrop",
        "embedding_dropout", "ep_size", "ffn_dropout", "gradient_checkpointing", "hidden_dropout",
        "init_method", "init_std", "initializer_range", "output_router_logits", "pretraining_tp",
        "resid_pdrop", "router_aux_loss_coef", "router_jitter_noise", "seq_aux", "z_loss_coefficient",
    }
)  # fmt: skip

# Marks of trainers, converters, runtimes and quantisers; limits that only tokenizers or servers obey.
MARK_KEYS = frozenset(
    {
        "_flash_attn_2_enabled", "for_llm_compressor", "fused_add_norm", "is_llama_config",
        "max_sequence_length", "model_max_length", "num_logits_to_keep", "transformers.js_config",
        "unsloth_fixed", "unsloth_version", "use_flash_attention_2", "use_flash_attn", "use_mamba_kernels",
    }
)  # fmt: skip

# Of modules that predict further tokens. They lie beside the model, and their tensors are carried too.
FURTHER_TOKEN_KEYS = frozenset(
    {
        "mtp_hybrid_override_pattern", "mtp_layers_block_type", "mtp_num_hidden_layers",
        "mtp_use_dedicated_embeddings", "num_nextn_predict_layers",
    }
)  # fmt: skip

# Keys that do not change what a forward pass computes. They are carried through and written back.
INERT_KEYS = BASE_KEYS | GENERATION_KEYS | TRAINING_KEYS | MARK_KEYS | FURTHER_TOKEN_KEYS

# Keys of features that a family which does not read them lacks, and the values that leave the feature off.
SWITCHES: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "attention_bias": (False,),
    "clip_qkv": (None,),
    "cross_attention_hidden_size": (None,),
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "lm_head_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1.0,),
    "pruned_heads": ({},),
    "qkv_bias": (False,),
    "quantization_config": (None,),
    "rope_interleaved": (False,),
    "rope_scaling": (None,),
    "sliding_window": (None,),
    "use_bidirectional_attention": (False,),
    "use_mrope": (False,),
    "use_qk_norm": (False,),
    "use_sliding_window": (False,),
}

# Names that do not reach a forward pass, whoever made them up: private ones and those of other programs, and
# what names training, files, versions or single tokens.
_BESIDE_THE_MODEL = re.compile(
    r"^_|\.|(dropout|_pdrop|_dropout_prob|_loss_coef|_init_std|_token_id|_token_index|_version|_path|_url)$"
)


def unknown_keys(unread: Mapping[str, Any], inert: Iterable[str] = ()) -> dict[str, Any]:
    """Those of a configuration's unread keys that are neither inert nor switched off."""
    known = INERT_KEYS | set(inert)
    return {
        key: value
        for key, value in unread.items()
        if key not in known and not (key in SWITCHES and (value is None or value in SWITCHES[key]))
    }


def check_unknown(name: str, unknown: Mapping[str, Any], *, strict: bool) -> None:
    """Warns of unknown keys that cannot change the model, and refuses those that may: all with `strict`.

    `name` is what the messages call the configuration.

    Raises:
        ConfigError: a key may change what the model computes.
    """
    refused = {key: value for key, value in unknown.items() if strict or may_matter(key, value)}
    if refused:
        found = ", ".join(f"{key!r}: {shown(value)}" for key, value in sorted(refused.items()))
        raise ConfigError(f"{name}: unknown config keys {{{found}}}; refusing to ignore them")
    for key, value in sorted(unknown.items()):
        warnings.warn(
            f"{name}: key {key!r} is unknown and ignored; its value is {shown(value)}",
            ConfigWarning,
            stacklevel=4,
        )


def may_matter(key: str, value: Any) -> bool:
    """Whether an unknown key may change what a model computes."""
    return bool(value) and _BESIDE_THE_MODEL.search(key.rpartition("/")[2]) is None
