"""The language model inside the configuration of a model that also sees images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.models.hf_config import ConfigError


@dataclass(frozen=True)
class Text:
    """One kind of language model.

    Attributes:
        family: the family that computes the same.
        defaults: what transformers' class for its configuration assumes where a key is absent. Files leave
            out what equals it.
    """

    family: str
    defaults: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Wrapper:
    """How the configurations of one multimodal `model_type` hold their language model.

    Attributes:
        texts: the language model, by the `model_type` of the ``text_config``. The first is that of
            configurations without it.
        beside: keys of the other parts in the configurations of older releases, which hold the language
            model's keys among them instead of a ``text_config``. None where there are no such.
        tied: what transformers assumes without a key `tie_word_embeddings`, which stands beside the
            ``text_config``.
        also: further keys beside the ``text_config`` that the language model goes by.
    """

    texts: Mapping[str, Text]
    beside: tuple[str, ...] | None = None
    tied: bool = False
    also: tuple[str, ...] = ()


# The defaults of transformers' classes, by the `model_type` of the ``text_config``.
_DIFFUSION_GEMMA = {
    "head_dim": 256, "hidden_size": 2304, "intermediate_size": 9216, "max_position_embeddings": 131072,
    "num_attention_heads": 8, "num_hidden_layers": 30, "num_key_value_heads": 4, "sliding_window": 512,
    "vocab_size": 262144,
}  # fmt: skip
_GEMMA3 = {
    "head_dim": 256, "hidden_size": 2304, "intermediate_size": 9216, "max_position_embeddings": 131072,
    "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256, "sliding_window": 4096, "vocab_size": 262208,
}  # fmt: skip
_LLAMA4 = {
    "hidden_size": 5120, "intermediate_size": 8192, "max_position_embeddings": 131072,
    "num_attention_heads": 40, "num_hidden_layers": 48, "num_key_value_heads": 8, "num_local_experts": 16,
    "vocab_size": 202048,
}  # fmt: skip
_MINISTRAL3 = {
    "head_dim": 128, "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 262144,
    "num_attention_heads": 32, "num_hidden_layers": 34, "num_key_value_heads": 8, "vocab_size": 131072,
}  # fmt: skip
_MISTRAL = {
    "head_dim": 128, "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131072,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "sliding_window": 4096,
    "vocab_size": 32000,
}  # fmt: skip
_QWEN2_VL = {
    "hidden_size": 8192, "intermediate_size": 29568, "max_position_embeddings": 32768,
    "max_window_layers": 80, "num_attention_heads": 64, "num_hidden_layers": 80, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5, "vocab_size": 152064,
}  # fmt: skip
_QWEN3_VL = {
    "head_dim": 128, "hidden_size": 4096, "intermediate_size": 22016, "max_position_embeddings": 128000,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "rope_theta": 500000.0,
    "vocab_size": 151936,
}  # fmt: skip
_QWEN3_VL_MOE = {
    "head_dim": 128, "hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings": 128000,
    "moe_intermediate_size": 1408, "norm_topk_prob": True, "num_attention_heads": 16,
    "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16, "rope_theta": 500000.0,
    "vocab_size": 151936,
}  # fmt: skip

_QWEN3_5 = {
    "head_dim": 256, "hidden_size": 4096, "intermediate_size": 12288, "max_position_embeddings": 32768,
    "num_attention_heads": 16, "num_hidden_layers": 32, "num_key_value_heads": 4, "vocab_size": 248320,
}  # fmt: skip
_QWEN3_5_MOE = {
    "head_dim": 256, "hidden_size": 2048, "max_position_embeddings": 32768, "moe_intermediate_size": 512,
    "num_attention_heads": 16, "num_experts": 256, "num_experts_per_tok": 8, "num_hidden_layers": 40,
    "num_key_value_heads": 2, "vocab_size": 248320,
}  # fmt: skip

_BESIDE_QWEN2 = (
    "image_token_id", "video_token_id", "vision_config", "vision_end_token_id", "vision_start_token_id",
    "vision_token_id",
)  # fmt: skip

WRAPPERS: Mapping[str, Wrapper] = {
    "diffusion_gemma": Wrapper(
        texts={"diffusion_gemma_text": Text("diffusion_gemma_text", _DIFFUSION_GEMMA)},
        tied=True,
        also=("canvas_length",),
    ),
    "gemma3": Wrapper(texts={"gemma3_text": Text("gemma3_text", _GEMMA3)}, tied=True),
    "llama4": Wrapper(texts={"llama4_text": Text("llama4_text", _LLAMA4)}),
    "mistral3": Wrapper(
        texts={"mistral": Text("mistral", _MISTRAL), "ministral3": Text("ministral3", _MINISTRAL3)},
        tied=True,
    ),
    "qwen2_vl": Wrapper(texts={"qwen2_vl_text": Text("qwen2", _QWEN2_VL)}, beside=_BESIDE_QWEN2),
    "qwen2_5_vl": Wrapper(texts={"qwen2_5_vl_text": Text("qwen2", _QWEN2_VL)}, beside=_BESIDE_QWEN2),
    "qwen3_5": Wrapper(texts={"qwen3_5_text": Text("qwen3_5_text", _QWEN3_5)}),
    "qwen3_5_moe": Wrapper(texts={"qwen3_5_moe_text": Text("qwen3_5_moe_text", _QWEN3_5_MOE)}),
    "qwen3_vl": Wrapper(texts={"qwen3_vl_text": Text("qwen3", _QWEN3_VL)}),
    "qwen3_vl_moe": Wrapper(texts={"qwen3_vl_moe_text": Text("qwen3_moe", _QWEN3_VL_MOE)}),
}

# Keys of the language model that stand beside the ``text_config``, which may repeat them.
_SHARED = ("bos_token_id", "dtype", "eos_token_id", "pad_token_id", "torch_dtype", "transformers_version")


def holds_other_parts(values: Mapping[str, Any]) -> bool:
    """Whether a configuration is of a model whose language model `text_part` gives."""
    model_type = values.get("model_type")
    return isinstance(model_type, str) and model_type in WRAPPERS


def text_part(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the language model that a configuration holds; one that is a language model's is
    given back.

    The positions of text tokens are equal along all axes of a multimodal rotary embedding (`mrope_section`),
    whose rotations are then those of a plain one (https://arxiv.org/abs/2409.12191, section 2.1), so that
    those keys are dropped.

    Raises:
        ConfigError: the ``text_config`` is no mapping, or of a `model_type` that no family has.
    """
    if not holds_other_parts(values):
        return dict(values)
    model_type = values["model_type"]
    wrapper = WRAPPERS[model_type]
    given = values.get("text_config")
    if given is None and wrapper.beside is not None:
        given = {key: value for key, value in values.items() if key not in ("model_type", *wrapper.beside)}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"config of model_type {model_type!r}: key 'text_config' must be a mapping, got {shown(given)}"
        )
    kind = given.get("model_type", next(iter(wrapper.texts)))
    if not isinstance(kind, str) or kind not in wrapper.texts:
        raise ConfigError(
            f"config of model_type {model_type!r}: key 'text_config' holds the model_type {shown(kind)}; "
            f"supported: {', '.join(wrapper.texts)}"
        )
    shared = {key: values[key] for key in (*_SHARED, *wrapper.also) if key in values}
    model = wrapper.texts[kind]
    text = {**model.defaults, **shared, **given, "model_type": model.family}
    text["tie_word_embeddings"] = values.get("tie_word_embeddings", wrapper.tied)
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(text.get(key), Mapping):
            text[key] = _plain_rope(text[key])
    if text.get("rope_parameters") is not None:
        text = {key: value for key, value in text.items() if key != "rope_theta" or key in given}
    return text


def _plain_rope(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters as those of a model that reads text alone."""
    plain = {key: value for key, value in parameters.items() if not key.startswith("mrope_")}
    return {key: "default" if value == "mrope" else value for key, value in plain.items()}
