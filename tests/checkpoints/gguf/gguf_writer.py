"""Writes models of transformers as GGUF files, as llama.cpp's converter does."""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

# Names of configuration keys in the file, where transformers' reader and llama.cpp expect them.
COMMON = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "ssm.conv_kernel": "conv_kernel",
    "ssm.state_size": "state_size",
    "ssm.time_step_rank": "time_step_rank",
    "shortconv.l_cache": "conv_L_cache",
}
BY_ARCHITECTURE = {
    "mamba": {
        "ssm.inner_size": "intermediate_size",
        "attention.layer_norm_rms_epsilon": "layer_norm_epsilon",
    },
    "gpt2": {"attention.layer_norm_epsilon": "layer_norm_epsilon"},
    "lfm2": {"attention.layer_norm_rms_epsilon": "norm_eps"},
}


def permuted(tensor: np.ndarray, heads: int) -> np.ndarray:
    """Rows of rotary pairs side by side, as llama.cpp wants Llama's queries and keys."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def edited(architecture: str, name: str, tensor: np.ndarray, config: Any) -> np.ndarray:
    """The tensor as it is put into the file under `name`."""
    if architecture == "llama" and (match := re.search(r"\.attn_([qk])\.", name)):
        heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
        return permuted(tensor, heads[match[1]])
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    if name.endswith("ssm_a"):
        return -np.exp(tensor)
    if name.endswith(("conv1d.weight", "shortconv.conv.weight")):
        return tensor.squeeze(1)
    if name.endswith("shexp.weight") and tensor.shape[0] == 1:
        return tensor[0]
    transposed = architecture == "gpt2" and tensor.ndim == 2 and name.startswith("blk.")
    return tensor.T if transposed else tensor


def stacked(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors with those of a layer's experts as one, and fused gates and ups apart."""
    found: dict[str, Any] = {}
    for name, tensor in state.items():
        if name.endswith("experts.gate_up_proj"):
            gate, up = np.split(tensor, 2, axis=1)
            # Mixtral's names are others than those of the Qwen mixtures.
            names = ("w1", "w3") if "block_sparse" in name else ("gate_proj", "up_proj")
            for part, half in zip(names, (gate, up), strict=True):
                found[name.replace("gate_up_proj", part) + ".weight"] = half
        elif name.endswith("experts.down_proj"):
            found[name + ".weight"] = tensor
        else:
            found[name] = tensor
    return found


# What stays in float32 whatever the kind of the matrices.
FLOAT32 = ("ssm_a", "conv1d.weight", "conv.weight", "gate_inp.weight", "position_embd.weight")


def quantised(name: str, tensor: np.ndarray, kind: gguf.GGMLQuantizationType) -> tuple[np.ndarray, Any]:
    """Matrices in the kind asked for, where their rows are long enough; vectors as they are."""
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    if tensor.ndim < 2 or tensor.shape[-1] % block or name.endswith(FLOAT32):
        return tensor.astype(np.float32), gguf.GGMLQuantizationType.F32
    if kind == gguf.GGMLQuantizationType.F16:
        return tensor.astype(np.float16), kind
    if kind == gguf.GGMLQuantizationType.F32:
        return tensor.astype(np.float32), kind
    return gguf.quantize(np.ascontiguousarray(tensor, np.float32), kind), kind


def metadata(writer: gguf.GGUFWriter, architecture: str, config: Any) -> None:
    for key, ours in (COMMON | BY_ARCHITECTURE.get(architecture, {})).items():
        value = getattr(config, ours, None)
        if value is None or (key == "attention.head_count_kv" and architecture == "lfm2"):
            continue
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{architecture}.{key}", value)
    experts = getattr(config, "num_local_experts", getattr(config, "num_experts", None))
    if experts:
        writer.add_uint32(f"{architecture}.expert_count", experts)
    if architecture == "lfm2":
        kv_heads = [config.num_key_value_heads * (kind == "full_attention") for kind in config.layer_types]
        writer.add_array(f"{architecture}.attention.head_count_kv", kv_heads)
    if config.model_type == "falcon_mamba":
        writer.add_bool("mamba.ssm.dt_b_c_rms", True)
    if architecture == "gpt2":
        writer.add_uint32("gpt2.feed_forward_length", config.n_inner or 4 * config.n_embd)
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    if "rope_theta" in rope:
        writer.add_float32(f"{architecture}.rope.freq_base", rope["rope_theta"])
    if architecture in ("llama", "phi3"):
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        turning = int(head_dim * rope.get("partial_rotary_factor", 1.0))
        writer.add_uint32(f"{architecture}.rope.dimension_count", turning)


def write_gguf(
    path: Path,
    model: Any,
    architecture: str,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    split_after: int = 0,
) -> None:
    """Writes `model`, in several files of `split_after` tensors each unless that is 0."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split_after)
    metadata(writer, architecture, config)
    number = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    for name, tensor in stacked(state).items():
        theirs = table.get_name(
            re.sub(r"mlp(?=\.experts\.w[13])", "block_sparse_moe", name), (".weight", ".bias")
        )
        assert theirs is not None, name
        data, stored = quantised(theirs, edited(architecture, theirs, tensor, config), kind)
        writer.add_tensor(theirs, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
