"""The architectures of GGUF files: which model of the zoo their keys describe, as its ``config.json``.

Sources: the keys that the format's description names (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md),
and what llama.cpp takes for granted where a file has no key for it, as the functions say.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.gguf import edits
from jaxmodels.checkpoints.gguf.edits import Edit
from jaxmodels.checkpoints.gguf.file import GGUFFile

# Tensors of rotary embeddings, which become keys of the configuration.
ROPE_FREQS, ROPE_SHORT, ROPE_LONG = (
    "rope_freqs.weight",
    "rope_factors_short.weight",
    "rope_factors_long.weight",
)
ROPE_TENSORS = (ROPE_FREQS, ROPE_SHORT, ROPE_LONG)

# Llama 3.1 and 3.2: the rest of the scaling whose `factor` is the largest of the stored divisors.
_CONTEXT, _LOW, _HIGH = 8192, 1.0, 4.0


@dataclass(frozen=True)
class Architecture:
    """How models of one ``general.architecture`` are read.

    Attributes:
        tensors: its name among the `MODEL_ARCH` of the package `gguf`, which knows its tensors' names.
        config: the ``config.json`` of `transformers` for a file.
        edits: what was done to tensors when the file was written, to be undone.
    """

    tensors: str
    config: Callable[[GGUFFile], dict[str, Any]]
    edits: tuple[Edit, ...] = ()


def architecture_of(file: GGUFFile) -> Architecture:
    """The entry of the table for a file.

    Raises CheckpointError naming the architecture where the table has none.
    """
    if file.architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{file.path}: key 'general.architecture' is {file.architecture!r}; the architectures that are "
            f"read from GGUF: {', '.join(sorted(ARCHITECTURES))}. Use the model's safetensors instead"
        )
    return ARCHITECTURES[file.architecture]


def read_config(file: GGUFFile) -> dict[str, Any]:
    """The ``config.json`` that the model of a GGUF file would have.

    Raises:
        CheckpointError: an unknown architecture, or a key that is missing; the message names it.
    """
    values = architecture_of(file).config(file)
    ids = {
        key: file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        for key, name in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding"))
    }
    return values | {key: token for key, token in ids.items() if token is not None}


def _sizes(file: GGUFFile) -> dict[str, Any]:
    """The keys that all architectures have in common."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{file.path}: the tensor 'token_embd.weight' is missing")
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": file.required("embedding_length"),
        "num_hidden_layers": file.required("block_count"),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "max_position_embeddings": file.value("context_length"),
    }


def _attention(file: GGUFFile) -> dict[str, Any]:
    """`_sizes`, and those of attention and norms."""
    heads = file.required("attention.head_count")
    kv_heads = file.value("attention.head_count_kv", heads)
    width = file.required("embedding_length")
    return _sizes(file) | {
        "intermediate_size": file.required("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": file.value("attention.key_length") or width // max(int(heads), 1),
        "rms_norm_eps": file.required("attention.layer_norm_rms_epsilon"),
    }


def _rope(file: GGUFFile) -> dict[str, Any]:
    """The rotary embedding: a base, and a scaling where the file has keys or tensors of one."""
    theta = {"rope_theta": file.value("rope.freq_base", 10000.0)}
    if ROPE_FREQS in file.tensors:
        return theta | {"rope_scaling": _llama3_scaling(file, theta["rope_theta"])}
    kind = file.value("rope.scaling.type", "none")
    if kind == "none":
        return theta
    known = {
        "factor": file.value("rope.scaling.factor"),
        "original_max_position_embeddings": file.value("rope.scaling.original_context_length"),
    }
    scaling = {key: value for key, value in known.items() if value is not None}
    return theta | {"rope_scaling": {"rope_type": kind, **scaling}}


def _llama3_scaling(file: GGUFFile, theta: float) -> dict[str, Any]:
    """The scaling of Llama 3.1 whose divisors of the frequencies a file stores.

    Raises CheckpointError where they are those of another scaling.
    """
    stored = np.asarray(file.tensors[ROPE_FREQS].data, np.float64)
    factor = float(stored.max())
    pairs = np.arange(stored.size)
    wavelength = 2 * math.pi * float(theta) ** (pairs / stored.size)
    kept = (_CONTEXT / wavelength - _LOW) / (_HIGH - _LOW)
    between = 1 / ((1 - kept) / factor + kept)
    divisors = np.where(wavelength > _CONTEXT / _LOW, factor, between)
    divisors = np.where(wavelength < _CONTEXT / _HIGH, 1.0, divisors)
    if not np.allclose(divisors, stored, rtol=1e-3):
        raise CheckpointError(
            f"{file.path}: the divisors in {ROPE_FREQS!r} are not those of Llama 3.1's scaling, the only "
            "ones that are read; use the model's safetensors instead"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": _CONTEXT,
    }


def _has_bias(file: GGUFFile, part: str) -> bool:
    return f"blk.0.{part}.bias" in file.tensors


def _llama(file: GGUFFile) -> dict[str, Any]:
    """Llama and Mistral, or with experts Mixtral; converters give all of them one name."""
    values = _attention(file) | _rope(file)
    if file.value("rope.dimension_count", values["head_dim"]) != values["head_dim"]:
        raise CheckpointError(
            f"{file.path}: key 'llama.rope.dimension_count' is {file.value('rope.dimension_count')}; models "
            f"of this architecture rotate whole heads of {values['head_dim']} features"
        )
    experts = file.value("expert_count", 0)
    if experts:
        used = {"num_local_experts": experts, "num_experts_per_tok": file.required("expert_used_count")}
        return {"model_type": "mixtral", **values, **used}
    biases = {"attention_bias": _has_bias(file, "attn_q"), "mlp_bias": _has_bias(file, "ffn_down")}
    return {"model_type": "llama", **values, **biases}


def _qwen2(file: GGUFFile) -> dict[str, Any]:
    values = _attention(file) | _rope(file)
    del values["head_dim"]  # which follows from the width
    return {"model_type": "qwen2", **values}


def _qwen3(file: GGUFFile) -> dict[str, Any]:
    return {"model_type": "qwen3", **_attention(file), **_rope(file)}


def _experts(file: GGUFFile) -> dict[str, Any]:
    return {
        "num_experts": file.required("expert_count"),
        "num_experts_per_tok": file.required("expert_used_count"),
        "moe_intermediate_size": file.required("expert_feed_forward_length"),
    }


def _qwen2_moe(file: GGUFFile) -> dict[str, Any]:
    values = _attention(file) | _rope(file) | _experts(file)
    del values["head_dim"]
    shared = file.required("expert_shared_feed_forward_length")
    return {"model_type": "qwen2_moe", **values, "shared_expert_intermediate_size": shared}


def _qwen3_moe(file: GGUFFile) -> dict[str, Any]:
    """llama.cpp renormalises the weights of the chosen experts whatever the file says."""
    values = _attention(file) | _rope(file) | _experts(file)
    return {"model_type": "qwen3_moe", **values, "norm_topk_prob": True}


def _gemma(file: GGUFFile) -> dict[str, Any]:
    return {"model_type": "gemma", **_attention(file), **_rope(file)}


def _windowed_gemma(file: GGUFFile, widest: int) -> dict[str, Any]:
    """Gemma 2 and 3. No key holds the scale of attention's logits: it is that of the head's width, but in the
    models of 27B, which have `widest` layers, that of an equal share of the model's."""
    values = _attention(file)
    equal_share = values["hidden_size"] // values["num_attention_heads"]
    scalar = equal_share if values["num_hidden_layers"] == widest else values["head_dim"]
    window = file.required("attention.sliding_window")
    return values | {"sliding_window": window, "query_pre_attn_scalar": scalar}


def _gemma2(file: GGUFFile) -> dict[str, Any]:
    caps = {
        "attn_logit_softcapping": file.value("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": file.value("final_logit_softcapping", 30.0),
    }
    return {"model_type": "gemma2", **_windowed_gemma(file, widest=46), **_rope(file), **caps}


def _gemma3(file: GGUFFile) -> dict[str, Any]:
    """Every sixth layer attends fully, under a base and a scaling of its own; the others' base is 10,000."""
    layers = {"sliding_window_pattern": 6, "rope_local_base_freq": 10000.0}
    return {"model_type": "gemma3_text", **_windowed_gemma(file, widest=62), **_rope(file), **layers}


def _phi3(file: GGUFFile) -> dict[str, Any]:
    values = _attention(file)
    head_dim = values.pop("head_dim")
    turning = file.value("rope.dimension_count", head_dim)
    original = file.value("rope.scaling.original_context_length", values["max_position_embeddings"])
    values |= {
        "model_type": "phi3",
        "rope_theta": file.value("rope.freq_base", 10000.0),
        "partial_rotary_factor": turning / head_dim,
        "original_max_position_embeddings": original,
        "sliding_window": file.value("attention.sliding_window") or None,
    }
    if ROPE_LONG not in file.tensors:
        return values
    scaling = {
        key: [float(x) for x in file.tensors[name].data]
        for key, name in (("short_factor", ROPE_SHORT), ("long_factor", ROPE_LONG))
    }
    return values | {"rope_scaling": {"rope_type": "longrope", **scaling}}


def _mamba(file: GGUFFile) -> dict[str, Any]:
    """Mamba, or where B, C and dt are normalised Falcon Mamba."""
    values = _sizes(file)
    inner = file.required("ssm.inner_size")
    normalised = bool(file.value("ssm.dt_b_c_rms", False))
    del values["max_position_embeddings"]
    return values | {
        "model_type": "falcon_mamba" if normalised else "mamba",
        "intermediate_size": inner,
        "expand": inner // max(values["hidden_size"], 1),
        "state_size": file.required("ssm.state_size"),
        "conv_kernel": file.required("ssm.conv_kernel"),
        "time_step_rank": file.required("ssm.time_step_rank"),
        "layer_norm_epsilon": file.required("attention.layer_norm_rms_epsilon"),
        "use_conv_bias": _has_bias(file, "ssm_conv1d"),
        "use_bias": _has_bias(file, "ssm_in"),
    }


def _gpt2(file: GGUFFile) -> dict[str, Any]:
    sizes = _sizes(file)
    return {
        "model_type": "gpt2",
        "vocab_size": sizes["vocab_size"],
        "n_embd": sizes["hidden_size"],
        "n_layer": sizes["num_hidden_layers"],
        "n_head": file.required("attention.head_count"),
        "n_inner": file.required("feed_forward_length"),
        "n_positions": file.required("context_length"),
        "layer_norm_epsilon": file.required("attention.layer_norm_epsilon"),
        "tie_word_embeddings": sizes["tie_word_embeddings"],
    }


def _lfm2(file: GGUFFile) -> dict[str, Any]:
    """The number of key and value heads of each layer is a list; a layer with none is a convolution."""
    kv_heads = file.required("attention.head_count_kv")
    values = _attention(file) | _rope(file)
    del values["head_dim"]
    return values | {
        "model_type": "lfm2",
        "num_key_value_heads": max(kv_heads),
        "layer_types": ["full_attention" if heads else "conv" for heads in kv_heads],
        "norm_eps": values.pop("rms_norm_eps"),
        "block_auto_adjust_ff_dim": False,
        "conv_L_cache": file.required("shortconv.l_cache"),
        "conv_bias": any(name.endswith("shortconv.in_proj.bias") for name in file.tensors),
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("LLAMA", _llama, edits.ROTARY_PAIRS),
    "qwen2": Architecture("QWEN2", _qwen2),
    "qwen2moe": Architecture("QWEN2MOE", _qwen2_moe, (edits.SHARED_GATE,)),
    "qwen3": Architecture("QWEN3", _qwen3),
    "qwen3moe": Architecture("QWEN3MOE", _qwen3_moe),
    "gemma": Architecture("GEMMA", _gemma, (edits.NORMS,)),
    "gemma2": Architecture("GEMMA2", _gemma2, (edits.NORMS,)),
    "gemma3": Architecture("GEMMA3", _gemma3, (edits.NORMS,)),
    "phi3": Architecture("PHI3", _phi3),
    "mamba": Architecture("MAMBA", _mamba, (edits.DECAYS, edits.CONVOLUTIONS)),
    "gpt2": Architecture("GPT2", _gpt2, (edits.PROJECTIONS,)),
    "lfm2": Architecture("LFM2", _lfm2, (edits.CONVOLUTIONS,)),
}
