"""The language models of configurations that also hold a vision part, against transformers."""

import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.layers.spec import walk
from jaxmodels.models.hf_config import ConfigError
from jaxmodels.models.text_part import WRAPPERS

VISION = {
    "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "num_hidden_layers": 1,
    "num_attention_heads": 2, "out_hidden_size": 24, "embed_dim": 16,
}  # fmt: skip
TEXT = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "head_dim": 8,
    "num_key_value_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [2, 1, 1]}
QWEN3_5 = {
    "layer_types": ["linear_attention", "full_attention"],
    "rope_parameters": {**MROPE, "mrope_interleaved": True},
    "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
CHANGES = {
    "llama4": {"attention_chunk_size": 7, "num_local_experts": 3, "intermediate_size_mlp": 20},
    "gemma3": {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]},
    "mistral3": {"sliding_window": None},
    "qwen2_vl": {"rope_parameters": {**MROPE, "mrope_section": [1, 1, 1]}},
    "qwen2_5_vl": {"rope_parameters": {**MROPE, "mrope_section": [1, 1, 1]}},
    "qwen3_vl": {"rope_parameters": {**MROPE, "mrope_interleaved": True}},
    "qwen3_5": QWEN3_5,
    "qwen3_5_moe": QWEN3_5
    | {
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 12,
        "shared_expert_intermediate_size": 12,
    },
    "qwen3_vl_moe": {"rope_parameters": MROPE, "num_experts": 6, "moe_intermediate_size": 12},
}


# Of those whose language model is of several kinds, the other ones.
OTHER_TEXTS = {
    "mistral3": {
        "model_type": "ministral3",
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "llama_4_scaling_beta": 0.3,
            "original_max_position_embeddings": 9,
        },
    },
}  # fmt: skip


def test_every_kind_is_compared():
    """DiffusionGemma's has a test module of its own."""
    assert set(WRAPPERS) - set(CHANGES) == {"diffusion_gemma"}


def wrapper_config(model_type, changes=CHANGES):
    """transformers' configuration of a tiny model of this kind."""
    from transformers import AutoConfig

    text = {key: value for key, value in TEXT.items() if "qwen2" not in model_type or key != "head_dim"}
    text |= changes[model_type]
    return AutoConfig.for_model(model_type, text_config=text, vision_config=dict(VISION))


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [*((name, CHANGES) for name in CHANGES), *((name, OTHER_TEXTS) for name in OTHER_TEXTS)],
)
@pytest.mark.parametrize("use_diff", [True, False])
def test_the_text_model_computes_what_transformers_does(model_type, changes, use_diff, tmp_path):
    import torch
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    config = wrapper_config(model_type, changes)
    whole = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ids = np.arange(1, 21)[None]
    with torch.no_grad():
        # Without images, transformers' code for the whole of Llama 4 fails behind its logits.
        language = whole.language_model if model_type == "llama4" else whole
        wanted = language(input_ids=torch.tensor(ids)).logits.numpy()

    whole.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config.to_json_string(use_diff=use_diff))
    model = jm.load(tmp_path, text_only=True)
    np.testing.assert_allclose(model(ids), wanted, atol=1e-4 * np.abs(wanted).max())
    assert jm.config_from_hf(jm.config_to_hf(model.config)) == model.config


def test_stacks_of_experts_are_read_either_way_round(tmp_path):
    """As the published files have them, [in, out], and as transformers 5 writes them."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForImageTextToText

    config = wrapper_config("qwen3_vl_moe")
    config.text_config.moe_intermediate_size = 10
    whole = AutoModelForImageTextToText.from_config(config)
    for directory in ("written", "published"):
        whole.save_pretrained(tmp_path / directory)
    file = tmp_path / "published" / "model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if ".experts." in name]:
        tensors[name] = tensors[name].mT.contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "published").state_dict()
    assert all((theirs[name] == tensor).all() for name, tensor in whole.state_dict().items())

    written, published = (jm.load(tmp_path / name, text_only=True) for name in ("written", "published"))
    for (path, leaf), (_, other) in zip(walk(written.params), walk(published.params), strict=True):
        np.testing.assert_array_equal(leaf, other, err_msg=path)


def test_without_being_asked_for_the_text_alone_such_a_model_is_refused():
    with pytest.raises(ConfigError, match=r"'gemma3' holds a vision part.*text_only=True"):
        jm.config_from_hf({"model_type": "gemma3", "text_config": {}})


@pytest.mark.parametrize("text", [[], {"model_type": "gpt2"}, {"model_type": ["x"]}])
def test_a_text_config_that_is_none_is_refused_by_name(text):
    with pytest.raises(ConfigError, match="text_config"):
        jm.config_from_hf({"model_type": "gemma3", "text_config": text}, text_only=True)


def test_the_flat_configurations_of_older_releases_read():
    flat = {
        "model_type": "qwen2_5_vl", "vision_config": {"depth": 32}, "image_token_id": 5, "vision_token_id": 6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "rope_theta": 1e6,
        "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "vocab_size": 61, "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    decoder = jm.config_from_hf(flat, text_only=True)
    assert decoder.family == "qwen2" and decoder.tie_embeddings and len(decoder.blocks) == 2
    assert decoder.blocks[0].mixer.rope.theta == 1e6
